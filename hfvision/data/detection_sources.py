"""Every source of images with objects, opened: folders in one of many formats, and columns of data sets."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from hfvision.data.cells import shown
from hfvision.data.coco_folder import find_coco_files, read_coco_files
from hfvision.data.csv_boxes import (
    find_open_images,
    find_tensorflow_tables,
    read_open_images,
    read_tensorflow_tables,
)
from hfvision.data.cvat_xml import find_cvat_files, read_cvat_files
from hfvision.data.dataset_report import LeftOut
from hfvision.data.datumaro_json import find_datumaro_files, read_datumaro_files
from hfvision.data.detection_columns import read_columns
from hfvision.data.image_folder import is_image_folder
from hfvision.data.instance_maps import find_instance_maps, read_instance_maps
from hfvision.data.kitti_folder import find_kitti_folders, read_kitti_folders
from hfvision.data.labelme_json import find_labelme_files, is_labelme_file, read_labelme_files
from hfvision.data.labelme_xml import find_labelme_xml, read_labelme_xml
from hfvision.data.object_table import SEGMENTS, Bools, StoredSplit
from hfvision.data.panoptic_folder import find_panoptic_files, is_panoptic_file, read_panoptic_files
from hfvision.data.scenes import SCENE_SETS
from hfvision.data.sources import Kind, Source, open_source
from hfvision.data.voc_folder import find_voc_files, read_voc_files
from hfvision.data.webdataset import ARCHIVES, tar_objects
from hfvision.data.yolo_folder import (
    find_darknet_file,
    find_yolo_images,
    find_yolo_yaml,
    read_darknet_file,
    read_yolo_images,
    read_yolo_yaml,
)
from hfvision.errors import DatasetError
from hfvision.reading_options import ReadingOptions

Splits = dict[str, StoredSplit]
ADVICE = (
    "Lay it out as COCO (annotations/instances_train.json beside train/), Pascal VOC (Annotations/*.xml and "
    "JPEGImages/), YOLO (data.yaml with images/ and labels/), or images with a metadata.jsonl that has objects."
)


@dataclass(frozen=True)
class Wanted:
    """What is read, and where it is looked for."""

    options: ReadingOptions
    masks: bool = False
    panoptic: bool = False


def _no_folder(path: Path) -> None:
    """For folders that none of the readers here knows: those of images alone are no data set of objects."""
    if is_image_folder(path):
        raise DatasetError(f"{path} holds images, but no annotations of objects. {ADVICE}")


OBJECTS = Kind(
    built_in=SCENE_SETS,
    folder="a folder laid out as COCO, VOC, YOLO or another format of docs/data.md",
    read_folder=_no_folder,
)


def open_objects(source: Source, wanted: Wanted) -> dict[str, Callable[[], StoredSplit]]:
    """Split -> what reads it. Raises DatasetError for a source that is none, or that could be read in two ways."""
    if wanted.options.layout in (None, ARCHIVES) and (archives := tar_objects(source)) is not None:
        return {split: partial(_read_split, split, data, wanted) for split, data in archives.items()}
    if isinstance(source, str | os.PathLike) and Path(source).exists():
        found = read_object_files(Path(source), wanted)
        if found is not None:
            return {split: partial(_itself, stored) for split, stored in found.items()}
    return {
        split: partial(_read_split, split, data, wanted)
        for split, data in open_source(source, OBJECTS, wanted.options.config_name).items()
    }


def _itself(stored: StoredSplit) -> StoredSplit:
    return stored


def _read_split(split: str, data: datasets.Dataset, wanted: Wanted) -> StoredSplit:
    stored = read_columns(
        split,
        data,
        image_column=wanted.options.image_column,
        objects_column=wanted.options.objects_column,
        map_column=wanted.options.map_column,
        masks=wanted.masks,
        panoptic=wanted.panoptic,
    )
    return _with_crowds_learned({split: stored})[split] if wanted.options.crowd == "object" else stored


@dataclass(frozen=True)
class Format:
    """One form of annotation files: `find` gives what `read` needs, and something false where a path has none of it."""

    title: str
    find: Callable[[Path], Any]
    read: Callable[[Path, Any, Wanted], Splits]
    has_masks: bool = True
    is_panoptic: bool = False


def _root(path: Path) -> Path:
    """The folder of a data set that is given as a folder or as one of its files."""
    return path if path.is_dir() else path.parent


# By the name that `layout` takes. A path that fits several is asked about.
FORMATS: dict[str, Format] = {
    "coco-panoptic": Format(
        "COCO panoptic (panoptic_*.json)",
        lambda path: find_panoptic_files(path) if path.is_dir() else _one_file(path, is_panoptic_file),
        lambda path, found, wanted: _panoptic(found, wanted),
        is_panoptic=True,
    ),
    "coco": Format(
        "COCO (*.json)",
        lambda path: find_coco_files(path) if path.is_dir() else _one_file(path, lambda file: not _is_other_json(file)),
        lambda path, found, wanted: _coco(_root(path), found, wanted),
    ),
    "datumaro": Format(
        "Datumaro (annotations/*.json)",
        find_datumaro_files,
        lambda path, found, wanted: read_datumaro_files(found, wanted.masks),
    ),
    "labelme": Format(
        "labelme (*.json)",
        find_labelme_files,
        lambda path, found, wanted: read_labelme_files(_root(path), found, wanted.masks),
    ),
    "voc": Format(
        "Pascal VOC (*.xml)",
        lambda path: find_voc_files(path) if path.is_dir() else {},
        lambda path, found, wanted: read_voc_files(
            path, found, wanted.options.difficult, wanted.options.voc_boxes, wanted.options.relative
        ),
        has_masks=False,
    ),
    "instance-maps": Format(
        "maps of objects (SegmentationObject/, instance/)",
        find_instance_maps,
        lambda path, found, wanted: read_instance_maps(path, found, wanted.masks),
    ),
    "labelme-xml": Format(
        "LabelMe (*.xml)",
        lambda path: find_labelme_xml(path) if path.is_dir() else {},
        lambda path, found, wanted: read_labelme_xml(path, found, wanted.masks),
    ),
    "cvat": Format(
        "CVAT for images (*.xml)",
        find_cvat_files,
        lambda path, found, wanted: read_cvat_files(found, wanted.masks),
    ),
    "yolo-yaml": Format(
        "YOLO (data.yaml)",
        find_yolo_yaml,
        lambda path, found, wanted: read_yolo_yaml(found, wanted.masks),
    ),
    "darknet": Format(
        "YOLO of Darknet (obj.data)",
        find_darknet_file,
        lambda path, found, wanted: read_darknet_file(found, wanted.masks),
    ),
    "yolo": Format(
        "YOLO (*.txt)",
        find_yolo_images,
        lambda path, found, wanted: read_yolo_images(path, found, wanted.masks),
    ),
    "kitti": Format(
        "KITTI (label_2/*.txt)",
        find_kitti_folders,
        lambda path, found, wanted: read_kitti_folders(path, found),
        has_masks=False,
    ),
    "open-images": Format(
        "Open Images (*.csv)",
        find_open_images,
        lambda path, found, wanted: read_open_images(found),
        has_masks=False,
    ),
    "tensorflow-csv": Format(
        "TensorFlow's table of boxes (*.csv)",
        find_tensorflow_tables,
        lambda path, found, wanted: read_tensorflow_tables(_root(path), found, wanted.options.relative),
        has_masks=False,
    ),
}
# Where both fit, the second is a copy in part, or lies there by the rules of the first.
FIRST = (("yolo-yaml", "yolo"), ("darknet", "yolo"))
ANY = "objects"  # what segmentation calls all of them


def read_object_files(path: Path, wanted: Wanted) -> Splits | None:
    """By the files that are there; None where they are none of these formats.

    Raises DatasetError where they are of several, for a `layout` that is no format or not there, and for a format that
    has not the masks or segments that are wanted.
    """
    layout = None if wanted.options.layout == ANY else wanted.options.layout
    if layout is not None and layout not in FORMATS:
        raise DatasetError(f"layout is one of {', '.join((*FORMATS, ARCHIVES))}; got {layout!r}.")
    found = {name: files for name, one in FORMATS.items() if layout in (None, name) and (files := one.find(path))}
    if layout is not None and not found:
        there = [name for name, one in FORMATS.items() if one.find(path)]
        raise DatasetError(
            f"{path} has nothing of the layout {layout!r}, {FORMATS[layout].title}; it has "
            f"{', '.join(there) or 'none that is known'}."
        )
    chosen = _chosen(path, found, wanted) if len(found) > 1 else next(iter(found), None)
    if chosen is None:
        return None
    form = FORMATS[chosen]
    if wanted.panoptic and not form.is_panoptic:
        needed = "annotations/panoptic_train.json and the maps beside it" if chosen == "coco" else "COCO panoptic"
        raise DatasetError(
            f"panoptic training needs maps in which every pixel has its segment: {needed}; {path} is {form.title}."
        )
    if wanted.masks and not form.has_masks:
        raise DatasetError(
            f"annotations of {form.title} hold boxes, no masks of objects: train detection with them (masks=False)."
        )
    splits = form.read(path, found[chosen], wanted)
    return _with_crowds_learned(splits) if wanted.options.crowd == "object" else splits


def _chosen(path: Path, found: Mapping[str, Any], wanted: Wanted) -> str:
    """The format that is meant where several fit. Raises DatasetError where the files do not tell."""
    names = [name for name in found if not any(name == second and first in found for first, second in FIRST)]
    if "coco-panoptic" in names and len(names) > 1 and (wanted.panoptic or "coco" in names):
        names.remove("coco" if wanted.panoptic else "coco-panoptic")
    if "instance-maps" in names and "voc" in names:  # a folder of VOC with both
        names.remove("voc" if wanted.masks else "instance-maps")
    if len(names) > 1:
        listed = ", ".join(f"{FORMATS[name].title} as layout={name!r}" for name in names)
        raise DatasetError(
            f"{path} holds annotations in several formats: {listed}. Say which is meant (--layout {names[0]}), or give "
            "the path of one of the files."
        )
    return names[0]


def _with_crowds_learned(splits: Splits) -> Splits:
    """The splits with crowds as objects; what is difficult stays as it was read."""
    learned: Splits = {}
    for split, stored in splits.items():
        table = stored.objects
        kept = np.zeros(len(table), bool) if table.difficult is None else table.difficult
        count = int((table.crowd & ~kept).sum())
        said = (
            f"{count:,} of {len(table):,} objects of split {split!r} are marked as crowds and are learned as any other"
        )
        learned[split] = replace(
            stored,
            objects=replace(table, crowd=table.crowd & kept),
            conclusions=[*stored.conclusions, *([f"{said}: crowd='object'"] if count else [])],
        )
    return learned


def _one_file(path: Path, fits: Callable[[Path], bool]) -> dict[str, Path]:
    return {"train": path} if path.suffix.lower() == ".json" and fits(path) else {}


def _is_other_json(path: Path) -> bool:
    """Whether a file is JSON of another format than COCO's; what is none at all is read as COCO, which says why."""
    return is_panoptic_file(path) or is_labelme_file(path) or bool(find_datumaro_files(path))


def _coco(folder: Path, files: dict[str, Path], wanted: Wanted) -> Splits:
    splits = read_coco_files(files, wanted.masks)
    others = sorted(path.name for path in (folder / "annotations").glob("*.json") if path not in files.values())
    if others:
        said = f"other files in annotations/ are passed over: {shown(others)}"
        for stored in splits.values():
            stored.conclusions.append(said)
    return splits


def _panoptic(files: dict[str, Path], wanted: Wanted) -> Splits:
    """Segments; for detection only those of countable objects, and their maps only where masks are wanted."""
    splits = read_panoptic_files(files)
    return splits if wanted.panoptic else {split: _things_only(stored, wanted) for split, stored in splits.items()}


def _things_only(stored: StoredSplit, wanted: Wanted) -> StoredSplit:
    things = stored.things
    if not things:
        said = 'no category says "isthing"' if things is None else 'every category says "isthing": 0'
        raise DatasetError(
            f"{stored.origin}: {said}, so there are no countable objects to be detected. Train panoptic segmentation, "
            "or correct it."
        )
    is_thing: Bools = np.array([key in things for key in stored.objects.keys] or [False])[stored.objects.classes]
    of_stuff = LeftOut(int((~is_thing).sum()), "segments of stuff", "detection learns countable objects")
    categories = {key: name for key, name in (stored.categories or {}).items() if key in things}
    data = stored.data if wanted.masks else stored.data.remove_columns([SEGMENTS])
    objects = stored.objects.kept(is_thing)
    used = np.unique(objects.classes)
    objects = replace(
        objects,
        keys=tuple(objects.keys[number] for number in used),
        classes=np.searchsorted(used, objects.classes).astype(np.int64),
    )
    left_out = [*stored.left_out, of_stuff] if of_stuff.count else stored.left_out
    return replace(stored, data=data, objects=objects, categories=categories, left_out=left_out)
