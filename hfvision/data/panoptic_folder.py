"""COCO panoptic annotations: a JSON file for each split, and a folder of PNG maps of segment ids beside it.

Paper:  Kirillov et al. 2019, "Panoptic Segmentation", arXiv 1801.00868.
Format: cocodataset/panopticapi.

    FOLDER/annotations/panoptic_SPLIT.json   FOLDER/annotations/panoptic_SPLIT/a.png   FOLDER/SPLIT/a.jpg

The colour (R, G, B) of a pixel is the segment R + 256 G + 65536 B; 0 is no segment. Every segment is an object, stuff
too; categories with "isthing" 1 are those of countable objects.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hfvision.data.annotation_files import Faults, boxes_of, files_below, folder_of_images, numbers_of
from hfvision.data.cells import shown
from hfvision.data.coco_folder import (
    CocoImages,
    annotated_categories,
    categories_of,
    crowds_of,
    find_coco_files,
    read_coco_json,
    said_unused,
    without_unused,
)
from hfvision.data.dataset_report import LeftOut
from hfvision.data.object_table import Key, ObjectTable, StoredSplit, stored_images
from hfvision.errors import DatasetError


def find_panoptic_files(folder: Path) -> dict[str, Path]:
    """Split -> annotation file. Raises DatasetError for two files of one split."""
    return find_coco_files(folder, "panoptic")


def is_panoptic_file(path: Path) -> bool:
    """Whether annotations are those of segments, not of single objects; without parsing them."""
    return b'"segments_info"' in path.read_bytes()


def read_panoptic_files(files: Mapping[str, Path]) -> dict[str, StoredSplit]:
    """The splits of annotation files. Raises DatasetError for a file that has not the form of COCO panoptic."""
    contents = {split: read_coco_json(path) for split, path in files.items()}
    maps = [record for content in contents.values() for record in content["annotations"] if isinstance(record, dict)]
    used = annotated_categories(one for record in maps for one in record.get("segments_info") or [])
    return {split: _split(split, path, contents[split], used) for split, path in files.items()}


def _split(split: str, path: Path, content: dict[str, Any], used: set[Any]) -> StoredSplit:
    if content["annotations"] and not any("segments_info" in record for record in content["annotations"][:1]):
        raise DatasetError(
            f'{path} holds annotations of objects, not of segments: each needs "file_name" and "segments_info". Give '
            "the panoptic annotations, or train detection."
        )
    faults = Faults(path.name)
    images = CocoImages(content["images"], path, faults)
    records = _records(content["annotations"], images, faults)
    annotated = [record["image_id"] for record in records]
    rows = {key: place for place, key in enumerate(annotated)}
    unmapped = [images.names[row] for key, row in images.rows.items() if key not in rows]
    left_out = [LeftOut(len(unmapped), "images without a map of segments", shown(unmapped))] if unmapped else []
    folder = folder_of_images([record["file_name"] for record in records], _map_folders(path))
    present = files_below(folder)
    for record in records:
        if record["file_name"] not in present:
            kind = f"maps of segments that are listed but not in {folder}"
            faults.add(kind, f"image {record['image_id']}: {record['file_name']}")
    chosen = [images.rows[key] for key in annotated]
    maps = [folder / record["file_name"] for record in records]
    objects = _objects(records, faults)
    categories, unused = without_unused(content, categories_of(content, faults), used)
    return StoredSplit(
        stored_images(split, [images.paths[row] for row in chosen], segments=maps),
        objects,
        images.sizes[chosen],
        image_ids=annotated,
        categories=categories,
        things=_things(content),
        faults=faults.problems(),
        origin=path.name,
        layout=f"COCO panoptic ({path.name})",
        conclusions=said_unused(unused),
        left_out=left_out,
    )


def _records(annotations: Sequence[Any], images: CocoImages, faults: Faults) -> list[dict[str, Any]]:
    """The annotations of images that are there, one of each."""
    found: dict[Key, dict[str, Any]] = {}
    for place, record in enumerate(annotations):
        wanted = {"image_id", "file_name", "segments_info"}
        if not isinstance(record, dict) or wanted - record.keys():
            faults.add(f"annotations without {', '.join(sorted(wanted))}", f"annotation {place}: {str(record)[:80]}")
        elif record["image_id"] not in images.known:
            faults.add("annotations of images that are not listed", f"{record['file_name']}: {record['image_id']}")
        elif record["image_id"] in found:
            faults.add("images with two annotations", f"image {record['image_id']}: {record['file_name']}")
        elif record["image_id"] in images.rows:
            found[record["image_id"]] = record
    return list(found.values())


def _objects(records: Sequence[Mapping[str, Any]], faults: Faults) -> ObjectTable:
    """The segments of all maps, in order."""
    segments, rows = [], []
    for row, record in enumerate(records):
        ids: set[int] = set()
        for segment in record["segments_info"]:
            numbers = [segment.get(name) for name in ("id", "category_id")] if isinstance(segment, dict) else [None]
            if not all(isinstance(number, int) for number in numbers):
                faults.add("segments without id or category_id", f"{record['file_name']}: {str(segment)[:80]}")
            elif segment["id"] in ids:
                faults.add("segment ids that stand twice in an image", f"{record['file_name']}: {segment['id']}")
            else:
                ids.add(segment["id"])
                segments.append(segment)
                rows.append(row)
    boxes, is_box = boxes_of([segment.get("bbox") for segment in segments])
    names = [f"{records[row]['file_name']}: segment {one['id']}" for row, one in zip(rows, segments, strict=True)]
    for place in np.flatnonzero(~is_box):
        faults.add("segments whose bbox is not four numbers", f"{names[place]}: {segments[place].get('bbox')}")
    kept = np.flatnonzero(is_box).tolist()
    segments = [segments[place] for place in kept]
    return ObjectTable.of(
        np.array(rows, np.int64)[kept],
        len(records),
        boxes[kept],
        np.array([segment["category_id"] for segment in segments], np.int64),
        areas=numbers_of(segment.get("area") for segment in segments),
        crowd=crowds_of(segments, [names[place] for place in kept], faults),
        ids=np.array([segment["id"] for segment in segments], np.int64),
    )


def _things(content: Mapping[str, Any]) -> set[Key] | None:
    """Category ids of countable objects; None where the file does not say which they are."""
    categories = [category for category in content["categories"] if isinstance(category, dict)]
    if not any("isthing" in category for category in categories):
        return None
    return {category["id"] for category in categories if category.get("isthing") and "id" in category}


def _map_folders(path: Path) -> list[Path]:
    """Where the maps of an annotation file may lie, the likeliest first."""
    candidates = [path.with_suffix(""), path.parent.parent / path.stem, path.parent, path.parent.parent]
    return [folder for folder in candidates if folder.is_dir()]
