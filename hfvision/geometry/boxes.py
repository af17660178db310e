"""Boxes: their three forms, areas, overlaps. Torch tensors stay torch, on their device; numpy arrays stay numpy.

Paper: Rezatofighi et al. 2019, "Generalized Intersection over Union", arXiv 1902.09630 (GIoU).

Forms: xyxy (left, top, right, bottom), xywh (left, top, width, height), cxcywh (centre x, centre y, width, height).
Coordinates are edges, not pixel indices: the box of a whole H x W image is (0, 0, W, H) in pixels, (0, 0, 1, 1) in
units of the image. Whole numbers become float64 and half precision float32, so that areas cannot overflow.

Shapes: boxes (..., 4), image sizes (height, width).
"""

from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hfvision.errors import ConfigError

BoxForm = Literal["xyxy", "xywh", "cxcywh"]
Boxes = TypeVar("Boxes", Tensor, NDArray[Any])
Size = tuple[int, int]  # height, width


def convert_boxes(boxes: Boxes, source: BoxForm, target: BoxForm) -> Boxes:
    """The same boxes in another form. Raises ConfigError for unknown forms and shapes other than (..., 4)."""
    for form in (source, target):
        if form not in get_args(BoxForm):
            raise ConfigError(f"boxes are {', '.join(get_args(BoxForm))}; got the form {form!r}.")
    boxes = as_floating(boxes)
    if source == target:
        return boxes
    first_x, first_y, second_x, second_y = columns_of(boxes)
    if source == "xyxy":
        left, top, width, height = first_x, first_y, second_x - first_x, second_y - first_y
    elif source == "xywh":
        left, top, width, height = first_x, first_y, second_x, second_y
    else:
        width, height = second_x, second_y
        left, top = first_x - width / 2, first_y - height / 2
    if target == "xywh":
        columns = (left, top, width, height)
    elif target == "cxcywh":
        # corners are halved, not left + width / 2: the last bits are those of the original DETR
        right, bottom = (second_x, second_y) if source == "xyxy" else (left + width, top + height)
        columns = ((left + right) / 2, (top + bottom) / 2, width, height)
    elif source == "cxcywh":
        columns = (left, top, first_x + width / 2, first_y + height / 2)
    else:
        columns = (left, top, left + width, top + height)
    return library_of(boxes).stack(columns, -1)


def boxes_to_pixels(boxes: Boxes, image_size: Size) -> Boxes:
    """From units of the image (0..1) to pixels, in any form."""
    boxes = as_floating(boxes)
    return boxes * _width_height(boxes, image_size)


def boxes_to_unit(boxes: Boxes, image_size: Size) -> Boxes:
    """From pixels to units of the image (0..1), in any form."""
    boxes = as_floating(boxes)
    return boxes / _width_height(boxes, image_size)


def clip_boxes(boxes_xyxy: Boxes, image_size: Size) -> Boxes:
    """The part of each box inside the image; of area 0 where nothing is. For boxes in 0..1 the size is (1, 1)."""
    boxes = as_floating(boxes_xyxy)
    height, width = image_size
    left, top, right, bottom = columns_of(boxes)
    clip = library_of(boxes).clip
    columns = (clip(left, 0, width), clip(top, 0, height), clip(right, 0, width), clip(bottom, 0, height))
    return library_of(boxes).stack(columns, -1)


def box_area(boxes_xyxy: Boxes) -> Boxes:
    """(..., 4) -> (...)."""
    left, top, right, bottom = columns_of(as_floating(boxes_xyxy))
    return (right - left) * (bottom - top)


def box_iou(first_xyxy: Boxes, second_xyxy: Boxes) -> Boxes:
    """Intersection over union, in 0..1; 0 for two boxes without area. Leading axes broadcast: box by box for (N, 4) and
    (N, 4), all pairs (N, M) for `box_iou(first[:, None], second)`."""
    intersection, union, _ = _overlap(first_xyxy, second_xyxy)
    return _share(intersection, union)


def box_ios(first_xyxy: Boxes, second_xyxy: Boxes) -> Boxes:
    """Intersection over the smaller of the two boxes, in 0..1: 1 where one holds the other; broadcasts as `box_iou`."""
    intersection, _, _ = _overlap(first_xyxy, second_xyxy)
    areas = box_area(first_xyxy), box_area(second_xyxy)
    return _share(intersection, library_of(intersection).minimum(*areas))


def generalized_box_iou(first_xyxy: Boxes, second_xyxy: Boxes) -> Boxes:
    """IoU less the share of the smallest common box that neither fills, in -1..1; broadcasts as `box_iou`.

    It and its gradient are finite for boxes without area, too.
    """
    intersection, union, common = _overlap(first_xyxy, second_xyxy)
    return _share(intersection, union) - _share(common - union, common)


def _overlap(first_xyxy: Any, second_xyxy: Any) -> tuple[Any, Any, Any]:
    """Areas, broadcast: of the intersection, the union and the smallest box that holds both."""
    first, second = as_floating(first_xyxy), as_floating(second_xyxy)
    library = library_of(first)
    left, top, right, bottom = columns_of(first)
    other_left, other_top, other_right, other_bottom = columns_of(second)
    lowest, highest = library.minimum, library.maximum
    width = library.clip(lowest(right, other_right) - highest(left, other_left), 0, None)
    height = library.clip(lowest(bottom, other_bottom) - highest(top, other_top), 0, None)
    intersection = width * height
    areas = (right - left) * (bottom - top) + (other_right - other_left) * (other_bottom - other_top)
    common_width = highest(right, other_right) - lowest(left, other_left)
    common_height = highest(bottom, other_bottom) - lowest(top, other_top)
    return intersection, areas - intersection, common_width * common_height


def _share(part: Any, whole: Any) -> Any:
    """part / whole; where there is no whole there is no part either, and the share is 0."""
    return part / library_of(whole).where(whole == 0, 1, whole)


def library_of(array: Any) -> Any:
    return torch if isinstance(array, Tensor) else np


def columns_of(boxes: Any) -> tuple[Any, Any, Any, Any]:
    return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]


def as_floating(boxes: Any) -> Any:
    """float32 or float64 boxes (..., 4)."""
    boxes = boxes if isinstance(boxes, Tensor) else np.asarray(boxes)
    if boxes.shape[-1:] != (4,):
        raise ConfigError(f"boxes have the shape (..., 4); got {tuple(boxes.shape)}.")
    if isinstance(boxes, Tensor):
        if boxes.is_floating_point():
            return boxes if boxes.dtype in (torch.float32, torch.float64) else boxes.float()
        return boxes.double()
    if np.issubdtype(boxes.dtype, np.floating):
        return boxes if boxes.dtype in (np.float32, np.float64) else boxes.astype(np.float32)
    return boxes.astype(np.float64)


def _width_height(boxes: Any, image_size: Size) -> Any:
    """(4,): what a unit of each column is in pixels."""
    height, width = image_size
    values = [width, height, width, height]
    return boxes.new_tensor(values) if isinstance(boxes, Tensor) else np.array(values, boxes.dtype)
