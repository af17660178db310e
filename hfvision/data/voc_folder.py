"""Pascal VOC: one XML file for each image, with a box and a name for each object.

Paper:  Everingham et al. 2010, "The Pascal Visual Object Classes (VOC) Challenge"; format: its development kit.

    FOLDER/Annotations/a.xml        FOLDER/JPEGImages/a.jpg   splits in FOLDER/ImageSets/Main/{train,val,...}.txt
    FOLDER/SPLIT/a.xml              FOLDER/SPLIT/a.jpg        as exported; also images/ and annotations/
    FOLDER/a.xml                    FOLDER/a.jpg              one split

An image without an XML file has no objects. xmin, ymin, xmax, ymax number the first and the last pixel of an object,
counted from 1: in edges, as boxes are here, that is (xmin - 1, ymin - 1, xmax, ymax). Many tools write the edges
themselves; see `box_convention` for how these are told apart. Classes are those of a file of names beside the data
(labelmap.txt, class_names.txt, classes.txt), else the names that occur in the training split, sorted.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from xml.etree.ElementTree import Element

import numpy as np

from hfvision.data.annotation_files import IMAGE_FOLDERS, NamedFiles, by_stem, number_in, read_xml, text_lines
from hfvision.data.detection_classes import declared_objects, is_ignored
from hfvision.data.image_folder import SPLITS, folders_in, is_image
from hfvision.data.object_rows import ObjectRows
from hfvision.data.object_table import Floats, StoredSplit
from hfvision.errors import DatasetError

Difficult = Literal["crowd", "object"]
VocBoxes = Literal["pixels", "edges"]
Pairs = list[tuple[Path | None, Path | None]]  # (annotation, image)
ANNOTATION_FOLDERS = ("Annotations", "annotations", "Annotation", "xml", "labels")
SNIFFED = 20  # files that are looked into to tell formats of XML apart
SIDES = ("xmin", "ymin", "xmax", "ymax")
ONE_SPLIT = "train"


def find_voc_files(folder: Path) -> dict[str, Pairs]:
    """Split -> annotations and their images, None for what is not there; empty for a folder in no layout above."""
    if (folder / "ImageSets" / "Main").is_dir() and _is_voc(sorted((folder / "Annotations").rglob("*.xml"))):
        return _listed_splits(folder)
    splits: dict[str, Pairs] = {}
    for below in folders_in(folder):
        if below.name.lower() in SPLITS and (pairs := _pairs(below)):
            splits.setdefault(SPLITS[below.name.lower()], []).extend(pairs)
    if splits:
        return splits
    alone = _pairs(folder)
    return {ONE_SPLIT: alone} if alone else {}


def read_voc_files(
    folder: Path,
    splits: Mapping[str, Pairs],
    difficult: Difficult = "crowd",
    voc_boxes: VocBoxes | None = None,
    relative: bool | None = None,
) -> dict[str, StoredSplit]:
    """The splits; objects marked as difficult count as crowds, neither learned nor measured, or as any other.

    `voc_boxes` says whether numbers of boxes are those of pixels, counted from 1, or edges; without it the files tell.
    """
    rows: dict[str, ObjectRows] = {}
    tools: set[str | None] = set()
    for split, pairs in splits.items():
        rows[split] = ObjectRows(split)
        for annotation, image in pairs:
            tools.add(_read(rows[split], annotation, image, difficult))
        _tell(rows[split], difficult, sum(annotation is None for annotation, _ in pairs))
    tool = next(iter(tools - {None})) if len(tools - {None}) == 1 else None
    raw = np.concatenate([one.boxes for one in rows.values()])
    if tool == DATUMARO and not (folder / "labelmap.txt").is_file():
        tool = None
    convention, why = box_convention(raw, voc_boxes, tool, relative)
    if why:
        for one in rows.values():
            one.conclusions.append(why)
    shift = np.array([1, 1, 0, 0]) if convention == "pixels" else 0
    categories = declared_objects(folder, rows.values())
    return {
        split: one.stored(
            "Pascal VOC",
            categories=categories,
            boxes=one.boxes - shift,
            relative=relative,
        )
        for split, one in rows.items()
    }


DATUMARO, LABEL_STUDIO, LABELME, LABELIMG = "Datumaro or CVAT", "Label Studio", "labelme", "labelImg"  # write edges


def box_convention(
    boxes: Floats, given: VocBoxes | None, tool: str | None, relative: bool | None
) -> tuple[VocBoxes, str | None]:
    """Whether boxes (M, 4) of XML files number pixels from 1 or are edges, and why that was concluded.

    Edges it is where a tool wrote the files that writes edges, where a box begins at 0, which is no number of a pixel,
    and where boxes are shares of the image. None as the reason: as the format says, or as it was given.
    """
    other: VocBoxes = "pixels"
    advice = f"voc_boxes={other!r} (--voc-boxes {other}) says otherwise"
    if given is not None:
        return given, None
    if relative or (len(boxes) and boxes.max() <= 1):
        return "edges", None
    zeros = int((boxes[:, :2] < 1).any(1).sum())
    if zeros:
        return "edges", (
            f"{zeros:,} of {len(boxes):,} boxes begin at 0, which is no number of a pixel where these are counted from "
            f"1: all boxes are read as edges counted from 0; {advice}"
        )
    if tool is not None:
        return "edges", f"{tool} wrote these files: boxes are edges counted from 0, not numbers of pixels; {advice}"
    return "pixels", None


def _read(rows: ObjectRows, annotation: Path | None, image: Path | None, difficult: Difficult) -> str | None:
    """Add an image with its objects; which tool wrote them, if that can be seen."""
    if image is None:
        name = "" if annotation is None else annotation.name
        rows.faults.add("annotations without an image", name)
        return None
    if annotation is None:
        rows.add_image(image)
        return None
    try:
        root = read_xml(annotation)
    except DatasetError as error:
        rows.faults.add("annotations that cannot be read", str(error))
        return None
    rows.add_image(image, _size(root))
    for place, found in enumerate(root.iter("object")):
        where = f"{annotation.name}: object {place}"
        box = _box(found.find("bndbox"))
        name = (found.findtext("name") or "").strip()
        mark = (found.findtext("difficult") or "").strip()
        if box is None or not name:
            missing = "name" if box else "bndbox with xmin, ymin, xmax and ymax"
            rows.faults.add("objects without a name or a whole box", f"{where} has no {missing}")
        elif mark not in ("", "0", "1"):
            rows.faults.add("difficult that is neither 0 nor 1", f"{where}: {mark!r}")
        elif is_ignored(name):
            rows.leave_out(f"objects named {name!r}", "they mark what is to be ignored")
        else:
            is_difficult = mark == "1"
            rows.add_object(name, box, crowd=is_difficult and difficult == "crowd", difficult=is_difficult)
        parts = len(found.findall("part"))
        if parts:
            rows.leave_out("parts of objects", "only whole objects are read", parts)
    return _tool(root)


def _tell(rows: ObjectRows, difficult: Difficult, without_file: int) -> None:
    """Conclude what becomes of difficult objects, and of images without a file."""
    if without_file:
        images = f"{without_file:,} of {len(rows.paths):,} images of split {rows.split!r}"
        rows.conclusions.append(f"{images} have no annotation file: they have no objects")
    marked = sum(rows.difficult)
    if marked:
        treated = "count as crowds, neither learned nor measured" if difficult == "crowd" else "count as any other"
        other = "object" if difficult == "crowd" else "crowd"
        rows.conclusions.append(
            f"{marked:,} of {len(rows):,} objects of split {rows.split!r} are marked as difficult and {treated}; "
            f"difficult={other!r} changes that"
        )


def _listed_splits(folder: Path) -> dict[str, Pairs]:
    """By the lists of ImageSets/Main; "trainval" only where there is no "train", one list of any name as "train"."""
    lists = {path.stem.lower(): path for path in sorted((folder / "ImageSets" / "Main").glob("*.txt"))}
    chosen = {SPLITS[stem]: path for stem, path in lists.items() if stem in SPLITS}
    if ONE_SPLIT not in chosen and "trainval" in lists:
        chosen[ONE_SPLIT] = lists["trainval"]
    if not chosen and ("default" in lists or len(lists) == 1):
        chosen[ONE_SPLIT] = lists.get("default") or next(iter(lists.values()))
    images = _by_path(folder / "JPEGImages")
    if not chosen:
        raise DatasetError(f"{folder / 'ImageSets' / 'Main'} has no train.txt, trainval.txt or val.txt to name splits.")
    splits: dict[str, Pairs] = {}
    for split, path in chosen.items():
        names = [_listed_name(line, images) for line in text_lines(path)]
        files = [folder / "Annotations" / f"{name}.xml" for name in names]
        found = [
            file if file.is_file() or name not in images else None for name, file in zip(names, files, strict=True)
        ]
        splits[split] = [(file, images.get(name)) for name, file in zip(names, found, strict=True)]
    return splits


def _listed_name(line: str, images: Mapping[str, Path]) -> str:
    """The name in a line, which may go on with the mark of a class; names with blanks are quoted by some tools."""
    if line.startswith('"') and '"' in line[1:]:
        return line[1 : line.index('"', 1)]
    return line if line in images else line.split()[0]


def _by_path(folder: Path) -> dict[str, Path]:
    """The images below a folder by their paths in it without suffix."""
    names = NamedFiles(folder).names if folder.is_dir() else set()
    return {name.rpartition(".")[0]: folder / name for name in sorted(names) if is_image(Path(name).name)}


def _pairs(folder: Path) -> Pairs:
    """The annotations in a folder, or in a folder of annotations in it, with their images; then images without one."""
    roots = [folder, *(folder / name for name in ANNOTATION_FOLDERS)]
    annotations = next((found for root in roots if root.is_dir() and (found := sorted(root.glob("*.xml")))), [])
    if not _is_voc(annotations):
        return []
    images: dict[str, Path] = {}
    for root in (folder, *(folder / name for name in IMAGE_FOLDERS)):
        images = {**by_stem(root), **images}
    annotated = {path.stem for path in annotations}
    return [
        *((path, images.get(path.stem)) for path in annotations),
        *((None, image) for stem, image in sorted(images.items()) if stem not in annotated),
    ]


def _is_voc(annotations: Sequence[Path]) -> bool:
    """Whether XML files are those of VOC: other tools use the same element at the root."""
    for path in annotations[:SNIFFED]:
        try:
            root = read_xml(path)
        except DatasetError:
            return True  # said when it is read
        if root.tag != "annotation" or root.find("imagesize") is not None:
            return False
        if root.find("object") is not None:
            return root.find("object/polygon") is None or root.find("object/bndbox") is not None
    return bool(annotations)


def _tool(root: Element) -> str | None:
    """The tool that wrote an annotation, of those that are known to write edges."""
    if root.findtext("owner/name") == "Label Studio":
        return LABEL_STUDIO
    if root.find("database") is not None and root.find("annotation") is not None:
        return LABELME
    sources = root.findall("source/*")
    if [part.tag for part in sources] == ["database"] and sources[0].text == "Unknown":
        return LABELIMG if root.findtext("object/pose") == "Unspecified" else None
    source = [root.findtext(f"source/{part}") for part in ("database", "annotation", "image")]
    return DATUMARO if source == ["Unknown"] * 3 else None


def _box(bounds: Any) -> list[float] | None:
    """As it is stored."""
    if bounds is None:
        return None
    sides = [number_in(bounds.findtext(side)) for side in SIDES]
    return None if None in sides else [side for side in sides if side is not None]


def _size(root: Any) -> tuple[int, int]:
    """H, W; 0 where they are not recorded."""
    try:
        return int(root.findtext("size/height")), int(root.findtext("size/width"))
    except (TypeError, ValueError):
        return 0, 0
