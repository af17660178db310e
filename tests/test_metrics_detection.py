"""The detection metric: pycocotools' figures, streaming, merging, `evaluate`, every form of input, and bad input."""

import evaluate
import numpy as np
import pytest
import torch

from hfvision.errors import ConfigError
from hfvision.geometry import convert_boxes, encode_rle
from hfvision.metrics import DetectionMetric, detection

CLASSES, IMAGES = 6, 500
IMAGES_WITH_MASKS = 60
HEIGHT, WIDTH = 200, 300
# What pycocotools 2.0.11 gives for `scenes`, in the order of its summary.
NAMES = [
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
]
PYCOCOTOOLS = {
    "boxes": [
        *(0.16307315694846863, 0.27733076167260096, 0.1726325533345496),
        *(0.18010126041224964, 0.16550333571501327, 0.1521102554739139),
        *(0.2748545812537049, 0.43632583099356365, 0.4379294791319681),
        *(0.4335616631618391, 0.44315151637871175, 0.4326365280910528),
    ],
    "masks": [
        *(0.21705334893548928, 0.36009675403317787, 0.21876681773768444),
        *(0.2222462273390413, 0.2502947916588973, 0.16047359735973596),
        *(0.256479545921045, 0.4287843260164969, 0.4287843260164969),
        *(0.41282239414962535, 0.4821969696969697, 0.284),
    ],
}


def scenes(count, masks=False):
    """Boxes xywh of all sizes and detections that are often near one, with crowds, equal scores, images without
    objects or detections, areas unlike the boxes', more than 100 detections in an image, class 5 absent."""
    generator = np.random.default_rng(0)

    def boxes(n):
        corner = generator.uniform(0, 0.7, (n, 2)) * [WIDTH, HEIGHT]
        room = [WIDTH, HEIGHT] - corner
        return np.concatenate([corner, np.maximum(room * generator.uniform(0, 1, (n, 2)) ** 1.5, 2)], axis=1)

    def ellipses(boxes):
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        x, y, w, h = (boxes[:, i, None, None] for i in range(4))
        return ((columns - x - w / 2) / w) ** 2 + ((rows - y - h / 2) / h) ** 2 <= 0.25

    predictions, references = [], []
    for image in range(count):
        n = int(generator.integers(0, 9))
        true, labels = boxes(n), generator.integers(0, 5, n)
        found = np.repeat(np.arange(n), generator.integers(0, 3, n))
        near = true[found] + generator.normal(0, 0.06, (len(found), 4)) * np.tile(true[found, 2:], 2)
        other = boxes(120 if image % 100 == 7 and not masks else int(generator.integers(0, 5)))
        detected = np.concatenate([near, other])
        detected[:, 2:] = np.maximum(detected[:, 2:], 2)
        seen = np.concatenate([labels[found], generator.integers(0, 5, len(other))])
        seen = np.where(generator.random(len(seen)) < 0.1, generator.integers(0, 5, len(seen)), seen)
        scores = np.round(generator.random(len(seen)), 1 + image % 2)
        prediction = {"scores": scores, "labels": seen, "boxes": detected}
        area = true[:, 2] * true[:, 3] * generator.uniform(0.5, 1, n)
        reference = {"labels": labels, "boxes": true, "area": area, "iscrowd": generator.random(n) < 0.1}
        if masks:
            prediction["masks"], reference["masks"] = ellipses(detected), ellipses(true)
        predictions.append(prediction)
        references.append(reference)
    return predictions, references


@pytest.fixture(scope="module")
def boxes():
    return scenes(IMAGES)


@pytest.fixture(scope="module")
def few():
    """Boxes and masks of eight images."""
    return scenes(8, masks=True)


def same(result, other):
    for name in result:
        np.testing.assert_array_equal(result[name], other[name])


def test_figures_of_boxes_are_pycocotools(boxes):
    predictions, references = boxes
    metric = DetectionMetric(CLASSES, box_form="xywh")
    for start in range(0, IMAGES, 64):
        metric.update(predictions[start : start + 64], references[start : start + 64])
    result = metric.result()
    np.testing.assert_allclose([result[name] for name in NAMES], PYCOCOTOOLS["boxes"], rtol=0, atol=1e-12)
    assert np.isnan(result["per_category_AP"][5])
    assert np.nanmean(result["per_category_AP"]) == pytest.approx(result["AP"], abs=1e-12)
    crowds = sum(int(reference["iscrowd"].sum()) for reference in references)
    objects = sum(len(reference["labels"]) for reference in references) - crowds
    assert (result["absent"], result["images"], result["objects"]) == ([5], IMAGES, objects)


def test_figures_of_masks_are_pycocotools():
    predictions, references = scenes(IMAGES_WITH_MASKS, masks=True)
    metric = DetectionMetric(CLASSES, ["masks"])
    metric.update(predictions, references)
    result = metric.result()
    np.testing.assert_allclose([result["mask_" + name] for name in NAMES], PYCOCOTOOLS["masks"], rtol=0, atol=1e-12)
    assert "AP" not in result


def test_a_perfect_answer_scores_one_and_no_answer_zero():
    truth = {"labels": [1, 1], "boxes": [[0, 0, 50, 50], [60, 0, 70, 10]]}
    perfect = DetectionMetric(3).compute(predictions=[{**truth, "scores": [0.5, 0.5]}], references=[truth])
    assert (perfect["AP"], perfect["AP_small"], perfect["AP_medium"], perfect["AR1"]) == (1, 1, 1, 0.5)
    assert np.isnan(perfect["AP_large"])
    nothing = DetectionMetric(3).compute(predictions=[{"scores": [], "labels": [], "boxes": []}], references=[truth])
    assert (nothing["AP"], nothing["AR100"], nothing["absent"]) == (0, 0, [0, 2])


def test_processes_add_up_in_any_order(boxes):
    predictions, references = (half[:120] for half in boxes)
    references = [{**reference, "image_id": image} for image, reference in enumerate(references)]
    whole = DetectionMetric(CLASSES, box_form="xywh")
    whole.update(predictions, references)
    processes = [DetectionMetric(CLASSES, box_form="xywh") for _ in range(3)]
    for image in range(122):  # the last two images are the first again, as samplers of several processes give them
        processes[2 - image % 3].add(predictions=predictions[image % 120], references=references[image % 120])
    merged = DetectionMetric(CLASSES, box_form="xywh")
    merged.merge(processes[0], *[process.records for process in processes[1:]])
    same(merged.result(), whole.result())
    assert merged.result()["images"] == 120
    with pytest.raises(ConfigError, match=r"num_labels 6, regions \('boxes',\)"):
        whole.merge(DetectionMetric(CLASSES, ["masks"]))


def test_every_form_of_the_same_objects_gives_the_same_figures(few):
    predictions, references = few
    expected = DetectionMetric(CLASSES, ["masks", "boxes"], "xywh")
    expected.update(predictions, references)

    def changed(dicts, **changes):
        return [
            {**one, **{name: change(one[name]) for name, change in changes.items() if name in one}} for one in dicts
        ]

    def corners(boxes):
        return torch.from_numpy(convert_boxes(boxes, "xywh", "xyxy"))

    def run_lengths(masks):
        return [encode_rle(mask, compressed=place % 2 == 0) for place, mask in enumerate(masks)]

    forms = [
        ({"boxes": corners, "masks": torch.from_numpy, "scores": torch.tensor, "labels": torch.tensor}, "xyxy"),
        ({"boxes": np.ndarray.tolist, "masks": run_lengths, "labels": list, "area": list}, "xywh"),
        ({"boxes": lambda boxes: convert_boxes(boxes, "xywh", "cxcywh"), "iscrowd": torch.tensor}, "cxcywh"),
    ]
    for changes, box_form in forms:
        metric = DetectionMetric(CLASSES, ["boxes", "masks"], box_form)
        metric.update(changed(predictions, **changes), changed(references, **changes))
        same(metric.result(), expected.result())
    renamed = [{**one, "class_labels": one["labels"]} for one in references]  # the name in a DETR model's labels
    for one in renamed:
        del one["labels"]
    metric = DetectionMetric(CLASSES, ["boxes", "masks"], "xywh")
    metric.update(predictions, renamed)
    same(metric.result(), expected.result())


def test_the_area_that_is_not_given_is_measured(few):
    predictions, references = few
    without = [{name: value for name, value in one.items() if name != "area"} for one in references]
    for regions, areas in (
        (["boxes"], lambda one: one["boxes"][:, 2] * one["boxes"][:, 3]),
        (["boxes", "masks"], lambda one: one["masks"].sum(axis=(1, 2))),
    ):
        measured, given = DetectionMetric(CLASSES, regions, "xywh"), DetectionMetric(CLASSES, regions, "xywh")
        measured.update(predictions, without)
        given.update(predictions, [{**one, "area": areas(one)} for one in references])
        same(measured.result(), given.result())


def test_stands_in_evaluate_combine(boxes):
    predictions, references = (half[:10] for half in boxes)
    metrics = {name: DetectionMetric(CLASSES, box_form="xywh") for name in "ab"}
    both = evaluate.combine(metrics, force_prefix=True)
    both.add_batch(predictions=predictions[:9], references=references[:9])
    both.add(prediction=predictions[9], reference=references[9])
    result = both.compute()
    expected = DetectionMetric(CLASSES, box_form="xywh").compute(predictions=predictions, references=references)
    assert result["a_AP"] == result["b_AP"] == expected["AP"]


TRUTH = {"labels": [0], "boxes": [[0, 0, 10, 20]]}
ANSWER = {**TRUTH, "scores": [0.5]}


@pytest.mark.parametrize(
    ("prediction", "reference", "words"),
    [
        (TRUTH, TRUTH, "image 1: the prediction lacks scores; it has labels, boxes"),
        ({**ANSWER, "labels": [3]}, TRUTH, r"image 1: labels are classes 0..2; got \[3\] in the prediction"),
        ({**ANSWER, "labels": [0.5]}, TRUTH, "labels are whole numbers"),
        ({**ANSWER, "scores": [np.nan]}, TRUTH, "1 of 1 scores are NaN"),
        ({**ANSWER, "scores": [0.5, 0.5]}, TRUTH, r"1 labels need scores \(1,\); got \(2,\)"),
        (ANSWER, {**TRUTH, "boxes": [[0, 0, 10]]}, r"1 labels need boxes \(1, 4\); got \(1, 3\) in the reference"),
        (ANSWER, {**TRUTH, "boxes": [[10, 0, 5, 5]]}, r"negative size as xyxy, such as box 0: \[10.0, 0.0, 5.0, 5.0\]"),
        (ANSWER, {**TRUTH, "boxes": [[np.nan, 0, 5, 5]]}, "1 of 1 boxes in the reference are NaN"),
        (ANSWER, {**TRUTH, "area": [1, 2]}, r"1 labels need area \(1,\)"),
    ],
)
def test_bad_batches_are_refused_and_nothing_is_kept(prediction, reference, words):
    metric = DetectionMetric(3)
    with pytest.raises(ConfigError, match=words):
        metric.update([ANSWER, prediction], [TRUTH, reference])
    with pytest.raises(ConfigError, match="no image was counted"):
        metric.result()


def test_boxes_in_pixels_and_in_shares_are_not_compared():
    with pytest.raises(ConfigError, match=r"boxes of the references reach to 0\.7, those of the predictions to 20"):
        DetectionMetric(1).update([ANSWER], [{"labels": [0], "boxes": [[0.1, 0.1, 0.5, 0.7]]}])


def test_masks_of_another_size_are_refused():
    metric = DetectionMetric(1, ["masks"])
    answer, truth = ({"labels": [0], "scores": [1], "masks": np.ones((1, 4, side))} for side in (5, 6))
    with pytest.raises(ConfigError, match=r"masks of an image have one size; got \[\(4, 5\), \(4, 6\)\]"):
        metric.update([answer], [truth])
    with pytest.raises(ConfigError, match="image 0: run lengths of a 4x5 mask"):
        metric.update([{**answer, "masks": [{"size": [4, 5], "counts": [3]}]}], [truth])


def test_senseless_metrics_and_a_missing_backend_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match=r"3 problems:\n.*num_labels.*\n.*regions.*\n.*box_form"):
        DetectionMetric(0, "boxes", "yxyx")  # type: ignore[arg-type]
    monkeypatch.setattr(detection, "BACKEND", "no_such_package")
    with pytest.raises(ConfigError, match=r"pip install 'hfvision\[detection\]'"):
        DetectionMetric(3)
