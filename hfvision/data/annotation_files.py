"""What readers of annotation files share: JSON, boxes and numbers out of records, faults by kind, files of images."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hfvision.data.cells import cases
from hfvision.data.image_folder import SPLITS, is_image
from hfvision.data.object_table import Bools, Floats
from hfvision.errors import DatasetError

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "data", "JPEGImages")


class Faults:
    """Cases of each kind of fault."""

    def __init__(self, where: str) -> None:
        self.where = where  # the file or split that they are in
        self.found: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, case: str) -> None:
        self.found[kind].append(case)

    def problems(self) -> list[str]:
        """One text for each kind, with its first cases."""
        return [cases(f"{kind} in {self.where} ({len(found):,})", found) for kind, found in self.found.items()]


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises DatasetError."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"the annotations {path} cannot be read: {error}") from error


def split_in_name(name: str) -> str | None:
    """train for "instances_train2017", validation for "val", ...; None for names without the name of a split."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def boxes_of(values: Sequence[Any]) -> tuple[Floats, Bools]:
    """(M, 4) numbers, and which of the values (M,) were four numbers; the others are NaN."""
    if not len(values):
        return np.zeros((0, 4)), np.zeros(0, bool)
    try:
        array = np.array(values, np.float64)
        if array.shape == (len(values), 4):
            return array, np.ones(len(values), bool)
    except (TypeError, ValueError):
        pass
    boxes = np.full((len(values), 4), np.nan)
    is_box = np.zeros(len(values), bool)
    for row, value in enumerate(values):
        try:
            box = np.array(value, np.float64)
        except (TypeError, ValueError):
            continue
        if box.shape == (4,):
            boxes[row], is_box[row] = box, True
    return boxes, is_box


def numbers_of(values: Iterable[Any]) -> Floats:
    """(M,), NaN where there is no number."""
    return np.array([value if isinstance(value, int | float) else np.nan for value in values], np.float64)


def folder_of_images(names: Sequence[str], candidates: Sequence[Path]) -> Path:
    """The candidate that has the most of the files; looks at a few of them."""
    some = names[:: max(1, len(names) // 50)]
    return max(candidates, key=lambda folder: sum((folder / name).is_file() for name in some))


def files_below(folder: Path) -> set[str]:
    """Paths of all files below a folder, relative to it: one walk instead of one question for each file."""
    found: set[str] = set()
    for parent, _, names in os.walk(folder, followlinks=True):
        relative = os.path.relpath(parent, folder)
        found.update(names if relative == "." else (f"{relative}/{name}" for name in names))
    return found


def by_stem(folder: Path) -> dict[str, Path]:
    """The images directly in a folder by their names without suffix."""
    if not folder.is_dir():
        return {}
    return {path.stem: path for path in sorted(folder.iterdir()) if is_image(path.name)}
