"""Colours for classes that nobody has given any: the same for every map, neighbours far apart."""

import colorsys

import numpy as np
import numpy.typing as npt

_GOLDEN = 0.618033988749895  # of the circle of hues: the next class is never near the ones before it
_TONES = ((0.62, 0.86), (0.78, 0.62), (0.42, 0.96))  # saturation and value, in turns


def class_palette(count: int) -> npt.NDArray[np.uint8]:
    """(count, 3) red, green, blue; a class has the same colour whatever the count."""
    colours = [
        colorsys.hsv_to_rgb((0.58 + index * _GOLDEN) % 1, *_TONES[index % len(_TONES)]) for index in range(count)
    ]
    return np.round(np.array(colours).reshape(count, 3) * 255).astype(np.uint8)
