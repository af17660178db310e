"""Every source of images with objects, opened: folders laid out as COCO, VOC or YOLO, and columns of data sets."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import datasets
import numpy as np

from hfvision.data.cells import shown
from hfvision.data.coco_folder import find_coco_files, read_coco_files
from hfvision.data.detection_columns import read_columns
from hfvision.data.image_folder import is_image_folder
from hfvision.data.object_table import SEGMENTS, StoredSplit
from hfvision.data.panoptic_folder import find_panoptic_files, is_panoptic_file, read_panoptic_files
from hfvision.data.scenes import SCENE_SETS
from hfvision.data.sources import Kind, Source, open_source
from hfvision.data.voc_folder import find_voc_files, read_voc_files
from hfvision.data.yolo_folder import find_yolo_images, find_yolo_yaml, read_yolo_images, read_yolo_yaml
from hfvision.errors import DatasetError
from hfvision.reading_options import ReadingOptions
from hfvision.reporting import report

Splits = dict[str, StoredSplit]
LAYOUTS = (
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
        raise DatasetError(f"{path} holds images, but no annotations of objects. {LAYOUTS}")


OBJECTS = Kind(
    built_in=SCENE_SETS,
    folder="a folder laid out as COCO, VOC or YOLO",
    read_folder=_no_folder,
)


def open_objects(source: Source, wanted: Wanted) -> dict[str, Callable[[], StoredSplit]]:
    """Split -> what reads it. Raises DatasetError for a source that is none, or that could be read in two ways."""
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
    return read_columns(
        split,
        data,
        image_column=wanted.options.image_column,
        objects_column=wanted.options.objects_column,
        map_column=wanted.options.map_column,
        masks=wanted.masks,
        panoptic=wanted.panoptic,
    )


def read_object_files(path: Path, wanted: Wanted) -> Splits | None:
    """By the files that are there; None where they are none of these formats."""
    if path.is_file():
        if path.suffix.lower() == ".json":
            read = _panoptic if is_panoptic_file(path) else _coco
            return read({"train": path}, wanted)
        found = find_yolo_yaml(path)
        return None if found is None else _yolo_yaml(found, wanted)
    segments, objects = find_panoptic_files(path), find_coco_files(path)
    if segments and (wanted.panoptic or not objects):
        return _panoptic(segments, wanted)
    description, images, annotations = find_yolo_yaml(path), find_yolo_images(path), find_voc_files(path)
    formats: dict[str, Callable[[], Splits]] = {}
    if objects:
        formats[f"COCO ({shown(objects.values())})"] = lambda: _coco(objects, wanted)
    if annotations:
        formats["Pascal VOC (*.xml)"] = lambda: _voc(annotations, wanted)
    if description is not None:
        formats[f"YOLO ({description.name})"] = lambda: _yolo_yaml(description, wanted)
    elif images:
        formats["YOLO (labels/*.txt)"] = lambda: _yolo_images(path, images, wanted)
    if len(formats) > 1:
        raise DatasetError(
            f"{path} holds annotations in several formats: {', '.join(formats)}. Give the path of one of the files, or "
            "leave only one format there."
        )
    return next(iter(formats.values()))() if formats else None


def _coco(files: dict[str, Path], wanted: Wanted) -> Splits:
    _must_not_be_panoptic(wanted, "annotations/panoptic_train.json and the maps beside it")
    return read_coco_files(files, wanted.masks)


def _voc(found: dict[str, dict[Path, Path | None]], wanted: Wanted) -> Splits:
    _must_not_be_panoptic(wanted, "the layout of COCO panoptic")
    if wanted.masks:
        raise DatasetError("annotations of Pascal VOC hold boxes, no masks of objects: read them with masks=False.")
    return read_voc_files(found, wanted.options.difficult)


def _yolo_yaml(path: Path, wanted: Wanted) -> Splits:
    _must_not_be_panoptic(wanted, "the layout of COCO panoptic")
    return read_yolo_yaml(path, wanted.masks)


def _yolo_images(folder: Path, images: dict[str, list[Path]], wanted: Wanted) -> Splits:
    _must_not_be_panoptic(wanted, "the layout of COCO panoptic")
    return read_yolo_images(folder, images, wanted.masks)


def _must_not_be_panoptic(wanted: Wanted, needed: str) -> None:
    if wanted.panoptic:
        raise DatasetError(f"panoptic training needs maps in which every pixel has its segment: {needed}.")


def _panoptic(files: dict[str, Path], wanted: Wanted) -> Splits:
    """Segments; for detection only those of countable objects, and their maps only where masks are wanted."""
    splits = read_panoptic_files(files)
    return splits if wanted.panoptic else {split: _things_only(stored, wanted) for split, stored in splits.items()}


def _things_only(stored: StoredSplit, wanted: Wanted) -> StoredSplit:
    things = stored.things
    if things is None:
        raise DatasetError(
            f'{stored.origin}: no category says "isthing", so countable objects are not known. Train panoptic '
            "segmentation, or add it."
        )
    is_thing = np.array([key in things for key in stored.objects.keys] or [False])[stored.objects.classes]
    report(
        f"{stored.origin} holds segments: {is_thing.sum():,} of {len(is_thing):,} are of countable objects and are "
        "learned, the others are left out."
    )
    categories = {key: name for key, name in (stored.categories or {}).items() if key in things}
    data = stored.data if wanted.masks else stored.data.remove_columns([SEGMENTS])
    objects = stored.objects.kept(is_thing)
    used = np.unique(objects.classes)
    objects = replace(
        objects,
        keys=tuple(objects.keys[number] for number in used),
        classes=np.searchsorted(used, objects.classes).astype(np.int64),
    )
    return replace(stored, data=data, objects=objects, categories=categories)
