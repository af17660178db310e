"""Boxes in tables (CSV): Open Images, and the table of TensorFlow's object detection that Roboflow exports.

Open Images. Format: the data set's own site; Datumaro and FiftyOne write it, too.

    FOLDER/annotations/SPLIT-annotations-bbox.csv    FOLDER/images/SPLIT/a.jpg, FOLDER/SPLIT/a.jpg
    FOLDER/annotations/class-descriptions.csv        LabelName,DisplayName: the classes, in this order

Boxes are shares of the image; IsGroupOf 1 is a crowd. Images of a split's folder that the table lacks have no objects.

TensorFlow's table: filename,width,height,class,xmin,ymin,xmax,ymax, edges in pixels.

    FOLDER/SPLIT/_annotations.csv                    FOLDER/SPLIT/a.jpg      Roboflow; also FOLDER/SPLIT_labels.csv
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from hfvision.data.annotation_files import NamedFiles, number_in, split_in_name
from hfvision.data.detection_classes import declared_objects, is_ignored
from hfvision.data.image_folder import SPLITS, folders_in, is_image
from hfvision.data.object_rows import ObjectRows
from hfvision.data.object_table import Key, StoredSplit
from hfvision.errors import DatasetError

OPEN_IMAGES, TENSORFLOW = "Open Images", "TensorFlow's table of boxes (CSV)"
OPEN_COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
TENSORFLOW_COLUMNS = ("filename", "class", "xmin", "ymin", "xmax", "ymax")
DESCRIPTIONS = "*class-descriptions*.csv"
MASKS = "*annotations-object-segmentation.csv"

Row = dict[str, str]


def find_open_images(path: Path) -> dict[str, Path]:
    """Split -> table of boxes."""
    roots = [path, path / "annotations", path / "csv"] if path.is_dir() else []
    tables = [path] if path.is_file() else [file for root in roots for file in sorted(root.glob("*.csv"))]
    return _by_split([file for file in tables if _has_columns(file, OPEN_COLUMNS)])


def find_tensorflow_tables(path: Path) -> dict[str, Path]:
    """Split -> table of boxes."""
    if path.is_file():
        return {"train": path} if _has_columns(path, TENSORFLOW_COLUMNS) else {}
    found: dict[str, Path] = {}
    for below in folders_in(path):
        if below.name.lower() in SPLITS:
            tables = [file for file in sorted(below.glob("*.csv")) if _has_columns(file, TENSORFLOW_COLUMNS)]
            if len(tables) == 1:
                found.setdefault(SPLITS[below.name.lower()], tables[0])
    roots = [root for root in (path, path / "annotations", path / "data") if root.is_dir()]
    tables = [file for root in roots for file in sorted(root.glob("*.csv")) if _has_columns(file, TENSORFLOW_COLUMNS)]
    return found or _by_split(tables)


def read_open_images(files: Mapping[str, Path]) -> dict[str, StoredSplit]:
    """The splits. Raises DatasetError for a table without images."""
    folder = _root(next(iter(files.values())))
    named = NamedFiles(folder)
    images = _image_ids(named)
    names = _descriptions(folder)
    rows = {split: ObjectRows(split) for split in files}
    for split, path in files.items():
        _read_open_images(rows[split], path, images, folder, len(files) == 1)
    masks = sum(1 for file in named.names if Path(file).match(MASKS))
    first = next(iter(rows.values()))
    if masks:
        first.leave_out("tables of masks", "the boxes are read", masks)
    used = {str(key) for one in rows.values() for key in one.categories}
    declared: dict[Key, str] = {key: name for key, name in names.items() if key in used}
    declared |= {key: key for key in sorted(used - names.keys())}
    if names and len(declared) < len(names):
        said = f"{len(declared):,} of {len(names):,} described labels have boxes: these are the classes"
        for one in rows.values():
            one.conclusions.append(said)
    return {
        split: one.stored(OPEN_IMAGES, relative=True, categories=declared if names else None, origin=files[split].name)
        for split, one in rows.items()
    }


def read_tensorflow_tables(folder: Path, files: Mapping[str, Path], relative: bool | None) -> dict[str, StoredSplit]:
    """The splits; `folder` is that of the data set."""
    named: dict[Path, NamedFiles] = {}
    rows = {split: ObjectRows(split) for split in files}
    for split, path in files.items():
        root = path.parent if len({file.parent for file in files.values()}) > 1 else folder
        _read_tensorflow(rows[split], path, named.setdefault(root, NamedFiles(root)))
    said = [text for files_there in named.values() for text in files_there.conclusions()]
    for one in rows.values():
        one.conclusions += said
    declared = declared_objects(folder, rows.values())
    return {
        split: one.stored(TENSORFLOW, relative=relative, categories=declared, origin=files[split].name)
        for split, one in rows.items()
    }


def _read_open_images(
    rows: ObjectRows, path: Path, images: Mapping[str, list[str]], folder: Path, is_only: bool
) -> None:
    """The images of the split's folder, or else those that the table names, with their boxes."""
    split = split_in_name(path.stem)
    own = {key: place for key, places in images.items() if (place := _of_split(places, split, is_only))}
    numbers: dict[str, int] = {}
    for key in sorted(own):
        numbers[key] = rows.add_image(folder / own[key], key=key)
    lost: dict[str, int] = {}
    for number, row in enumerate(_rows(path), start=2):
        key = row["ImageID"].strip()
        if key not in numbers:
            lost[key] = lost.get(key, 0) + 1
            continue
        sides = [number_in(row[side]) for side in ("XMin", "YMin", "XMax", "YMax")]
        box = [side for side in sides if side is not None]
        group = (row.get("IsGroupOf") or "0").strip()
        if len(box) < len(sides) or not row["LabelName"].strip():
            rows.faults.add("rows without a label or a whole box", f"{path.name}, line {number}: {list(row.values())}")
        elif group not in ("", "0", "1", "-1"):
            rows.faults.add("IsGroupOf that is neither 0 nor 1, nor -1", f"{path.name}, line {number}: {group!r}")
        else:
            rows.add_object(row["LabelName"].strip(), box, crowd=group == "1", row=numbers[key])
    if lost and not numbers:
        rows.faults.add(
            f"images that are listed but not in {folder}", f"none of {len(lost):,}, such as {next(iter(lost))}"
        )
    elif lost:  # the whole table is published, but few download all of its images
        rows.leave_out(
            "boxes of images that are not there",
            f"{len(lost):,} images, such as {next(iter(lost))}",
            sum(lost.values()),
        )


def _of_split(places: list[str], split: str | None, is_only: bool) -> str | None:
    """The file of an image that lies in the folder of a split; any file where there is only one split."""
    of = [place for place in places if any(SPLITS.get(part.lower()) == split for part in place.split("/")[:-1])]
    neutral = [place for place in places if not any(part.lower() in SPLITS for part in place.split("/")[:-1])]
    return next(iter([*of, *neutral] if not is_only else [*of, *neutral, *places]), None)


def _read_tensorflow(rows: ObjectRows, path: Path, named: NamedFiles) -> None:
    numbers: dict[str, int] = {}
    for number, row in enumerate(_rows(path), start=2):
        name, label = row["filename"].strip(), row["class"].strip()
        if name not in numbers:
            place = named.find(name)
            if place is None:
                rows.faults.add(
                    f"images that are listed but not in {named.folder}", f"{path.name}, line {number}: {name}"
                )
                continue
            size = [int(number_in(row.get(side)) or 0) for side in ("height", "width")]
            numbers[name] = rows.add_image(named.folder / place, (size[0], size[1]), name)
        sides = [number_in(row[side]) for side in ("xmin", "ymin", "xmax", "ymax")]
        box = [side for side in sides if side is not None]
        if is_ignored(label):
            rows.leave_out(f"objects named {label!r}", "they mark what is to be ignored")
        elif len(box) == len(sides) and label:
            rows.add_object(label, box, row=numbers[name])
        elif box or label:
            rows.faults.add("rows without a class or a whole box", f"{path.name}, line {number}: {list(row.values())}")
    listed = {str(place.relative_to(named.folder)) for place in rows.paths}
    beside = path.parent.relative_to(named.folder).as_posix()
    others = [name for name in named.names if is_image(Path(name).name) and name not in listed]
    near = sorted(name for name in others if Path(name).parent.as_posix() == beside)
    if near:
        for name in near:
            rows.add_image(named.folder / name, key=name)
        rows.conclusions.append(
            f"{len(near):,} images of split {rows.split!r} are in no row of {path.name}: they have no objects"
        )


def _rows(path: Path) -> Iterator[Row]:
    """The rows of a table by its header. Raises DatasetError where it cannot be read."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                yield {name: value or "" for name, value in row.items() if name is not None}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"the annotations {path} cannot be read: {error}") from error


def _has_columns(path: Path, columns: tuple[str, ...]) -> bool:
    if path.suffix.lower() != ".csv":
        return False
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return set(columns) <= {name.strip() for name in next(csv.reader(file), [])}
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def _by_split(tables: list[Path]) -> dict[str, Path]:
    """By the names of splits in the files' names. Raises DatasetError for two tables of one split."""
    found: dict[str, Path] = {}
    for path in tables:
        split = split_in_name(path.stem) or ("train" if len(tables) == 1 else path.stem)
        if found.setdefault(split, path) != path:
            raise DatasetError(
                f"{path.parent} has two tables for the split {split!r}: {found[split].name} and {path.name}. Leave one "
                "of them there, or give the path of a file."
            )
    return found


def _root(table: Path) -> Path:
    return table.parent.parent if table.parent.name.lower() in ("annotations", "csv") else table.parent


def _image_ids(named: NamedFiles) -> dict[str, list[str]]:
    """The images by their ids, which are their names without suffix; maps of masks are none of them."""
    return {
        stem: places
        for stem, all_places in named.images_by_stem.items()
        if (places := [place for place in all_places if "masks" not in place.lower().split("/")[:-1]])
    }


def _descriptions(folder: Path) -> dict[str, str]:
    """Label -> name, in the order of the file; empty without one."""
    files = [
        file for root in (folder, folder / "annotations", folder / "csv") for file in sorted(root.glob(DESCRIPTIONS))
    ]
    names: dict[str, str] = {}
    for file in files[:1]:
        with open(file, encoding="utf-8-sig", newline="") as table:
            for row in csv.reader(table):
                if len(row) >= 2 and row[0].strip() != "LabelName":
                    names[row[0].strip()] = row[1].strip()
    return names
