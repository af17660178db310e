"""Shapes that people draw in annotation tools, and the objects that they make up.

A shape is a box, an outline or a mask, in pixels of its image; x goes right, y down. Tools group shapes: the pieces of
an object that something covers, or a mask and the box around it. Shapes of one group and label are one object where at
least one of them is more than a box; boxes that are grouped stay objects of their own.

Shapes of arrays: H x W pixels of the image, h x w of a mask that covers a part of it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfvision.data.object_rows import ObjectRows
from hfvision.geometry import decode_segmentation, encode_rle

CORNERS = 72  # of the outline that stands for a circle or an ellipse
Box = tuple[float, float, float, float]  # left, top, right, bottom
Pixels = NDArray[np.bool_]


@dataclass(frozen=True)
class Shape:
    """One shape; `outline` and `mask` are both None for a box."""

    label: str
    box: Box
    outline: Sequence[float] | None = None  # x, y, x, y, ...
    mask: tuple[Pixels, int, int] | None = None  # (h, w), and the column and row of its first pixel
    group: Any = None  # shapes of one value belong together; None: to no other
    crowd: bool = False

    @property
    def is_box(self) -> bool:
        return self.outline is None and self.mask is None


def box_shape(label: str, first: Sequence[float], second: Sequence[float], **more: Any) -> Shape:
    """A box by two of its corners (x, y), in any order."""
    (left, right), (top, bottom) = sorted((first[0], second[0])), sorted((first[1], second[1]))
    return Shape(label, (left, top, right, bottom), **more)


def outline_shape(label: str, corners: Sequence[float], **more: Any) -> Shape:
    """An outline by its corners x, y, x, y, ...: at least three of them."""
    across, down = corners[::2], corners[1::2]
    return Shape(label, (min(across), min(down), max(across), max(down)), list(corners), **more)


def turned_box(label: str, box: Box, degrees: float, **more: Any) -> Shape:
    """A box turned clockwise about its centre."""
    left, top, right, bottom = box
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    middle = (left + right) / 2, (top + bottom) / 2
    return outline_shape(label, _turned(corners, middle, degrees), **more)


def ellipse_shape(
    label: str, middle: tuple[float, float], radii: tuple[float, float], degrees: float = 0, **more: Any
) -> Shape:
    """An ellipse, or a circle, as an outline of many corners; its box is that of the true ellipse."""
    steps = [2 * math.pi * step / CORNERS for step in range(CORNERS)]
    (x, y), (a, b) = middle, radii
    outline = _turned([(x + a * math.cos(t), y + b * math.sin(t)) for t in steps], middle, degrees)
    turn = math.radians(degrees)
    half_width = math.hypot(a * math.cos(turn), b * math.sin(turn))
    half_height = math.hypot(a * math.sin(turn), b * math.cos(turn))
    return Shape(label, (x - half_width, y - half_height, x + half_width, y + half_height), outline, **more)


def mask_shape(label: str, mask: Pixels, left: int, top: int, **more: Any) -> Shape | None:
    """A mask (h, w) whose first pixel is column `left`, row `top` of its image; None for one without a pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    box = (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)
    return Shape(label, (float(box[0]), float(box[1]), float(box[2]), float(box[3])), None, (mask, left, top), **more)


def add_shapes(rows: ObjectRows, shapes: Iterable[Shape], size: tuple[int, int], where: str) -> None:
    """Add the objects that shapes make up to the image that was added last; `size` is its H, W.

    A crowd it is where any of an object's shapes is one.
    """
    groups: dict[Any, list[Shape]] = {}
    for place, shape in enumerate(shapes):
        key = (place,) if shape.group in (None, "", 0, "0") else (shape.group, shape.label)
        groups.setdefault(key, []).append(shape)
    for group in groups.values():
        drawn = [shape for shape in group if not shape.is_box]
        for parts in [drawn] if drawn else [[shape] for shape in group]:
            segmentation = _segmentation(drawn, size) if rows.masks and drawn else None
            crowd = any(shape.crowd for shape in group)
            rows.add_object(
                parts[0].label, _around([shape.box for shape in parts]), segmentation, crowd=crowd, name=where
            )
        if drawn and len(group) > 1:
            rows.joined += len(group)
            rows.joined_objects += 1


def _segmentation(parts: Sequence[Shape], size: tuple[int, int]) -> Any:
    """Polygons, or run lengths where a mask is among the parts."""
    outlines = [list(part.outline) for part in parts if part.outline is not None]
    masks = [part.mask for part in parts if part.mask is not None]
    if not masks:
        return outlines
    whole = decode_segmentation(outlines, size).copy() if outlines else np.zeros(size, bool)
    for mask, left, top in masks:
        kept = mask[max(0, -top) : size[0] - top, max(0, -left) : size[1] - left]
        whole[max(0, top) :, max(0, left) :][: kept.shape[0], : kept.shape[1]] |= kept
    return encode_rle(whole)


def _around(boxes: Sequence[Box]) -> Box:
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _turned(corners: Iterable[tuple[float, float]], middle: tuple[float, float], degrees: float) -> list[float]:
    """Corners x, y, x, y, ..., turned clockwise about a point."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned: list[float] = []
    for x, y in corners:
        across, down = x - middle[0], y - middle[1]
        turned += [middle[0] + across * cosine - down * sine, middle[1] + across * sine + down * cosine]
    return turned
