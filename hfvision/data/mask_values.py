"""What the values of masks stand for, and how often each occurs.

Shapes: H x W pixels, K classes.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hfvision.errors import DatasetError, ImageValueError
from hfvision.processing.label_map import LabelMap

LISTED = 10  # values of one split that are written out


def label_map_given(given: Any) -> LabelMap:
    """What a user gives: a JSON file, or any of the forms of `LabelMap.of`. Raises DatasetError for a file that cannot
    be read, and as `LabelMap.of` does.
    """
    if not isinstance(given, os.PathLike) and not (isinstance(given, str) and given.endswith(".json")):
        return LabelMap.of(given)
    try:
        return LabelMap.from_json_file(Path(given))
    except (OSError, ValueError) as error:
        raise DatasetError(f"the label map {given} cannot be read: {error}") from error


@dataclass
class ValueCounts:
    """Pixels of every value in some masks."""

    classes: "Counter[int]" = field(default_factory=Counter)  # by train id, the ignore index among them
    undeclared: "Counter[int]" = field(default_factory=Counter)  # by stored value, of those that a label map lacks
    images: "Counter[int]" = field(default_factory=Counter)  # masks that hold each train id
    alone: "Counter[int | None]" = field(default_factory=Counter)  # masks of one train id only; None: all is ignored
    decoded: int = 0  # masks in all

    def add(self, mask: "ValueCounts", ignore_index: int) -> None:
        """Take in the pixels of one more mask."""
        self.classes.update(mask.classes)
        self.undeclared.update(mask.undeclared)
        present = {train_id for train_id, pixels in mask.classes.items() if pixels} - {ignore_index}
        self.images.update(present)
        if len(present) < 2 and not mask.undeclared:
            self.alone[next(iter(present), None)] += 1
        self.decoded += 1


def counts_of(masks: Iterable[ValueCounts], ignore_index: int) -> ValueCounts:
    """Those of several masks together."""
    total = ValueCounts()
    for mask in masks:
        total.add(mask, ignore_index)
    return total


@dataclass(frozen=True)
class MaskCoding:
    """How stored values become train ids."""

    label_map: LabelMap | None
    ignore_index: int
    classes: int = 0  # K; 0 as long as they are not known

    @property
    def values(self) -> int:
        """Train ids that there are; a single class has two: where it is and where not."""
        return max(2, self.classes)

    def train_ids(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(H, W) train ids and the ignore index, uint8 if they fit and else int64.

        Raises ImageValueError naming values that stand for no class, with their numbers of pixels.
        """
        mapped = self._mapped(stored)
        wrong = (mapped != self.ignore_index) & ((mapped < 0) | (mapped >= self.values))
        if wrong.any():
            raise ImageValueError(self._out_of_range(Counter(_occurrences(mapped[wrong]))))
        fits = 0 <= self.ignore_index <= 255 and self.values <= 256
        return mapped.astype(np.uint8 if fits else np.int64)

    def count(self, stored: npt.NDArray[Any]) -> ValueCounts:
        """Pixels of every train id. Raises ImageValueError for colours that the label map lacks."""
        if self.label_map is None or stored.ndim == 3:
            return ValueCounts(Counter(_occurrences(self._mapped(stored))))
        counts = ValueCounts()
        known = {label.id: label.train_id for label in self.label_map.labels}
        for value, pixels in _occurrences(stored).items():
            train_id = known.get(value)
            if value in known or self.label_map.unmapped == "ignore":
                counts.classes[self.ignore_index if train_id is None else train_id] += pixels
            else:
                counts.undeclared[value] += pixels
        return counts

    def faults(self, counts: ValueCounts, split: str, is_trained_on: bool) -> Iterator[str]:
        """Problems of the values in a split; its masks must have some pixels of classes if they are trained on."""
        if counts.undeclared:
            yield (
                f"values in the masks of split {split!r} that the label map does not declare: "
                f"{_written(counts.undeclared)}. Add rows for them (None: ignored)"
            )
        ignored = self.ignore_index
        out = Counter({v: n for v, n in counts.classes.items() if v != ignored and not 0 <= v < self.values})
        if out:
            yield f"masks of split {split!r}: {self._out_of_range(out)}"
        present = {value for value, pixels in counts.classes.items() if pixels}
        if present == {ignored} and is_trained_on:
            yield f"in the masks of split {split!r} every pixel is ignored (ignore_index={ignored})"
        if present == {0, ignored} and self.label_map is None and is_trained_on:
            yield (
                f"the masks of split {split!r} hold 0 and {ignored} only, and {ignored} is ignored: nothing but class "
                f"0 would be learned. If {ignored} is a class: label_map={{0: 0, {ignored}: 1}}"
            )

    def _mapped(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return stored if self.label_map is None else self.label_map.to_train_ids(stored, self.ignore_index)

    def _out_of_range(self, values: "Counter[int]") -> str:
        return (
            f"values other than 0 to {self.values - 1} and {self.ignore_index} (ignored): {_written(values)}. Say what "
            "they mean with label_map=..., or name all classes with names=..."
        )


def _occurrences(values: npt.NDArray[Any]) -> Mapping[int, int]:
    """Value -> how often it occurs."""
    if values.dtype in (np.uint8, np.uint16):
        counts = np.bincount(values.ravel())
        present = np.flatnonzero(counts)
        return dict(zip(present.tolist(), counts[present].tolist(), strict=True))
    present, counts = np.unique(values, return_counts=True)
    return dict(zip(present.tolist(), counts.tolist(), strict=True))


def _written(counts: "Counter[int]") -> str:
    """7 (1,234 pixels), 12 (1 pixel), ..."""
    listed = [f"{value} ({pixels:,} pixel{'s' * (pixels > 1)})" for value, pixels in sorted(counts.items())]
    return ", ".join(listed[:LISTED]) + (f" and {len(listed) - LISTED} more" if len(listed) > LISTED else "")
