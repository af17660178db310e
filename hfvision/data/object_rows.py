"""Images and objects of one split, collected by a reader in the order in which it meets them.

Readers whose files are lists of single objects (XML, text, CSV) use it; those of large JSON files build their columns
themselves.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hfvision.data.annotation_files import Faults
from hfvision.data.dataset_report import LeftOut
from hfvision.data.object_table import Key, ObjectTable, StoredSplit, stored_images
from hfvision.geometry import BoxForm


class ObjectRows:
    """One split as it grows. Every object belongs to the image that was added last, unless it says otherwise."""

    def __init__(self, split: str, masks: bool = False, where: str | None = None) -> None:
        """`where` names the file or split in messages."""
        self.split, self.masks = split, masks
        self.faults = Faults(f"split {split!r}" if where is None else where)
        self.conclusions: list[str] = []
        self.joined, self.joined_objects = 0, 0  # shapes that are parts of objects, and those objects
        self.paths: list[Path] = []
        self.ids: list[Key] = []
        self._sizes: list[tuple[int, int]] = []
        self._left_out: Counter[tuple[str, str]] = Counter()
        self._images: list[int] = []
        self._boxes: list[Any] = []
        self.categories: list[Key] = []
        self._crowd: list[bool] = []
        self.difficult: list[bool] = []
        self._segmentations: list[list[str]] = []

    def add_image(self, path: Path, size: tuple[int, int] = (0, 0), key: Key | None = None) -> int:
        """Its row. `size` is H, W as recorded, zeros where it is not; `key` what the source calls the image."""
        self.paths.append(path)
        self.ids.append(path.stem if key is None else key)
        self._sizes.append(size)
        self._segmentations.append([])
        return len(self.paths) - 1

    def add_object(
        self,
        category: Key,
        box: Any,
        segmentation: Any = None,
        *,
        crowd: bool = False,
        difficult: bool = False,
        row: int | None = None,
        name: str = "",
    ) -> None:
        """`segmentation` is a list of polygons or run lengths; where masks are wanted, None is a fault, and `name` says
        which object has it."""
        row = len(self.paths) - 1 if row is None else row
        self._images.append(row)
        self._boxes.append(box)
        self.categories.append(category)
        self._crowd.append(crowd)
        self.difficult.append(difficult)
        if self.masks and segmentation is None:
            self.faults.add("objects without an outline", name or f"{self.paths[row].name}: object {category}")
        if self.masks:
            self._segmentations[row].append(json.dumps(segmentation))

    def leave_out(self, what: str, reason: str = "", count: int = 1) -> None:
        """Count what is not taken over."""
        self._left_out[what, reason] += count

    def __len__(self) -> int:
        return len(self._images)

    @property
    def boxes(self) -> Any:
        """(M, 4)"""
        return np.array(self._boxes, np.float64).reshape(-1, 4)

    def stored(
        self,
        layout: str,
        *,
        box_form: BoxForm = "xyxy",
        relative: bool | None = False,
        relative_masks: bool = False,
        categories: Mapping[Any, str] | None = None,
        boxes: Any = None,
        origin: str = "",
    ) -> StoredSplit:
        """The split; `boxes` (M, 4) take the place of those that were added."""
        for path, times in Counter(self.paths).items():
            if times > 1:
                self.faults.add("images listed twice", str(path))
        is_text = any(isinstance(key, str) for key in self.categories)
        keys = np.array(self.categories, str if is_text else np.int64)
        return StoredSplit(
            stored_images(self.split, self.paths, self._segmentations if self.masks else None),
            ObjectTable.of(
                np.array(self._images, np.int64),
                len(self.paths),
                self.boxes if boxes is None else boxes,
                keys,
                crowd=np.array(self._crowd, bool),
                difficult=np.array(self.difficult, bool),
            ),
            np.array(self._sizes, np.int64).reshape(-1, 2),
            image_ids=self.ids if len(set(self.ids)) == len(self.ids) else None,
            categories=categories,
            box_form=box_form,
            relative=relative,
            relative_masks=relative_masks,
            faults=self.faults.problems(),
            origin=origin,
            layout=layout,
            left_out=[LeftOut(count, what, reason) for (what, reason), count in self._left_out.items()],
            conclusions=[*self.conclusions, *self._said_joined()],
        )

    def _said_joined(self) -> list[str]:
        if not self.joined:
            return []
        return [
            f"{self.joined:,} shapes of split {self.split!r} are grouped: they make up {self.joined_objects:,} objects"
        ]
