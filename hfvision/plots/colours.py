"""Colours of the plots: a map from weak to strong whose steps look equally large, and a few flat tones.

The map `EMBER` is a curve through OKLab (Ottosson 2020, "A perceptual color space for image processing",
https://bottosson.github.io/posts/oklab) from near-black indigo over magenta and orange to pale yellow. Lightness and
hue rise together, chroma follows a sine, and the 256 entries are spaced evenly along the curve, so that equal
differences of value are equal differences of colour. In greyscale it still runs from dark to light.
"""

import numpy as np
from numpy.typing import ArrayLike

from hfvision.processing.palette import oklab_to_srgb

INK = (28, 30, 38)
FAINT_INK = (110, 114, 126)
PAPER = (255, 255, 255)
LINE = (222, 224, 230)
RIGHT = (36, 122, 82)
WRONG = (196, 32, 44)

_ENTRIES = 256
_LIGHTNESS = (0.17, 0.97)  # OKLab L of the ends
_HUE = (-75.0, 105.0)  # degrees, of the ends: indigo, and yellow by way of red
_CHROMA = 0.185  # at its largest, which is inside sRGB along the whole curve


def ember_oklab(entries: int = _ENTRIES) -> np.ndarray:
    """The curve of the map as (entries, 3) OKLab, from weak to strong, neighbours equally far apart."""
    position = np.linspace(0, 1, 16 * entries)
    lightness = _LIGHTNESS[0] + (_LIGHTNESS[1] - _LIGHTNESS[0]) * position
    hue = np.radians(_HUE[0] + (_HUE[1] - _HUE[0]) * position)
    chroma = _CHROMA * np.sin(np.pi * (0.12 + 0.76 * position))  # little colour where it is almost black or white
    curve = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    walked = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    evenly = np.interp(np.linspace(0, walked[-1], entries), walked, position)
    return np.stack([np.interp(evenly, position, axis) for axis in curve.T], axis=-1)


EMBER = np.round(np.clip(oklab_to_srgb(ember_oklab()), 0, 1) * 255).astype(np.uint8)  # (256, 3) sRGB


def colourize(values: ArrayLike) -> np.ndarray:
    """Values in 0..1, any shape, to uint8 colours with a last axis of 3; what lies outside takes the end's colour."""
    return EMBER[np.round(np.clip(np.asarray(values, np.float64), 0, 1) * (_ENTRIES - 1)).astype(np.int64)]
