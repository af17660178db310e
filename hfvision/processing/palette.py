"""Colours for classes that nobody has given any: the same for every map, as far apart as colours can be.

Each class takes the colour that is farthest in OKLab (Ottosson 2020, "A perceptual color space for image processing",
https://bottosson.github.io/posts/oklab) from all before it, among colours of middle lightness that are neither grey nor
glaring. So class 7 looks the same among 8 classes and among 150.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

COLOURS = 256  # then they repeat
FIRST = (0.62, -0.03, -0.15)  # OKLab: a middle blue

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


def class_palette(count: int) -> npt.NDArray[np.uint8]:
    """(count, 3) red, green, blue; a class has the same colour whatever the count."""
    return _distinct_colours()[np.arange(count) % COLOURS]


def oklab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """(..., 3) OKLab to (..., 3) sRGB, where 0..1 is what a screen can show."""
    linear = (lab @ _LAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.abs(linear) ** (1 / 2.4) - 0.055)


@cache
def _distinct_colours() -> npt.NDArray[np.uint8]:
    lightness, chroma, hue = np.meshgrid(
        np.linspace(0.48, 0.82, 10), np.linspace(0.07, 0.16, 6), np.radians(np.arange(0, 360, 5)), indexing="ij"
    )
    candidates = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1).reshape(-1, 3)
    shown = oklab_to_srgb(candidates)
    on_screen = ((shown >= 0) & (shown <= 1)).all(axis=1)
    candidates, shown = candidates[on_screen], shown[on_screen]
    chosen = [int(np.linalg.norm(candidates - np.array(FIRST), axis=1).argmin())]
    distance = np.full(len(candidates), np.inf)  # to the nearest colour chosen
    while len(chosen) < COLOURS:
        distance = np.minimum(distance, np.linalg.norm(candidates - candidates[chosen[-1]], axis=1))
        chosen.append(int(distance.argmax()))
    return np.round(shown[chosen] * 255).astype(np.uint8)
