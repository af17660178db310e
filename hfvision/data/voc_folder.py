"""Pascal VOC: one XML file for each image, with a box and a name for each object.

Paper:  Everingham et al. 2010, "The Pascal Visual Object Classes (VOC) Challenge"; format: its development kit.

    FOLDER/Annotations/a.xml        FOLDER/JPEGImages/a.jpg   splits in FOLDER/ImageSets/Main/{train,val,...}.txt
    FOLDER/SPLIT/a.xml              FOLDER/SPLIT/a.jpg        as exported; also images/ and annotations/
    FOLDER/a.xml                    FOLDER/a.jpg              one split

xmin, ymin, xmax, ymax number the first and the last pixel of an object, counted from 1: in edges, as boxes are here,
that is (xmin - 1, ymin - 1, xmax, ymax). Classes are the names that occur in the training split, sorted.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np

from hfvision.data.annotation_files import IMAGE_FOLDERS, Faults, by_stem
from hfvision.data.image_folder import SPLITS, folders_in
from hfvision.data.object_table import ObjectTable, StoredSplit, stored_images
from hfvision.errors import DatasetError
from hfvision.reporting import report

Difficult = Literal["crowd", "object"]
ANNOTATION_FOLDERS = ("Annotations", "annotations", "Annotation", "xml", "labels")


def find_voc_files(folder: Path) -> dict[str, dict[Path, Path | None]]:
    """Split -> {annotation: its image, None without one}; empty for a folder in none of the layouts above."""
    if (folder / "ImageSets" / "Main").is_dir() and any((folder / "Annotations").glob("*.xml")):
        return _listed_splits(folder)
    splits: dict[str, dict[Path, Path | None]] = {}
    for below in folders_in(folder):
        if below.name.lower() in SPLITS and (pairs := _pairs(below)):
            splits.setdefault(SPLITS[below.name.lower()], {}).update(pairs)
    if splits:
        return splits
    alone = _pairs(folder)
    return {"train": alone} if alone else {}


def read_voc_files(
    splits: Mapping[str, Mapping[Path, Path | None]], difficult: Difficult = "crowd"
) -> dict[str, StoredSplit]:
    """The splits; objects marked as difficult count as crowds, neither learned nor measured, or as any other."""
    return {split: _split(split, pairs, difficult) for split, pairs in splits.items()}


def _split(split: str, pairs: Mapping[Path, Path | None], difficult: Difficult) -> StoredSplit:
    faults = Faults(f"split {split!r}")
    paths: list[Path] = []
    sizes: list[tuple[int, int]] = []
    images: list[int] = []
    names: list[str] = []
    boxes: list[list[float]] = []
    is_difficult: list[bool] = []
    for annotation, image in pairs.items():
        if image is None or not annotation.is_file():
            kind = "annotations without an image" if image is None else "images without an annotation"
            faults.add(kind, annotation.name if image is None else image.name)
            continue
        try:
            root = ElementTree.parse(annotation).getroot()
        except (OSError, ElementTree.ParseError) as error:
            faults.add("annotations that cannot be read", f"{annotation.name}: {error}")
            continue
        for place, found in enumerate(root.iter("object")):
            box = _box(found.find("bndbox"))
            name = (found.findtext("name") or "").strip()
            if box is None or not name:
                wanted = "name" if box else "bndbox with xmin, ymin, xmax and ymax"
                faults.add(
                    "objects without a name or a whole box", f"{annotation.name}: object {place} has no {wanted}"
                )
                continue
            boxes.append(box)
            names.append(name)
            is_difficult.append((found.findtext("difficult") or "0").strip() == "1")
            images.append(len(paths))
        paths.append(image)
        sizes.append(_size(root))
    crowd = np.array(is_difficult, bool)
    if crowd.any():
        treated = "count as crowds, neither learned nor measured" if difficult == "crowd" else "count as any other"
        other = "object" if difficult == "crowd" else "crowd"
        report(
            f"{crowd.sum():,} of {len(crowd):,} objects of split {split!r} are marked as difficult and {treated}; "
            f"difficult={other!r} changes that."
        )
    return StoredSplit(
        stored_images(split, paths),
        ObjectTable.of(
            np.array(images, np.int64),
            len(paths),
            np.array(boxes, np.float64),
            np.array(names, str),
            crowd=crowd if difficult == "crowd" else None,
        ),
        np.array(sizes, np.int64).reshape(-1, 2),
        image_ids=[path.stem for path in paths],
        box_form="xyxy",
        faults=faults.problems(),
    )


def _listed_splits(folder: Path) -> dict[str, dict[Path, Path | None]]:
    """By the lists of ImageSets/Main; "trainval" only where there is no "train"."""
    lists = {path.stem.lower(): path for path in sorted((folder / "ImageSets" / "Main").glob("*.txt"))}
    chosen = {SPLITS[stem]: path for stem, path in lists.items() if stem in SPLITS}
    if "train" not in chosen and "trainval" in lists:
        chosen["train"] = lists["trainval"]
    images = by_stem(folder / "JPEGImages")
    if not chosen:
        raise DatasetError(f"{folder / 'ImageSets' / 'Main'} has no train.txt, trainval.txt or val.txt to name splits.")
    splits = {}
    for split, path in chosen.items():
        stems = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        splits[split] = {folder / "Annotations" / f"{stem}.xml": images.get(stem) for stem in stems}
    return splits


def _pairs(folder: Path) -> dict[Path, Path | None]:
    """The annotations in a folder, or in a folder of annotations in it, with their images."""
    roots = [folder, *(folder / name for name in ANNOTATION_FOLDERS)]
    annotations = next((found for root in roots if root.is_dir() and (found := sorted(root.glob("*.xml")))), [])
    images: dict[str, Path] = {}
    for root in (folder, *(folder / name for name in IMAGE_FOLDERS)) if annotations else ():
        images = {**by_stem(root), **images}
    unannotated = images.keys() - {path.stem for path in annotations}
    if annotations and unannotated:
        report(f"images in {folder} without an annotation file, left out: {len(unannotated):,}.")
    return {path: images.get(path.stem) for path in annotations}


def _box(bounds: Any) -> list[float] | None:
    """In edges, from the numbers of the first and the last pixel."""
    if bounds is None:
        return None
    try:
        left, top, right, bottom = (float(bounds.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax"))
    except (TypeError, ValueError):
        return None
    return [left - 1, top - 1, right, bottom]


def _size(root: Any) -> tuple[int, int]:
    """H, W; 0 where they are not recorded."""
    try:
        return int(root.findtext("size/height")), int(root.findtext("size/width"))
    except (TypeError, ValueError):
        return 0, 0
