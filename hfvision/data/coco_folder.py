"""COCO annotations: images and their objects out of one JSON file for each split.

Format: Lin et al. 2014, "Microsoft COCO: Common Objects in Context", arXiv 1405.0312, and the data set's own notes.

Layouts (SPLIT is any of train, training, val, valid, validation, dev, test, testing, "train2017" too):

    FOLDER/annotations/instances_SPLIT.json   FOLDER/SPLIT/a.jpg or FOLDER/images/SPLIT/a.jpg or FOLDER/images/a.jpg
    FOLDER/SPLIT/_annotations.coco.json       FOLDER/SPLIT/a.jpg       Roboflow; also annotations.json, labels.json
    FOLDER/annotations.json                   FOLDER/images/a.jpg      one split; or the path of any such file
    FOLDER/SPLIT.json                         FOLDER/a.jpg, FOLDER/SPLIT/a.jpg, FOLDER/images/a.jpg
    FOLDER/lvis_v1_SPLIT.json                 FOLDER/train2017/a.jpg   LVIS: images go by the end of their coco_url

A file whose name says no split is the split "train" where it is the only one (instances_default.json of CVAT).

Boxes are [left, top, width, height] in pixels. A category id is any whole number; classes are numbered from 0 in the
order of the file's categories, without those that are only the supercategory of others or only the background, and have
no object. Segmentations stay as they are stored, polygons or run lengths, until an image is read.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hfvision.data.annotation_files import (
    IMAGE_FOLDERS,
    Faults,
    NamedFiles,
    boxes_of,
    folder_of_images,
    numbers_of,
    read_json,
    split_in_name,
)
from hfvision.data.cells import shown
from hfvision.data.dataset_report import LeftOut
from hfvision.data.detection_classes import is_no_object
from hfvision.data.image_folder import SPLITS, folders_in, is_image
from hfvision.data.object_table import Bools, Integers, Key, ObjectTable, StoredSplit, stored_images
from hfvision.errors import DatasetError

ANNOTATION_FILES = (
    *("_annotations.coco.json", "annotations.json", "instances.json", "labels.json", "result.json"),
    "result_coco.json",
)
KINDS = ("instances_", "panoptic_", "captions_", "person_keypoints_", "stuff_", "image_info_", "labels_")
ONE_SPLIT = "train"  # where no name says a split


def find_coco_files(folder: Path, kind: str = "instances") -> dict[str, Path]:
    """Split -> annotation file, by the layouts above; `kind` is what the names of files begin with.

    Raises DatasetError for two files of one split.
    """
    found = _in_annotations(folder, kind)
    if found or kind != "instances":
        return found
    for below in folders_in(folder):
        own = _annotation_file(below) if below.name.lower() in SPLITS else None
        if own and found.setdefault(SPLITS[below.name.lower()], own) != own:
            raise DatasetError(f"{folder} has two folders for one split: {found} and {own}. Leave one of them there.")
    if found:
        return found
    loose = {path: path.stem for path in sorted(folder.glob("*.json")) if split_in_name(path.stem)}
    found = _by_split({path: stem for path, stem in loose.items() if looks_like_coco(path)})
    alone = None if found else _annotation_file(folder) or _annotation_file(folder / "annotations")
    return found or ({ONE_SPLIT: alone} if alone else {})


def read_coco_files(files: Mapping[str, Path], with_masks: bool) -> dict[str, StoredSplit]:
    """The splits of annotation files. Raises DatasetError for a file that has not the form of COCO."""
    splits: dict[str, StoredSplit] = {}
    present: dict[Path, NamedFiles] = {}
    listed: dict[Path, set[str]] = {}
    folders: dict[str, Path] = {}  # split -> that of its images
    contents = {split: read_coco_json(path) for split, path in files.items()}
    annotated = annotated_categories(record for content in contents.values() for record in content["annotations"])
    for split, path in files.items():
        content, faults = contents.pop(split), Faults(path.name)
        images = CocoImages(content["images"], path, faults, present)
        folders[split] = images.folder
        listed.setdefault(images.folder, set()).update(images.names)
        categories, unused = without_unused(content, categories_of(content, faults), annotated)
        stored = _split(split, path, content, images, categories, faults, with_masks)
        stored.conclusions.extend(said_unused(unused))
        splits[split] = stored
    for folder, names in listed.items():
        first, *others = (splits[split] for split in splits if folders[split] == folder)
        unlisted = sorted(name for name in present[folder].names - names if is_image(Path(name).name))
        if unlisted:
            what = f"images in {folder} that no annotation file lists"
            first.left_out.append(LeftOut(len(unlisted), what, shown(unlisted)))
        for stored in (first, *others):
            stored.conclusions.extend(present[folder].conclusions())
    return splits


def annotated_categories(records: Iterable[Any]) -> set[Any]:
    """The category ids of annotations or segments."""
    ids = (record.get("category_id") for record in records if isinstance(record, dict))
    return {key for key in ids if _is_id(key)}


def without_unused(
    content: Mapping[str, Any], categories: Mapping[Key, str], annotated: set[Any]
) -> tuple[dict[Key, str], dict[Key, str]]:
    """Categories that are classes, and those that are none: without an object in any split (`annotated` has the ids
    with one), and only the supercategory of others or a name for the background."""
    records = [record for record in content["categories"] if isinstance(record, dict)]
    above = {record.get("supercategory") for record in records if record.get("supercategory") != record.get("name")}
    unused = {
        key: name for key, name in categories.items() if key not in annotated and (name in above or is_no_object(name))
    }
    return {key: name for key, name in categories.items() if key not in unused}, unused


def said_unused(dropped: Mapping[Key, str]) -> list[str]:
    """A conclusion about categories that are no classes."""
    if not dropped:
        return []
    names = shown(map(repr, dropped.values()))
    return [f"categories without an object that are only a supercategory or the background are no classes: {names}"]


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
        self, records: Sequence[Any], path: Path, faults: Faults, present: dict[Path, NamedFiles] | None = None
    ) -> None:
        """`present` keeps the files of folders that were walked through."""
        self.rows: dict[Key, int] = {}  # image id -> row
        self.names: list[str] = []  # (N,) relative to `folder`
        self.known: set[Key] = set()  # ids of all records, of missing files, too
        sizes: list[tuple[int, int]] = []
        present = {} if present is None else present
        by_name: dict[str, Key] = {}
        self.folder = folder_of_images(
            [name for record in records if (name := _file_name(record))], _image_folders(path)
        )
        self.files = present.setdefault(self.folder, NamedFiles(self.folder))
        for record in records:
            given = _file_name(record)
            if given is None:
                faults.add("images without id or file_name", str(record)[:80])
                continue
            key = record["id"]
            name = given if given in self.files.names or (self.folder / given).is_file() else self.files.find(given)
            if key in self.known or (name or given) in by_name:
                first = f"image {by_name[name or given]}" if (name or given) in by_name else "another image"
                faults.add("images listed twice", f"image {key} ({given}): {first} has the same id or file")
                continue
            self.known.add(key)
            by_name[name or given] = key
            if name is None:
                faults.add(f"images that are listed but not in {self.folder}", f"image {key}: {given}")
                continue
            self.rows[key] = len(self.names)
            self.names.append(name)
            sizes.append(_size(record))
        self.sizes: Integers = np.array(sizes, np.int64).reshape(-1, 2)

    @property
    def paths(self) -> list[Path]:
        return [self.folder / name for name in self.names]


def _split(
    split: str,
    path: Path,
    content: Mapping[str, Any],
    images: CocoImages,
    categories: Mapping[Key, str],
    faults: Faults,
    with_masks: bool,
) -> StoredSplit:
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
    crowd = crowds_of(records, [_named(record) for record in records], faults)
    objects = ObjectTable.of(
        rows,
        len(images.names),
        boxes[is_box],
        np.array([record["category_id"] for record in records], np.int64),
        areas=numbers_of(record.get("area") for record in records),
        crowd=crowd,
        ids=_ids(records),
    )
    masks = _masks(records, rows, images, faults) if with_masks else None
    return StoredSplit(
        stored_images(split, images.paths, masks),
        objects,
        images.sizes,
        image_ids=list(images.rows),
        categories=categories,
        relative=None,
        faults=faults.problems(),
        origin=path.name,
        layout=f"{_format_of(content)} ({path.name})",
        left_out=_left_out(content, records),
    )


def crowds_of(records: Sequence[Mapping[str, Any]], names: Sequence[str], faults: Faults) -> Bools:
    """(M,): marked as crowds. A mark that is neither 0 nor 1, nor true or false, is a fault."""
    marks = [record.get("iscrowd") or 0 for record in records]
    for name, mark in zip(names, marks, strict=True):
        if isinstance(mark, str) or mark not in (0, 1):
            faults.add("iscrowd that is neither 0 nor 1", f"{name}: {mark!r}")
    return np.array([mark == 1 for mark in marks], bool)


def _format_of(content: Mapping[str, Any]) -> str:
    is_lvis = any("neg_category_ids" in record for record in content["images"][:1] if isinstance(record, dict))
    return "LVIS" if is_lvis else "COCO"


def _left_out(content: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[LeftOut]:
    """Parts of annotations that detection has no use for."""
    found = []
    points = sum(bool(record.get("keypoints")) for record in records)
    if points:
        found.append(LeftOut(points, "sets of keypoints", "boxes and masks are read"))
    partly = [record.get("not_exhaustive_category_ids") for record in content["images"] if isinstance(record, dict)]
    if any(partly):
        count = sum(bool(ids) for ids in partly)
        what = "lists of categories that are not annotated exhaustively"
        found.append(LeftOut(count, what, "LVIS; what is not annotated counts as not there"))
    return found


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


def _in_annotations(folder: Path, kind: str) -> dict[str, Path]:
    """Split -> file in the folder annotations/: those of a kind, else those of no kind, else those of keypoints."""
    named = {path: path.stem for path in sorted((folder / "annotations").glob("*.json"))}
    of_kind = {path: stem for path, stem in named.items() if stem.startswith(f"{kind}_")}
    if of_kind or kind != "instances":
        return _by_split(of_kind)
    plain = {path: stem for path, stem in named.items() if not stem.startswith(KINDS) and split_in_name(stem)}
    points = {path: stem for path, stem in named.items() if stem.startswith("person_keypoints_")}
    return _by_split({path: stem for path, stem in plain.items() if looks_like_coco(path)}) or _by_split(points)


def _by_split(named: Mapping[Path, str]) -> dict[str, Path]:
    """Split -> file, by the names of splits in their stems; a single file without one is a split, too.

    Raises DatasetError for two files of one split.
    """
    found: dict[str, Path] = {}
    for path, stem in named.items():
        split = split_in_name(stem)
        if split is not None and found.setdefault(split, path) != path:
            raise DatasetError(
                f"{path.parent} has two files for the split {split!r}: {found[split].name} and {path.name}. Leave one "
                "of them there, or give the path of a file."
            )
    if not found and len(named) == 1:
        return {ONE_SPLIT: next(iter(named))}
    return found or {stem.split("_", 1)[-1]: path for path, stem in named.items()}


def _annotation_file(folder: Path) -> Path | None:
    """The annotation file directly in a folder, with the lists of COCO: of a usual name, or the only one."""
    for name in ANNOTATION_FILES:
        path = folder / name
        if path.is_file() and (name == ANNOTATION_FILES[0] or looks_like_coco(path)):
            return path
    if not folder.is_dir():
        return None
    named = [path for path in sorted(folder.glob("*.json")) if not path.stem.startswith(KINDS[1:])]
    alike = [path for path in named if looks_like_coco(path)]
    return alike[0] if len(alike) == 1 else None


def looks_like_coco(path: Path) -> bool:
    """Whether a file of a name that others use, too, holds an object with the keys of COCO."""
    text = path.read_bytes()
    keys = (b'"annotations"', b'"images"', b'"categories"')
    return text.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{") and all(key in text for key in keys)


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


def _file_name(record: Any) -> str | None:
    """The name of an image's file: LVIS gives it as the end of a URL. None for a record without id or name."""
    if not isinstance(record, dict) or not _is_key(record.get("id")):
        return None
    name = record.get("file_name")
    if isinstance(name, str) and name:
        return name
    url = record.get("coco_url")
    return "/".join(url.split("/")[-2:]) if isinstance(url, str) and url else None


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
