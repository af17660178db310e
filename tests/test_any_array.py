"""Functions of metrics and geometry give one answer, whatever type, device or gradient the numbers come with."""

import numpy as np
import pytest
import torch

from hfvision.errors import ConfigError
from hfvision.geometry import box_area, box_ios, box_iou, encode_rle, generalized_box_iou, masks_to_boxes
from hfvision.geometry.arrays import descending, to_numpy
from hfvision.geometry.merging import merge_detections
from hfvision.layers.patch_embedding import with_patch_size
from hfvision.metrics import ClassificationMetric, DetectionMetric, PanopticMetric, SegmentationMetric

# Whole numbers up to 64 are exact in all of these.
FORMS = {
    **{str(one): lambda x, one=one: np.asarray(x).astype(one) for one in (np.float16, np.float32, np.float64)},
    **{str(one): lambda x, one=one: np.asarray(x).astype(one) for one in (np.uint8, np.uint16, np.int16, np.int64)},
    **{
        str(one): lambda x, one=one: torch.tensor(np.asarray(x)).to(one)
        for one in (torch.uint8, torch.int32, torch.float16, torch.bfloat16, torch.float32, torch.float64)
    },
    "with gradients": lambda x: torch.tensor(np.asarray(x, np.float32), requires_grad=True),
    "bfloat16 with gradients": lambda x: torch.tensor(np.asarray(x), dtype=torch.bfloat16).requires_grad_(),
}
BOXES = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [30, 30, 40, 50], [2, 0, 12, 9]])
SCORES = np.array([3, 9, 5, 9])
LABELS = np.array([0, 0, 1, 0])


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


@pytest.mark.parametrize("rule", ["nms", "nmm"])
def test_detections_are_merged_alike(form, rule):
    boxes, scores, labels, groups = merge_detections(form(BOXES), form(SCORES), LABELS, iou=0.4, rule=rule)
    expected = merge_detections(BOXES.astype(float), SCORES.astype(float), LABELS, iou=0.4, rule=rule)
    np.testing.assert_array_equal(to_numpy(boxes), expected[0])
    np.testing.assert_array_equal(to_numpy(scores), expected[1])
    np.testing.assert_array_equal(labels, expected[2])
    assert [group.tolist() for group in groups] == [group.tolist() for group in expected[3]] == [[1, 3, 0], [2]]


def test_classes_are_counted_alike(form):
    scores, truth = np.array([[1, 5, 2], [7, 0, 3], [0, 1, 1], [2, 2, 9]]), np.array([1, 2, 1, 2])
    metric, expected = (ClassificationMetric(3, top_k=(1, 2), confusion=True) for _ in range(2))
    metric.update(form(scores), truth)
    expected.update(scores.astype(float), truth)
    assert metric.result() == expected.result()
    np.testing.assert_array_equal(metric.confusion, expected.confusion)


def test_lists_of_tensors_are_counted_as_one_array():
    metric = ClassificationMetric(3, top_k=(1,))
    metric.update([torch.tensor([0.0, 1, 0], requires_grad=True)], [torch.tensor(1)])
    metric.add(predictions=torch.tensor([2.0, 1, 0]).bfloat16(), references=torch.tensor(1))
    assert metric.result()["accuracy"] == 0.5


@pytest.mark.parametrize("measure", [box_iou, box_ios, generalized_box_iou])
def test_overlaps_are_measured_alike(form, measure):
    first, second = BOXES[[0, 1, 2]], BOXES[[1, 3, 2]]
    expected = measure(first.astype(float), second.astype(float))
    np.testing.assert_allclose(to_numpy(measure(form(first), form(second))), expected, rtol=1e-6)
    np.testing.assert_allclose(to_numpy(box_area(form(first))), box_area(first.astype(float)))


def test_masks_are_encoded_alike(form):
    mask = np.zeros((5, 7))
    mask[1:4, 2:6] = 1
    assert encode_rle(form(mask)) == encode_rle(mask != 0)
    np.testing.assert_array_equal(to_numpy(masks_to_boxes(form(mask)[None])), [[2, 1, 6, 4]])


def test_detections_are_measured_alike(form):
    results = []
    for one in (form, lambda x: np.asarray(x, float)):
        metric = DetectionMetric(2)
        metric.update(
            [{"boxes": one(BOXES), "scores": one(SCORES), "labels": LABELS}],
            [{"boxes": one(BOXES[:3]), "labels": LABELS[:3]}],
        )
        results.append({name: value for name, value in metric.result().items() if np.ndim(value) == 0})
    assert results[0] == pytest.approx(results[1], nan_ok=True)


def test_maps_of_classes_and_segments_are_measured_alike():
    classes = np.array([[0, 1, 1], [2, 2, 0]])
    segments = [{"id": 1, "label_id": 0}, {"id": 2, "label_id": 1}]
    ids = np.array([[1, 1, 2], [1, 2, 2]])
    for kind in (np.uint8, np.int16, np.int32, np.int64, torch.uint8, torch.int32, torch.int64):
        made = classes.astype(kind) if isinstance(kind, type) else torch.tensor(classes, dtype=kind)
        metric = SegmentationMetric(3)
        metric.update([made], [made])
        assert metric.result()["mean_iou"] == 1
        made = ids.astype(kind) if isinstance(kind, type) else torch.tensor(ids, dtype=kind)
        metric = PanopticMetric(2, things=[0])
        one = {"segmentation": made, "segments_info": segments}
        metric.update([one], [one])
        assert metric.result()["PQ"] == 1


def test_falling_order_keeps_equal_numbers_as_they_came():
    for kind in (np.uint8, np.uint64, np.int8, np.float32, bool):
        values = np.array([0, 1, 0, 1, 1]).astype(kind)
        assert descending(values).tolist() == [1, 3, 4, 0, 2]
    assert descending(np.array([-128, 127, 0], np.int8)).tolist() == [1, 2, 0]


@pytest.mark.parametrize("old", [(1, 4), (4, 1), (1, 1), (3, 5)])
@pytest.mark.parametrize("new", [(2, 8), (8, 2), (5, 3), (1, 1)])
def test_patch_kernels_of_any_size_answer_to_resized_patches_as_before(old, new):
    """Where a patch grows, the old answer is exactly the new kernel's to the patch resized."""
    generator = torch.Generator().manual_seed(0)
    kernel, patch = (torch.randn(1, 1, *old, generator=generator, dtype=torch.float64) for _ in range(2))
    resized = torch.nn.functional.interpolate(patch.float(), size=new, mode="bilinear", antialias=True).double()
    answer = (with_patch_size(kernel, new) * resized).sum()
    if new[0] >= old[0] and new[1] >= old[1]:
        torch.testing.assert_close(answer, (kernel * patch).sum(), rtol=1e-5, atol=1e-5)
    assert torch.isfinite(answer)


def test_what_is_no_whole_number_is_no_class():
    with pytest.raises(ConfigError, match="references are whole numbers"):
        ClassificationMetric(3).update(np.eye(3), np.array([0.5, 1, 2]))
