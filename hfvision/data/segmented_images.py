"""The images of a split and their masks, read one by one.

Shapes: N images of a split, H x W pixels of an image, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from hfvision.data.cells import decoded
from hfvision.data.drawn_masks import DRAWING, draw
from hfvision.data.image_sizes import size_of
from hfvision.data.mask_values import MaskCoding
from hfvision.data.same_images import Digests
from hfvision.errors import DatasetError, HfvisionError, ImageShapeError, ImageValueError
from hfvision.processing.label_reading import read_labels
from hfvision.processing.reading import Bands


@dataclass(frozen=True)
class SegmentedImages:
    """The images of one split and their masks."""

    split: str
    data: datasets.Dataset  # columns "image" and "mask": encoded images, paths, arrays or drawings
    coding: MaskCoding
    digests: Digests | None = None  # (N,) of the images; None where nothing was looked at

    def __len__(self) -> int:
        return len(self.data)

    @cached_property
    def features(self) -> datasets.Features:
        """Those of the columns; a data set copies its own at every look."""
        return self.data.features

    def read(self, row: int) -> tuple[Any, npt.NDArray[Any]]:
        """The image as PIL (upright, whatever EXIF says) or array, and its mask (H, W).

        The mask holds train ids and the ignore index, as uint8 where they fit and else as int64. Raises DatasetError
        naming row and file for what cannot be read, for a mask of another size and for values that stand for nothing.
        """
        image, values = self.read_stored(row)
        try:
            self.check_size(image, values)
            return image, self.coding.train_ids(values)
        except HfvisionError as error:
            raise DatasetError(f"mask {row} of split {self.split!r} ({self.file_of(row)}): {error}") from error

    def read_stored(self, row: int) -> tuple[Any, npt.NDArray[Any]]:
        """The image, and the values of its mask as they are stored: (H, W), or (H, W, 3) colours."""
        cells, what = self.data[row], "image"
        try:
            image = decoded(cells["image"], self.features["image"])
            what = "mask"
            if self.features["mask"] == DRAWING:
                return image, draw(cells["mask"], size_of(image), self.coding.ignore_index)
            return image, read_labels(decoded(cells["mask"], self.features["mask"]), self.coding.label_map)
        except (ImageShapeError, ImageValueError) as error:  # others name the file themselves
            raise DatasetError(f"{what} {row} of split {self.split!r} ({self.file_of(row)}): {error}") from error
        except HfvisionError as error:
            raise DatasetError(f"{what} {row} of split {self.split!r}: {error}") from error

    def check_size(self, image: Any, values: npt.NDArray[Any]) -> None:
        """Raises DatasetError for a mask that has not one value for each pixel of its image."""
        sizes = _sizes(image)
        if values.shape[:2] not in sizes:
            wanted = " or ".join(f"{height}x{width}" for height, width in sizes)
            raise DatasetError(f"the mask has {values.shape[0]}x{values.shape[1]} pixels, its image {wanted}")

    def file_of(self, row: int) -> str:
        """The file name of an image or, without it, of its mask; "row 3" where the data set records neither."""
        cells = self.data[row]
        paths = [cell.get("path") for cell in cells.values() if isinstance(cell, dict)]
        return next((Path(path).name for path in paths if path), f"row {row}")

    def take(self, rows: Sequence[int] | npt.NDArray[np.int64], split: str) -> "SegmentedImages":
        """Some rows under another name."""
        digests = None if self.digests is None else self.digests[np.asarray(rows, np.int64)]
        return replace(self, split=split, data=self.data.select(rows), digests=digests)


def _sizes(image: Any) -> list[tuple[int, int]]:
    """Height and width; both readings of an array of three axes whose layout only the processor is told."""
    if isinstance(image, Image | Bands):
        return [size_of(image)]
    return [image.shape] if image.ndim == 2 else [image.shape[:2], image.shape[1:]]
