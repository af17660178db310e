"""Sizes of images without decoding them: out of the headers of files, or the shapes of arrays.

Shapes: H x W pixels of an image as it is seen, upright.
"""

from typing import Any

import datasets
import numpy as np
from PIL import Image

from hfvision.data.tar_members import with_content
from hfvision.processing.reading import Bands, image_size, read_image

MOST_CHANNELS = 4  # of an array whose first axis is taken for its channels


def size_of_cell(cell: Any, feature: Any) -> tuple[int, int]:
    """H, W of the image in a cell that is not decoded. Raises ImageReadError where the file is none."""
    if isinstance(feature, datasets.Image) and isinstance(cell, dict):
        content = with_content(cell)
        return image_size(content) or size_of(read_image(content))
    return size_of_array(np.shape(cell))


def size_of_array(shape: tuple[int, ...]) -> tuple[int, int]:
    """H, W of (H, W), (H, W, C) or (C, H, W)."""
    if len(shape) == 3 and shape[0] <= MOST_CHANNELS < shape[2]:
        return int(shape[1]), int(shape[2])
    return int(shape[0]), int(shape[1])


def size_of(image: Any) -> tuple[int, int]:
    """H, W of a decoded image."""
    if isinstance(image, Bands) and image.opened.has_bands:
        return int(image.shape[0]), int(image.shape[1])
    return (image.height, image.width) if isinstance(image, Image.Image) else size_of_array(np.shape(image))
