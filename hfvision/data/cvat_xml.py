"""CVAT for images: one XML file with the shapes of all images.

Format: CVAT's documentation, "CVAT for image 1.1"; Datumaro writes it, too.

    FOLDER/annotations.xml                FOLDER/images/a.jpg, or images/SUBSET/a.jpg, or beside the file
    FOLDER/train.xml, FOLDER/val.xml      FOLDER/images/a.jpg

Boxes, turned boxes, outlines, ellipses and masks are read; what has no area is counted as left out. Images of a project
name their subset, which is their split. Classes are the labels that the file declares, in its order.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from hfvision.data.annotation_files import NamedFiles, number_in, read_xml, split_in_name
from hfvision.data.image_folder import SPLITS
from hfvision.data.object_rows import ObjectRows
from hfvision.data.object_table import StoredSplit
from hfvision.data.shapes import Shape, add_shapes, box_shape, ellipse_shape, mask_shape, outline_shape, turned_box
from hfvision.errors import DatasetError

LAYOUT = "CVAT for images"
ONE_SPLIT = "train"
READ = ("box", "polygon", "ellipse", "mask")
LEFT_OUT = ("polyline", "points", "cuboid", "skeleton", "tag")
HEAD = 4096  # bytes in which the root must begin


def find_cvat_files(path: Path) -> dict[str, Path]:
    """Split by the name of a file -> file; empty where there is no such file."""
    candidates = [path] if path.is_file() else sorted(path.glob("*.xml")) if path.is_dir() else []
    files = [file for file in candidates if file.suffix.lower() == ".xml" and _is_cvat(file)]
    found: dict[str, Path] = {}
    for file in files:
        split = split_in_name(file.stem) or (ONE_SPLIT if len(files) == 1 else file.stem)
        if found.setdefault(split, file) != file:
            raise DatasetError(
                f"{file.parent} has two files for the split {split!r}: {found[split].name} and {file.name}. Leave one "
                "of them there, or give the path of a file."
            )
    return found


def read_cvat_files(files: Mapping[str, Path], masks: bool) -> dict[str, StoredSplit]:
    """The splits: by the subsets of images, or else by files. Raises DatasetError for a file of a video."""
    rows: dict[str, ObjectRows] = {}
    labels: dict[str, None] = {}
    folders: dict[Path, NamedFiles] = {}
    for split, path in files.items():
        root = read_xml(path)
        if root.find("track") is not None:
            raise DatasetError(
                f'{path} holds tracks of a video. Export the task in the format "CVAT for images 1.1", with images.'
            )
        labels.update(dict.fromkeys(_labels(root)))
        named = folders.setdefault(path.parent, NamedFiles(path.parent))
        for image in root.iter("image"):
            subset = (image.get("subset") or "").strip()
            own = SPLITS.get(subset.lower(), subset) if subset and subset.lower() != "default" else split
            _read_image(rows.setdefault(own, ObjectRows(own, masks)), image, named, subset)
    if not rows:
        raise DatasetError(f"{', '.join(map(str, files.values()))}: there is no image in it.")
    said = [text for named in folders.values() for text in named.conclusions()]
    for one in rows.values():
        one.conclusions += said
    declared = {label: label for label in labels} or None
    return {split: one.stored(LAYOUT, categories=declared) for split, one in rows.items()}


def _read_image(rows: ObjectRows, image: Element, named: NamedFiles, subset: str) -> None:
    name = image.get("name") or ""
    tried = [f"images/{subset}/{name}", f"images/{name}"] if subset else [f"images/{name}"]
    path = next((place for place in tried if place in named.names), None) or named.find(name)
    if path is None:
        rows.faults.add(f"images that are listed but not in {named.folder}", name or str(image.attrib))
        return
    size = tuple(int(number_in(image.get(side)) or 0) for side in ("height", "width"))
    rows.add_image(named.folder / path, (size[0], size[1]), name)
    shapes = []
    for place, element in enumerate(image):
        where = f"{name}: {element.tag} {place}"
        if element.tag in LEFT_OUT:
            rows.leave_out(f"shapes of the kind {element.tag!r}", "they have no area" if element.tag != "tag" else "")
        elif element.tag not in READ:
            rows.faults.add("shapes of an unknown kind", where)
        elif element.get("outside") == "1":
            rows.leave_out("shapes that are marked as outside of their image")
        else:
            try:
                shapes.append(_shape(element))
            except (TypeError, ValueError, IndexError) as error:
                rows.faults.add("shapes that cannot be read", f"{where}: {error}")
    add_shapes(rows, [shape for shape in shapes if shape is not None], (size[0], size[1]), name)
    if None in shapes:
        rows.leave_out("masks without a pixel", count=shapes.count(None))


def _shape(element: Element) -> Shape | None:
    """Raises ValueError for numbers that are missing or none."""
    label = (element.get("label") or "").strip()
    if not label:
        raise ValueError("it has no label")
    more: dict[str, Any] = {"group": element.get("group_id")}
    if element.tag == "box":
        left, top, right, bottom = _numbers(element, "xtl", "ytl", "xbr", "ybr")
        degrees = number_in(element.get("rotation")) or 0
        if degrees:
            return turned_box(label, (left, top, right, bottom), degrees, **more)
        return box_shape(label, (left, top), (right, bottom), **more)
    if element.tag == "polygon":
        corners = [float(number) for pair in (element.get("points") or "").split(";") for number in pair.split(",")]
        if len(corners) < 6 or len(corners) % 2 or not np.isfinite(corners).all():
            raise ValueError("an outline has x,y of three or more corners")
        return outline_shape(label, corners, **more)
    if element.tag == "ellipse":
        x, y, across, down = _numbers(element, "cx", "cy", "rx", "ry")
        return ellipse_shape(label, (x, y), (across, down), number_in(element.get("rotation")) or 0, **more)
    left, top, width, height = (int(number) for number in _numbers(element, "left", "top", "width", "height"))
    runs = [int(run) for run in (element.get("rle") or "").split(",")]
    if min(runs) < 0 or sum(runs) != width * height:
        raise ValueError(f"its runs add up to {sum(runs)}, not to {width} x {height}")
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return mask_shape(label, pixels, left, top, **more)


def _numbers(element: Element, *names: str) -> list[float]:
    numbers = [number_in(element.get(name)) for name in names]
    wrong = [name for name, number in zip(names, numbers, strict=True) if number is None]
    if wrong:
        raise ValueError(f"no number in {', '.join(wrong)}")
    return [number for number in numbers if number is not None]


def _labels(root: Element) -> list[str]:
    """The labels that tasks, jobs or projects in the file declare; those of a skeleton's parts are not among them."""
    found = [label for labels in root.iter("labels") for label in labels.findall("label")]
    whole = [label for label in found if not (label.findtext("parent") or "").strip()]
    return [name for label in whole if (name := (label.findtext("name") or "").strip())]


def _is_cvat(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(HEAD)
    return b"<annotations" in head
