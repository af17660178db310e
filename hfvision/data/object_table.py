"""The objects of a split in flat columns, and a split as its source stores it.

Shapes: N images, M objects of all of them together, H x W pixels of an image.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import numpy as np
from numpy.typing import NDArray

from hfvision.data.dataset_report import LeftOut
from hfvision.geometry import BoxForm

Integers: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
Key: TypeAlias = int | str  # what a source calls a class: a category id, a number, a name

IMAGE, MASKS, SEGMENTS = "image", "masks", "segments"  # columns of images, of a list of masks, of maps of segment ids


@dataclass(frozen=True)
class ObjectTable:
    """Those of image i are the rows starts[i] to starts[i + 1], in the order in which they are stored."""

    starts: Integers  # (N + 1,)
    boxes: Floats  # (M, 4)
    classes: Integers  # (M,): places in `keys`; train ids once the classes are known
    keys: tuple[Key, ...]  # of the classes as stored; () once they are train ids
    areas: Floats  # (M,) pixels; NaN where the source says nothing
    crowd: Bools  # (M,)
    places: Integers  # (M,): of an object among those that its image has in the source, counted from 0
    ids: NDArray[Any] | None = None  # (M,), whole numbers or text
    difficult: Bools | None = None  # (M,): marked so by the source; None where its format has no such mark

    @classmethod
    def of(
        cls,
        images: Integers,
        number_of_images: int,
        boxes: Floats,
        categories: Sequence[Key] | NDArray[Any],
        *,
        areas: Floats | None = None,
        crowd: Bools | None = None,
        ids: Sequence[Key] | NDArray[Any] | None = None,
        difficult: Bools | None = None,
    ) -> "ObjectTable":
        """From the image (M,) of each object, in any order; `categories` are all whole numbers or all text."""
        order = np.argsort(images, kind="stable")
        starts = np.concatenate([[0], np.bincount(images, minlength=number_of_images).cumsum()]).astype(np.int64)
        keys, classes = np.unique(np.asarray(categories), return_inverse=True)
        return cls(
            starts,
            boxes.reshape(-1, 4)[order],
            classes.reshape(-1)[order].astype(np.int64),
            tuple(keys.tolist()),
            np.full(len(order), np.nan) if areas is None else areas[order],
            np.zeros(len(order), bool) if crowd is None else crowd[order],
            np.arange(len(order)) - starts[images[order]],
            None if ids is None else np.asarray(ids)[order],
            None if difficult is None else difficult[order],
        )

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def counts(self) -> Integers:
        """(N,) objects of each image."""
        return np.diff(self.starts)

    @property
    def images(self) -> Integers:
        """(M,) the image of each object."""
        return np.repeat(np.arange(len(self.starts) - 1), self.counts)

    def of_image(self, image: int) -> slice:
        """The rows of its objects."""
        return slice(int(self.starts[image]), int(self.starts[image + 1]))

    def take_images(self, images: Sequence[int] | Integers) -> "ObjectTable":
        """The objects of some images, in their order."""
        chosen = np.asarray(images, np.int64)
        counts = self.counts[chosen]
        starts = np.concatenate([[0], counts.cumsum()]).astype(np.int64)
        return self._rows(np.arange(starts[-1]) + np.repeat(self.starts[chosen] - starts[:-1], counts), starts)

    def kept(self, keep: Bools) -> "ObjectTable":
        """Some of the objects (M,), of the same images."""
        if keep.all():
            return self
        counts = np.bincount(self.images[keep], minlength=len(self.starts) - 1)
        return self._rows(np.flatnonzero(keep), np.concatenate([[0], counts.cumsum()]).astype(np.int64))

    def name_of(self, row: int) -> str:
        """What an object is called in messages: "annotation 7", or "object 0" where it has no id."""
        return f"object {self.places[row]}" if self.ids is None else f"annotation {self.ids[row]}"

    def _rows(self, rows: Integers, starts: Integers) -> "ObjectTable":
        return replace(
            self,
            starts=starts,
            boxes=self.boxes[rows],
            classes=self.classes[rows],
            areas=self.areas[rows],
            crowd=self.crowd[rows],
            places=self.places[rows],
            ids=None if self.ids is None else self.ids[rows],
            difficult=None if self.difficult is None else self.difficult[rows],
        )


@dataclass(frozen=True)
class StoredSplit:
    """A split as its source stores it: images, objects, and what the format says about both."""

    data: datasets.Dataset  # columns IMAGE, and MASKS or SEGMENTS where they are wanted: nothing is decoded
    objects: ObjectTable
    sizes: Integers  # (N, 2) H, W as recorded; 0 where they are not
    image_ids: Sequence[Key] | None = None
    categories: Mapping[Key, str] | None = None  # the classes that the source declares, in its order
    things: AbstractSet[Key] | None = None  # of the categories, those of countable objects; None: the source is silent
    box_form: BoxForm | None = "xywh"  # None: boxes are those of the segments
    relative: bool | None = False  # None: the source is silent
    relative_masks: bool = False  # polygons in units of the image
    masks_field: str | None = None  # the field of the column MASKS that holds them, where it holds whole objects
    faults: list[str] = field(default_factory=list)  # found while reading
    origin: str = ""  # the annotation file, for messages
    layout: str = "columns of a data set"  # the format, in words
    left_out: list[LeftOut] = field(default_factory=list)  # what the reader did not take over
    conclusions: list[str] = field(default_factory=list)  # what it decided by evidence, and the option against it

    def __len__(self) -> int:
        return len(self.data)

    def take_images(self, images: Sequence[int] | Integers) -> "StoredSplit":
        """Some of the images, in this order, with their objects."""
        return replace(
            self,
            data=self.data.select(images),
            objects=self.objects.take_images(images),
            sizes=self.sizes[np.asarray(images, np.int64)],
            image_ids=None if self.image_ids is None else [self.image_ids[image] for image in images],
        )


def file_of(data: datasets.Dataset, row: int) -> str:
    """The file name of an image; "row 3" where the data set records none."""
    cell = data[row][IMAGE]
    path = cell.get("path") if isinstance(cell, dict) else None
    return Path(path).name if path else f"row {row}"


def path_cells(paths: Sequence[Path | str]) -> list[dict[str, Any]]:
    """Cells of an image column whose images are files."""
    return [{"bytes": None, "path": str(path)} for path in paths]


def stored_images(
    split: str,
    paths: Sequence[Path | str],
    masks: Sequence[Sequence[str]] | None = None,
    segments: Sequence[Path | str] | None = None,
) -> datasets.Dataset:
    """Files of images, with a list of masks of each (as JSON), or the files of their maps of segments."""
    columns: dict[str, Any] = {IMAGE: path_cells(paths)}
    features: dict[str, Any] = {IMAGE: datasets.Image(decode=False)}
    if masks is not None:
        columns[MASKS], features[MASKS] = masks, datasets.List(datasets.Value("large_string"))
    if segments is not None:
        columns[SEGMENTS], features[SEGMENTS] = path_cells(segments), datasets.Image(decode=False)
    return datasets.Dataset.from_dict(columns, datasets.Features(features), split=datasets.NamedSplit(split))
