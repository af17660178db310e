"""Detection losses: the original's numbers and matches, plain sums, masks piece by piece, empty targets, bad labels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from hfvision.conversion.verify import tolerance
from hfvision.errors import ConfigError, DatasetError
from hfvision.geometry import convert_boxes, generalized_box_iou
from hfvision.losses import detection_masks
from hfvision.losses.detection import DetectionLoss
from hfvision.losses.detection_masks import mask_losses
from hfvision.losses.detection_targets import read_targets
from hfvision.losses.matcher import match

GOLDENS = Path(__file__).parent / "data" / "goldens" / "detr"
CASES = ("padded_batch", "single_image_one_encoder", "dc5", "pre_norm", "panoptic")
NOT_KEPT = {"class_error"}  # transformers does not have it either
EXACT = {"rtol": 1e-12, "atol": 1e-13}
CLASSES, QUERIES = 7, 12


def answers(layers=3, sizes=(3, 0, 5), dtype=torch.float64):
    """Logits and boxes of a detector, and objects: an image has none, a class occurs twice."""
    generator = torch.Generator().manual_seed(0)
    images = len(sizes)
    logits = torch.randn(layers, images, QUERIES, CLASSES + 1, generator=generator, dtype=dtype)
    boxes = torch.rand(layers, images, QUERIES, 4, generator=generator, dtype=dtype) * 0.4 + 0.1
    labels = [
        {
            "class_labels": torch.randint(0, CLASSES, (size,), generator=generator),
            "boxes": torch.rand(size, 4, generator=generator) * 0.4 + 0.1,
        }
        for size in sizes
    ]
    return logits.requires_grad_(), boxes.requires_grad_(), labels


def with_masks(labels, sizes):
    return [
        {**label, "masks": torch.rand(len(label["boxes"]), *size) < 0.4}
        for label, size in zip(labels, sizes, strict=True)
    ]


def golden(case):
    output, targets = (dict(np.load(GOLDENS / case / name)) for name in ("output.npz", "targets.npz"))
    output = {name: torch.from_numpy(value) for name, value in output.items()}
    logits, boxes = (
        torch.cat([output[f"aux_pred_{name}"], output[f"pred_{name}"][None]]) for name in ("logits", "boxes")
    )
    names = {"labels": "class_labels", "boxes": "boxes", "masks": "masks"}
    labels = [
        {ours: torch.from_numpy(targets[f"{name}_{i}"]) for name, ours in names.items() if f"{name}_{i}" in targets}
        for i in range(logits.shape[1])
    ]
    return json.loads((GOLDENS / case / "case.json").read_text()), output, logits, boxes, labels


# --- the original --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_terms_are_the_originals(case):
    facts, output, logits, boxes, labels = golden(case)
    loss = DetectionLoss(facts["config"]["num_classes"])
    total, terms = loss(logits, boxes, labels, output.get("pred_masks"))
    rounding = facts["float64_max_abs_diff"]
    stored = {name.removeprefix("loss/"): value for name, value in output.items() if name.startswith("loss/")}
    assert set(terms) == set(stored) - NOT_KEPT
    for name, term in terms.items():
        allowed = tolerance(stored[name], rounding[f"loss/{name}"])
        assert abs(float(term) - float(stored[name])) <= allowed, name
    assert abs(float(total) - float(output["loss_total"])) <= tolerance(output["loss_total"], rounding["loss_total"])


@pytest.mark.parametrize("case", CASES)
def test_matches_are_the_originals(case):
    facts, output, logits, boxes, labels = golden(case)
    targets = read_targets(labels, len(labels), facts["config"]["num_classes"], False, like=boxes)
    matches = match(logits.log_softmax(-1), boxes, targets, 1, 5, 2)
    for image, start in enumerate(targets.starts):
        own = matches.image == image
        assert matches.query[-1, own].tolist() == output[f"match_{image}_pred"].tolist()
        assert (matches.target[-1, own] - start).tolist() == output[f"match_{image}_target"].tolist()


# --- the matcher ---------------------------------------------------------------------------------------------


def plain_costs(logits, boxes, label, class_cost, bbox_cost, giou_cost):
    """(Q, n) of one layer and image, pair by pair."""
    probabilities = logits.softmax(-1)
    costs = np.zeros((len(logits), len(label["boxes"])))
    for query in range(len(logits)):
        for place, (label_id, box) in enumerate(zip(label["class_labels"], label["boxes"].double(), strict=True)):
            corners = [convert_boxes(one, "cxcywh", "xyxy") for one in (boxes[query], box)]
            costs[query, place] = (
                bbox_cost * (boxes[query] - box).abs().sum()
                - class_cost * probabilities[query, label_id]
                - giou_cost * generalized_box_iou(*corners)
            )
    return costs


@pytest.mark.parametrize("factors", [(1, 5, 2), (1, 0, 0), (0, 3, 0), (0, 0, 1)])
def test_every_layer_and_image_is_matched_for_itself(factors):
    logits, boxes, labels = answers(layers=2, sizes=(3, 0, 15))  # more objects than queries
    targets = read_targets(labels, 3, CLASSES, False, like=boxes)
    matches = match(logits.log_softmax(-1), boxes, targets, *factors)
    assert matches.image.tolist() == [0] * 3 + [2] * QUERIES
    for layer in range(2):
        for image, start in enumerate(targets.starts):
            costs = plain_costs(logits[layer, image].detach(), boxes[layer, image].detach(), labels[image], *factors)
            query, target = linear_sum_assignment(costs)
            own = matches.image == image
            assert matches.query[layer, own].tolist() == query.tolist()
            assert (matches.target[layer, own] - start).tolist() == target.tolist()


def test_a_prediction_that_is_no_number_is_matched_last():
    logits, boxes, labels = answers(layers=1, sizes=(3,))
    with torch.no_grad():
        boxes[0, 0, :6] = torch.nan
        logits[0, 0, 6] = torch.inf
    targets = read_targets(labels, 1, CLASSES, False, like=boxes)
    matches = match(logits.log_softmax(-1), boxes, targets, 1, 5, 2)
    assert matches.query.min() > 6


# --- the terms -----------------------------------------------------------------------------------------------


def test_terms_are_plain_sums_over_matches():
    logits, boxes, labels = answers()
    loss = DetectionLoss(CLASSES, eos_coefficient=0.3, weights={"loss_ce": 2, "loss_giou": 0.5})
    total, terms = loss(logits, boxes, labels)
    targets = read_targets(labels, 3, CLASSES, False, like=boxes)
    matches = match(logits.log_softmax(-1), boxes, targets, 1, 5, 2)
    expected = {}
    for layer, suffix in enumerate(("_0", "_1", "")):
        wanted = torch.full((3, QUERIES), CLASSES)
        distance = overlap = 0.0
        for image, query, target in zip(matches.image, matches.query[layer], matches.target[layer], strict=True):
            wanted[image, query] = targets.classes[target]
            pair = boxes[layer, image, query], targets.boxes[target]
            distance += (pair[0] - pair[1]).abs().sum()
            overlap += 1 - generalized_box_iou(*(convert_boxes(box, "cxcywh", "xyxy") for box in pair))
        weights = torch.ones(CLASSES + 1, dtype=torch.float64)
        weights[-1] = 0.3
        expected["loss_ce" + suffix] = nn.functional.cross_entropy(logits[layer].mT, wanted, weights)
        expected["loss_bbox" + suffix], expected["loss_giou" + suffix] = distance / 8, overlap / 8
        claimed = (logits[layer].argmax(-1) != CLASSES).sum(-1).double()
        expected["cardinality_error" + suffix] = (claimed - torch.tensor([3.0, 0, 5])).abs().mean()
    assert terms.keys() == expected.keys()
    factors = {"ce": 2, "bbox": 5, "giou": 0.5}
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, **EXACT)
    weighted = sum(factors[name.split("_")[1]] * value for name, value in expected.items() if name.startswith("loss"))
    torch.testing.assert_close(total, weighted, **EXACT)
    inputs = (logits, boxes)
    for got, wanted in zip(torch.autograd.grad(total, inputs), torch.autograd.grad(weighted, inputs), strict=True):
        torch.testing.assert_close(got, wanted, **EXACT)


@pytest.mark.parametrize("sizes", [(0, 0, 0), (0,)])
@pytest.mark.parametrize("of_masks", [False, True])
def test_a_batch_without_objects_trains_the_classes_alone(sizes, of_masks):
    logits, boxes, labels = answers(sizes=sizes)
    masks = torch.randn(len(sizes), QUERIES, 4, 5, dtype=torch.float64, requires_grad=True)
    labels = with_masks(labels, [(8, 10)] * len(sizes))
    total, terms = DetectionLoss(CLASSES)(logits, boxes, labels, masks if of_masks else None)
    assert terms["loss_bbox"] == terms["loss_giou"] == 0
    nothing = torch.full((len(sizes), QUERIES), CLASSES)
    torch.testing.assert_close(terms["loss_ce"], nn.functional.cross_entropy(logits[-1].mT, nothing), **EXACT)
    total.backward()
    assert (boxes.grad == 0).all()  # zero and not missing: distributed training waits for every parameter
    assert (logits.grad != 0).any()
    assert masks.grad is None or (masks.grad == 0).all()


def test_an_image_without_objects_may_have_empty_lists_of_any_shape():
    logits, boxes, labels = answers(sizes=(3, 0))
    expected = DetectionLoss(CLASSES)(logits, boxes, labels)[0]
    labels[1] = {"class_labels": torch.tensor([]), "boxes": torch.tensor([])}
    assert DetectionLoss(CLASSES)(logits, boxes, labels)[0] == expected


def test_boxes_without_area_cost_a_finite_amount():
    logits, boxes, labels = answers(layers=1, sizes=(2,))
    labels[0]["boxes"] = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.2, 0.7, 0.0, 0.1]])
    with torch.no_grad():
        boxes[0, 0, 3] = labels[0]["boxes"][0]
    total, _ = DetectionLoss(CLASSES)(logits, boxes, labels)
    assert total.isfinite()
    for gradient in torch.autograd.grad(total, (logits, boxes)):
        assert gradient.isfinite().all()


def test_half_precision_answers_are_compared_in_single_precision():
    logits, boxes, labels = answers(dtype=torch.bfloat16)
    total, _ = DetectionLoss(CLASSES)(logits, boxes, labels)
    assert total.dtype == torch.float32
    assert total == DetectionLoss(CLASSES)(logits.float(), boxes.float(), labels)[0]


def test_the_number_of_objects_is_the_mean_over_processes(monkeypatch):
    logits, boxes, labels = answers()
    alone = DetectionLoss(CLASSES)(logits, boxes, labels)[1]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda count: count.add_(16))  # the other process has 16
    together = DetectionLoss(CLASSES)(logits, boxes, labels)[1]
    for name in ("loss_bbox", "loss_giou_0"):  # 8 objects here, 12 on average
        torch.testing.assert_close(together[name], alone[name] * 8 / 12, **EXACT)
    assert together["loss_ce"] == alone["loss_ce"]


# --- masks ---------------------------------------------------------------------------------------------------


def plain_mask_losses(logits, wanted):
    """Means and sums of the papers, all at once."""
    logits = nn.functional.interpolate(logits[:, None], size=wanted.shape[1:], mode="bilinear")[:, 0].flatten(1)
    truth = wanted.flatten(1).to(logits.dtype)
    p = logits.sigmoid()
    cross_entropy = nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    of_truth = p * truth + (1 - p) * (1 - truth)
    focal = (0.25 * truth + 0.75 * (1 - truth)) * (1 - of_truth) ** 2 * cross_entropy
    dice = 1 - (2 * (p * truth).sum(1) + 1) / (p.sum(1) + truth.sum(1) + 1)
    return focal.mean(1).sum(), dice.sum()


@pytest.mark.parametrize("together", [1, 2 * 13 * 17, 1 << 20])
def test_masks_piece_by_piece_are_masks_at_once(together, monkeypatch):
    monkeypatch.setattr(detection_masks, "TOGETHER", {"cpu": together})
    logits = (3 * torch.randn(5, 6, 4, dtype=torch.float64)).requires_grad_()
    wanted = torch.rand(5, 13, 17) < 0.3
    wanted[3] = False
    for got, expected in zip(mask_losses(logits, wanted), plain_mask_losses(logits, wanted), strict=True):
        torch.testing.assert_close(got, expected, **EXACT)
        gradients = (torch.autograd.grad(one, logits, retain_graph=True)[0] for one in (got, expected))
        torch.testing.assert_close(*gradients, **EXACT)
    both = [sum(losses(logits, wanted)) for losses in (mask_losses, plain_mask_losses)]
    torch.testing.assert_close(*(torch.autograd.grad(one, logits)[0] for one in both), **EXACT)
    with torch.no_grad():
        assert not mask_losses(logits, wanted)[0].requires_grad


def test_extreme_logits_of_masks_cost_a_finite_amount():
    logits = torch.tensor([[[1e4, -1e4], [-1e4, 1e4]]], requires_grad=True)
    wanted = torch.tensor([[[True, True], [False, False]]])
    focal, dice = mask_losses(logits, wanted)
    assert torch.autograd.grad(focal + dice, logits)[0].isfinite().all()
    focal, dice = float(focal.detach()), float(dice.detach())
    assert focal == pytest.approx(1e4 * (0.25 + 0.75) / 4)  # two of four pixels are wrong, by 10,000 each
    assert dice == pytest.approx(1 - (2 * 1 + 1) / (2 + 2 + 1))


def test_masks_of_smaller_images_are_padded():
    logits, boxes, labels = answers(sizes=(2, 1))
    masks = torch.randn(2, QUERIES, 4, 5, dtype=torch.float64, requires_grad=True)
    labels = with_masks(labels, [(8, 6), (5, 9)])
    terms = DetectionLoss(CLASSES)(logits, boxes, labels, masks)[1]
    padded = [
        {**label, "masks": nn.functional.pad(label["masks"].float(), (0, right, 0, bottom))}
        for label, right, bottom in zip(labels, (3, 0), (0, 3), strict=True)
    ]
    same = DetectionLoss(CLASSES)(logits, boxes, padded, masks)[1]
    torch.testing.assert_close(terms, same, rtol=0, atol=0)
    assert {"loss_mask", "loss_dice"} <= set(terms)
    assert not {"loss_mask_0", "loss_dice_0"} & set(terms)  # earlier layers have no masks


# --- bad labels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "label", "words"),
    [
        (2, {"class_labels": torch.tensor([0, 7])}, "image 2, box 1: class 7 is none of 0..6; map category ids"),
        (0, {"class_labels": torch.tensor([-1, 0])}, "image 0, box 0: class -1 is none of 0..6"),
        (0, {"boxes": torch.tensor([[9.0, 9, 20, 30], [0.5] * 4])}, "image 0, box 0: .9, 9, 20, 30. .* these pixels?"),
        (2, {"boxes": torch.tensor([[0.5] * 4, [0.5, 0.5, -0.1, 0.2]])}, "image 2, box 1: .0.5, 0.5, -0.1, 0.2. does"),
        (0, {"boxes": torch.tensor([[0.5] * 4, [0.5, torch.nan, 0.1, 0.1]])}, "image 0, box 1: .0.5, nan"),
        (0, {"boxes": torch.zeros(3, 4)}, r"image 0: 2 objects need boxes \(2, 4\); got \(3, 4\)"),
        (0, {"boxes": [[0.5] * 4] * 2}, "image 0: labels are tensors; boxes is list"),
        (0, {"class_labels": torch.tensor([0.0, 1.0])}, r"image 0: class_labels are whole numbers \(n,\); got torch.f"),
        (0, {"masks": torch.zeros(2, 9)}, r"image 0: 2 objects need masks \(2, height, width\); got \(2, 9\)"),
    ],
)
def test_wrong_labels_are_named_by_image_and_box(image, label, words):
    logits, boxes, labels = answers(sizes=(2, 0, 2))
    labels = with_masks(labels, [(8, 8)] * 3)
    labels[image] |= label
    with pytest.raises(DatasetError, match=words):
        DetectionLoss(CLASSES)(logits, boxes, labels, torch.zeros(3, QUERIES, 4, 4))


def test_corners_given_as_centres_are_recognised():
    logits, boxes, labels = answers(sizes=(3, 0, 5))
    for label in labels:
        label["boxes"] = convert_boxes(label["boxes"] * 0.5 + 0.2, "cxcywh", "xyxy").clamp(0, 1)
    with pytest.raises(DatasetError, match=r"image 0, box 0: .* are sound corners; convert boxes from xyxy to cxcywh"):
        DetectionLoss(CLASSES)(logits, boxes, labels)


def test_some_boxes_may_stick_out_of_the_image():
    logits, boxes, labels = answers(sizes=(2, 0, 2))
    labels[0]["boxes"][0] = torch.tensor([0.1, 0.2, 0.4, 0.6])
    DetectionLoss(CLASSES)(logits, boxes, labels)


def test_missing_labels_and_many_faults_are_listed():
    logits, boxes, labels = answers(sizes=(12, 0))
    with pytest.raises(DatasetError, match="one dict for each of 2 images; got 1"):
        DetectionLoss(CLASSES)(logits, boxes, labels[:1])
    with pytest.raises(DatasetError, match="one dict for each of 2 images; got one dict"):
        DetectionLoss(CLASSES)(logits, boxes, labels[0])
    with pytest.raises(DatasetError, match="image 1: lacks class_labels, masks; it has boxes"):
        labels_of_one = [with_masks(labels, [(4, 4)] * 2)[0], {"boxes": labels[1]["boxes"]}]
        DetectionLoss(CLASSES)(logits, boxes, labels_of_one, torch.zeros(2, QUERIES, 2, 2))
    labels[0]["class_labels"] += 10
    with pytest.raises(DatasetError, match=r"12 faults:(\n.*class \d+ is none of.*){10}\n    and 2 more"):
        DetectionLoss(CLASSES)(logits, boxes, labels)


# --- settings ------------------------------------------------------------------------------------------------


def test_settings_survive_json():
    loss = DetectionLoss(CLASSES, eos_coefficient=0.2, weights={"loss_bbox": 3})
    assert DetectionLoss(**json.loads(json.dumps(loss.describe()))) == loss
    assert loss.weights["loss_giou"] == 2
    assert len({loss, DetectionLoss(**loss.describe())}) == 1


def test_every_setting_that_cannot_work_is_named():
    with pytest.raises(ConfigError, match=r"5 problems:\n.*giou_cost.*\n.*num_labels.*\n.*eos.*\n.*'ce'.*\n.*bbox"):
        DetectionLoss(0, giou_cost=-1, eos_coefficient=0, weights={"ce": 1, "loss_bbox": -1})
    with pytest.raises(ConfigError, match="at least one of class_cost, bbox_cost, giou_cost is above 0"):
        DetectionLoss(3, class_cost=0, bbox_cost=0, giou_cost=0)


def test_answers_of_other_shapes_are_refused():
    logits, boxes, labels = answers()
    with pytest.raises(ConfigError, match=r"3 problems:\n.*queries, 7\); .*\n.*got \(3, 12, 4\)\n.*masks"):
        DetectionLoss(6)(logits, boxes[0], labels, torch.zeros(3, 4, 4))
