"""Merging of boxes from several looks at one image: exactly what the naive loop gives."""

import numpy as np
import pytest
import torch

from hfvision.errors import ConfigError
from hfvision.geometry import box_area, box_ios, box_iou, merging
from hfvision.geometry.merging import merge_detections


def random_boxes(count, seed, whole=False):
    random = np.random.default_rng(seed)
    corner, side = random.uniform(0, 100, (count, 2)), random.uniform(0, 30, (count, 2))
    boxes = np.concatenate([corner, corner + side], axis=1)
    scores = random.uniform(size=count).round(1 if whole else 6)  # with ties
    return (boxes.round() if whole else boxes), scores, random.integers(0, 3, count)


def naive(boxes, scores, labels, share, rule, match, class_aware):
    overlap = {"iou": box_iou, "ios": box_ios}[match](boxes[:, None], boxes)
    left = sorted(range(len(boxes)), key=lambda row: -scores[row])
    merged, groups = [], []
    while left:
        first, *others = left
        group = [first]
        for row in others:
            if overlap[first, row] > share and (labels[first] == labels[row] or not class_aware):
                group.append(row)
        left = [row for row in others if row not in group]
        some = boxes[group if rule == "nmm" else [first]]
        merged.append([*some[:, :2].min(axis=0), *some[:, 2:].max(axis=0)])
        groups.append(group)
    return np.array(merged).reshape(-1, 4), groups


@pytest.mark.parametrize("rule", ["nms", "nmm"])
@pytest.mark.parametrize("match", ["iou", "ios"])
@pytest.mark.parametrize("class_aware", [True, False])
def test_the_result_is_that_of_the_naive_loop(rule, match, class_aware, monkeypatch):
    for seed, count in enumerate([0, 1, 2, 60, 150]):
        monkeypatch.setattr(merging, "PAIRS_AT_ONCE", 1 << 20 if seed % 2 else 50)
        boxes, scores, labels = random_boxes(count, seed, whole=seed % 2 == 0)
        for share in (0.0, 0.3, 0.5, 1.0):
            options = {"rule": rule, "match": match, "class_aware": class_aware}
            got, kept_scores, kept_labels, groups = merge_detections(boxes, scores, labels, iou=share, **options)
            wanted, members = naive(boxes, scores, labels, share, **options)
            assert [group.tolist() for group in groups] == members
            np.testing.assert_array_equal(got, wanted)
            firsts = [group[0] for group in members]
            np.testing.assert_array_equal(kept_scores, scores[firsts])
            np.testing.assert_array_equal(kept_labels, labels[firsts])


def test_a_piece_cut_off_at_a_seam_goes_into_its_object():
    """IoU 0.2 between the object and a fifth of it; over the smaller of the two it is 1."""
    boxes = np.array([[0.0, 0, 10, 10], [8, 0, 10, 10], [40, 40, 50, 50]])
    scores, labels = np.array([0.8, 0.9, 0.7]), np.array([1, 1, 1])
    assert len(merge_detections(boxes, scores, labels)[0]) == 3
    merged, kept, _, groups = merge_detections(boxes, scores, labels, rule="nmm", match="ios")
    np.testing.assert_array_equal(merged, boxes[[0, 2]])
    np.testing.assert_array_equal(kept, [0.9, 0.7])
    assert [group.tolist() for group in groups] == [[1, 0], [2]]


def test_intersection_over_the_smaller_is_one_inside_and_nothing_for_empty_boxes():
    outer, inner, empty = np.array([0.0, 0, 10, 10]), np.array([2.0, 2, 4, 4]), np.array([3.0, 3, 3, 5])
    assert box_ios(outer, inner) == box_ios(inner, outer) == 1
    assert box_ios(outer, empty) == 0
    half = np.array([8.0, 0, 12, 10])
    assert box_ios(outer, half) == 20 / min(box_area(outer), box_area(half))


def test_tensors_come_back_as_tensors_of_their_types():
    boxes, scores, labels = random_boxes(40, 5)
    given = torch.tensor(boxes, dtype=torch.float32), torch.tensor(scores), torch.tensor(labels, dtype=torch.int32)
    *results, groups = merge_detections(*given, rule="nmm")
    arrays = merge_detections(boxes.astype(np.float32), scores, labels, rule="nmm")
    for got, like, wanted in zip(results, given, arrays, strict=False):
        assert got.dtype == like.dtype
        np.testing.assert_array_equal(got.numpy(), wanted)
    assert sum(map(len, groups)) == 40
    nothing = merge_detections([], [], [])
    assert nothing[0].shape == (0, 4) and nothing[3] == []


def test_every_fault_is_named_at_once():
    boxes = np.zeros((2, 4))
    with pytest.raises(ConfigError, match=r"(?s)4 problems.*rows \[1\].*0..1; got 2.*nms, nmm.*iou, ios; got 'giou'"):
        merge_detections(boxes, np.array([0.5, np.nan]), np.zeros(2, int), iou=2, rule="soft", match="giou")
    with pytest.raises(ConfigError, match=r"got \(2, 4\), \(3,\) and \(2,\)"):
        merge_detections(boxes, np.zeros(3), np.zeros(2, int))
