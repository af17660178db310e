"""What the numbers of an image mean: everything is brought to grey levels, 0 (black) to 255 (white).

| dtype | taken as |
| --- | --- |
| uint8 | 0..255 |
| bool | 0..1 |
| uint16 | 0..65535 (reported) |
| floats | 0..255; refused where all values are within 0..1, or some outside 0..255 |
| other integers | refused |

`input_range=(low, high)` settles any of them: low becomes 0 and high 255, on one straight line that also carries values
outside the range (reported with their number; nothing is clipped). Without rescaling, values stay what they are. A
`rescale_factor` far from 1/255 cannot be meant for 8 bits: it is the caller's own scale, for any dtype.

An image of nothing but whole levels, to the precision of its dtype, is an 8-bit image stored in another way, so it is
turned back into one: its result is exactly the 8-bit image's, resizing included.

Shapes: C channels, H x W pixels.
"""

import math
from collections import Counter
from typing import Any

import numpy as np
import torch

from hfvision.errors import ImageValueError
from hfvision.processing.reading import Array

EIGHT_BITS = (0.0, 255.0)
SIXTEEN_BITS = (0.0, 65535.0)
EIGHT_BIT_FACTORS = (1 / 510, 1 / 64)  # others are not meant for values of 0..255
SAMPLE = 4096  # pixels looked at before all of them are


def to_levels(
    image: Array, rescale_factor: float | None, input_range: tuple[float, float] | None, notes: Counter[str]
) -> Array:
    """(C, H, W) of any dtype -> uint8 or float32 grey levels, or the values as they are without a `rescale_factor`.

    Raises ImageValueError for NaN and infinities, and where the range of the values is not known (see the module).
    """
    dtype = _name(image)
    if dtype == "uint8" and input_range in (None, EIGHT_BITS):
        return image
    floating = dtype.startswith(("float", "bfloat"))
    if not (floating or dtype == "bool" or dtype.startswith(("int", "uint"))):
        raise ImageValueError(f"pixels of dtype {dtype} are not numbers of a kind that can be taken")
    if floating:
        _refuse_not_finite(image)
    if rescale_factor is None:
        return _float32(image)

    if input_range is None:
        if is_own_scale(rescale_factor):
            if floating and rescale_factor < EIGHT_BIT_FACTORS[0]:
                _refuse_rescaled(image)
            return _float32(image)
        if dtype == "bool":
            input_range = (0.0, 1.0)
        elif dtype == "uint16":
            input_range = SIXTEEN_BITS
            notes["16 bits"] += 1
        elif floating:
            _refuse_rescaled(image)
            _refuse_other_scales(image, dtype)
            input_range = EIGHT_BITS
        else:
            low, high = _extremes(image)
            raise ImageValueError(
                f"{dtype} does not say which values are black and white; these go from {low:g} to {high:g}.\n"
                "    Say it with input_range=(black, white), or use do_rescale=False with image_mean and image_std in "
                "the image's own units."
            )
    else:
        _note_outside(image, input_range, notes)
    return _onto_levels(image, input_range)


def is_own_scale(rescale_factor: float) -> bool:
    """Whether a factor says itself what the values are, so that it applies to any dtype as it is."""
    return not EIGHT_BIT_FACTORS[0] <= rescale_factor <= EIGHT_BIT_FACTORS[1]


def _onto_levels(image: Array, input_range: tuple[float, float]) -> Array:
    low, high = input_range
    slope = 255 / (high - low)
    if (levels := _whole_levels(image, low, slope)) is not None:
        return levels
    if _name(image) in ("float64", "int64", "uint64", "int32", "uint32"):  # more digits than float32 has
        return _float32((_float64(image) - low) * slope)
    return _float32(image) if (low, slope) == (0, 1) else (_float32(image) - low) * slope


def _whole_levels(image: Array, low: float, slope: float) -> Array | None:
    """The image in uint8 if each value is one of 256 levels, as near as its dtype can hold them."""
    name = _name(image)
    near = 255 * max(_epsilon(name), _epsilon("float32")) if "float" in name else 1e-9
    if near > 0.25:
        return None  # bfloat16 cannot tell levels apart
    stride = max(1, math.isqrt(math.prod(image.shape[1:]) // SAMPLE))
    for part in (image[:, ::stride, ::stride], image):  # a few pixels settle most cases
        levels = (_float64(part) - low) * slope
        whole = levels.round()
        off: Any = abs(levels - whole)
        if bool(off.max() > near) or bool(whole.min() < 0) or bool(whole.max() > 255):
            return None
    return whole.to(torch.uint8) if isinstance(whole, torch.Tensor) else whole.astype(np.uint8)


def _refuse_not_finite(image: Array) -> None:
    finite = torch.isfinite(image) if isinstance(image, torch.Tensor) else np.isfinite(image)
    if bool(finite.all()):
        return
    wrong = torch.nonzero(~finite).cpu().numpy() if isinstance(finite, torch.Tensor) else np.argwhere(~finite)
    channel, row, column = (int(i) for i in wrong[0])
    raise ImageValueError(
        f"{len(wrong):,} of {math.prod(image.shape):,} values are NaN or infinite, the first in channel {channel}, "
        f"row {row}, column {column} ({float(image[channel, row, column])}).\n"
        "    Replace them, e.g. with numpy.nan_to_num(image, nan=...)."
    )


def _refuse_rescaled(image: Array) -> None:
    low, high = _extremes(image)
    if low >= 0 and 0 < high <= 1:  # all zero is black on any scale
        raise ImageValueError(
            f"all values are within 0..1 (from {low:g} to {high:g}), and do_rescale would divide them once more.\n"
            "    If 1 is white, say input_range=(0, 1); if they need no scaling, do_rescale=False; if they are of "
            "0..255 all the same, input_range=(0, 255)."
        )


def _refuse_other_scales(image: Array, dtype: str) -> None:
    low, high = _extremes(image)
    if low < 0 or high > 255:
        raise ImageValueError(
            f"{dtype} values are taken as 0 (black) to 255 (white); these go from {low:g} to {high:g}.\n"
            "    Say what they are with input_range=(black, white), or use do_rescale=False with image_mean and "
            "image_std in the image's own units."
        )


def _note_outside(image: Array, input_range: tuple[float, float], notes: Counter[str]) -> None:
    low, high = sorted(input_range)
    least, most = _extremes(image)
    if least < low or most > high:
        values = _float32(image)
        notes["values outside"] += int((values < low).sum()) + int((values > high).sum())
        notes["images outside"] += 1


def _extremes(image: Array) -> tuple[float, float]:
    if isinstance(image, torch.Tensor) and image.dtype in (torch.uint16, torch.uint32, torch.uint64):
        image = _float64(image)  # torch stores these dtypes but does not compute with them
    return float(image.min()), float(image.max())


def _name(image: Array) -> str:
    return str(image.dtype).removeprefix("torch.") if isinstance(image, torch.Tensor) else image.dtype.name


def _epsilon(name: str) -> float:
    return float(torch.finfo(getattr(torch, name)).eps)


def _float32(image: Array) -> Array:
    return image.to(torch.float32) if isinstance(image, torch.Tensor) else image.astype(np.float32, copy=False)


def _float64(image: Array) -> Array:
    return image.to(torch.float64) if isinstance(image, torch.Tensor) else image.astype(np.float64)
