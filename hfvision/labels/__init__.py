"""Label sets: what the outputs of a published model's head are called, and the colours that a data set gives them.

    from hfvision.labels import label_set, label_sets

    label_set("ade20k-150").names[12]       # "person, individual, someone, somebody, mortal, soul"
    label_set("cityscapes-19").colors[0]    # (128, 64, 128)

A set is package data, read when it is asked for: the files beside this module say how label maps of a data set are
stored (`LabelMap` reads them too), those in `classes` only what the outputs are called.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from hfvision.errors import UnknownNameError, did_you_mean

FOLDER = Path(__file__).parent
UNNAMED = "N/A"  # what published files call an output that no class uses
OUTPUTS = {"coco-detection-91": 91, "coco-panoptic-133": 250}  # of heads that count by category id, with gaps

Colour = tuple[int, int, int]  # red, green, blue, 0 to 255


@dataclass(frozen=True)
class LabelSet:
    """`names[i]` is what output i is called; `colors` has those outputs for which the data set has a colour."""

    name: str
    names: tuple[str, ...]
    colors: Mapping[int, Colour] = field(default_factory=dict)
    about: str = ""
    is_label_map: bool = False  # whether `LabelMap.named` reads it, so that a processor can name it


def numbers_of(names: Mapping[Any, str]) -> dict[str, int]:
    """{id: name} -> {name: id}; a name that several classes have means the first of them."""
    return {name: int(index) for index, name in reversed(dict(names).items())}


def label_sets() -> tuple[str, ...]:
    """The names of all sets."""
    return tuple(sorted(path.stem for folder in (FOLDER, FOLDER / "classes") for path in folder.glob("*.json")))


@cache
def label_set(name: str) -> LabelSet:
    """The set of that name. Raises UnknownNameError that lists all, the nearest first."""
    known = label_sets()
    if name not in known:
        meant = did_you_mean(name.lower(), known, cutoff=0.4)
        raise UnknownNameError(f"no label set is called {name!r}; there are {', '.join(known)}.{meant}")
    path = FOLDER / f"{name}.json"
    if path.is_file():
        return _from_rows(name, json.loads(path.read_text(encoding="utf-8")))
    content = json.loads((FOLDER / "classes" / f"{name}.json").read_text(encoding="utf-8"))
    return LabelSet(name, _names(name, content), about=content["about"])


def sets_of(count: int) -> tuple[str, ...]:
    """The sets that name the outputs of a head of that size."""
    return tuple(name for name in label_sets() if len(label_set(name).names) == count)


def _names(name: str, content: Mapping[str, Any]) -> tuple[str, ...]:
    if "labels_of" in content:  # another set's in other places
        names = list(label_set(content["labels_of"]).names)
        for place, origin in content["moved"].items():
            names[int(place)] = names[origin]
        return tuple(names[: content["count"]])
    labels = content["labels"]
    if isinstance(labels, Mapping):  # by category id
        return tuple(labels.get(str(index), UNNAMED) for index in range(OUTPUTS[name]))
    return tuple(labels)


def _from_rows(name: str, content: Mapping[str, Any]) -> LabelSet:
    """The first row of each train id tells."""
    names: dict[int, str] = {}
    colors: dict[int, Colour] = {}
    for row in content["labels"]:
        if row["train_id"] is not None:
            names.setdefault(row["train_id"], row["name"])
            if row.get("color") is not None:
                colors.setdefault(row["train_id"], tuple(row["color"]))
    return LabelSet(name, tuple(names[index] for index in range(len(names))), colors, content["about"], True)
