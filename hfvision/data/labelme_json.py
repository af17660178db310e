"""labelme: one JSON file beside each image, with the shapes drawn in it.

Format: labelme's own files, versions 3 to 6.

    FOLDER/a.json                  FOLDER/a.jpg             also below SPLIT/, and in annotations/ beside images/

Boxes, turned boxes, outlines, circles and masks are read, boxes as outlines, as by labelme's own converters; lines
and points are counted as left out. Shapes of one label and group_id are one object. Shapes named __ignore__ are left
out. Classes are those of labels.txt or another file of names beside the data, else the labels that occur in the
training split, sorted.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from math import hypot
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from hfvision.data.annotation_files import NamedFiles, read_json
from hfvision.data.detection_classes import declared_objects, is_ignored
from hfvision.data.image_folder import SPLITS, folders_in, is_image
from hfvision.data.image_sizes import size_of_cell
from hfvision.data.object_rows import ObjectRows
from hfvision.data.object_table import StoredSplit
from hfvision.data.shapes import Shape, add_shapes, ellipse_shape, mask_shape, outline_shape
from hfvision.errors import DatasetError, ImageReadError
from hfvision.processing.reading import read_image

LAYOUT = "labelme (JSON)"
FOLDERS = ("annotations", "Annotations", "labels", "json")
WITHOUT_AREA = ("line", "linestrip", "point", "points")
SNIFFED = 20  # files that are looked into
HEAD = 1 << 16  # bytes that are looked into: imageData may be large


def find_labelme_files(path: Path) -> dict[str, list[Path]]:
    """Split -> annotation files."""
    if path.is_file():
        return {"train": [path]} if path.suffix.lower() == ".json" and is_labelme_file(path) else {}
    found: dict[str, list[Path]] = {}
    for below in folders_in(path):
        if below.name.lower() in SPLITS and (files := _files_in(below)):
            found.setdefault(SPLITS[below.name.lower()], []).extend(files)
    for root in FOLDERS:
        for below in folders_in(path / root) if (path / root).is_dir() and not found else ():
            if below.name.lower() in SPLITS and (files := _files_in(below)):
                found.setdefault(SPLITS[below.name.lower()], []).extend(files)
    alone = [] if found else _files_in(path)
    return found or ({"train": alone} if alone else {})


def read_labelme_files(folder: Path, files: Mapping[str, Sequence[Path]], masks: bool) -> dict[str, StoredSplit]:
    """The splits; `folder` is that of the data set, and images are looked for in it."""
    named = NamedFiles(folder)
    rows = {split: ObjectRows(split, masks) for split in files}
    taken: set[str] = set()
    for split, paths in files.items():
        for path in paths:
            taken.add(_read(rows[split], path, named))
    first = next(iter(rows.values()))
    unannotated = sorted(name for name in named.names if is_image(Path(name).name) and name not in taken)
    if unannotated:
        first.leave_out("images without an annotation file", f"such as {unannotated[0]}", len(unannotated))
    declared = declared_objects(folder, rows.values())
    return {split: one.stored(LAYOUT, categories=declared) for split, one in rows.items()}


def is_labelme_file(path: Path) -> bool:
    """Whether a JSON file is one of labelme's, by its first keys."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    return b'"shapes"' in head and (b'"imagePath"' in head or b'"imageData"' in head or b'"shape_type"' in head)


def _files_in(folder: Path) -> list[Path]:
    """Those directly in a folder, or in a folder of annotations in it."""
    for root in (folder, *(folder / name for name in FOLDERS)):
        files = sorted(root.glob("*.json")) if root.is_dir() else []
        if any(is_labelme_file(path) for path in files[:SNIFFED]):
            return [path for path in files if is_labelme_file(path)]
    return []


def _read(rows: ObjectRows, path: Path, named: NamedFiles) -> str:
    """Add the image of a file and its objects; the image's place in the folder, "" without one."""
    try:
        content = read_json(path)
    except DatasetError as error:
        rows.faults.add("annotations that cannot be read", str(error))
        return ""
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list):
        rows.faults.add("annotations without a list of shapes", path.name)
        return ""
    place = _image(path, str(content.get("imagePath") or ""), named)
    if place is None:
        name = content.get("imagePath") or f"{path.stem}.*"
        rows.faults.add("annotations without an image", f"{path.name}: {name} is nowhere in {named.folder}")
        return ""
    size = _size(content, named.folder / place)
    rows.add_image(named.folder / place, size)
    read = [_shape(rows, shape, f"{path.name}: shape {number}") for number, shape in enumerate(shapes)]
    add_shapes(rows, [shape for shape in read if shape is not None], size, path.name)
    return place


def _image(path: Path, given: str, named: NamedFiles) -> str | None:
    """Where the image of an annotation lies: where the file says, seen from it, else of its name."""
    try:
        beside = path.parent.resolve().relative_to(named.folder.resolve()).as_posix()
    except ValueError:
        beside = "."
    parts = [] if beside == "." else beside.split("/")
    for part in given.replace("\\", "/").split("/"):
        parts = parts[:-1] if part == ".." else parts + [part] * (part not in ("", "."))
    if "/".join(parts) in named.names and is_image(parts[-1]):
        return "/".join(parts)
    alike = named.images_by_stem.get(path.stem, [])
    near = [name for name in alike if Path(name).parent.as_posix() == beside]
    return next(iter(near), None) or (named.find(given) if given else None) or (alike[0] if len(alike) == 1 else None)


def _size(content: Mapping[str, Any], image: Path) -> tuple[int, int]:
    """H, W as recorded, or of the file; zeros where it cannot be read, which is said when it is."""
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        return height, width
    try:
        return size_of_cell({"bytes": None, "path": str(image)}, datasets.Image(decode=False))
    except ImageReadError:
        return 0, 0


def _shape(rows: ObjectRows, shape: Any, where: str) -> Shape | None:
    """None for what is left out and what is a fault."""
    record = shape if isinstance(shape, dict) else {}
    label, kind = str(record.get("label") or "").strip(), record.get("shape_type") or "polygon"
    if is_ignored(label):
        rows.leave_out(f"shapes named {label!r}", "they mark what is to be ignored")
        return None
    if kind in WITHOUT_AREA:
        rows.leave_out(f"shapes of the kind {kind!r}", "they have no area")
        return None
    try:
        if not label:
            raise ValueError("it has no label")
        points = np.array(record["points"], np.float64).reshape(-1, 2)
        if not np.isfinite(points).all():
            raise ValueError("it has points that are no numbers")
        return _drawn(label, str(kind), points, record)
    except (KeyError, TypeError, ValueError, ImageReadError) as error:
        rows.faults.add("shapes that cannot be read", f"{where}: {error}")
        return None


def _drawn(label: str, kind: str, points: Any, record: Mapping[str, Any]) -> Shape | None:
    """Raises ValueError for a shape of an unknown kind or with too few points."""
    more: dict[str, Any] = {"group": record.get("group_id")}
    least = {"rectangle": 2, "circle": 2, "mask": 2, "oriented_rectangle": 4, "polygon": 3}
    if kind not in least:
        raise ValueError(f"{kind!r} is no kind of shape that is known")
    if len(points) < least[kind]:
        raise ValueError(f"a {kind} has {least[kind]} points at least, it has {len(points)}")
    if kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
        return outline_shape(label, [left, top, right, top, right, bottom, left, bottom], **more)
    if kind == "circle":
        (x, y), edge = points[0].tolist(), points[1].tolist()
        radius = hypot(edge[0] - x, edge[1] - y)
        return ellipse_shape(label, (x, y), (radius, radius), **more)
    if kind == "mask":
        left, top = (int(number) for number in points.min(0))
        try:
            content = base64.b64decode(record.get("mask") or "", validate=True)
        except binascii.Error as error:
            raise ValueError(f"its mask is no base64: {error}") from error
        return mask_shape(label, np.asarray(read_image(content)) != 0, left, top, **more)
    return outline_shape(label, points.ravel().tolist(), **more)
