"""LabelMe, the older tool for the web: one XML file for each image, with outlines, boxes and masks.

Paper:  Russell et al. 2008, "LabelMe: a Database and Web-based Tool for Image Annotation"; Datumaro and CVAT write it.

    FOLDER/Annotations/a.xml     FOLDER/Images/a.jpg     also below SPLIT/ in both; masks in FOLDER/Masks/

Objects that are marked as deleted are left out. A part that is named as its whole is joined to it; other parts are
objects of their own. Classes are those of a file of names beside the data, else the names that occur, sorted.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from hfvision.data.annotation_files import NamedFiles, number_in, read_xml
from hfvision.data.detection_classes import declared_objects, is_ignored
from hfvision.data.image_folder import SPLITS, folders_in, is_image
from hfvision.data.object_rows import ObjectRows
from hfvision.data.object_table import StoredSplit
from hfvision.data.shapes import Shape, add_shapes, box_shape, mask_shape, outline_shape
from hfvision.errors import DatasetError, ImageReadError
from hfvision.processing.reading import read_image

LAYOUT = "LabelMe (XML)"
ANNOTATIONS, IMAGES, MASKS = "Annotations", "Images", "Masks"
SNIFFED = 20  # files that are looked into
CROWD = "is_crowd=true"  # among the attributes, as Datumaro writes them


def find_labelme_xml(folder: Path) -> dict[str, list[Path]]:
    """Split -> annotation files: by folders named as splits, else all of them are one split."""
    root = next((path for path in (folder / ANNOTATIONS, folder) if path.is_dir() and _is_labelme(path)), None)
    if root is None:
        return {}
    below = {path: SPLITS[path.name.lower()] for path in folders_in(root) if path.name.lower() in SPLITS}
    found: dict[str, list[Path]] = {}
    for path, split in below.items():
        found.setdefault(split, []).extend(sorted(path.rglob("*.xml")))
    return found or {"train": sorted(root.rglob("*.xml"))}


def read_labelme_xml(folder: Path, files: Mapping[str, Sequence[Path]], masks: bool) -> dict[str, StoredSplit]:
    """The splits; images and masks are looked for in `folder`."""
    named = NamedFiles(folder)
    rows = {split: ObjectRows(split, masks) for split in files}
    for split, paths in files.items():
        for path in paths:
            _read(rows[split], path, named)
    declared = declared_objects(folder, rows.values())
    return {split: one.stored(LAYOUT, categories=declared) for split, one in rows.items()}


def _is_labelme(folder: Path) -> bool:
    """Whether XML files below a folder are LabelMe's: their size or their outlines tell."""
    for path in sorted(folder.rglob("*.xml"))[:SNIFFED]:
        try:
            root = read_xml(path)
        except DatasetError:
            continue
        if root.tag != "annotation" or root.find("object/bndbox") is not None:
            return False
        if any(root.find(part) is not None for part in ("imagesize", "object/polygon", "object/segm")):
            return True
    return False


def _read(rows: ObjectRows, path: Path, named: NamedFiles) -> None:
    try:
        root = read_xml(path)
    except DatasetError as error:
        rows.faults.add("annotations that cannot be read", str(error))
        return
    inside = path.relative_to(named.folder).parent.as_posix().removeprefix(ANNOTATIONS).strip("/")
    name = (root.findtext("filename") or "").strip()
    beside = (f"{IMAGES}/{inside}/{name}", f"{inside}/{name}")
    place = next((p for part in beside if (p := "/".join(filter(None, part.split("/")))) in named.names), None)
    place = place or named.find(name)
    if place is None or not is_image(Path(place).name):
        rows.faults.add("annotations without an image", f"{path.name}: {name or 'it names no file'}")
        return
    size = tuple(int(number_in(root.findtext(f"imagesize/{side}")) or 0) for side in ("nrows", "ncols"))
    rows.add_image(named.folder / place, (size[0], size[1]))
    groups = _groups(root)
    shapes: list[Shape] = []
    for number, found in enumerate(root.findall("object")):
        where = f"{path.name}: object {number}"
        label = (found.findtext("name") or "").strip()
        if (found.findtext("deleted") or "0").strip() == "1":
            rows.leave_out("objects that are marked as deleted")
        elif is_ignored(label):
            rows.leave_out(f"objects named {label!r}", "they mark what is to be ignored")
        else:
            try:
                shape = _shape(found, label, named, inside, groups.get((found.findtext("id") or "").strip()))
            except (ValueError, ImageReadError) as error:
                rows.faults.add("objects that cannot be read", f"{where}: {error}")
                continue
            if shape is None:
                rows.leave_out("masks without a pixel")
            else:
                shapes.append(shape)
    add_shapes(rows, shapes, (size[0], size[1]), path.name)


def _shape(found: Element, label: str, named: NamedFiles, inside: str, group: str | None) -> Shape | None:
    """Raises ValueError for an object without a name, an outline or a mask that is there."""
    if not label:
        raise ValueError("it has no name")
    more: dict[str, Any] = {"group": group, "crowd": CROWD in (found.findtext("attributes") or "").lower()}
    mask = found.findtext("segm/mask")
    if mask is not None:
        tried = f"{MASKS}/{inside}/{mask}".replace("//", "/")
        place = tried if tried in named.names else named.find(mask)
        if place is None:
            raise ValueError(f"its mask {mask} is nowhere in {named.folder}")
        values: Any = np.asarray(read_image(named.folder / place))
        return mask_shape(label, (values != 0).reshape(*values.shape[:2], -1).any(2), 0, 0, **more)
    corners = [
        (number_in(point.findtext("x")), number_in(point.findtext("y"))) for point in found.findall("polygon/pt")
    ]
    flat = [number for corner in corners for number in corner if number is not None]
    if len(flat) != 2 * len(corners) or len(corners) < 2:
        raise ValueError("it has no outline of points x and y")
    if (found.findtext("type") or "").strip() == "bounding_box" or len(corners) == 2:
        return box_shape(label, (min(flat[::2]), min(flat[1::2])), (max(flat[::2]), max(flat[1::2])), **more)
    return outline_shape(label, flat, **more)


def _groups(root: Element) -> dict[str, str]:
    """Id of an object -> that of the whole which it belongs to; ids count from 0, so the group's name has a letter."""
    parents = {
        (found.findtext("id") or "").strip(): (found.findtext("parts/ispartof") or "").strip()
        for found in root.findall("object")
    }
    groups = {}
    for key in parents:
        top, seen = key, {key}
        while parents.get(top) and parents[top] not in seen:
            top = parents[top]
            seen.add(top)
        groups[key] = f"whole {top}"
    return groups
