"""Masks and boxes from each other, and masks from every form that COCO annotations have.

Shapes: N masks or boxes, H x W pixels. Boxes are xyxy in pixels, edge to edge: the box of one pixel has area 1.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hfvision.errors import DatasetError
from hfvision.geometry.boxes import Boxes, Size, as_floating, columns_of, library_of
from hfvision.geometry.polygons import polygons_to_mask
from hfvision.geometry.rle import decode_rle


def masks_to_boxes(masks: Boxes) -> Boxes:
    """(N, H, W), set where not 0 -> (N, 4) float32: the smallest box of each; (0, 0, 0, 0) for an empty mask."""
    library: Any = library_of(masks)
    is_set: Any = masks != 0
    sides: list[Any] = []
    for axis in (-2, -1):  # columns that hold a pixel, then rows
        held = is_set.any(axis) * 1
        first = held.argmax(-1)
        past_last = held.shape[-1] - library.flip(held, (-1,)).argmax(-1)
        some = held.any(-1)
        sides.append((first * some, past_last * some))
    (left, right), (top, bottom) = sides
    return library.stack([library.asarray(side, dtype=library.float32) for side in (left, top, right, bottom)], -1)


def boxes_to_masks(boxes_xyxy: Boxes, image_size: Size) -> Boxes:
    """(N, 4) -> bool (N, H, W): the pixels whose centres lie inside."""
    boxes = as_floating(boxes_xyxy)
    left, top, right, bottom = (side[..., None] for side in columns_of(boxes))
    rows, columns = (_centres(side, boxes) for side in image_size)
    in_column = (left <= columns) & (columns < right)
    in_row = (top <= rows) & (rows < bottom)
    return in_row[..., :, None] & in_column[..., None, :]


def decode_segmentation(segmentation: Any, image_size: Size) -> NDArray[np.bool_]:
    """The mask (H, W) of an object: run lengths, polygons, or an array of that size, which is set where it is not 0.

    Raises DatasetError for other forms, and for run lengths and arrays of another size than the image.
    """
    if isinstance(segmentation, dict):
        mask = decode_rle(segmentation)
    elif isinstance(segmentation, Tensor):
        mask = (segmentation != 0).cpu().numpy()
    elif isinstance(segmentation, np.ndarray):
        mask = segmentation != 0
    elif isinstance(segmentation, list | tuple):
        flat = len(segmentation) > 0 and np.isscalar(segmentation[0])
        return polygons_to_mask([segmentation] if flat else segmentation, image_size)
    else:
        raise DatasetError(
            "an object's segmentation is run lengths, a list of polygons or an array (height, width); "
            f"got {type(segmentation).__name__}."
        )
    if mask.shape != tuple(image_size):
        raise DatasetError(
            f"a mask has the size of its image, {image_size[0]}x{image_size[1]} (height x width); got "
            f"{'x'.join(map(str, mask.shape))}."
        )
    return mask


def _centres(side: int, like: Any) -> Any:
    """Of the pixels along a side."""
    return (torch.arange(side, device=like.device) if isinstance(like, Tensor) else np.arange(side)) + 0.5
