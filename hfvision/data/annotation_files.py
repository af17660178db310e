"""What readers of annotation files share: JSON, XML, boxes and numbers out of records, faults, files of images."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

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
    """The candidate that has the most of the files, by their names or else by their last parts; looks at a few."""
    some = names[:: max(1, len(names) // 50)]

    def found(folder: Path) -> tuple[int, int]:
        return sum((folder / name).is_file() for name in some), sum(
            (folder / last_part(name)).is_file() for name in some
        )

    return max(candidates, key=found)


def last_part(name: str) -> str:
    """The file's own name out of a path of any system: "a.jpg" of "C:\\data\\a.jpg"."""
    return re.split(r"[/\\]", name)[-1]


class NamedFiles:
    """The files below a folder, found by the names that annotations give them.

    Annotations often carry the paths of the machine that they were made on. A name that is no path in the folder is
    found by its last parts, where exactly one file has the most of them; such finds are counted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = files_below(folder)
        self.moved: dict[str, str] = {}  # name as given -> path in the folder, where they differ by more than "./"

    def find(self, name: str) -> str | None:
        """The path of a file in the folder; None where no file, or more than one, could be meant."""
        parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".")]
        if (plain := "/".join(parts)) in self.names:
            return plain
        alike = self._by_last_part.get(parts[-1], []) if parts else []
        if not alike:
            return None
        scores = [_shared_ending(path.split("/"), parts) for path in alike]
        best = max(scores)
        if scores.count(best) > 1:
            return None
        self.moved[name] = alike[scores.index(best)]
        return self.moved[name]

    def conclusions(self) -> list[str]:
        """How many files were found elsewhere than where they were said to be."""
        if not self.moved:
            return []
        name, path = next(iter(self.moved.items()))
        return [f"{len(self.moved):,} file names were found by their last part, such as {name!r}: {path}"]

    @cached_property
    def images_by_stem(self) -> dict[str, list[str]]:
        """The paths of all images by their names without folder and suffix."""
        found: dict[str, list[str]] = {}
        for path in sorted(self.names):
            if is_image(path.rpartition("/")[2]):
                found.setdefault(Path(path).stem, []).append(path)
        return found

    @cached_property
    def _by_last_part(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for path in self.names:
            found.setdefault(path.rpartition("/")[2], []).append(path)
        return found


def _shared_ending(first: Sequence[str], second: Sequence[str]) -> int:
    """How many parts two paths have in common at their ends."""
    same = [one == other for one, other in zip(reversed(first), reversed(second), strict=False)]
    return same.index(False) if False in same else len(same)


def read_xml(path: Path) -> Element:
    """The root of an XML file. Files that declare entities are refused: annotations have no use for them.

    Raises DatasetError.
    """
    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(name: str, *_: Any) -> None:
        raise DatasetError(f"{path.name}: it declares the entity {name!r}, which annotations have no use for")

    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(path.read_bytes(), True)
        return builder.close()
    except (OSError, expat.ExpatError, ValueError) as error:
        raise DatasetError(f"{path.name}: {error}") from error


def text_lines(path: Path) -> list[str]:
    """The lines of a text file that hold something, without blanks around them. Raises DatasetError."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def number_in(text: str | None) -> float | None:
    """A finite number; None for anything else."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if np.isfinite(number) else None


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
