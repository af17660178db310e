"""Colours of the plots: a map from weak to strong whose steps look equally large, and a few flat tones.

The map `EMBER` is a curve through OKLab (Ottosson 2020, "A perceptual color space for image processing",
https://bottosson.github.io/posts/oklab) from near-black indigo over magenta and orange to pale yellow. Lightness and
hue rise together, chroma follows a sine, and the 256 entries are spaced evenly along the curve, so that equal
differences of value are equal differences of colour. In greyscale it still runs from dark to light.
"""

import numpy as np
from numpy.typing import ArrayLike

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

# OKLab's published matrices: (l, m, s)' -> Lab inverted, and LMS -> linear sRGB
_LAB_TO_LMS = np.array(
    [[1.0, 0.3963377774, 0.2158037573], [1.0, -0.1055613458, -0.0638541728], [1.0, -0.0894841775, -1.2914855480]]
)
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def oklab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """(..., 3) OKLab to (..., 3) sRGB, where 0..1 is what a screen can show."""
    linear = (lab @ _LAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.abs(linear) ** (1 / 2.4) - 0.055)


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
