"""Panoptic quality: the published rules written out, hand-made cases, streaming, merging, and bad input."""

import evaluate
import numpy as np
import pytest
import torch

from hfvision.errors import ConfigError
from hfvision.metrics import PanopticMetric

CLASSES, THINGS = 5, (0, 1, 2)


def segmentation(row, classes, crowds=()):
    """A map of one row of digits ("." has no segment) and its list; digit d is a segment of class `classes[d - 1]`."""
    ids = np.array([[0 if pixel == "." else int(pixel) for pixel in row]])
    info = [
        {"id": place, "category_id": label, "iscrowd": int(place in crowds)}
        for place, label in enumerate(classes, start=1)
    ]
    return {"segmentation": ids, "segments_info": info}


def counted(metric):
    return {name: counts.tolist() for name, counts in metric.counts.items()}


def random_scenes(count):
    """Blocks of segments, predicted with shifts and wrong classes; crowds and pixels without a segment in the truth;
    class 4 is absent."""
    generator = np.random.default_rng(0)
    predictions, references = [], []
    for _ in range(count):
        ids = np.kron(generator.integers(0, 9, (3, 4)), np.ones((8, 8), int))
        guess = np.roll(ids, tuple(generator.integers(-2, 3, 2)), axis=(0, 1))
        guess[generator.integers(0, 20) :, generator.integers(0, 30) :] = 0
        classes = generator.integers(0, 4, 9)
        guessed = np.where(generator.random(9) < 0.8, classes, generator.integers(0, 4, 9))
        crowds = set()
        for one in range(1, 9):  # panopticapi knows one crowd of a class and image
            if generator.random() < 0.15 and classes[one] not in {classes[other] for other in crowds}:
                crowds.add(one)
        references.append(
            {
                "segmentation": ids * 1000,
                "segments_info": [
                    {"id": one * 1000, "category_id": int(classes[one]), "iscrowd": int(one in crowds)}
                    for one in range(1, 9)
                    if (ids == one).any()
                ],
            }
        )
        predictions.append(
            {
                "segmentation": torch.from_numpy(guess),
                "segments_info": [
                    {"id": one, "label_id": int(guessed[one]), "score": 0.5, "was_fused": False}
                    for one in range(1, 9)
                    if (guess == one).any()
                ],
            }
        )
    return predictions, references


def plain_counts(predictions, references):
    """Segment by segment, as Kirillov et al. 2019 and the evaluation of COCO describe it."""
    iou_sum, right, wrong, missed = np.zeros(CLASSES), *np.zeros((3, CLASSES), int)
    for prediction, reference in zip(predictions, references, strict=True):
        answer, truth = np.asarray(prediction["segmentation"]), reference["segmentation"]
        true = [(truth == one["id"], one["category_id"], one["iscrowd"]) for one in reference["segments_info"]]
        void = ~np.any([mask for mask, _, _ in true], axis=0) if true else np.ones(truth.shape, bool)
        found = set()
        for segment in prediction["segments_info"]:
            mask, label = answer == segment["id"], segment["label_id"]
            for place, (other, true_label, crowd) in enumerate(true):
                iou = (mask & other).sum() / ((mask | other) & ~(mask & void)).sum()
                if iou > 0.5 and label == true_label and not crowd:
                    iou_sum[label] += iou
                    right[label] += 1
                    found.add(place)
                    break
            else:
                excuse = void.copy()
                for other, true_label, crowd in true:
                    if crowd and true_label == label:
                        excuse |= other
                if (mask & excuse).sum() / mask.sum() <= 0.5:
                    wrong[label] += 1
        for place, (_, true_label, crowd) in enumerate(true):
            if not crowd and place not in found:
                missed[true_label] += 1
    return iou_sum, right, wrong, missed


def test_figures_are_those_of_the_published_rules():
    predictions, references = random_scenes(60)
    iou_sum, right, wrong, missed = plain_counts(predictions, references)
    assert min(right[:4].min(), wrong[:4].min(), missed[:4].min()) > 0  # every rule was met
    metric = PanopticMetric(CLASSES, THINGS)
    metric.update(predictions, references)
    assert metric.matched.tolist() == right.tolist()
    assert metric.unmatched_predicted.tolist() == wrong.tolist()
    assert metric.unmatched_true.tolist() == missed.tolist()
    with np.errstate(invalid="ignore"):
        quality = iou_sum / (right + wrong / 2 + missed / 2)
        wanted = {"PQ": quality, "SQ": iou_sum / right, "RQ": right / (right + wrong / 2 + missed / 2)}
    result = metric.result()
    for name, values in wanted.items():
        # counts are equal and sums of doubles differ by their last bits
        np.testing.assert_allclose(result[f"per_category_{name}"], values, rtol=1e-14)
        for group, labels in (("", range(4)), ("_things", THINGS), ("_stuff", [3])):
            assert result[name + group] == pytest.approx(values[list(labels)].mean(), rel=1e-14)
    assert (result["absent"], result["images"], result["segments"]) == ([4], 60, (right + missed).sum())


@pytest.mark.parametrize(
    ("predicted", "true", "matched", "overlap", "wrong", "missed"),
    [
        (("111..", [0]), ("11111", [0]), 1, 3 / 5, 0, 0),
        (("11..", [0]), ("1111", [0]), 0, 0, 1, 1),  # an IoU of one half is no match
        (("1111", [0]), ("1111", [1]), 0, 0, 1, 1),  # nor is another class
        (("1112", [0, 0]), ("1111", [0]), 1, 3 / 4, 1, 0),  # found twice
        (("1111", [0]), ("11..", [0]), 1, 1, 0, 0),  # pixels without a true segment are in no union
        (("1111", [0]), ("1...", [1]), 0, 0, 0, 1),  # and excuse what lies mostly there
        (("1111", [0]), ("11..", [1]), 0, 0, 1, 1),  # but not what half lies there
        (("1111", [0]), ("1111", [0], [1]), 0, 0, 0, 0),  # a crowd is neither matched nor missed
        (("1111", [1]), ("1111", [0], [1]), 0, 0, 1, 0),  # and excuses its own class only
        (("1111", [0]), ("1.22", [0, 1], [1]), 0, 0, 1, 1),
        (("1111", [0]), ("1..2", [0, 1], [1]), 0, 0, 0, 1),  # together with pixels without a segment
    ],
)
def test_cases_computed_by_hand(predicted, true, matched, overlap, wrong, missed):
    metric = PanopticMetric(2)
    metric.update([segmentation(*predicted)], [segmentation(*true)])
    counts = metric.matched, metric.unmatched_predicted, metric.unmatched_true
    assert tuple(int(count.sum()) for count in counts) == (matched, wrong, missed)
    if matched:
        assert metric.result()["per_category_SQ"][0] == overlap
        assert metric.result()["per_category_PQ"][0] == overlap / (1 + wrong / 2 + missed / 2)


def test_batches_and_processes_add_up_exactly():
    predictions, references = random_scenes(30)
    whole = PanopticMetric(CLASSES, THINGS)
    whole.update(predictions, references)
    processes = [PanopticMetric(CLASSES, THINGS) for _ in range(3)]
    for image in reversed(range(30)):  # sums of doubles would depend on the order
        processes[image % 3].add(predictions=predictions[image], references=references[image])
    merged = PanopticMetric(CLASSES, THINGS)
    merged.merge(*processes)
    assert counted(merged) == counted(whole)
    reduced = PanopticMetric(CLASSES, THINGS)
    reduced.merge({name: sum(p.counts[name] for p in processes) for name in whole.counts})  # as all_reduce does
    assert counted(reduced) == counted(whole)
    with pytest.raises(ConfigError, match="can be merged"):
        whole.merge(PanopticMetric(CLASSES))


def test_ids_of_other_conventions_and_empty_answers():
    """Ids from 0 with -1 for no segment, and the float map of -1 that transformers gives where nothing was found."""
    truth = segmentation("1122", [0, 1])
    metric = PanopticMetric(2)
    answer = {
        "segmentation": torch.tensor([[0, 0, -1, 5]]),
        "segments_info": [{"id": 0, "label_id": 0}, {"id": 5, "label_id": 1}],
    }
    metric.update([answer], [truth])
    assert metric.matched.tolist() == [1, 0]
    metric.reset()
    metric.update([{"segmentation": torch.full((1, 4), -1.0), "segments_info": []}], [truth])
    result = metric.result()
    assert [result[name] for name in ("PQ", "SQ", "RQ", "absent", "segments", "images")] == [0, 0, 0, [], 2, 1]


def test_stands_in_evaluate_combine():
    both = evaluate.combine({"a": PanopticMetric(CLASSES), "b": PanopticMetric(CLASSES)}, force_prefix=True)
    predictions, references = random_scenes(4)
    both.add_batch(predictions=predictions[:3], references=references[:3])
    both.add(prediction=predictions[3], reference=references[3])
    result = both.compute()
    expected = PanopticMetric(CLASSES).compute(predictions=predictions, references=references)
    assert result["a_PQ"] == result["b_PQ"] == expected["PQ"]


GOOD = segmentation("1122", [0, 1])


@pytest.mark.parametrize(
    ("prediction", "words"),
    [
        ({"segmentation": GOOD["segmentation"]}, "image 0: the prediction lacks segments_info; it has segmentation"),
        (segmentation("112", [0, 1]), r"the prediction is \(1, 3\), the reference \(1, 4\)"),
        (segmentation("1123", [0, 1]), r"ids in the map that segments_info lacks: \[3\]"),
        (segmentation("1122", [0, 1, 1]), r"ids in segments_info without a pixel: \[3\]"),
        (segmentation("1122", [0, 7]), r"classes outside 0..4: \[7\]"),
        ({**GOOD, "segments_info": [*GOOD["segments_info"], GOOD["segments_info"][0]]}, r"ids twice .*: \[1\]"),
        ({**GOOD, "segments_info": [{"id": 1}]}, "without an id, or without a category_id or label_id"),
        ({**GOOD, "segmentation": np.zeros((1, 4)) + 0.5}, r"whole numbers \(H, W\); got float64"),
    ],
)
def test_bad_segmentations_are_refused_and_nothing_is_counted(prediction, words):
    metric = PanopticMetric(CLASSES)
    with pytest.raises(ConfigError, match=words):
        metric.update([prediction, GOOD], [GOOD, GOOD])
    with pytest.raises(ConfigError, match="no image was counted"):
        metric.result()


def test_senseless_metrics_and_batches_are_refused():
    with pytest.raises(ConfigError, match=r"things are classes 0..2; got \[3\]"):
        PanopticMetric(3, things=[0, 3])
    with pytest.raises(ConfigError, match="1 predictions for 2 references"):
        PanopticMetric(3).update([GOOD], [GOOD, GOOD])
