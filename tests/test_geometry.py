"""Boxes, masks, run lengths and polygons: definitions, torch and numpy alike, COCO's tools bit for bit, bad input."""

import json

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco

from hfvision.errors import ConfigError, DatasetError
from hfvision.geometry import (
    box_area,
    box_iou,
    boxes_to_masks,
    boxes_to_pixels,
    boxes_to_unit,
    clip_boxes,
    convert_boxes,
    decode_rle,
    decode_segmentation,
    encode_rle,
    generalized_box_iou,
    masks_to_boxes,
    polygons_to_mask,
    rle_area,
)
from hfvision.geometry.rle import compressed_rle

FORMS = {"xyxy": [10.0, 20.0, 40.0, 100.0], "xywh": [10.0, 20.0, 30.0, 80.0], "cxcywh": [25.0, 60.0, 30.0, 80.0]}


def random_boxes(count):
    corner, size = np.random.default_rng(0).uniform(0, 50, (2, count, 2))
    return np.concatenate([corner, corner + size], axis=1)


# --- boxes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", FORMS)
@pytest.mark.parametrize("target", FORMS)
def test_forms_of_one_box(source, target):
    given = np.array([[FORMS[source]]])
    assert convert_boxes(given, source, target).tolist() == [[FORMS[target]]]
    assert convert_boxes(torch.from_numpy(given).float(), source, target).tolist() == [[FORMS[target]]]


def test_pixels_and_units_of_the_image():
    boxes = np.array([FORMS["cxcywh"]])
    shares = boxes_to_unit(boxes, (200, 50))
    assert shares.tolist() == [[0.5, 0.3, 0.6, 0.4]]
    np.testing.assert_allclose(boxes_to_pixels(shares, (200, 50)), boxes, rtol=1e-15)
    assert boxes_to_unit(torch.tensor(FORMS["cxcywh"]), (200, 50)).tolist() == pytest.approx([0.5, 0.3, 0.6, 0.4])


def test_boxes_are_clipped_to_the_image():
    boxes = [[-5.0, 2, 8, 300], [60, 10, 70, 20]]
    assert clip_boxes(np.array(boxes), (100, 50)).tolist() == [[0, 2, 8, 100], [50, 10, 50, 20]]
    assert clip_boxes(torch.tensor(boxes), (100, 50)).tolist() == [[0, 2, 8, 100], [50, 10, 50, 20]]


def test_overlaps_are_those_of_drawn_boxes():
    """On whole pixels areas can be counted."""
    generator = np.random.default_rng(1)
    corners = generator.integers(0, 12, (20, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1) + 1], axis=1)
    masks = boxes_to_masks(boxes, (13, 13))
    assert (masks.sum(axis=(1, 2)) == box_area(boxes)).all()
    intersection = (masks[:, None] & masks).sum(axis=(2, 3))
    union = (masks[:, None] | masks).sum(axis=(2, 3))
    both = np.concatenate(np.broadcast_arrays(boxes[:, None], boxes[None]), axis=2).reshape(-1, 2, 2, 2)
    common = np.concatenate([both[:, :, 0].min(axis=1), both[:, :, 1].max(axis=1)], axis=1).reshape(20, 20, 4)
    enclosing = box_area(common)
    np.testing.assert_allclose(box_iou(boxes[:, None], boxes), intersection / union, rtol=1e-15)
    wanted = intersection / union - (enclosing - union) / enclosing
    np.testing.assert_allclose(generalized_box_iou(boxes[:, None], boxes), wanted, rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(box_iou(boxes, boxes[::-1]), box_iou(boxes[:, None], boxes[::-1]).diagonal())


def test_torch_and_numpy_agree_bit_for_bit():
    first, second = random_boxes(30)[:, None], random_boxes(40)[10:]
    for measure in (box_iou, generalized_box_iou):
        for dtype in (np.float32, np.float64):
            arrays = [boxes.astype(dtype) for boxes in (first, second)]
            expected = measure(*arrays)
            got = measure(*(torch.from_numpy(array) for array in arrays))
            assert got.numpy().dtype == expected.dtype == dtype
            np.testing.assert_array_equal(got.numpy(), expected)


@pytest.mark.parametrize("second", [[3.0, 3, 3, 3], [3.0, 3, 5, 3], [4.0, 4, 6, 6], [0.0, 0, 9, 9]])
def test_boxes_without_area_have_finite_overlaps_and_gradients(second):
    first = torch.tensor([3.0, 3.0, 3.0, 3.0], requires_grad=True)
    second = torch.tensor(second, requires_grad=True)
    assert box_iou(first, second) == 0
    overlap = generalized_box_iou(first, second)
    assert -1 <= overlap <= 0
    for gradient in torch.autograd.grad(overlap, (first, second)):
        assert gradient.isfinite().all()


def test_half_precision_and_whole_numbers_do_not_overflow():
    box = [0, 0, 1000, 800]
    assert box_area(torch.tensor(box, dtype=torch.float16)) == 800_000
    assert box_area(np.array(box, np.uint16)) == 800_000
    assert box_area(torch.tensor(box, dtype=torch.int16)) == 800_000
    assert convert_boxes(np.array([200, 200, 210, 205], np.uint8), "xyxy", "cxcywh").tolist() == [205, 202.5, 10, 5]


def test_what_is_no_box_is_refused():
    with pytest.raises(ConfigError, match=r"shape \(\.\.\., 4\); got \(2, 5\)"):
        box_area(np.zeros((2, 5)))
    with pytest.raises(ConfigError, match="xyxy, xywh, cxcywh; got the form 'yxyx'"):
        convert_boxes(np.zeros((1, 4)), "xyxy", "yxyx")  # type: ignore[arg-type]


# --- masks ---------------------------------------------------------------------------------------------------


def test_boxes_of_masks_reach_from_edge_to_edge():
    masks = np.zeros((3, 6, 8), np.uint8)
    masks[0, 2, 3] = masks[1, 0, 7] = masks[1, 5, 2] = 1
    expected = [[3, 2, 4, 3], [2, 0, 8, 6], [0, 0, 0, 0]]  # the last one is empty
    assert masks_to_boxes(masks).tolist() == masks_to_boxes(torch.from_numpy(masks)).tolist() == expected
    assert masks_to_boxes(np.zeros((0, 6, 8))).shape == masks_to_boxes(torch.zeros(0, 6, 8)).shape == (0, 4)


def test_boxes_and_masks_from_each_other():
    boxes = np.array([[3, 2, 4, 3], [2, 0, 8, 6]], np.float32)
    masks = boxes_to_masks(boxes, (6, 8))
    assert (masks_to_boxes(masks) == boxes).all()
    assert (boxes_to_masks(torch.from_numpy(boxes), (6, 8)).numpy() == masks).all()
    assert boxes_to_masks(np.array([[0.4, 0, 1.6, 1]]), (1, 3))[0].tolist() == [[True, True, False]]  # by centres


# --- run lengths ---------------------------------------------------------------------------------------------

# What pycocotools 2.0.11 writes.
WRITTEN = [
    (np.zeros((3, 4)), "<"),
    (np.ones((3, 4)), "0<"),
    (np.eye(40)[:, :30], "01X1000000000000000000000000000000000000000000000000000000000RO"),
]


def masks_of_all_kinds():
    generator = np.random.default_rng(0)
    for height, width in ((1, 1), (1, 9), (9, 1), (13, 17), (120, 90)):
        for share in (0, 0.01, 0.3, 0.9, 1):
            yield generator.random((height, width)) < share
    yield np.kron(generator.random((6, 5)) < 0.5, np.ones((180, 140), bool))  # runs of many digits


@pytest.mark.parametrize(("mask", "counts"), WRITTEN)
def test_run_lengths_are_pycocotools(mask, counts):
    rle = encode_rle(mask)
    assert rle == {"size": list(mask.shape), "counts": counts}
    assert json.loads(json.dumps(rle)) == rle
    assert (decode_rle(rle) == mask).all()
    assert encode_rle(torch.from_numpy(mask)) == rle


def test_run_lengths_are_those_of_cocos_tools():
    for mask in masks_of_all_kinds():
        theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        rle, runs = encode_rle(mask), encode_rle(mask, compressed=False)
        assert rle["counts"].encode() == theirs["counts"]
        assert compressed_rle(runs) == rle
        for form in (rle, runs, theirs):
            assert (decode_rle(form) == mask).all()
            assert rle_area(form) == mask.sum()


@pytest.mark.parametrize(
    ("rle", "words"),
    [
        ({"counts": "<"}, r'{"size": \[height, width\], "counts"'),
        ({"size": [3], "counts": "<"}, "got {'size'"),
        ({"size": [3, 4], "counts": [5, 6]}, r"of a 3x4 mask \(height x width\) add up to 12; these give 11"),
        ({"size": [3, 4], "counts": [5, -1, 8]}, "at least 0; got -1"),
        ({"size": [3, 4], "counts": [2.5, 9.5]}, "whole numbers"),
        ({"size": [3, 4], "counts": "X"}, "damaged or cut off"),  # more digits were to follow
        ({"size": [3, 4], "counts": "<\x00"}, "damaged or cut off"),
        ({"size": [3, 4], "counts": "P" * 30 + "0"}, "damaged or cut off"),
    ],
)
def test_damaged_run_lengths_are_refused(rle, words):
    with pytest.raises(DatasetError, match=words):
        decode_rle(rle)


def test_several_masks_are_not_one():
    with pytest.raises(DatasetError, match=r"\(height, width\); got \(2, 3, 4\)"):
        encode_rle(np.zeros((2, 3, 4)))


# --- polygons ------------------------------------------------------------------------------------------------

# Polygons on 20 x 32 pixels, and what pycocotools 2.0.11 makes of them: reaching outside, and crossing itself, too.
DRAWN = [
    ([1.2, 1, 30.5, 4.25, 25, 18.75, 3, 15], "e02b08H4L00010O00000000001O0001O000001O0000000010O0N2N2M3N2MW1"),
    ([-6, -4, 50, 10, 20.5, 44, 2.2, 9.9], "07=2N1O2N2N2N2Nb2O_M0000001O0000001O0000001O0000001O000000"),
    ([5, 5, 5, 15, 20, 15, 20, 5], "Y3::000000000000000000000000000[7"),
    ([2, 2, 30, 20, 30, 2, 2, 20], "Z1b03N2N101N1O2O1N1O2O1N101NY10gN2O0O2N101N2N101N2O0O2N2U1"),
]


@pytest.mark.parametrize(("polygon", "counts"), DRAWN)
def test_polygons_are_drawn_as_pycocotools_does(polygon, counts):
    mask = polygons_to_mask([polygon], (20, 32))
    assert (mask == decode_rle({"size": [20, 32], "counts": counts})).all()
    assert (polygons_to_mask([np.reshape(polygon, (-1, 2))], (20, 32)) == mask).all()


def test_polygons_are_drawn_as_cocos_tools_do():
    generator = np.random.default_rng(0)
    for place in range(300):
        height, width = (int(side) for side in generator.integers(1, 60, 2))
        corners = generator.uniform(-0.2, 1.2, (generator.integers(3, 12), 2)) * [width, height]
        corners = (corners, corners.round(), np.clip(corners, 0, [width, height]))[place % 3]
        polygon = corners.ravel().tolist()
        theirs = coco.decode(coco.merge(coco.frPyObjects([polygon], height, width)))
        np.testing.assert_array_equal(polygons_to_mask([polygon], (height, width)), theirs)


def test_polygons_of_one_object_are_joined():
    polygons = [polygon for polygon, _ in DRAWN]
    joined = np.any([polygons_to_mask([polygon], (20, 32)) for polygon in polygons], axis=0)
    assert (polygons_to_mask(polygons, (20, 32)) == joined).all()
    assert not polygons_to_mask([], (20, 32)).any()


@pytest.mark.parametrize(
    ("polygon", "words"),
    [
        ([1, 2, 3, 4], "polygon 0 has 4 numbers; it needs x and y of at least three corners"),
        ([1, 2, 3, 4, 5, 6, 7], "polygon 0 has 7 numbers"),
        ([1, 2, 3, 4, 5, np.nan], "polygon 0 has a corner that is NaN"),
        (["a", "b"], "list of numbers"),
    ],
)
def test_bad_polygons_are_refused(polygon, words):
    with pytest.raises(DatasetError, match=words):
        polygons_to_mask([polygon], (20, 32))


def test_every_form_of_a_segmentation():
    polygon = DRAWN[0][0]
    mask = polygons_to_mask([polygon], (20, 32))
    runs = encode_rle(mask, compressed=False)
    for form in ([polygon], polygon, (polygon,), encode_rle(mask), runs, mask, mask.astype(np.uint8) * 255):
        assert (decode_segmentation(form, (20, 32)) == mask).all()
    assert (decode_segmentation(torch.from_numpy(mask.copy()), (20, 32)) == mask).all()
    with pytest.raises(DatasetError, match=r"the size of its image, 32x20 \(height x width\); got 20x32"):
        decode_segmentation(runs, (32, 20))
    with pytest.raises(DatasetError, match=r"a list of polygons or an array .* got str"):
        decode_segmentation("mask.png", (20, 32))
