"""What the values of a label map mean: raw id (or colour) -> the class that a model is trained on, or ignored.

    LabelMap.named("cityscapes-19")                       # one of the data sets in hfvision/labels
    LabelMap.of({7: 0, 8: 1, 0: None})                    # raw id -> train id; None is ignored
    LabelMap.of([{"id": 7, "train_id": 0, "name": "road", "color": [128, 64, 128]}, ...])

The same forms are what a processor takes as `label_map` and what its JSON file holds. Raw ids that a map does not list
are refused with their numbers of pixels, or ignored where it says `unmapped="ignore"`.

Shapes: H x W pixels.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hfvision.errors import ConfigError, ImageValueError, UnknownNameError, numbered

Integers: TypeAlias = npt.NDArray[np.integer[Any]]
Colour = tuple[int, int, int]  # red, green, blue, 0 to 255

UNMAPPED = ("error", "ignore")
LISTED = 10  # raw ids of one map that are written out
ROW_KEYS = ("id", "train_id", "name", "color")


@dataclass(frozen=True)
class Label:
    """One row: how a class is stored, and which class of the model it is."""

    id: int | None  # the value in label maps; None where only the colour stands for it
    train_id: int | None  # None: ignored
    name: str | None = None
    color: Colour | None = None


@dataclass(frozen=True)
class LabelMap:
    """The rows; `unmapped` says what happens to values of none of them.

    Raises ConfigError for rows that cannot work: an id twice, a train id below 0, a colour that is none.

    Example:
        >>> import hfvision
        >>> labels = hfvision.LabelMap.of(
        ...     [{"id": 7, "train_id": 0, "name": "road"}, {"id": 26, "train_id": 1, "name": "car"}]
        ... )
        >>> [label.name for label in labels.labels]
        ['road', 'car']
    """

    labels: tuple[Label, ...]
    unmapped: str = "error"

    def __post_init__(self) -> None:
        faults = [] if self.labels else ["it has no rows"]
        if self.unmapped not in UNMAPPED:
            faults.append(f"unmapped must be {' or '.join(UNMAPPED)}; got {self.unmapped!r}")
        seen: set[int] = set()
        for label in self.labels:
            faults += _faults_of_row(label)
            if label.id is not None and label.id in seen:
                faults.append(f"id {label.id} stands in two rows")
            if label.id is not None:
                seen.add(label.id)
        if faults:
            raise ConfigError("label map: " + (faults[0] if len(faults) == 1 else numbered("fault", faults)))

    @classmethod
    def of(cls, value: Any) -> "LabelMap":
        """From any form: a LabelMap, a name, {raw id: train id or None}, a list of rows, or {"labels": rows, ...}.

        Raises UnknownNameError for a name that is none, ConfigError for anything else that is no label map.
        """
        if isinstance(value, LabelMap):
            return value
        if isinstance(value, str):
            return cls.named(value)
        if isinstance(value, Mapping) and "labels" not in value:
            return cls(tuple(Label(_whole(raw), _whole(train)) for raw, train in value.items()))
        contents = value if isinstance(value, Mapping) else {"labels": value}
        rows = contents["labels"]
        if not isinstance(rows, Sequence) or not all(isinstance(row, Mapping | Label) for row in rows):
            raise ConfigError(
                "a label map is a name, {raw id: train id or None} or a list of rows with "
                f"{', '.join(ROW_KEYS)}; got {value!r:.200}"
            )
        return cls(tuple(map(_row, rows)), contents.get("unmapped", "error"))

    @classmethod
    @cache
    def named(cls, name: str) -> "LabelMap":
        """The data set's own map: "ade20k-150", "cityscapes-19", "pascal-context-60"."""
        folder = files("hfvision").joinpath("labels")
        known = sorted(file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json"))
        if name not in known:
            raise UnknownNameError(f"no label map is called {name!r}; there are {', '.join(known)}.")
        return cls.of(json.loads(folder.joinpath(f"{name}.json").read_text(encoding="utf-8")))

    @classmethod
    def from_json_file(cls, path: str | Path) -> "LabelMap":
        """From a file with any of the forms of `of`."""
        return cls.of(json.loads(Path(path).read_text(encoding="utf-8")))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON holds it and `of` reads it."""
        rows = [{key: getattr(label, key) for key in ROW_KEYS} for label in self.labels]
        for row in rows:
            row["color"] = None if row["color"] is None else list(row["color"])
        return {"labels": rows, "unmapped": self.unmapped}

    @property
    def id2label(self) -> dict[int, str]:
        """train id -> the name of its first row; "LABEL_3" where none has a name."""
        names = {train_id: f"LABEL_{train_id}" for train_id in sorted(self._train_ids)}
        for label in reversed(self.labels):
            if label.train_id is not None and label.name is not None:
                names[label.train_id] = label.name
        return names

    @property
    def palette(self) -> dict[int, Colour]:
        """train id -> the colour of its first row with one."""
        colours = {}
        for label in reversed(self.labels):
            if label.train_id is not None and label.color is not None:
                colours[label.train_id] = label.color
        return colours

    @property
    def num_labels(self) -> int:
        return max(self._train_ids, default=-1) + 1

    @property
    def has_colours(self) -> bool:
        return any(label.color is not None for label in self.labels)

    def to_train_ids(self, raw: Integers, ignore_index: int = 255) -> npt.NDArray[np.int64]:
        """(H, W) raw ids, or (H, W, 3) colours -> (H, W) train ids.

        Raises ImageValueError naming all values that no row has, unless they are to be ignored.
        """
        if raw.ndim == 3:
            return self._looked_up(_codes(raw), *self._by_colour(), ignore_index, "colour")
        return self._looked_up(_narrow(raw), *self._by_id, ignore_index, "raw id")

    def _looked_up(
        self, values: Integers, keys: Integers, targets: Integers, ignore_index: int, what: str
    ) -> npt.NDArray[np.int64]:
        targets = np.where(targets == IGNORED, ignore_index, targets)
        if values.dtype.itemsize <= 2:  # few enough values for a table
            bounds = np.iinfo(values.dtype)
            table, known = _search(np.arange(bounds.min, bounds.max + 1), keys, targets, ignore_index)
            places = values.astype(np.int64) - bounds.min
            found, hits = table[places], known[places]
        else:
            found, hits = _search(values, keys, targets, ignore_index)
        if self.unmapped == "error" and not hits.all():
            wrong, counts = np.unique(values[~hits], return_counts=True)
            raise ImageValueError(_unmapped_message(wrong, counts, what))
        return found

    @cached_property
    def _train_ids(self) -> set[int]:
        return {label.train_id for label in self.labels if label.train_id is not None}

    @cached_property
    def _by_id(self) -> tuple[Integers, Integers]:
        return _sorted_pairs({row.id: row.train_id for row in self.labels if row.id is not None})

    def _by_colour(self) -> tuple[Integers, Integers]:
        pairs: dict[int, int | None] = {}
        for label in self.labels:
            if label.color is None:
                continue
            code = int(_codes(np.array(label.color)))
            if pairs.setdefault(code, label.train_id) != label.train_id:
                raise ConfigError(f"colour {label.color} stands for two classes of the label map: give raw ids instead")
        if not pairs:
            raise ConfigError("the label map has no colours, but the label maps are pictures in colour")
        return _sorted_pairs(pairs)


IGNORED = -1  # as a train id in the tables here


def _row(row: Mapping[str, Any] | Label) -> Label:
    if isinstance(row, Label):
        return row
    if unknown := sorted(set(row) - set(ROW_KEYS)):
        raise ConfigError(f"a row of a label map has {', '.join(ROW_KEYS)}; got {', '.join(map(repr, unknown))} too")
    color = row.get("color")
    return Label(
        _whole(row.get("id")),
        _whole(row.get("train_id")),
        row.get("name"),
        None if color is None else tuple(color),
    )


def _whole(value: Any) -> int | None:
    """JSON's keys are strings; NumPy's numbers are numbers too."""
    try:
        return None if value is None else int(str(value))
    except ValueError:
        raise ConfigError(f"ids of a label map are whole numbers; got {value!r}") from None


def _faults_of_row(label: Label) -> list[str]:
    faults = []
    if label.id is None and label.color is None:
        faults.append(f"a row needs an id or a color; got {label}")
    if label.train_id is not None and label.train_id < 0:
        faults.append(f"train ids count from 0, and None is ignored; id {label.id} has {label.train_id}")
    whole = label.color is None or all(isinstance(v, int) and 0 <= v <= 255 for v in label.color)
    if label.color is not None and not (whole and len(label.color) == 3):
        faults.append(f"a color is (red, green, blue) of 0 to 255; id {label.id} has {label.color}")
    return faults


def _sorted_pairs(pairs: Mapping[Any, int | None]) -> tuple[Integers, Integers]:
    keys = np.array(sorted(pairs), np.int64)
    return keys, np.array([IGNORED if pairs[key] is None else pairs[key] for key in keys.tolist()], np.int64)


def _search(
    values: Integers, keys: Integers, targets: Integers, otherwise: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """What each value stands for, and whether there is such a key."""
    places = np.minimum(np.searchsorted(keys, values), max(len(keys) - 1, 0))
    if not len(keys):
        return np.full(values.shape, otherwise), np.zeros(values.shape, bool)
    hits = keys[places] == values
    return np.where(hits, targets[places], otherwise), hits


def _narrow(values: Integers) -> Integers:
    """The same in 16 bits, if they fit."""
    if values.dtype.itemsize <= 2 or not values.size:
        return values
    low, high = int(values.min()), int(values.max())
    fits = np.iinfo(np.int16).min <= low and high <= np.iinfo(np.int16).max
    return values.astype(np.int16) if fits else values


def _codes(colours: Integers) -> Integers:
    """(..., 3) red, green, blue -> (...) one number each."""
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return np.asarray((red << 16) | (green << 8) | blue)


def _unmapped_message(values: Integers, counts: Integers, what: str) -> str:
    listed = []
    for value, count in list(zip(values.tolist(), counts.tolist(), strict=True))[:LISTED]:
        shown = (value >> 16, value >> 8 & 255, value & 255) if what == "colour" else value
        listed.append(f"{shown} ({count:,} pixel{'s' * (count > 1)})")
    more = ", ..." if len(values) > LISTED else ""
    are = "s are" if len(values) > 1 else " is"
    return (
        f"{len(values)} {what}{are} not declared in `label_map`: {', '.join(listed)}{more}.\n"
        '    Add rows for them (train_id None: ignored), or say unmapped="ignore".'
    )
