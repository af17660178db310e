"""Detections as arrays: every form they come in and go out as, selections, and bad input."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from hfvision.detections import Detections
from hfvision.errors import ConfigError, UnknownNameError
from hfvision.geometry import decode_rle, encode_rle
from hfvision.metrics import DetectionMetric

NAMES = ("cat", "dog", "bird")
SIZE = (20, 30)
BOXES = np.array([[1.25, 2.5, 11.0, 12.0], [5.0, 5.0, 25.75, 19.5], [0.0, 0.0, 30.0, 20.0]])
SCORES = [0.9, 0.6, 0.3]
LABELS = [2, 0, 2]


def some_masks() -> np.ndarray:
    masks = np.zeros((3, *SIZE), bool)
    masks[0, 3:12, 2:11], masks[1, 5:19, 5:25], masks[2] = True, True, True
    return masks


@pytest.fixture(params=["none", "arrays", "run lengths"])
def found(request) -> Detections:
    masks = {"none": None, "arrays": some_masks(), "run lengths": [encode_rle(mask) for mask in some_masks()]}
    return Detections(BOXES, SCORES, LABELS, NAMES, SIZE, masks[request.param])


def assert_equal(one: Detections, other: Detections) -> None:
    for name in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (one.names, one.size) == (other.names, other.size)
    np.testing.assert_equal(one.decoded_masks(), other.decoded_masks())


def test_lists_arrays_and_tensors_are_the_same_detections(found) -> None:
    for kind in (torch.tensor, np.array, lambda values: values):
        result = {"boxes": kind(BOXES.tolist()), "scores": kind(SCORES), "labels": kind(LABELS), "masks": found.masks}
        made = Detections.of(result, list(NAMES), SIZE)
        np.testing.assert_allclose(made.boxes, found.boxes, rtol=0, atol=0)  # these values are exact in float32
        np.testing.assert_allclose(made.scores, found.scores, rtol=1e-7)
        assert made.labels.dtype == np.int64 and made.class_names == ["bird", "cat", "bird"]
        np.testing.assert_equal(made.decoded_masks(), found.decoded_masks())


def test_run_lengths_stay_as_they_came_until_pixels_are_asked_for(monkeypatch) -> None:
    damaged = [{"size": list(SIZE), "counts": "?"}] * 3
    found = Detections(BOXES, SCORES, LABELS, NAMES, SIZE, damaged)
    assert len(found.above(0.5).masks) == 2  # nothing was read
    intact = Detections(BOXES, SCORES, LABELS, NAMES, SIZE, [encode_rle(mask) for mask in some_masks()])
    np.testing.assert_array_equal(intact.decoded_masks(), some_masks())
    np.testing.assert_array_equal(intact.mask(1), some_masks()[1])


def test_a_selection_keeps_everything_of_its_objects(found) -> None:
    whole = found.decoded_masks()
    for chosen, rows in (
        (found.take([2, 0]), [2, 0]),
        (found.take(np.array([True, False, True])), [0, 2]),
        (found.take(slice(1, None)), [1, 2]),
        (found.above(0.3), [0, 1]),
        (found.of_class("bird"), [0, 2]),
        (found.of_class(0, "bird"), [0, 1, 2]),
        (found.take([]), []),
        (found.above(1.0), []),
    ):
        np.testing.assert_array_equal(chosen.boxes, BOXES[rows].reshape(-1, 4))
        assert chosen.scores.tolist() == [SCORES[row] for row in rows]
        assert chosen.labels.tolist() == [LABELS[row] for row in rows] and len(chosen) == len(rows)
        np.testing.assert_equal(chosen.decoded_masks(), None if whole is None else whole[rows])
    with pytest.raises(UnknownNameError, match="no class is called fish; there are cat, dog, bird"):
        found.of_class("fish")


def test_transformers_dicts_hold_whole_pixels_and_come_back(found) -> None:
    rows = found.to_list()
    assert rows[0]["box"] == {"xmin": 1, "ymin": 2, "xmax": 11, "ymax": 12}
    assert [(row["label"], row["score"]) for row in rows] == [("bird", 0.9), ("cat", 0.6), ("bird", 0.3)]
    assert all(("mask" in row) == (found.masks is not None) for row in rows)
    json.dumps(found.to_list(masks=False))
    again = Detections.from_list(rows, SIZE, NAMES)
    np.testing.assert_array_equal(again.boxes, BOXES.astype(int))
    assert_equal(again, Detections(BOXES.astype(int), SCORES, LABELS, NAMES, SIZE, found.decoded_masks()))
    assert Detections.from_list(rows, SIZE).names == ("bird", "cat")


def test_segments_of_the_segmentation_pipeline_are_boxed_by_their_masks() -> None:
    masks = some_masks()[:2]
    rows = [
        {"label": name, "score": score, "mask": Image.fromarray(mask.astype(np.uint8) * 255)}
        for name, score, mask in zip(("dog", "cat"), (None, 0.5), masks, strict=True)
    ]
    found = Detections.from_list(rows, SIZE, NAMES)
    assert found.boxes.tolist() == [[2, 3, 11, 12], [5, 5, 25, 19]]
    assert found.scores.tolist() == [1.0, 0.5]
    np.testing.assert_array_equal(found.decoded_masks(), masks)
    assert len(Detections.from_list([], SIZE, NAMES)) == 0


def test_coco_results_are_json_with_boxes_as_corner_and_sides(found) -> None:
    rows = json.loads(json.dumps(found.to_coco(17, category_ids={0: 18, 2: 16})))
    assert [(row["image_id"], row["category_id"], row["score"]) for row in rows] == [
        (17, 16, 0.9),
        (17, 18, 0.6),
        (17, 16, 0.3),
    ]
    assert rows[0]["bbox"] == [1.25, 2.5, 9.75, 9.5]
    if found.masks is not None:
        for row, mask in zip(rows, some_masks(), strict=True):
            assert isinstance(row["segmentation"]["counts"], str)
            np.testing.assert_array_equal(decode_rle(row["segmentation"]), mask)
    assert [row["category_id"] for row in found.to_coco("a")] == LABELS
    with pytest.raises(ConfigError, match="category_ids has none for class 2"):
        found.to_coco(1, [18, 17])


def test_supervision_gets_the_arrays_that_its_detections_check(found) -> None:
    given = found.to_supervision()
    assert set(given) == {"xyxy", "mask", "confidence", "class_id", "data"}
    assert given["xyxy"].shape == (3, 4) and given["confidence"].shape == given["class_id"].shape == (3,)
    assert given["mask"] is None or (given["mask"].dtype == bool and given["mask"].shape == (3, *SIZE))
    assert given["data"]["class_name"].tolist() == ["bird", "cat", "bird"]
    empty = found.take([]).to_supervision()
    assert empty["xyxy"].shape == (0, 4) and empty["data"]["class_name"].shape == (0,)


def test_the_metric_counts_them(found) -> None:
    metric = DetectionMetric(3, ["boxes"] if found.masks is None else ["boxes", "masks"])
    prediction = found.to_prediction()
    metric.update([prediction], [{name: prediction[name] for name in prediction if name != "scores"}])
    figures = metric.result()
    assert figures["AP"] == 1.0 and figures.get("mask_AP", 1.0) == 1.0


def test_every_fault_of_the_arrays_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"4 faults:\n.*classes 0\.\.2.*\[7\]\n.*1 of 2 scores are NaN\n.*such as box 1"
    ):
        Detections([[0, 0, 1, 1], [5, 5, 4, 6]], [0.5, float("nan")], [0, 7], NAMES, SIZE, np.ones((2, 20, 31)))
    with pytest.raises(
        ConfigError, match=r"3 faults:\n.*2 labels need scores \(2,\); got \(1,\)\n.*boxes \(2, 4\); got"
    ):
        Detections([[0, 0, 1, 1]], [0.5], [0, 1], NAMES, SIZE, [encode_rle(np.ones(SIZE))])
    with pytest.raises(ConfigError, match=r"labels are whole numbers \(n,\); got float64"):
        Detections([[0, 0, 1, 1]], [0.5], [0.5], NAMES, SIZE)
    with pytest.raises(ConfigError, match="size is the height and width"):
        Detections(np.zeros((0, 4)), [], [], NAMES, (0, 4))
    with pytest.raises(
        ConfigError, match=r"masks of 1 objects are an array \(1, H, W\) or run lengths; got \(20, 30\)"
    ):
        Detections([[0, 0, 1, 1]], [0.5], [0], NAMES, SIZE, np.ones(SIZE))
    with pytest.raises(ConfigError, match="those of mask 0 have not"):
        Detections([[0, 0, 1, 1]], [0.5], [0], NAMES, SIZE, [{"size": SIZE}])


def test_dicts_that_lack_something_are_named() -> None:
    box = {"xmin": 0, "ymin": 0, "xmax": 1, "ymax": 1}
    with pytest.raises(ConfigError, match="object 1 has label, box"):
        Detections.from_list([{"label": "cat", "score": 1, "box": box}, {"label": "cat", "box": box}], SIZE)
    with pytest.raises(ConfigError, match="a box or a mask, the same for all; object 1 has label, score"):
        Detections.from_list([{"label": "cat", "score": 1, "box": box}, {"label": "cat", "score": 1}], SIZE)
    with pytest.raises(UnknownNameError, match="names has no fish"):
        Detections.from_list([{"label": "fish", "score": 1, "box": box}], SIZE, NAMES)
    with pytest.raises(ConfigError, match="have boxes alone"):
        Detections(BOXES, SCORES, LABELS, NAMES, SIZE).mask(0)
