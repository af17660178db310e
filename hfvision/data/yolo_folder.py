"""YOLO labels: one text file for each image, one line for each object, numbers in units of the image.

    FOLDER/data.yaml                 names: [cat, dog] or {0: cat, 1: dog}; train, val, test: folders, lists of folders,
                                     or text files of image paths, relative to `path` or to the file
    FOLDER/images/SPLIT/a.jpg        FOLDER/labels/SPLIT/a.txt      or SPLIT/images/ and SPLIT/labels/, or no SPLIT
    FOLDER/classes.txt               the names, where there is no YAML file

A line is "class centre_x centre_y width height", or "class x y x y x y ..." for an outline, whose box is the smallest
around it. An image without a label file has no objects.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hfvision.data.annotation_files import Faults, by_stem
from hfvision.data.class_names import CLASS_FILES, names_beside
from hfvision.data.image_folder import SPLITS, folders_in, is_image, walk
from hfvision.data.object_table import Key, ObjectTable, StoredSplit, stored_images
from hfvision.errors import DatasetError
from hfvision.reporting import report

YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
YAML_SPLITS = ("train", "val", "valid", "validation", "test")
IMAGES, LABELS = "images", "labels"
NO_LABELS = {*CLASS_FILES, "train.txt", "val.txt", "test.txt"}  # text files that may lie beside labels


def find_yolo_yaml(path: Path) -> Path | None:
    """The file that describes a data set: the path itself, or one in the folder with "names" in it."""
    if path.is_file():
        return path if path.suffix.lower() in (".yaml", ".yml") else None
    candidates = [path / name for name in YAML_NAMES] + sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
    for candidate in candidates:
        if candidate.is_file() and "names" in (content := _read_yaml(candidate)) and content.keys() & set(YAML_SPLITS):
            return candidate
    return None


def find_yolo_images(folder: Path) -> dict[str, list[Path]]:
    """Split -> images, of a folder without a YAML file; empty for a folder that has no labels in text files."""
    roots: dict[str, list[Path]] = {}
    if (folder / IMAGES).is_dir() and _has_labels(folder / LABELS):
        below = {path: SPLITS[path.name.lower()] for path in folders_in(folder / IMAGES) if path.name.lower() in SPLITS}
        for path, split in below.items():
            roots.setdefault(split, []).append(path)
        roots = roots or {"train": [folder / IMAGES]}
    for path in folders_in(folder):
        if path.name.lower() in SPLITS and (path / IMAGES).is_dir() and _has_labels(path / LABELS):
            roots.setdefault(SPLITS[path.name.lower()], []).append(path / IMAGES)
    return {split: [image for root in paths for image in _images_below(root)] for split, paths in roots.items()}


def read_yolo_yaml(path: Path, with_masks: bool) -> dict[str, StoredSplit]:
    """The splits that a YAML file lists. Raises DatasetError for a file without names or with folders that are none."""
    content = _read_yaml(path)
    names = _names(content, path)
    base = path.parent / str(content.get("path") or ".")
    roots = [base, path.parent] if base.is_dir() else [path.parent]
    splits = {
        SPLITS[key]: [image for entry in _entries(content[key]) for image in _images_of(entry, roots, path)]
        for key in YAML_SPLITS
        if content.get(key)
    }
    if not splits:
        raise DatasetError(f"{path} names no images: it needs train: FOLDER, and val: FOLDER.")
    return _read(splits, names, with_masks)


def read_yolo_images(folder: Path, splits: Mapping[str, Sequence[Path]], with_masks: bool) -> dict[str, StoredSplit]:
    """The splits of a folder without a YAML file; its classes have names if one of `CLASS_FILES` names them."""
    beside = next((root for root in (folder, folder / LABELS) if any((root / n).is_file() for n in CLASS_FILES)), None)
    named = None if beside is None else names_beside(beside)
    return _read(splits, None if named is None else dict(enumerate(named)), with_masks)


def _read(
    splits: Mapping[str, Sequence[Path]], names: Mapping[Key, str] | None, with_masks: bool
) -> dict[str, StoredSplit]:
    return {split: _split(split, paths, names, with_masks) for split, paths in splits.items()}


def _split(split: str, paths: Sequence[Path], names: Mapping[Key, str] | None, with_masks: bool) -> StoredSplit:
    faults = Faults(f"split {split!r}")
    boxes: list[list[float]] = []
    classes: list[int] = []
    images: list[int] = []
    masks: list[list[str]] = [[] for _ in paths]
    without_file = 0
    for path, times in Counter(paths).items():
        if times > 1:
            faults.add("images listed twice", str(path))
    for row, path in enumerate(paths):
        labels = _label_file(path)
        try:
            lines = labels.read_text(encoding="utf-8-sig").splitlines()
        except FileNotFoundError:
            without_file += 1
            continue
        except (OSError, UnicodeDecodeError) as error:
            faults.add("label files that cannot be read", f"{labels}: {error}")
            continue
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            found = _object(line)
            if isinstance(found, str):
                faults.add("lines that cannot be read", f"{labels.name}, line {number}: {found}")
                continue
            label, box, outline = found
            classes.append(label)
            boxes.append(box)
            images.append(row)
            if with_masks and outline is None:
                faults.add("objects without an outline", f"{labels.name}, line {number}")
            masks[row].append(json.dumps(None if outline is None else [outline]))
    if without_file:
        report(
            f"{without_file:,} of {len(paths):,} images of split {split!r} have no label file: they have no objects."
        )
    for labels in _orphans(paths):
        faults.add("label files without an image", str(labels.name))
    return StoredSplit(
        stored_images(split, paths, masks if with_masks else None),
        ObjectTable.of(
            np.array(images, np.int64), len(paths), np.array(boxes, np.float64), np.array(classes, np.int64)
        ),
        np.zeros((len(paths), 2), np.int64),
        categories=names,
        box_form="cxcywh",
        relative=True,
        relative_masks=True,
        faults=faults.problems(),
    )


def _object(line: str) -> tuple[int, list[float], list[float] | None] | str:
    """Class, box (cxcywh) and outline of a line; a text says what is wrong with it."""
    try:
        label, *numbers = map(float, line.split())
    except ValueError:
        return f"{line[:60]!r} are not numbers"
    if not label.is_integer():
        return f"the class {label} is no whole number"
    if len(numbers) == 4:
        return int(label), numbers, None
    if len(numbers) < 6 or len(numbers) % 2:
        count = "a box and its score? Labels have no scores" if len(numbers) == 5 else f"{len(numbers)} numbers"
        return f"{count}; after the class come 4 numbers of a box, or x and y of three or more corners"
    across, down = numbers[::2], numbers[1::2]
    left, top, right, bottom = min(across), min(down), max(across), max(down)
    return int(label), [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], numbers


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    return content if isinstance(content, dict) else {}


def _names(content: Mapping[str, Any], path: Path) -> dict[Key, str]:
    names = content.get("names")
    found = names if isinstance(names, dict) else dict(enumerate(names)) if isinstance(names, list) else {}
    if not found or not all(isinstance(key, int) for key in found):
        raise DatasetError(
            f"{path} has no names of classes: it needs names: [first, second, ...] or {{0: first, 1: second}}; got "
            f"names: {str(names)[:80]}."
        )
    count = content.get("nc")
    if isinstance(count, int) and count != len(found):
        raise DatasetError(f"{path} has {len(found)} names of classes, but nc: {count}. Correct one of them.")
    return {key: str(name) for key, name in found.items()}


def _entries(value: Any) -> list[str]:
    return [str(entry) for entry in value] if isinstance(value, list) else [str(value)]


def _images_of(entry: str, roots: Sequence[Path], yaml_file: Path) -> list[Path]:
    """The images of a folder or of a text file that lists them."""
    # Exports are often meant to be run from another folder: their "../train/images" lies beside the file.
    tried = [root / name for root in roots for name in dict.fromkeys((entry, entry.removeprefix("../")))]
    found = next((path for path in tried if path.exists()), None)
    if found is None:
        raise DatasetError(
            f"{yaml_file} lists {entry!r}, which is nowhere: looked for {', '.join(map(str, tried))}. Correct it, or "
            "set path: to the folder that it is relative to."
        )
    if found.is_dir():
        return _images_below(found)
    lines = [line.strip() for line in found.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [
        next((root / line for root in (found.parent, *roots) if (root / line).is_file()), found.parent / line)
        for line in lines
    ]


def _images_below(folder: Path) -> list[Path]:
    return [Path(parent) / name for parent, _, names in walk(folder) for name in names if is_image(name)]


def _has_labels(folder: Path) -> bool:
    return folder.is_dir() and next(folder.rglob("*.txt"), None) is not None


def _label_file(image: Path) -> Path:
    """a/labels/b.txt for a/images/b.jpg; beside the image where no folder is called images."""
    parts = list(image.parts)
    places = [place for place, part in enumerate(parts[:-1]) if part == IMAGES]
    if places:
        parts[places[-1]] = LABELS
    return Path(*parts).with_suffix(".txt")


def _orphans(images: Sequence[Path]) -> list[Path]:
    """Label files beside the images' own whose image is nowhere."""
    folders: dict[Path, set[Path]] = {}
    for path in images:
        folders.setdefault(_label_file(path).parent, set()).add(path.parent)
    found = []
    for labels, pictures in sorted(folders.items()):
        stems = {stem for folder in pictures for stem in by_stem(folder)}
        files = sorted(labels.glob("*.txt")) if labels.is_dir() else []
        found += [path for path in files if path.stem not in stems and path.name not in NO_LABELS]
    return found
