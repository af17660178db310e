"""Resizing with Pillow's antialiased filters, whatever holds the pixels: a PIL image, a NumPy array or a torch tensor.

Pillow's resampling is the one definition: filters whose width grows with the reduction, one pass along x and one along
y. PIL images and arrays go through Pillow itself, each band on its own: what has not been laid on a background is a
band as others are, though Pillow would take the last of two or four for alpha, and multiply the others by it. Tensors
go through `resize_tensor`, which repeats its arithmetic as two matrix products on the tensor's device:

* uint8: weights rounded to 22 fractional bits, exact sums, each pass rounded and clipped to 0..255. Equal, bit for bit.
* float32: sums in float64, each pass rounded to float32. Equal up to the order of summation, that is to one or two
  units in the last place of the largest value.

Which pass comes first shows in 8-bit results, by a level here and there and by more at hard edges: Pillow 13 starts
with the columns where their reduction in pixels is more than twice that of the rows; earlier versions never do.

Other libraries antialias otherwise (scikit-image blurs with a Gaussian before it interpolates): their pictures differ.

Source: the algorithm (not the code) of Pillow 13's `Resample.c` and `Geometry.c`, MIT-CMU licence.

Shapes: C bands, H x W pixels before, h x w after; sizes are always (height, width).
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import PIL
import torch
from PIL import Image
from transformers.image_utils import SizeDict

from hfvision.errors import ConfigError, ImageShapeError
from hfvision.geometry import nearest_places
from hfvision.processing.reading import Array

Resampling = Image.Resampling
Box = tuple[float, float, float, float] | None
COLUMNS_MAY_COME_FIRST = int(PIL.__version__.partition(".")[0]) >= 13
WITH_ALPHA = ("LA", "RGBA")  # modes whose bands Pillow does not resize on their own
FRACTION = 1 << 22  # Pillow keeps 8-bit weights as 32-bit integers: 8 bits of pixel, 2 of head-room, 22 of fraction
SIZE_FORMS = "{height, width}, {shortest_edge}, {shortest_edge, longest_edge} or {max_height, max_width} in pixels"


def _sine(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The C library's sine, which Pillow uses; NumPy's own may differ in the last place."""
    return np.array([math.sin(v) for v in x.flat]).reshape(x.shape)


def _cosine(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.array([math.cos(v) for v in x.flat]).reshape(x.shape)


def _sinc(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    angle = np.where(x == 0, 1.0, x) * math.pi
    return np.where(x == 0, 1.0, _sine(angle) / angle)


def _box(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _triangle(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _hamming(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    high, low = float(np.float32(0.54)), float(np.float32(0.46))  # single-precision constants in Pillow too
    return np.where(np.abs(x) < 1, _sinc(np.abs(x)) * (high + low * _cosine(np.abs(x) * math.pi)), 0.0)


def _cubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys' cubic convolution with a = -1/2."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _lanczos(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where((x >= -3) & (x < 3), _sinc(x) * _sinc(x / 3), 0.0)


FILTERS: dict[int, tuple[float, Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]]] = {
    Resampling.BOX: (0.5, _box),  # half width at scale 1, weight at a distance in pixels
    Resampling.BILINEAR: (1.0, _triangle),
    Resampling.HAMMING: (1.0, _hamming),
    Resampling.BICUBIC: (2.0, _cubic),
    Resampling.LANCZOS: (3.0, _lanczos),
}


@overload
def resize(image: torch.Tensor, size: tuple[int, int], resample: int, box: Box = None) -> torch.Tensor: ...
@overload
def resize(
    image: Image.Image | npt.NDArray[Any], size: tuple[int, int], resample: int, box: Box = None
) -> npt.NDArray[Any]: ...
def resize(image: Image.Image | Array, size: tuple[int, int], resample: int, box: Box = None) -> Array:
    """(C, H, W) uint8 or float32, or an 8-bit PIL image -> (C, h, w), of the same dtype and on the same device.

    box: (left, top, right, bottom) of the part that is resized; not of a tensor.
    """
    if isinstance(image, torch.Tensor):
        return resize_tensor(image, size, resample)
    if isinstance(image, Image.Image):
        if image.mode not in WITH_ALPHA:
            return planes(image.resize(size[::-1], resample, box))
        image = planes(image)
    if image.shape[-2:] == size and box is None:
        return image
    bands = image.transpose(1, 2, 0)
    if image.dtype == np.uint8 and len(image) == 3 and bands.flags.c_contiguous:  # as PIL holds it: one call for all
        return planes(Image.fromarray(bands).resize(size[::-1], resample, box))
    out = np.empty((len(image), *size), image.dtype)
    for band, resized in zip(image, out, strict=True):
        resized[:] = np.asarray(Image.fromarray(np.ascontiguousarray(band)).resize(size[::-1], resample, box))
    return out


def planes(image: Image.Image) -> npt.NDArray[Any]:
    """The pixels of a PIL image as (C, H, W), without a copy."""
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def resize_tensor(image: torch.Tensor, size: tuple[int, int], resample: int) -> torch.Tensor:
    """(..., H, W) uint8 or float32 -> (..., h, w), as Pillow would; the device must know float64."""
    rows_lost, columns_lost = image.shape[-2] - size[0], image.shape[-1] - size[1]
    y_first = COLUMNS_MAY_COME_FIRST and rows_lost > max(0, 2 * columns_lost)
    for axis in (-2, -1) if y_first else (-1, -2):
        length = size[axis]
        if image.shape[axis] == length:
            continue
        if resample == Resampling.NEAREST:
            nearest = torch.from_numpy(nearest_places(image.shape[axis], length)).to(image.device)
            image = image.index_select(axis, nearest)
            continue
        weights = _weights(image.shape[axis], length, resample)
        if image.dtype == torch.uint8:
            weights = np.trunc(weights * FRACTION + np.copysign(0.5, weights))
        matrix = torch.from_numpy(weights).to(image.device)
        pixels = image.to(torch.float64)
        sums = pixels @ matrix.mT if axis == -1 else matrix @ pixels
        if image.dtype == torch.uint8:  # integers below 2**53: exact in any order
            image = ((sums + FRACTION // 2) / FRACTION).floor_().clamp_(0, 255).to(torch.uint8)
        else:
            image = sums.to(torch.float32)
    return image


@lru_cache(maxsize=8)  # some megabytes each for photos
def _weights(length: int, wanted: int, resample: int) -> npt.NDArray[np.float64]:
    """(wanted, length): row i holds the weights of all old pixels in new pixel i; each row sums to one."""
    support, weight = FILTERS[resample]
    scale = length / wanted
    stretch = max(scale, 1.0)  # the filter widens when the image shrinks
    out = np.zeros((wanted, length))
    for i in range(wanted):
        centre = (i + 0.5) * scale
        first = max(int(centre - support * stretch + 0.5), 0)
        end = min(int(centre + support * stretch + 0.5), length)
        row = weight((np.arange(first, end, dtype=np.float64) - centre + 0.5) * (1.0 / stretch))
        total = np.add.accumulate(row)[-1]  # from left to right: `sum` adds in another order, which rounds differently
        out[i, first:end] = row / total if total else row
    return out


def output_size(height: int, width: int, size: SizeDict, rounding: str | None = None) -> tuple[int, int]:
    """(h, w) that an image is resized to, with the rules and roundings of transformers' `size` (see `SIZE_FORMS`).

    `rounding="nearest"` multiplies both sides by one factor and rounds them, where the size keeps the ratio (mmcv).
    Raises ImageShapeError where a side would vanish, ConfigError for other forms.
    """
    if size.height and size.width:
        return size.height, size.width
    short, long = min(height, width), max(height, width)
    if rounding == "nearest":
        factor = _factor(height, width, size)
        new = int(height * factor + 0.5), int(width * factor + 0.5)
    elif size.max_height and size.max_width:
        factor = _factor(height, width, size)
        new = int(height * factor), int(width * factor)
    elif size.shortest_edge:
        limit = size.longest_edge
        sides = (
            _short_and_long(short, long, size.shortest_edge, limit)
            if limit
            else (size.shortest_edge, int(size.shortest_edge * long / short))
        )
        new = sides if height <= width else (sides[1], sides[0])
    else:
        raise ConfigError(f"size must be {SIZE_FORMS}; got {dict(size)}")
    if min(new) < 1:
        raise ImageShapeError(f"size={dict(size)} leaves {new[0]}x{new[1]} pixels of an image of {height}x{width}")
    return new


def _factor(height: int, width: int, size: SizeDict) -> float:
    """The largest by which both sides can be multiplied within the limits."""
    if size.max_height and size.max_width:
        return min(size.max_height / height, size.max_width / width)
    if not size.shortest_edge:
        raise ConfigError(f"size must be {SIZE_FORMS}; got {dict(size)}")
    short, long = min(height, width), max(height, width)
    limit = size.longest_edge / long if size.longest_edge else math.inf
    return min(limit, size.shortest_edge / short)


def _short_and_long(short: int, long: int, wanted: int, limit: int) -> tuple[int, int]:
    """The short side to `wanted`, or less where the long side would pass `limit` (DETR's rule)."""
    exact: float = wanted
    if long / short * wanted > limit:
        exact = limit * short / long
        wanted = round(exact)
    return (short, long) if short == wanted else (wanted, int(exact * long / short))


def centre_window(length: int, wanted: int, rounding: str = "down") -> tuple[slice, slice]:
    """One axis of a centre crop: what is taken of the old, and where it goes in the new (the rest of that is black)."""
    if length >= wanted:
        start = (length - wanted) // 2 if rounding == "down" else round((length - wanted) / 2)
        return slice(start, start + wanted), slice(None)
    start = (wanted - length + 1) // 2
    return slice(None), slice(start, start + length)
