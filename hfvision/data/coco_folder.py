"""COCO annotations: images and their objects out of one JSON file for each split.

Format: Lin et al. 2014, "Microsoft COCO: Common Objects in Context", arXiv 1405.0312, and the data set's own notes.

Layouts (SPLIT is any of train, training, val, valid, validation, dev, test, testing, "train2017" too):

    FOLDER/annotations/instances_SPLIT.json   FOLDER/SPLIT/a.jpg or FOLDER/images/SPLIT/a.jpg or FOLDER/images/a.jpg
    FOLDER/SPLIT/_annotations.coco.json       FOLDER/SPLIT/a.jpg       Roboflow; also annotations.json, labels.json
    FOLDER/annotations.json                   FOLDER/images/a.jpg      one split; or the path of any such file

Boxes are [left, top, width, height] in pixels. A category id is any whole number; classes are numbered from 0 in the
order of the file's categories. Segmentations stay as they are stored, polygons or run lengths, until an image is read.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hfvision.data.annotation_files import (
    IMAGE_FOLDERS,
    Faults,
    boxes_of,
    files_below,
    folder_of_images,
    numbers_of,
    read_json,
    split_in_name,
)
from hfvision.data.cells import shown
from hfvision.data.image_folder import SPLITS, folders_in, is_image
from hfvision.data.object_table import Integers, Key, ObjectTable, StoredSplit, stored_images
from hfvision.errors import DatasetError
from hfvision.reporting import report

ANNOTATION_FILES = ("_annotations.coco.json", "annotations.json", "instances.json", "labels.json", "result.json")


def find_coco_files(folder: Path, kind: str = "instances") -> dict[str, Path]:
    """Split -> annotation file, by the layouts above; `kind` is what the names of files begin with.

    Raises DatasetError for two files of one split.
    """
    named = {path: path.stem for path in sorted((folder / "annotations").glob("*.json"))}
    of_kind = {path: stem for path, stem in named.items() if stem.startswith(f"{kind}_")}
    others = ("instances_", "panoptic_", "captions_", "person_keypoints_", "stuff_", "image_info_")
    plain = {path: stem for path, stem in named.items() if not stem.startswith(others)}
    found: dict[str, Path] = {}
    for path, stem in (of_kind or (plain if kind == "instances" else {})).items():
        split = split_in_name(stem)
        if split is not None and found.setdefault(split, path) != path:
            raise DatasetError(
                f"{path.parent} has two files for the split {split!r}: {found[split].name} and {path.name}. Leave one "
                "of them there, or give the path of a file."
            )
    if found or kind != "instances":
        return found
    for below in folders_in(folder):
        own = _annotation_file(below) if below.name.lower() in SPLITS else None
        if own and found.setdefault(SPLITS[below.name.lower()], own) != own:
            raise DatasetError(f"{folder} has two folders for one split: {found} and {own}. Leave one of them there.")
    alone = None if found else _annotation_file(folder) or _annotation_file(folder / "annotations")
    return found or ({"train": alone} if alone else {})


def read_coco_files(files: Mapping[str, Path], with_masks: bool) -> dict[str, StoredSplit]:
    """The splits of annotation files. Raises DatasetError for a file that has not the form of COCO."""
    splits: dict[str, StoredSplit] = {}
    listed: dict[Path, set[str]] = {}
    present: dict[Path, set[str]] = {}
    for split, path in files.items():
        content = read_coco_json(path)
        faults = Faults(path.name)
        images = CocoImages(content["images"], path, faults, present)
        listed.setdefault(images.folder, set()).update(images.names)
        splits[split] = _split(split, path, content, images, faults, with_masks)
    for folder, names in listed.items():
        unlisted = sorted(name for name in present[folder] - names if is_image(Path(name).name))
        if unlisted:
            report(f"images in {folder} that no annotation file lists ({len(unlisted):,}): {shown(unlisted)}.")
    return splits


def read_coco_json(path: Path) -> dict[str, Any]:
    """The content of an annotation file. Raises DatasetError where the lists that it must have are missing."""
    content = read_json(path)
    lists = ("images", "annotations", "categories")
    missing = [name for name in lists if not isinstance(content, dict) or not isinstance(content.get(name), list)]
    if missing:
        raise DatasetError(
            f"{path} is no file of COCO annotations: it has no list {' and '.join(map(repr, missing))}. Such a file "
            'is {"images": [...], "annotations": [...], "categories": [...]}.'
        )
    return dict(content)


def categories_of(content: Mapping[str, Any], faults: Faults) -> dict[Key, str]:
    """Category id -> name, in the order of the file."""
    found: dict[Key, str] = {}
    for place, category in enumerate(content["categories"]):
        record = category if isinstance(category, dict) else {}
        number, name = record.get("id"), record.get("name")
        if number is None or not _is_id(number) or not isinstance(name, str | int):
            faults.add("categories without id or name", f"category {place}: {str(category)[:80]}")
        elif found.setdefault(number, str(name)) != str(name):
            faults.add("category ids that stand twice", f"{number}: {found[number]} and {name}")
    return found


class CocoImages:
    """The list "images" of a file: those that are there, once each."""

    def __init__(
        self, records: Sequence[Any], path: Path, faults: Faults, present: dict[Path, set[str]] | None = None
    ) -> None:
        """`present` keeps the files of folders that were walked through."""
        self.rows: dict[Key, int] = {}  # image id -> row
        self.names: list[str] = []  # (N,) relative to `folder`
        self.known: set[Key] = set()  # ids of all records, of missing files, too
        sizes: list[tuple[int, int]] = []
        present = {} if present is None else present
        by_name: dict[str, Key] = {}
        good = [record for record in records if _is_image_record(record)]
        self.folder = folder_of_images([record["file_name"] for record in good], _image_folders(path))
        if self.folder not in present:
            present[self.folder] = files_below(self.folder)
        files = present[self.folder]
        for record in records:
            if not _is_image_record(record):
                faults.add("images without id or file_name", str(record)[:80])
                continue
            key, name = record["id"], record["file_name"]
            if key in self.known or name in by_name:
                first = f"image {by_name[name]}" if name in by_name else "another image"
                faults.add("images listed twice", f"image {key} ({name}): {first} has the same id or file")
                continue
            self.known.add(key)
            by_name[name] = key
            if name not in files and not (self.folder / name).is_file():
                faults.add(f"images that are listed but not in {self.folder}", f"image {key}: {name}")
                continue
            self.rows[key] = len(self.names)
            self.names.append(name)
            sizes.append(_size(record))
        self.sizes: Integers = np.array(sizes, np.int64).reshape(-1, 2)

    @property
    def paths(self) -> list[Path]:
        return [self.folder / name for name in self.names]


def _split(
    split: str, path: Path, content: Mapping[str, Any], images: CocoImages, faults: Faults, with_masks: bool
) -> StoredSplit:
    categories = categories_of(content, faults)
    records = _records(content["annotations"], images, faults)
    boxes, is_box = boxes_of([record.get("bbox") for record in records])
    for place in np.flatnonzero(~is_box):
        faults.add("boxes that are not four numbers", f"{_named(records[place])}: {records[place].get('bbox')!s}")
    for place in np.flatnonzero(is_box):
        if not _is_id(records[place].get("category_id")):
            is_box[place] = False
            faults.add("annotations without a whole category_id", _named(records[place]))
    records = [record for record, good in zip(records, is_box.tolist(), strict=True) if good]
    rows = np.array([images.rows[record["image_id"]] for record in records], np.int64)
    objects = ObjectTable.of(
        rows,
        len(images.names),
        boxes[is_box],
        np.array([record["category_id"] for record in records], np.int64),
        areas=numbers_of(record.get("area") for record in records),
        crowd=np.array([bool(record.get("iscrowd")) for record in records], bool),
        ids=_ids(records),
    )
    masks = _masks(records, rows, images, faults) if with_masks else None
    return StoredSplit(
        stored_images(split, images.paths, masks),
        objects,
        images.sizes,
        image_ids=list(images.rows),
        categories=categories,
        faults=faults.problems(),
        origin=path.name,
    )


def _records(annotations: Sequence[Any], images: CocoImages, faults: Faults) -> list[dict[str, Any]]:
    """The annotations of images that are there."""
    kept: list[dict[str, Any]] = []
    ids: set[Any] = set()
    for place, record in enumerate(annotations):
        if not isinstance(record, dict) or not _is_key(record.get("image_id")):
            faults.add("annotations without an image_id", f"annotation {place} of the list: {str(record)[:80]}")
        elif record["image_id"] not in images.known:
            faults.add("annotations of images that are not listed", f"{_named(record)}: image {record['image_id']}")
        elif _is_key(record.get("id")) and record["id"] in ids:
            faults.add("annotation ids that stand twice", f"{record['id']}, again in image {record['image_id']}")
        elif record["image_id"] in images.rows:
            kept.append(record)
            ids.add(record.get("id"))
    return kept


def _masks(records: Sequence[Mapping[str, Any]], rows: Integers, images: CocoImages, faults: Faults) -> list[list[str]]:
    """Of each image the segmentations of its objects, as JSON."""
    masks: list[list[str]] = [[] for _ in images.names]
    for record, row in zip(records, rows.tolist(), strict=True):
        segmentation = record.get("segmentation")
        height, width = images.sizes[row].tolist()
        if not segmentation:
            faults.add("objects without a segmentation", f"{images.names[row]}: {_named(record)}")
        elif isinstance(segmentation, dict) and height and segmentation.get("size") != [height, width]:
            size = "x".join(map(str, segmentation.get("size") or ["no size"]))
            case = f"{images.names[row]}: {_named(record)} has {size}, the image {height}x{width} (height x width)"
            faults.add("masks of another size than their image", case)
        masks[row].append(json.dumps(segmentation))
    return masks


def _annotation_file(folder: Path) -> Path | None:
    """The annotation file directly in a folder: of a usual name, and with the lists of COCO."""
    for name in ANNOTATION_FILES:
        path = folder / name
        if path.is_file() and (name == ANNOTATION_FILES[0] or _looks_like_coco(path)):
            return path
    return None


def _looks_like_coco(path: Path) -> bool:
    """Whether a file of a name that others use, too, holds an object with the keys of COCO."""
    text = path.read_bytes()
    return text.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{") and b'"annotations"' in text and b'"images"' in text


def _image_folders(path: Path) -> list[Path]:
    """Where the images of an annotation file may lie, the likeliest first."""
    beside = path.parent.parent if path.parent.name.lower() == "annotations" else path.parent
    name = path.stem.split("_", 1)[-1]  # train2017 of instances_train2017
    roots = [beside, *(beside / folder for folder in IMAGE_FOLDERS)]
    split = split_in_name(path.stem)
    below = [root / found for root in roots for found in _folder_names(root, name, split)]
    return [folder for folder in dict.fromkeys([*below, *roots, path.parent]) if folder.is_dir()]


def _folder_names(root: Path, name: str, split: str | None) -> list[str]:
    """The folder named as the file, and those named as its split."""
    folders = [folder.name for folder in folders_in(root)] if root.is_dir() else []
    alike = [folder for folder in folders if split is not None and SPLITS.get(folder.lower()) == split]
    return [folder for folder in folders if folder == name] + alike


def _is_image_record(record: Any) -> bool:
    return isinstance(record, dict) and _is_key(record.get("id")) and isinstance(record.get("file_name"), str)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_key(value: Any) -> bool:
    return _is_id(value) or isinstance(value, str)


def _size(record: Mapping[str, Any]) -> tuple[int, int]:
    height, width = record.get("height"), record.get("width")
    return (int(height), int(width)) if height and width else (0, 0)


def _named(record: Mapping[str, Any]) -> str:
    return f"annotation {record.get('id', 'without id')} of image {record.get('image_id')}"


def _ids(records: Sequence[Mapping[str, Any]]) -> list[Any] | None:
    ids = [record.get("id") for record in records]
    return ids if ids and all(_is_key(key) for key in ids) else None
