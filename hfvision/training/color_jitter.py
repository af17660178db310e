"""Brightness, contrast, saturation and hue of training images, varied within the values that their processor makes.

Whatever the processor's scale is, half a brightness step looks the same: amounts are shares of the way from black to
white, and nothing is cut off at values that another scale would end at.

Shapes: C channels, h x w pixels.
"""

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hfvision.processing.channels import DEEP_MODES
from hfvision.processing.options import Plan
from hfvision.processing.values import EIGHT_BITS, is_own_scale

# Brightness and two components of colour of red, green, blue (NTSC's YIQ): hue turns the two, saturation scales them.
YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
COLOR_BANDS = (("red", "r"), ("green", "g"), ("blue", "b"))  # names of bands, in the order of YIQ's columns
USUAL_WHITES = (1.0, 255.0)  # of images whose values no option explains
# Standard deviations of a band that belong to a white of 1: what is published (0.2 to 0.5) and "none" (1), with room.
FITTING_STD = (1 / 8, 2.0)
SPREAD = 2.0  # standard deviations from the mean to black and to white, where nothing else tells them
ROUNDING = 1e-4  # of white


def varied_colours(pixels: Tensor, plan: Plan, generator: np.random.Generator, image: Any) -> Tensor:
    """Vary (C, h, w) pixel values that the processor made of `image`, in their own dtype.

    Each of four variations changes half of the images; saturation and hue only those of red, green and blue.
    """
    mean, std = (_per_channel(value, default) for value, default in ((plan.mean, 0), (plan.std, 1)))
    values = pixels * std + mean
    black, white = value_range(values, plan, image)
    amounts = {
        "brightness": generator.uniform(-32 / 255, 32 / 255),
        "contrast": generator.uniform(0.5, 1.5),
        "saturation": generator.uniform(0.5, 1.5),
        "hue": generator.uniform(-math.pi / 5, math.pi / 5),
    }
    chosen = {name: amount for name, amount in amounts.items() if generator.random() < 0.5}
    # Values may lie beyond black and white (a cloud above the sensor's range): what the image has stays possible.
    lowest = torch.minimum(black, values.amin((1, 2), keepdim=True))
    highest = torch.maximum(white, values.amax((1, 2), keepdim=True))
    varied = (values - black) * chosen.get("contrast", 1.0) + black + chosen.get("brightness", 0.0) * (white - black)
    colors = color_channels(plan, len(values))
    if colors is not None and ("saturation" in chosen or "hue" in chosen):
        turn = colour_matrix(chosen.get("saturation", 1.0), chosen.get("hue", 0.0))
        shares = ((varied - black) / (white - black))[colors]  # channels may have ranges of their own
        turned = torch.empty_like(shares)
        turned[colors] = torch.einsum("cd,dhw->chw", turn, shares)
        varied = turned * (white - black) + black
    result = (torch.clamp(varied, lowest, highest) - mean) / std
    return result.to(pixels.dtype) if pixels.is_floating_point() else result.round().to(pixels.dtype)


def value_range(values: Tensor, plan: Plan, image: Any) -> tuple[Tensor, Tensor]:
    """Black and white (C, 1, 1) of values (C, h, w) that are rescaled as planned and not normalized.

    They follow from the processor's scale, else from 8-bit images, else from the usual whites of 1 and 255 where values
    and statistics fit them; other bands are black and white SPREAD standard deviations from their mean, or, without
    statistics, where the image's values end.
    """
    ones = values.new_ones(len(values), 1, 1, dtype=torch.float32)
    factor = 1.0 if plan.factor is None else plan.factor
    is_known = plan.factor is not None and (plan.input_range is not None or not is_own_scale(plan.factor))
    if is_known or _has_eight_bits(image):
        return 0 * ones, EIGHT_BITS[1] * factor * ones
    least, most = float(values.min()), float(values.max())
    std = None if plan.std is None else _per_channel(plan.std, 1)
    for white in USUAL_WHITES:
        inside = -ROUNDING * white <= least and most <= (1 + ROUNDING) * white
        if inside and (std is None or (std.min() >= FITTING_STD[0] * white and std.max() <= FITTING_STD[1] * white)):
            return 0 * ones, white * ones
    if std is None or plan.mean is None:
        return least * ones, (most if most > least else least + 1) * ones
    mean = _per_channel(plan.mean, 0)
    return (mean - SPREAD * std) * ones, (mean + SPREAD * std) * ones


def color_channels(plan: Plan, count: int) -> list[int] | None:
    """The places of red, green and blue among `count` channels; None where the channels are anything else.

    Three channels without names are these, in this order. Bands beside them forbid it, too: what a hue is to infrared,
    nobody knows.
    """
    if count != 3:
        return None
    bands = plan.channels.bands
    if bands is None:
        return [0, 1, 2]
    names = [str(band).lower() for band in bands]
    places = [next((names.index(name) for name in synonyms if name in names), None) for synonyms in COLOR_BANDS]
    found = [place for place in places if place is not None]
    return found if len(found) == 3 else None


def _has_eight_bits(image: Any) -> bool:
    if isinstance(image, Image.Image):
        return image.mode not in DEEP_MODES
    return str(getattr(image, "dtype", "")).removeprefix("torch.") == "uint8"


def _per_channel(value: Any, default: float) -> Tensor:
    return torch.as_tensor(default if value is None else value, dtype=torch.float32).reshape(-1, 1, 1)


def colour_matrix(saturation: float, hue: float) -> Tensor:
    """(3, 3): red, green, blue -> the same with the colour turned by `hue` (radians) and scaled; grey stays grey."""
    cosine, sine = saturation * math.cos(hue), saturation * math.sin(hue)
    turn = torch.tensor([[1.0, 0.0, 0.0], [0.0, cosine, -sine], [0.0, sine, cosine]])
    return torch.linalg.solve(YIQ, turn @ YIQ)
