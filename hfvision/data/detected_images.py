"""The images of a split and the objects in them, read one by one.

Shapes: N images of a split, M objects of all of them together, n of one image, H x W pixels of an image.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from hfvision.data.cells import decoded
from hfvision.data.image_sizes import size_of
from hfvision.data.object_table import IMAGE, MASKS, SEGMENTS, Integers, Key, ObjectTable, file_of
from hfvision.data.same_images import Digests
from hfvision.errors import DatasetError, HfvisionError
from hfvision.geometry import box_area
from hfvision.objects import ImageObjects, ListedMasks, Masks, SegmentMasks
from hfvision.objects.id_maps import read_id_map
from hfvision.processing.reading import read_image


@dataclass(frozen=True)
class DetectedImages:
    """The images of one split and the objects in them."""

    split: str
    data: datasets.Dataset  # column IMAGE, and MASKS or SEGMENTS: nothing is decoded
    objects: ObjectTable  # xyxy in pixels; classes are train ids
    known_sizes: Integers  # (N, 2) H, W
    image_ids: Sequence[Key] | None = None
    relative_masks: bool = False  # polygons in units of the image
    masks_field: str | None = None  # of the column MASKS, where it holds whole objects
    digests: Digests | None = None  # (N,) of the images; None where nothing was looked at

    def __len__(self) -> int:
        return len(self.data)

    @cached_property
    def features(self) -> datasets.Features:
        """Those of the columns; a data set copies its own at every look."""
        return self.data.features

    def sizes(self) -> list[tuple[int, int]]:
        """H, W of every image, upright; nothing is decoded for it."""
        return [(height, width) for height, width in self.known_sizes.tolist()]

    def read(self, row: int) -> tuple[Any, ImageObjects]:
        """The image as PIL (upright, whatever EXIF says) or array, and its objects with train ids.

        Raises DatasetError naming row and file for what cannot be read, for an image of another size than its
        annotation says, and for masks that do not fit.
        """
        image, cells = self.image_and_cells(row)
        try:
            self.check_size(row, image)
            return image, self.objects_of(row, cells)
        except HfvisionError as error:
            raise DatasetError(f"image {row} of split {self.split!r} ({self.file_of(row)}): {error}") from error

    def check_size(self, row: int, image: Any) -> None:
        """Raises DatasetError for an image that has not the size that its annotation says."""
        got, wanted = size_of(image), tuple(self.known_sizes[row].tolist())
        if got != wanted:
            turned = ": turned by its EXIF orientation? Store it upright, or correct the annotation" * (
                got == wanted[::-1]
            )
            raise DatasetError(
                f"the annotation is of an image of {wanted[0]}x{wanted[1]} pixels (height x width), the file has "
                f"{got[0]}x{got[1]}{turned}"
            )

    def file_of(self, row: int) -> str:
        """The file name of an image; "row 3" where the data set records none."""
        return file_of(self.data, row)

    def take(self, rows: Sequence[int] | npt.NDArray[np.int64], split: str) -> "DetectedImages":
        """Some rows under another name."""
        chosen = np.asarray(rows, np.int64)
        return replace(
            self,
            split=split,
            data=self.data.select(chosen),
            objects=self.objects.take_images(chosen),
            known_sizes=self.known_sizes[chosen],
            image_ids=None if self.image_ids is None else [self.image_ids[row] for row in chosen.tolist()],
            digests=None if self.digests is None else self.digests[chosen],
        )

    def image_and_cells(self, row: int) -> tuple[Any, dict[str, Any]]:
        """Decoded, and all cells of its row."""
        cells = self.data[row]
        try:
            return decoded(cells[IMAGE], self.features[IMAGE]), cells
        except HfvisionError as error:
            raise DatasetError(f"image {row} of split {self.split!r}: {error}") from error

    def objects_of(self, row: int, cells: dict[str, Any]) -> ImageObjects:
        rows = self.objects.of_image(row)
        height, width = self.known_sizes[row].tolist()
        boxes, areas = self.objects.boxes[rows].copy(), self.objects.areas[rows].copy()
        masks = self._masks(rows, cells, (height, width))
        unknown = np.isnan(areas)
        if unknown.any():
            areas[unknown] = (box_area(boxes) if masks is None else masks.areas())[unknown]
        return ImageObjects(
            (height, width),
            boxes,
            self.objects.classes[rows].copy(),
            areas,
            self.objects.crowd[rows].copy(),
            masks,
            row if self.image_ids is None else self.image_ids[row],
        )

    def _masks(self, rows: slice, cells: dict[str, Any], size: tuple[int, int]) -> Masks | None:
        if SEGMENTS in cells:
            ids = read_id_map(cells[SEGMENTS], size)
            return SegmentMasks.of_ids(ids, np.asarray(self.objects.ids)[rows])
        if MASKS not in cells:
            return None
        stored = cells[MASKS]
        if self.masks_field is not None:
            is_one = isinstance(stored, dict)
            stored = stored[self.masks_field] if is_one else [one.get(self.masks_field) for one in stored]
        items = [
            segmentation_of(stored[place], size, self.relative_masks) for place in self.objects.places[rows].tolist()
        ]
        return ListedMasks(items, size)


def segmentation_of(stored: Any, size: tuple[int, int], relative: bool) -> Any:
    """Run lengths, polygons or an array, out of JSON or a cell."""
    value = json.loads(stored) if isinstance(stored, str) else stored
    if isinstance(value, Image) or (isinstance(value, dict) and "bytes" in value):
        return np.asarray(read_image(value))
    if isinstance(value, list) and len(value) == size[0] and all(np.shape(row) == (size[1],) for row in value):
        return np.asarray(value)
    if value is None or not relative or isinstance(value, dict):
        return value
    return [[number * size[1 - place % 2] for place, number in enumerate(outline)] for outline in value]
