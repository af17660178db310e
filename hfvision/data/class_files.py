"""Files beside masks or labels that declare classes: names, and the numbers or colors that stand for them.

    class_names.txt, classes.txt, ...   one name a line
    labelmap.txt                        name:red,green,blue:parts:actions    VOC layouts of CVAT and Datumaro
    label_colors.txt                    red green blue name                  CamVid, KITTI, Cityscapes of the same tools
    class_dict.csv                      name,r,g,b                           CamVid as published on Kaggle
    _classes.csv                        Pixel Value, Class                   PNG masks of Roboflow
    id2label.json, labels.json          a list, {"0": name} or {name: 0}

Names of annotation tools for pixels without a class are read as such: `__ignore__` is no class, `_background_` is the
class "background".
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hfvision.data.class_names import CLASS_FILES, names_in_file
from hfvision.errors import DatasetError, numbered
from hfvision.reporting import report

Color = tuple[int, int, int]  # red, green, blue, 0 to 255

BACKGROUND = "background"
BACKGROUND_NAMES = ("background", "_background_", "__background__", "bg", "unlabeled", "unlabelled")
IGNORE = "__ignore__"
IGNORED_NAMES = (IGNORE, "ignore", "ignored", "void")  # of classes that have a number or a color of their own
COLOR_FILES = ("labelmap.txt", "label_colors.txt", "class_dict.csv")
ROBOFLOW_FILE = "_classes.csv"


@dataclass(frozen=True)
class DeclaredClass:
    """One class of a file; what the file does not say is None."""

    name: str
    number: int | None = None  # the value of its pixels
    color: Color | None = None

    @property
    def is_background(self) -> bool:
        return self.name.lower() in BACKGROUND_NAMES

    @property
    def is_ignored(self) -> bool:
        own = self.number is not None or self.color is not None
        return self.name == IGNORE or (own and self.name.lower() in IGNORED_NAMES)


def declared_classes(folder: Path) -> tuple[list[DeclaredClass], Path] | None:
    """The classes of a folder and the file that declares them; None without one.

    Files with numbers or colors go before those of names alone. Raises DatasetError for a file that cannot be read.
    """
    path = class_file(folder)
    return None if path is None else (read_class_file(path), path)


def class_file(folder: Path) -> Path | None:
    """The file in a folder that declares classes."""
    paths = (folder / name for name in (ROBOFLOW_FILE, *COLOR_FILES, *CLASS_FILES))
    return next(
        (path for path in paths if path.is_file() and (path.name != ROBOFLOW_FILE or is_pixel_table(path))), None
    )


def read_class_file(path: Path) -> list[DeclaredClass]:
    """The classes that a file of any of the forms above declares, in its order, by their usual names.

    Raises DatasetError.
    """
    return usual_names(stored_classes(path), str(path))


def stored_classes(path: Path) -> list[DeclaredClass]:
    """The same, by their names as stored. Raises DatasetError."""
    if path.name == ROBOFLOW_FILE:
        classes = _pixel_table(path)
    elif path.name == "labelmap.txt":
        classes = [_colon_row(line, path) for line in _lines(path) if not line.startswith("#")]
    elif path.name == "label_colors.txt":
        classes = [_color_row(line, path) for line in _lines(path)]
    elif path.name == "class_dict.csv":
        classes = _color_table(path)
    else:
        classes = [DeclaredClass(name) for name in names_in_file(path)]
    twice = sorted({one.name for one in classes if sum(other.name == one.name for other in classes) > 1})
    if twice or not classes:
        fault = f"has names that stand twice: {', '.join(twice)}" if twice else "names no class"
        raise DatasetError(f"class names: {path} {fault}.")
    return classes


def usual_names(classes: Sequence[DeclaredClass], where: str) -> list[DeclaredClass]:
    """The same classes, `_background_` called "background" and a leading `__ignore__` taken out; both are reported.

    labelme counts its list from -1 where `__ignore__` stands first, so that the background is 0.
    """
    kept = list(classes)
    if kept and kept[0] == DeclaredClass(IGNORE):
        report(f"{where}: {IGNORE!r} is no class: pixels that are marked so are ignored.")
        kept = kept[1:]
    renamed = [one.name for one in kept if one.name.startswith("_") and one.is_background]
    if renamed:
        report(f"{where}: {', '.join(map(repr, renamed))} is read as the class {BACKGROUND!r}.")
    return [replace(one, name=BACKGROUND) if one.name in renamed else one for one in kept]


def is_pixel_table(path: Path) -> bool:
    """Whether a file `_classes.csv` gives a class to pixels; Roboflow's labels of whole images look otherwise."""
    header = next(iter(_rows(path)), [])
    return len(header) == 2 and "pixel" in header[0].lower()


def _pixel_table(path: Path) -> list[DeclaredClass]:
    rows = _rows(path)[1:]
    wrong = [",".join(row) for row in rows if len(row) != 2 or not re.fullmatch(r"-?\d+", row[0])]
    if wrong:
        raise DatasetError(f"class names: {path}: rows are a pixel value and a class. " + numbered("other row", wrong))
    return [DeclaredClass(name, int(number)) for number, name in rows]


def _color_table(path: Path) -> list[DeclaredClass]:
    header, *rows = _rows(path) or [[]]
    columns = [name.lower() for name in header]
    if not {"name", "r", "g", "b"} <= set(columns):
        raise DatasetError(f"class names: {path} needs the columns name, r, g, b; it has {', '.join(header)}.")
    places = [columns.index(name) for name in ("name", "r", "g", "b")]
    found = []
    for row in rows:
        if len(row) < len(header):
            raise DatasetError(f"class names: {path} has a short row: {','.join(row)}")
        name, *color = (row[place] for place in places)
        found.append(DeclaredClass(name, color=_color(color, path)))
    return found


def _colon_row(line: str, path: Path) -> DeclaredClass:
    name, _, rest = line.partition(":")
    color = rest.partition(":")[0]
    if not name.strip():
        raise DatasetError(f"class names: {path}: a row is name:red,green,blue:parts:actions; got {line!r}")
    return DeclaredClass(name.strip(), color=_color(color.split(","), path) if color.strip() else None)


def _color_row(line: str, path: Path) -> DeclaredClass:
    found = re.fullmatch(r"(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(\S.*)", line)
    if found is None:
        return DeclaredClass(line)
    *color, name = found.groups()
    return DeclaredClass(name.strip(), color=_color(color, path))


def _color(numbers: Sequence[str], path: Path) -> Color:
    try:
        red, green, blue = (int(number) for number in numbers)
    except ValueError:
        raise DatasetError(f"class names: {path}: a color is three whole numbers; got {', '.join(numbers)}") from None
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise DatasetError(f"class names: {path}: numbers of a color are 0 to 255; got {', '.join(numbers)}")
    return red, green, blue


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in _text(path).splitlines() if line.strip()]


def _rows(path: Path) -> list[list[str]]:
    return [[cell.strip() for cell in row] for row in csv.reader(_text(path).splitlines()) if any(row)]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"class names: {path} cannot be read: {error}") from error
