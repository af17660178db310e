"""Tables of images and their classes: any CSV with a column of files and one of labels, and Roboflow's `_classes.csv`.

FOLDER/labels.csv               columns of files and classes; a column "split" may say which split an image is of
FOLDER/train.csv, val.csv       one table for each split
FOLDER/SPLIT/_classes.csv       filename, then a column of 0 and 1 for each class (Roboflow)
"""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hfvision.data.annotation_files import NamedFiles, split_in_name
from hfvision.data.cells import shown
from hfvision.data.class_files import ROBOFLOW_FILE, is_pixel_table
from hfvision.data.image_folder import SPLITS, folders_in, is_image
from hfvision.data.label_lists import find_image
from hfvision.data.labelled_files import LabelledFiles, Labels, files_of
from hfvision.data.mask_pairs import split_of
from hfvision.errors import DatasetError, numbered

FILE_COLUMNS = (
    *("file_name", "filename", "file", "image", "image_path", "path", "filepath", "file_path", "img", "image_name"),
    *("image_id", "id", "name"),
)
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "classname", "category", "target", "label_name", "species")
SPLIT_COLUMNS = ("split", "set", "subset", "partition")
BOX_COLUMNS = {"xmin", "xmax", "ymin", "ymax", "x_min", "bbox", "width_box", "x1"}
YES, NO = ("1", "1.0", "true"), ("0", "0.0", "false", "")

Table = tuple[list[str], list[dict[str, str]]]


def roboflow_labels(folder: Path) -> LabelledFiles | None:
    """Roboflow's multi-label export: one column of 0 and 1 for each class."""
    paths = [path / ROBOFLOW_FILE for path in (folder, *folders_in(folder)) if (path / ROBOFLOW_FILE).is_file()]
    paths = [path for path in paths if not is_pixel_table(path)]
    splits: dict[str, list[tuple[str, Labels]]] = {}
    classes: list[str] = []
    faults: list[str] = []
    for path in paths:
        header, rows = read_table(path)
        if not header or header[0].lower() not in FILE_COLUMNS or len(header) < 2:
            raise DatasetError(f"{path} begins with filename and one column for each class; got {', '.join(header)}.")
        names = header[1:]
        if classes and names != classes:
            raise DatasetError(f"{path} has the classes {', '.join(names)}, other splits {', '.join(classes)}.")
        classes = names
        wrong = [row[header[0]] for row in rows if any(row[name].lower() not in YES + NO for name in names)]
        if wrong:
            faults.append(f"{path}: " + numbered("row with other values than 0 and 1", wrong, 5))
        files = NamedFiles(path.parent)
        listed = {row[header[0]]: tuple(name for name in names if row[name].lower() in YES) for row in rows}
        found, lost = files_of({name: find_image(name, files) for name in listed}, str(path))
        faults += lost
        split = "train" if path.parent == folder else split_of(path.parent.name)
        splits.setdefault(split, []).extend((str(file), listed[name]) for name, file in found.items())
    return LabelledFiles("Roboflow's _classes.csv", splits, classes, faults=tuple(faults)) if splits else None


def csv_labels(
    path: Path, image_column: str | None = None, label_column: str | None = None, *, is_asked_for: bool = False
) -> LabelledFiles | None:
    """Tables in a folder, or one table; None for a folder without any that has files and labels.

    Columns are found by their names, or named. Raises DatasetError for a table that was asked for and has them not.
    """
    tables = [path] if path.is_file() else _tables_in(path)
    is_asked_for = is_asked_for or path.is_file() or bool(image_column and label_column)
    folder = path.parent if path.is_file() else path
    files = NamedFiles(folder)
    splits: dict[str, list[tuple[str, Labels]]] = {}
    faults: list[str] = []
    conclusions: list[str] = []
    listed: set[Path] = set()
    for table in tables:
        header, rows = read_table(table)
        file_column = image_column or _column(header, FILE_COLUMNS)
        class_column = label_column or _column(header, LABEL_COLUMNS)
        missing = [column for column in (file_column, class_column) if column is None or column not in header]
        if missing or BOX_COLUMNS & {name.lower() for name in header}:
            if not is_asked_for:
                continue
            raise DatasetError(
                f"{table} has the columns {', '.join(header)}; of labelled images it needs one of files and one of "
                "labels, and none of boxes. Name them: image_column=..., label_column=..."
            )
        split_column = _column(header, SPLIT_COLUMNS)
        names = [row[str(file_column)] for row in rows]
        found, lost = files_of({name: find_image(name, files) for name in names}, str(table))
        faults += lost
        twice = [name for name, times in Counter(names).items() if times > 1]
        faults += [f"{table}: " + numbered("file that stands in several rows", twice, 5)] * bool(twice)
        listed |= set(found.values())
        own = split_in_name(table.stem) or "train"
        conclusions.append(f"{table.name}: files are in the column {file_column!r}, classes in {class_column!r}")
        for row in rows:
            if row[str(file_column)] in found:
                split = split_of(row[split_column]) if split_column and row[split_column] else own
                label = row[str(class_column)].strip()
                splits.setdefault(split, []).append((str(found[row[str(file_column)]]), (label,) if label else ()))
    if not splits:
        return None
    unlisted = sorted(name for name in files.names if is_image(Path(name).name) and folder / name not in listed)
    if unlisted:
        conclusions.append(f"images that no table lists are left out ({len(unlisted)}): {shown(map(Path, unlisted))}")
    classes = sorted(
        {label for rows_of in splits.values() for _, labels in rows_of for label in labels}, key=_by_number
    )
    return LabelledFiles("a CSV table", splits, classes, (*conclusions, *files.conclusions()), tuple(faults))


def read_table(path: Path) -> Table:
    """The header and the rows of a CSV file, cells without blanks around them. Raises DatasetError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        dialect = csv.Sniffer().sniff(text[:4096], ",;\t") if "," not in text[:4096] else csv.excel
        rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), dialect) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"the table {path} cannot be read: {error}") from error
    if not rows:
        raise DatasetError(f"the table {path} is empty.")
    header = rows[0]
    short = [str(place) for place, row in enumerate(rows, start=1) if len(row) != len(header)]
    if short:
        raise DatasetError(f"{path} has {len(header)} columns, but not in line {', '.join(short[:5])}.")
    return header, [dict(zip(header, row, strict=True)) for row in rows[1:]]


def _tables_in(folder: Path) -> list[Path]:
    """Those named as splits, or else the only table."""
    tables = sorted(path for path in folder.glob("*.csv") if not path.name.startswith("_"))
    named = [path for path in tables if path.stem.lower() in SPLITS]
    return named or tables


def _column(header: Sequence[str], names: Sequence[str]) -> str | None:
    lower = {column.lower(): column for column in reversed(header)}
    return next((lower[name] for name in names if name in lower), None)


def _by_number(label: str) -> tuple[int, float, str]:
    """Whole numbers by size, before text."""
    return (0, float(label), label) if label.lstrip("-").isdigit() else (1, 0.0, label)
