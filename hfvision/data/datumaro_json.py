"""Datumaro's own format: one JSON file for each split.

Format: Datumaro's documentation, "dm_format_version" 1.

    FOLDER/annotations/SPLIT.json    FOLDER/images/SPLIT/a.jpg

Boxes, outlines, ellipses and masks are read; labels of images, lines and points are counted as left out.
Annotations of one group and label are one object. Classes are those that the file declares, in its order.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hfvision.data.annotation_files import NamedFiles, read_json, split_in_name
from hfvision.data.detection_classes import is_no_object
from hfvision.data.object_rows import ObjectRows
from hfvision.data.object_table import Key, StoredSplit
from hfvision.data.shapes import Shape, add_shapes, box_shape, ellipse_shape, mask_shape, outline_shape
from hfvision.errors import DatasetError
from hfvision.geometry import decode_rle

LAYOUT = "Datumaro"
MARK = b'"dm_format_version"'
HEAD = 4096  # bytes in which the mark stands
READ = ("bbox", "polygon", "ellipse", "mask")


def find_datumaro_files(path: Path) -> dict[str, Path]:
    """Split -> annotation file."""
    files = [path] if path.is_file() else sorted((path / "annotations").glob("*.json"))
    files = [file for file in files if file.suffix.lower() == ".json" and is_datumaro(file)]
    return {split_in_name(file.stem) or ("train" if len(files) == 1 else file.stem): file for file in files}


def read_datumaro_files(files: Mapping[str, Path], masks: bool) -> dict[str, StoredSplit]:
    """The splits. Raises DatasetError for a file without labels or items."""
    return {split: _split(split, path, masks) for split, path in files.items()}


def _split(split: str, path: Path, masks: bool) -> StoredSplit:
    content = read_json(path)
    try:
        labels = [str(label["name"]) for label in content["categories"]["label"]["labels"]]
        items = list(content["items"])
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{path} has no categories.label.labels or no items: {error}") from error
    folder = path.parent.parent if path.parent.name.lower() == "annotations" else path.parent
    named = NamedFiles(folder)
    rows = ObjectRows(split, masks, path.name)
    for item in items:
        _read(rows, item, labels, named, path.stem)
    rows.conclusions += named.conclusions()
    used = {str(key) for key in rows.categories}
    declared: dict[Key, str] = {name: name for name in labels if name in used or not is_no_object(name)}
    return rows.stored(f"{LAYOUT} ({path.name})", categories=declared, origin=path.name)


def _read(rows: ObjectRows, item: Any, labels: Sequence[str], named: NamedFiles, subset: str) -> None:
    """Add an image and its objects."""
    record = item if isinstance(item, dict) else {}
    described = record.get("image")
    image = described if isinstance(described, dict) else {}
    name = str(image.get("path") or record.get("id") or "")
    usual = f"images/{subset}/{name}"
    place = usual if usual in named.names else named.find(name)
    if place is None:
        rows.faults.add(f"images that are listed but not in {named.folder}", name or str(item)[:80])
        return
    recorded = image.get("size") or [0, 0]
    size = (int(recorded[0]), int(recorded[1]))
    rows.add_image(named.folder / place, size, record.get("id"))
    shapes = []
    for found in record.get("annotations") or []:
        where = f"{name}: annotation {found.get('id')}" if isinstance(found, dict) else f"{name}: {str(found)[:40]}"
        kind = found.get("type") if isinstance(found, dict) else None
        if kind not in READ:
            rows.leave_out(f"annotations of the kind {kind!r}", "boxes, outlines and masks are read")
            continue
        try:
            shape = _shape(found, kind, labels)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            rows.faults.add("annotations that cannot be read", f"{where}: {type(error).__name__} {error}")
            continue
        if shape is None:
            rows.leave_out("masks without a pixel")
        else:
            shapes.append(shape)
    add_shapes(rows, shapes, size, name)


def _shape(found: Mapping[str, Any], kind: str, labels: Sequence[str]) -> Shape | None:
    number = found["label_id"]
    if not isinstance(number, int) or not 0 <= number < len(labels):
        raise ValueError(f"label_id {number} is none of the {len(labels)} labels")
    more: dict[str, Any] = {"group": found.get("group"), "crowd": bool((found.get("attributes") or {}).get("is_crowd"))}
    if kind == "mask":
        return mask_shape(labels[number], decode_rle(found["rle"]), 0, 0, **more)
    points = [float(value) for value in found["bbox" if kind == "bbox" else "points"]]
    if not np.isfinite(points).all():
        raise ValueError("it has numbers that are none")
    if kind == "bbox":
        left, top, width, height = points
        return box_shape(labels[number], (left, top), (left + width, top + height), **more)
    if kind == "ellipse":
        left, top, right, bottom = points
        middle, radii = ((left + right) / 2, (top + bottom) / 2), (abs(right - left) / 2, abs(bottom - top) / 2)
        return ellipse_shape(labels[number], middle, radii, **more)
    if len(points) < 6 or len(points) % 2:
        raise ValueError("an outline has x and y of three or more corners")
    return outline_shape(labels[number], points, **more)


def is_datumaro(path: Path) -> bool:
    """Whether a JSON file says at its beginning that it is Datumaro's."""
    with open(path, "rb") as file:
        return MARK in file.read(HEAD)
