"""KITTI's object detection: one text file for each image, one line for each object.

Paper:  Geiger et al. 2012, "Are we ready for Autonomous Driving? The KITTI Vision Benchmark Suite"; format: its
development kit. Datumaro writes it, too.

    FOLDER/SPLIT/label_2/a.txt    FOLDER/SPLIT/image_2/a.png    SPLIT: training, train, val, ...; or none

A line is "type truncated occluded alpha left top right bottom" and seven numbers in space, which are left out; a score
may follow. Boxes are edges in pixels, counted from 0. Objects of the type DontCare are regions in which nothing was
annotated: they are left out. An image without a text file has no objects.
"""

from collections.abc import Mapping
from pathlib import Path

from hfvision.data.annotation_files import by_stem, number_in, text_lines
from hfvision.data.detection_classes import declared_objects
from hfvision.data.image_folder import SPLITS, folders_in
from hfvision.data.object_rows import ObjectRows
from hfvision.data.object_table import StoredSplit
from hfvision.errors import DatasetError

LAYOUT = "KITTI"
LABELS, IMAGES = "label_2", "image_2"
FIELDS = (15, 16)  # without and with a score
BOX = slice(4, 8)
UNANNOTATED = "DontCare"


def find_kitti_folders(folder: Path) -> dict[str, list[Path]]:
    """Split -> folders that hold label_2/ and image_2/; a test split without label_2/ is none."""
    if not folder.is_dir():
        return {}
    found: dict[str, list[Path]] = {}
    for below in folders_in(folder):
        if below.name.lower() in SPLITS and _is_kitti(below):
            found.setdefault(SPLITS[below.name.lower()], []).append(below)
    return found or ({"train": [folder]} if _is_kitti(folder) else {})


def read_kitti_folders(folder: Path, splits: Mapping[str, list[Path]]) -> dict[str, StoredSplit]:
    """The splits. Classes are those of a file of names beside the data, else the types that occur."""
    rows = {split: ObjectRows(split) for split in splits}
    for split, folders in splits.items():
        for below in folders:
            _read(rows[split], below)
    declared = declared_objects(folder, rows.values())
    return {split: one.stored(LAYOUT, categories=declared) for split, one in rows.items()}


def _read(rows: ObjectRows, folder: Path) -> None:
    images = by_stem(folder / IMAGES)
    labels = {path.stem: path for path in sorted((folder / LABELS).glob("*.txt"))}
    for stem in labels.keys() - images.keys():
        rows.faults.add("label files without an image", f"{folder.name}/{LABELS}/{stem}.txt")
    without = 0
    for stem, image in images.items():
        rows.add_image(image)
        if stem not in labels:
            without += 1
            continue
        try:
            lines = text_lines(labels[stem])
        except DatasetError as error:
            rows.faults.add("label files that cannot be read", str(error))
            continue
        for number, line in enumerate(lines, start=1):
            _read_line(rows, line, f"{labels[stem].name}, line {number}")
    if without:
        rows.conclusions.append(
            f"{without:,} of {len(images):,} images of split {rows.split!r} have no label file: they have no objects"
        )


def _read_line(rows: ObjectRows, line: str, where: str) -> None:
    kind, *rest = line.split()
    numbers = [number_in(text) for text in rest]
    if len(rest) + 1 not in FIELDS or None in numbers:
        rows.faults.add(
            "lines that cannot be read", f"{where}: {line[:60]!r}; a line is a type, 14 numbers, and a score or none"
        )
    elif kind == UNANNOTATED:
        rows.leave_out(f"regions of the type {kind}", "nothing is annotated in them")
    else:
        rows.add_object(kind, [number for number in numbers[BOX.start - 1 : BOX.stop - 1] if number is not None])


def _is_kitti(folder: Path) -> bool:
    return (folder / IMAGES).is_dir() and next((folder / LABELS).glob("*.txt"), None) is not None
