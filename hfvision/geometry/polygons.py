"""Polygons to masks, pixel for pixel as the COCO API draws them.

COCO rounds corners to a grid five times finer than the pixels and walks along the outline on it, one step of the longer
side at a time. Wherever the walk crosses the middle of a pixel column, it notes the row; a pixel is inside if an odd
number of crossings lie before it in its column. Several polygons of one object are drawn one by one and joined.

So a pixel is inside if its centre is, up to a third of a pixel. Corners are points of the plane, (0, 0) being the upper
left corner of the first pixel: what numbers pixels instead, as scikit-image does in `skimage.draw.polygon` and Pillow
in `ImageDraw`, has the same outline half a pixel to the left and up. Pillow also paints every pixel of the outline.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hfvision.errors import DatasetError

FINER = 5  # steps of the outline per pixel


def polygons_to_mask(polygons: Sequence[ArrayLike], image_size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels (H, W) inside any of the polygons, each a list x0, y0, x1, y1, ... (or (n, 2)) in pixels.

    Raises DatasetError for polygons of less than three corners, without pairs, or with NaN or infinite corners.
    """
    mask = np.zeros(image_size, bool)
    for place, polygon in enumerate(polygons):
        mask |= _draw(_corners(polygon, place), image_size)
    return mask


def _corners(polygon: ArrayLike, place: int) -> NDArray[np.float64]:
    try:
        numbers = np.asarray(polygon, np.float64).ravel()
    except (TypeError, ValueError):
        raise DatasetError(f"a polygon is a list of numbers x0, y0, x1, y1, ...; got {str(polygon)[:80]}.") from None
    if len(numbers) < 6 or len(numbers) % 2:
        raise DatasetError(
            f"polygon {place} has {len(numbers)} numbers; it needs x and y of at least three corners. "
            "Remove it, or give the object as run lengths or as a box."
        )
    if not np.isfinite(numbers).all():
        raise DatasetError(f"polygon {place} has a corner that is NaN or infinite.")
    return numbers.reshape(-1, 2)


def _draw(corners: NDArray[np.float64], image_size: tuple[int, int]) -> NDArray[np.bool_]:
    height, width = image_size
    columns, rows = _outline((corners * FINER + 0.5).astype(np.int64))
    # Between two steps of different columns the outline crosses the left edge of the right one of them.
    crossing = columns[1:] != columns[:-1]
    x = (np.maximum(columns[1:], columns[:-1])[crossing] - 1 + 0.5) / FINER - 0.5
    y = (np.minimum(rows[1:], rows[:-1])[crossing] + 0.5) / FINER - 0.5
    counts = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)  # the middle of a pixel column of the image
    x, y = x[counts].astype(np.int64), np.ceil(np.clip(y[counts], 0, height)).astype(np.int64)
    mask = np.zeros((width, height), bool)
    if len(x):  # an outline is closed: it crosses every column an even number of times
        first, past_last = int(x.min()), int(x.max()) + 1
        pixels = (past_last - first) * height
        crossings = np.bincount((x - first) * height + y, minlength=pixels + 1)[:pixels]
        mask[first:past_last] = (crossings.cumsum() % 2 == 1).reshape(-1, height)
    return mask.T


def _outline(corners: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Column and row of each step along the closed outline, on the finer grid."""
    start, end = corners, np.roll(corners, -1, axis=0)
    distance = np.abs(end - start)
    along = np.where(distance[:, 0] >= distance[:, 1], 0, 1)  # the axis of the longer side
    across = 1 - along
    edges = np.arange(len(corners))
    # COCO computes every edge from its lower end, so that both directions round the same.
    turned = start[edges, along] > end[edges, along]
    lower, upper = np.where(turned[:, None], end, start), np.where(turned[:, None], start, end)
    length = distance[edges, along]
    slope = (upper - lower)[edges, across] / np.maximum(length, 1)
    edge = np.repeat(edges, length + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(length + 1) - (length + 1), length + 1)
    step = np.where(turned[edge], length[edge] - step, step)
    walked = np.empty((2, len(edge)), np.int64)
    walked[along[edge], np.arange(len(edge))] = lower[edge, along[edge]] + step
    walked[across[edge], np.arange(len(edge))] = (lower[edge, across[edge]] + slope[edge] * step + 0.5).astype(np.int64)
    return walked[0], walked[1]
