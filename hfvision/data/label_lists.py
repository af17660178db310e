"""Lists of images and their classes: Datumaro's `imagenet_txt`, VOC classification, COCO and Datumaro labels.

FOLDER/synsets.txt, FOLDER/SPLIT.txt        "a.jpg 0" for each image, in FOLDER/images
FOLDER/ImageSets/Main/CLASS_SPLIT.txt       "a 1" or "a -1" for each image, in FOLDER/JPEGImages
FOLDER/annotations/labels_SPLIT.json        COCO annotations of a category without a box, in FOLDER/images/SPLIT
FOLDER/annotations/SPLIT.json               Datumaro's own format with annotations "label", in FOLDER/images/SPLIT
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hfvision.data.annotation_files import NamedFiles, read_json, text_lines
from hfvision.data.class_files import declared_classes
from hfvision.data.coco_folder import read_coco_json
from hfvision.data.datumaro_json import is_datumaro
from hfvision.data.labelled_files import LabelledFiles, Labels, files_of
from hfvision.data.mask_pairs import split_of
from hfvision.errors import DatasetError, numbered

SYNSETS = "synsets.txt"
VOC_MARKS = {"1": True, "-1": False, "0": False}  # 0 is difficult: neither counted for nor against

Rows = list[tuple[str, Labels]]


def imagenet_txt(folder: Path) -> LabelledFiles | None:
    """Classes by line of synsets.txt, and lists of images with the numbers of their classes."""
    if not (folder / SYNSETS).is_file():
        return None
    classes = text_lines(folder / SYNSETS)
    files = NamedFiles(folder / "images" if (folder / "images").is_dir() else folder)
    splits: dict[str, Rows] = {}
    faults: list[str] = []
    for path in sorted(folder.glob("*.txt")):
        if path.name == SYNSETS:
            continue
        listed: dict[str, Labels] = {}
        strange: list[str] = []
        for line in text_lines(path):
            name, numbers = _name_and_numbers(line)
            if not all(number < len(classes) for number in numbers):
                strange.append(line)
            listed[name] = tuple(classes[number] for number in numbers if number < len(classes))
        if strange:
            faults.append(f"{path.name}: " + numbered(f"line with a class beyond 0 to {len(classes) - 1}", strange, 5))
        _add(splits, split_of(path.stem), listed, files, path, faults)
    return _found("Datumaro's imagenet_txt", splits, classes, files, faults)


def voc_labels(folder: Path) -> LabelledFiles | None:
    """A list for each class and split, with 1 for the images that show it."""
    main = folder / "ImageSets" / "Main"
    lists = {path: re.fullmatch(r"(.+)_([^_]+)", path.stem) for path in sorted(main.glob("*_*.txt"))}
    named = {path: (parts[1], parts[2]) for path, parts in lists.items() if parts}
    named = {path: parts for path, parts in named.items() if (main / f"{parts[1]}.txt").is_file()}
    if not named:
        return None
    if any(parts[1] == "train" for parts in named.values()):  # trainval is both
        named = {path: parts for path, parts in named.items() if parts[1] != "trainval"}
    files = NamedFiles(folder / "JPEGImages")
    labels: dict[str, dict[str, list[str]]] = {}
    faults: list[str] = []
    for path, (name, subset) in named.items():
        rows = [line.split() for line in text_lines(path)]
        wrong = [" ".join(row) for row in rows if len(row) != 2 or row[1] not in VOC_MARKS]
        if wrong:
            faults.append(f"{path.name}: " + numbered("line that is not NAME and 1, 0 or -1", wrong, 5))
            continue
        split = labels.setdefault(split_of(subset), {})
        for stem, mark in rows:
            split.setdefault(stem, []).extend([name] * VOC_MARKS[mark])
    for subset in {subset for _, subset in named.values()}:
        for stem in text_lines(main / f"{subset}.txt"):
            labels.setdefault(split_of(subset), {}).setdefault(stem.split()[0], [])
    present = {name for split in labels.values() for row in split.values() for name in row}
    declared = declared_classes(folder)
    order = [one.name for one in declared[0]] if declared else []
    classes = [*(name for name in order if name in present), *sorted(present - set(order))]
    splits: dict[str, Rows] = {}
    for name, rows_of in labels.items():
        _add(splits, name, {stem: tuple(found) for stem, found in rows_of.items()}, files, main, faults)
    unused = sorted({name for name, _ in named.values()} - present)
    said = [f"classes that no image shows are left out: {', '.join(unused)}"] * bool(unused)
    return _found("VOC classification", splits, classes, files, faults, said)


def coco_labels(folder: Path) -> LabelledFiles | None:
    """COCO files of categories without boxes."""
    paths = sorted((folder / "annotations").glob("labels_*.json"))
    if not paths:
        return None
    splits: dict[str, Rows] = {}
    faults: list[str] = []
    classes: dict[str, None] = {}
    every: list[NamedFiles] = []
    for path in paths:
        subset = path.stem.removeprefix("labels_")
        content = read_coco_json(path)
        names = {one["id"]: str(one["name"]) for one in content["categories"] if {"id", "name"} <= one.keys()}
        classes |= dict.fromkeys(names.values())
        listed: dict[str, list[str]] = {}
        images = {one["id"]: str(one["file_name"]) for one in content["images"] if {"id", "file_name"} <= one.keys()}
        for one in content["annotations"]:
            image, category = images.get(one.get("image_id")), names.get(one.get("category_id"))
            if image is None or category is None:
                faults.append(f"{path.name}: annotation {one.get('id')} is of no image or category that is listed")
            elif category not in listed.setdefault(image, []):
                listed[image].append(category)
        files = _images_of(folder, subset)
        every.append(files)
        _add(splits, split_of(subset), {n: tuple(listed.get(n, ())) for n in images.values()}, files, path, faults)
    return _found("COCO labels", splits, list(classes), every[0], faults)


def datumaro_labels(folder: Path) -> LabelledFiles | None:
    """Datumaro's own files, where they label whole images and hold no objects."""
    paths = [path for path in sorted((folder / "annotations").glob("*.json")) if is_datumaro(path)]
    splits: dict[str, Rows] = {}
    faults: list[str] = []
    classes: list[str] = []
    every: list[NamedFiles] = []
    for path in paths:
        content = read_json(path)
        try:
            names = [str(one["name"]) for one in content["categories"]["label"]["labels"]]
            items = [(_image_path(item), item["annotations"]) for item in content["items"]]
            kinds = {one["type"] for _, annotations in items for one in annotations}
            listed = {
                name: tuple(names[one["label_id"]] for one in annotations if one["type"] == "label")
                for name, annotations in items
            }
        except (KeyError, TypeError, IndexError) as error:
            raise DatasetError(f"{path} is no file of Datumaro's format: {type(error).__name__}: {error}") from error
        if "label" not in kinds:
            return None  # objects, or nothing at all
        classes += [name for name in names if name not in classes]
        files = _images_of(folder, path.stem)
        every.append(files)
        _add(splits, split_of(path.stem), listed, files, path, faults)
    return _found("Datumaro's own format", splits, classes, every[0], faults) if splits else None


def _found(
    layout: str,
    splits: dict[str, Rows],
    classes: Sequence[str],
    files: NamedFiles,
    faults: Sequence[str],
    said: Sequence[str] = (),
) -> LabelledFiles:
    return LabelledFiles(layout, splits, classes, (*said, *files.conclusions()), tuple(faults))


def _add(
    splits: dict[str, Rows],
    split: str,
    listed: Mapping[str, Labels],
    files: NamedFiles,
    where: Path,
    faults: list[str],
) -> None:
    """The images of a list to their split; those that are nowhere become a fault."""
    found, lost = files_of({name: find_image(name, files) for name in listed}, where.name)
    faults.extend(lost)
    splits.setdefault(split, []).extend((str(path), listed[name]) for name, path in found.items())


def find_image(name: str, files: NamedFiles) -> Path | None:
    """The file that a list names with or without folders, with or without its suffix; None where none is meant."""
    path = files.find(name)
    if path is None:
        ending = name.replace("\\", "/").lstrip("./")
        alike = files.images_by_stem.get(ending.rpartition("/")[2], [])
        exact = [one for one in alike if one.rpartition(".")[0].endswith(ending)]
        chosen = exact if len(exact) == 1 else alike
        path = chosen[0] if len(chosen) == 1 else None
    return None if path is None else files.folder / path


def _name_and_numbers(line: str) -> tuple[str, list[int]]:
    """An image and its classes; names with blanks may stand in quotes."""
    quoted = re.fullmatch(r'"([^"]+)"((?:\s+\d+)*)', line)
    plain = re.fullmatch(r"(.*?)((?:\s+\d+)*)", line)
    found = quoted or plain
    return (found[1], [int(number) for number in found[2].split()]) if found else (line, [])


def _images_of(folder: Path, subset: str) -> NamedFiles:
    candidates = (folder / "images" / subset, folder / subset, folder / "images", folder)
    return NamedFiles(next(path for path in candidates if path.is_dir()))


def _image_path(item: Mapping[str, Any]) -> str:
    return str((item.get("image") or {}).get("path") or item["id"])
