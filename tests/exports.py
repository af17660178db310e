"""Folders as annotation tools wrote them: tests/data/exports with images made for them."""

import shutil
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

EXPORTS = Path(__file__).parent / "data" / "exports"
CALLS = count(1)
IMAGES = "images.list"  # "path width height" of each image of a folder


def export(name: str, to: Path) -> Path:
    """A copy of an export below `to`, images and all."""
    folder = Path(shutil.copytree(EXPORTS / name, to / name))
    for line in (folder / IMAGES).read_text().splitlines():
        path, width, height = line.rsplit(" ", 2)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        image_of(int(width), int(height)).save(folder / path)
    (folder / IMAGES).unlink()
    return folder


def image_of(width: int, height: int, number: int | None = None) -> Image.Image:
    """A picture of that size whose pixels differ: the same for the same number, without one another at each call."""
    first = next(CALLS) if number is None else number
    values = (np.arange(width * height * 3, dtype=np.uint32).reshape(height, width, 3) + first) * 37 % 251
    return Image.fromarray(values.astype(np.uint8))
