"""Which axis holds the channels, and how an image becomes one with the number of channels that is wanted.

PIL images know their colours, so they are converted as transformers converts them; arrays do not, so only two things
are done with them: one channel is repeated where three are wanted, and a fourth is taken for alpha where
`do_convert_rgb=True` says so. Everything else is refused with the argument that settles it.

Shapes: C channels (bands), H x W pixels; N channels wanted.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from hfvision.errors import ImageShapeError
from hfvision.processing.reading import Array, Opened

FIRST, LAST = "channels_first", "channels_last"
USUAL_COUNTS = frozenset({1, 3, 4})  # grey, RGB, RGBA: looked for when nothing says how many there are
GREY_SHARES = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601), as Pillow has them
DEEP_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I", "F"})  # one band of more than 8 bits


@dataclass(frozen=True)
class Channels:
    """What is wanted of the channels of a call's images."""

    wanted: int | None = None  # N; None: as they come
    why: str = ""  # how N is known, for messages: "image_mean has 3 values"
    convert_rgb: bool | None = None  # transformers' do_convert_rgb
    layout: str | None = None  # FIRST, LAST, or None: found out for each array
    bands: Sequence[str] | None = None  # names of the N wanted
    given_bands: Sequence[str] | None = None  # names of the channels that the arrays have

    def accepted_counts(self) -> frozenset[int]:
        """How many channels an array may have."""
        if self.given_bands is not None:
            return frozenset({len(self.given_bands)})
        if self.wanted is None:
            return USUAL_COUNTS
        if self.wanted == 3 and self.convert_rgb is not False:
            return USUAL_COUNTS if self.convert_rgb else frozenset({1, 3})
        return frozenset({self.wanted})


def channels_first(image: Array, channels: Channels) -> Array:
    """(H, W), (H, W, C) or (C, H, W) -> (C, H, W), a view.

    Raises ImageShapeError where the shape does not tell which axis holds the channels, or how many are there is wrong.
    """
    shape = tuple(image.shape)
    if 0 in shape:
        raise ImageShapeError(f"an image of shape {shape} has no pixels")
    if image.ndim == 2:
        image, axis = image[None], 0
    elif image.ndim != 3:
        raise ImageShapeError(f"an image has 2 axes (H, W) or 3, a batch 4; got shape {shape}")
    elif channels.layout is not None:
        axis = 0 if channels.layout == FIRST else 2
    else:
        axis = _channel_axis(shape, channels)
    count = image.shape[axis]
    if not (channels.wanted is None and channels.given_bands is None) and count not in channels.accepted_counts():
        raise ImageShapeError(_wrong_count([count], shape, channels))
    if axis == 0:
        return image
    return image.permute(2, 0, 1) if isinstance(image, torch.Tensor) else image.transpose(2, 0, 1)


def _channel_axis(shape: tuple[int, ...], channels: Channels) -> int:
    """0 or 2, whichever alone has an accepted number of channels."""
    accepted = channels.accepted_counts()
    fitting = [axis for axis in (0, 2) if shape[axis] in accepted]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ImageShapeError(
            f"an image of shape {shape} can be {shape[0]} channels of {shape[1]}x{shape[2]} pixels, or {shape[2]} of "
            f'{shape[0]}x{shape[1]}.\n    Say which: input_data_format="channels_first" or "channels_last".'
        )
    if channels.wanted is None and channels.given_bands is None:
        raise ImageShapeError(
            f"which axis of shape {shape} holds the channels? Neither has {_any_of(accepted)}.\n"
            '    Say it: input_data_format="channels_first" or "channels_last".'
        )
    raise ImageShapeError(_wrong_count([shape[0], shape[2]], shape, channels))


def _wrong_count(counts: Collection[int], shape: tuple[int, ...], channels: Channels) -> str:
    """The message for an array whose channels are `counts` (one number, or the two that its layout leaves open)."""
    got = f"an image of shape {shape} has {_any_of(counts)} channels"
    if channels.given_bands is not None:
        return f"{got}; bands={list(channels.given_bands)} names {len(channels.given_bands)}"
    message = f"{got}; {channels.wanted} are wanted, because {channels.why}."
    if 4 in counts and channels.wanted == 3:
        message += (
            "\n    If the fourth is alpha, do_convert_rgb=True lays the image on white; if it is a band, give "
            "image_mean and image_std with 4 values (and a model with num_channels=4)."
        )
    elif 1 in counts and channels.wanted == 3:
        message += "\n    do_convert_rgb=False forbids to repeat it; leave that out."
    else:
        message += "\n    Select or add channels, or give image_mean and image_std with a value for each."
    return message


def select_bands(image: Array, channels: Channels, notes: Counter[str]) -> Array:
    """(C, H, W) with the bands `given_bands` -> (N, H, W) with those that are wanted, in their order.

    Raises ImageShapeError naming every band that is missing.
    """
    if channels.given_bands is None:
        return image
    wanted = channels.bands or ()  # a plan has no given bands without these
    if missing := [band for band in wanted if band not in channels.given_bands]:
        raise ImageShapeError(
            f"the images lack {_and(missing)}: this processor takes {_and(wanted)}, "
            f"they have {_and(channels.given_bands)}"
        )
    if len(channels.given_bands) > len(wanted):
        notes["bands dropped"] += 1
    order = [list(channels.given_bands).index(band) for band in wanted]
    if order == list(range(len(image))):
        return image
    return torch.stack([image[i] for i in order]) if isinstance(image, torch.Tensor) else image[order]


def alpha_onto_white(image: Array) -> Array:
    """(4, H, W) grey levels, the last channel being alpha -> (3, H, W), laid on white as transformers does it."""
    eight_bits = image.dtype in (torch.uint8, np.uint8)
    precise = image.to(torch.float64) if isinstance(image, torch.Tensor) else image.astype(np.float64)
    alpha = precise[3:] / 255
    laid = alpha * precise[:3] + (1 - alpha) * 255
    if isinstance(laid, torch.Tensor):
        return laid.round().to(torch.uint8) if eight_bits else laid.to(torch.float32)
    return laid.round().astype(np.uint8) if eight_bits else laid.astype(np.float32)


def convert_picture(
    image: Image.Image, channels: Channels, was_read: bool, notes: Counter[str]
) -> tuple[Image.Image, int]:
    """A PIL image in the mode whose bands are wanted, and how many channels it is to become.

    `was_read` says that it comes from a file: without other wishes those become RGB, as transformers' `load_image`
    makes them; a PIL image that the caller made stays in its mode, with palettes resolved. Images of one band stay so
    even where three are wanted (repeating it after resizing is the same and cheaper), and 16-bit images, I and F keep
    their depth. Raises ImageShapeError where the mode has not the bands that are wanted.
    """
    mode, convert, wanted = image.mode, channels.convert_rgb, channels.wanted
    see_through = image.info.get("transparency")  # of a palette: one index, or an alpha for each
    if mode == "1":
        image = image.convert("L")
    elif mode in ("La", "RGBa"):  # colours multiplied by alpha
        image = image.convert(mode.upper())
    elif mode == "P" and (see_through is None or (was_read and convert and isinstance(see_through, int))):
        image = image.convert("RGB")  # an index becomes a colour that `_rgb` finds
    elif mode in ("P", "PA"):
        image = image.convert("RGBA")

    if convert or (convert is None and (wanted == 3 or (wanted is None and was_read))):
        return _rgb(image, bool(convert), was_read, notes), 3
    if wanted == 1 and convert is None and len(image.getbands()) > 1:
        return _grey(image, notes), 1
    if wanted == 4 and convert is None and image.mode == "CMYK":
        raise ImageShapeError("a CMYK picture has four inks, not the four bands that are wanted: convert it first")
    count = len(image.getbands())
    if wanted not in (None, count):
        raise ImageShapeError(
            f"a PIL image of mode {mode} has {count} channels; {wanted} are wanted, because {channels.why}"
            + (", and do_convert_rgb=False forbids to convert it." if convert is False else ".")
        )
    return image, count


def convert_bands(opened: Opened, channels: Channels, notes: Counter[str]) -> tuple[npt.NDArray[Any], Channels]:
    """The bands that are wanted of an array (H, W) or (H, W, C) from a file, and its channels with their layout.

    As with pictures, what is no colour is dropped where colours alone are wanted, and colours become grey.
    """
    image: Any = opened.image
    if image.ndim != 3:
        return image, channels
    channels = replace(channels, layout=LAST)
    colours = image.shape[2] - opened.spare
    if channels.wanted is None and opened.spare and channels.convert_rgb is not False:
        channels = replace(channels, wanted=3, why="colors come without what is no color")
    wanted = channels.wanted
    if channels.given_bands is not None or not (opened.spare or colours == 3) or wanted == image.shape[2]:
        return image, channels
    if wanted in (1, 3) and opened.spare and channels.convert_rgb is not False:
        if not opened.is_alpha:
            notes["bands dropped"] += 1
        elif image[..., -1].min() < _most(image.dtype):
            notes["alpha dropped"] += 1
        image = image[..., :colours]
    if wanted == 1 and colours == 3 and channels.convert_rgb is None:
        notes["colour to grey"] += 1
        image = (image @ np.array(GREY_SHARES)).astype(image.dtype)
    return image, channels


def _most(dtype: npt.DTypeLike) -> float:
    """The value that stands for opaque."""
    kind = np.dtype(dtype)
    return float(np.iinfo(kind).max) if kind.kind in "iu" else 1.0


def _rgb(image: Image.Image, onto_white: bool, was_read: bool, notes: Counter[str]) -> Image.Image:
    """Mode RGB, or one band that stands for three equal ones."""
    if image.mode in DEEP_MODES:
        return image
    if was_read and onto_white and image.mode != "L":
        image = _drop_alpha(image, notes)  # transformers drops the alpha of a file while reading it
    if not (_has_alpha(image) or image.info.get("transparency") is not None):
        return image if image.mode in ("L", "RGB") else image.convert("RGB")
    if onto_white:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return _drop_alpha(image, notes)


def _grey(image: Image.Image, notes: Counter[str]) -> Image.Image:
    if image.mode != "LA":
        notes["colour to grey"] += 1
    return _drop_alpha(image, notes).convert("L")


def _drop_alpha(image: Image.Image, notes: Counter[str]) -> Image.Image:
    if _has_alpha(image) and image.getchannel("A").getextrema() != (255, 255):
        notes["alpha dropped"] += 1
    return image.convert("RGB")


def _has_alpha(image: Image.Image) -> bool:
    return "A" in image.getbands() and image.mode != "LAB"


def _and(names: Sequence[str]) -> str:
    return ", ".join(names)


def _any_of(counts: Collection[int]) -> str:
    return " or ".join(map(str, sorted(set(counts))))
