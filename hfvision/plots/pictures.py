"""Images for people to look at: anything as RGB, enlarged, with heat laid over it."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageOps

from hfvision.errors import ConfigError, numbered
from hfvision.plots.colours import PAPER, colourize

EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV")


def as_picture(image: Any) -> Image.Image:
    """A PIL image, or an array (H, W), (H, W, 1) or (H, W, 3), as RGB.

    Eight-bit values are taken as they are; what has other values (16 bit, floats) is stretched from its least to its
    largest, because there is no other way to show it. Transparency is laid on white. Raises ConfigError for arrays of
    other shapes and values that are not finite.
    """
    if isinstance(image, Image.Image):
        if image.mode in EIGHT_BIT_MODES:
            image = ImageOps.exif_transpose(image)
            if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
                image = image.convert("RGBA")
                return Image.alpha_composite(Image.new("RGBA", image.size, (*PAPER, 255)), image).convert("RGB")
            return image.convert("RGB")
        image = np.asarray(image)
    array = np.asarray(image)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)) or not array.size:
        raise ConfigError(f"a picture is (H, W), (H, W, 1) or (H, W, 3); got an array of shape {array.shape}.")
    if array.dtype != np.uint8:
        values = array.astype(np.float64)
        if not np.isfinite(values).all():
            raise ConfigError(f"{(~np.isfinite(values)).sum()} of the picture's {values.size} values are not finite.")
        span = values.max() - values.min()
        array = np.round((values - values.min()) * (255 / span if span else 0)).astype(np.uint8)
    return Image.fromarray(array.squeeze(2) if array.ndim == 3 and array.shape[2] == 1 else array).convert("RGB")


def enlarged(image: Image.Image, box: tuple[int, int]) -> Image.Image:
    """The image at its own proportions, as large as fits into `box` (width, height): pixels stay visible as squares
    when it grows, and are averaged when it shrinks.
    """
    scale = min(box[0] / image.width, box[1] / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)


def overlay(image: Any, heat: ArrayLike, size: tuple[int, int] | None = None, *, strength: float = 0.62) -> Image.Image:
    """The picture in grey, tinted with heat from 0 (least) to 1 (most): RGB.

    `heat` is (h, w) of any size and covers the whole image. `size` (width, height) enlarges the result: the image
    square by square, the heat smoothly. `strength` 0 shows the grey image alone, 1 the heat alone. Raises ConfigError
    for heat of another shape, outside 0..1 or not finite, and for a strength outside 0..1.

    Example:
        >>> import numpy as np, PIL.Image, hfvision
        >>> hfvision.overlay(PIL.Image.new("RGB", (32, 24)), np.array([[0.0, 1.0]]), size=(64, 48)).size
        (64, 48)
    """
    values = np.asarray(heat, np.float32)
    problems = []
    if values.ndim != 2 or not values.size:
        problems.append(f"heat has the shape (h, w); got {values.shape}")
    elif not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        problems.append(f"heat lies in 0..1; got {values.min():.4g}..{values.max():.4g}")
    if not 0 <= strength <= 1:
        problems.append(f"strength lies in 0..1; got {strength}")
    if problems:
        raise ConfigError(numbered("problem", problems))
    picture = as_picture(image)
    if size is not None and size != picture.size:
        larger = size[0] >= picture.width and size[1] >= picture.height
        picture = picture.resize(size, Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS)
    grey = np.asarray(picture.convert("L"), np.float32)[..., None]
    smooth = Image.fromarray(values).resize(picture.size, Image.Resampling.BICUBIC)
    mixed = (1 - strength) * grey + strength * colourize(np.asarray(smooth))
    return Image.fromarray(np.round(mixed).astype(np.uint8))
