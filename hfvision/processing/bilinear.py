"""Bilinear resizing without antialiasing, as OpenCV does it: what mmsegmentation's protocols were evaluated with.

Each new pixel is a mixture of the four old ones around its centre, however much the image shrinks. 8-bit images are
computed in integers with OpenCV's roundings: weights of 11 bits, sums along x kept in full, 4 bits of them dropped
before the sums along y, and those rounded in two steps. Floats are mixed in float32.

Source: the arithmetic (not the code) of OpenCV 4's `resize` with INTER_LINEAR, Apache-2.0.

Shapes: C bands, H x W pixels before, h x w after.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hfvision.processing.reading import Array

WEIGHT_BITS = 11


def resize_bilinear(image: Array, size: tuple[int, int]) -> Array:
    """(C, H, W) uint8 or float32 -> (C, h, w), of the same dtype and on the same device."""
    if tuple(image.shape[-2:]) == size:
        return image
    height, width = image.shape[-2:]
    eight_bits = image.dtype in (torch.uint8, np.uint8)
    left, right, from_left, from_right = _like(image, _neighbours(width, size[1], True), eight_bits)
    above, below, from_above, from_below = _like(image, _neighbours(height, size[0], False), eight_bits)
    pixels: Any = _integers(image) if eight_bits else image
    rows = pixels[..., left] * from_left + pixels[..., right] * from_right
    upper, lower = rows[..., above, :], rows[..., below, :]
    if not eight_bits:
        return upper * from_above[:, None] + lower * from_below[:, None]
    upper, lower = ((upper >> 4) * from_above[:, None]) >> 16, ((lower >> 4) * from_below[:, None]) >> 16
    mixed: Any = (upper + lower + 2) >> 2
    return mixed.clamp(0, 255).to(torch.uint8) if isinstance(mixed, torch.Tensor) else _bytes(mixed)


@lru_cache(maxsize=32)
def _neighbours(length: int, wanted: int, is_x: bool) -> tuple[npt.NDArray[Any], ...]:
    """For each new pixel: the two old ones around its centre and the share of the second, each (wanted,).

    Outside the first and last old pixel both are that pixel. OpenCV then also sets the share to zero, along x only.
    """
    centres = ((np.arange(wanted) + 0.5) * (length / wanted) - 0.5).astype(np.float32)
    first = np.floor(centres).astype(np.int64)
    share = centres - first.astype(np.float32)
    if is_x:
        share[(first < 0) | (first >= length - 1)] = 0
    return first.clip(0, length - 1), (first + 1).clip(0, length - 1), share


def _like(image: Array, neighbours: tuple[npt.NDArray[Any], ...], eight_bits: bool) -> list[Any]:
    """First and second place, and their weights, where the image is."""
    first, second, share = neighbours
    weights = [np.float32(1) - share, share]
    if eight_bits:
        weights = [np.rint(weight * np.float32(1 << WEIGHT_BITS)).astype(np.int32) for weight in weights]
    found = [first, second, *weights]
    if isinstance(image, torch.Tensor):
        return [torch.from_numpy(array).to(image.device) for array in found]
    return found


def _integers(image: Array) -> Array:
    return image.to(torch.int32) if isinstance(image, torch.Tensor) else image.astype(np.int32)


def _bytes(levels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return levels.clip(0, 255).astype(np.uint8)
