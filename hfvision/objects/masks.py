"""The masks of one image's objects, kept as they came and decoded when their pixels are asked for.

Whatever happens to an image without mixing pixels (mirrored, cropped, resized to the nearest) picks rows and columns
of it, so `picked` is the one geometric operation that masks need.

Shapes: n objects, H x W pixels of the image, h x w of the picked ones.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from hfvision.errors import DatasetError
from hfvision.geometry import decode_segmentation, rle_area

Picked = slice | NDArray[np.int64]  # of one axis


class Masks(ABC):
    """n masks of one size (H, W)."""

    size: tuple[int, int]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, rows: ArrayLike) -> Self:
        """The masks of some objects: indices, or a bool for each."""

    @abstractmethod
    def decoded(self) -> NDArray[np.bool_]:
        """(n, H, W). Raises DatasetError for an object whose mask is missing or damaged."""

    @abstractmethod
    def areas(self) -> NDArray[np.float64]:
        """(n,): the pixels of each. Raises as `decoded`."""

    @abstractmethod
    def picked(self, rows: Picked, columns: Picked) -> "Masks":
        """(n, h, w): the masks of an image that is made of these rows and columns. Raises as `decoded`."""


@dataclass(frozen=True, eq=False)
class ListedMasks(Masks):
    """Masks that were given one by one and may overlap: run lengths, polygons, arrays; None where there is none."""

    items: Sequence[Any]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: ArrayLike) -> Self:
        return type(self)([self.items[i] for i in np.arange(len(self))[np.asarray(rows)]], self.size)

    def decoded(self) -> NDArray[np.bool_]:
        out = np.empty((len(self), *self.size), bool)
        for place, mask in enumerate(out):
            mask[:] = self._decoded(place)
        return out

    def areas(self) -> NDArray[np.float64]:
        return np.array([self.area(place) for place in range(len(self))], np.float64)

    def area(self, place: int) -> int:
        """The pixels of one mask."""
        item = self.items[place]
        return rle_area(item) if isinstance(item, dict) else int(np.count_nonzero(self._decoded(place)))

    def picked(self, rows: Picked, columns: Picked) -> "ListedMasks":
        masks = [self._decoded(place)[rows][:, columns] for place in range(len(self))]
        size = masks[0].shape if masks else np.broadcast_to(False, self.size)[rows][:, columns].shape
        return ListedMasks(masks, (size[0], size[1]))

    def _decoded(self, place: int) -> NDArray[np.bool_]:
        item = self.items[place]
        if item is None:
            raise DatasetError(f"object {place} has no mask: its annotation is a box alone")
        try:
            return decode_segmentation(item, self.size)
        except DatasetError as error:
            raise DatasetError(f"the mask of object {place}: {error}") from error


@dataclass(frozen=True, eq=False)
class SegmentMasks(Masks):
    """Masks without overlap, in one map: 0 where no object is, k on the pixels of the object k - 1."""

    places: NDArray[np.int32]  # (H, W)
    count: int  # n

    @classmethod
    def of_ids(cls, ids: NDArray[Any], objects: ArrayLike) -> Self:
        """From a map of ids (H, W) and the different ids of the n objects; pixels of other ids belong to none."""
        wanted = np.asarray(objects)
        order = np.argsort(wanted)
        if not len(order):
            return cls(np.zeros(ids.shape, np.int32), 0)
        found = np.minimum(np.searchsorted(wanted[order], ids), len(order) - 1)
        return cls(np.where(wanted[order][found] == ids, order[found] + 1, 0).astype(np.int32), len(order))

    @property
    def size(self) -> tuple[int, int]:  # type: ignore[override]
        return self.places.shape[0], self.places.shape[1]

    def __len__(self) -> int:
        return self.count

    def take(self, rows: ArrayLike) -> Self:
        kept = np.arange(self.count)[np.asarray(rows)]
        renumbered = np.zeros(self.count + 1, np.int32)
        renumbered[kept + 1] = np.arange(1, len(kept) + 1)
        return type(self)(renumbered[self.places], len(kept))

    def decoded(self) -> NDArray[np.bool_]:
        return self.places == np.arange(1, self.count + 1, dtype=np.int32)[:, None, None]

    def areas(self) -> NDArray[np.float64]:
        return np.bincount(self.places.ravel(), minlength=self.count + 1)[1:].astype(np.float64)

    def boxes(self) -> NDArray[np.float64]:
        """(n, 4) xyxy in pixels, edge to edge; (0, 0, 0, 0) for an object without pixels."""
        out = np.zeros((self.count, 4))
        for box, window in zip(out, ndimage.find_objects(self.places, self.count), strict=True):
            if window is not None:
                rows, columns = window
                box[:] = columns.start, rows.start, columns.stop, rows.stop
        return out

    def picked(self, rows: Picked, columns: Picked) -> "SegmentMasks":
        return SegmentMasks(self.places[rows][:, columns], self.count)
