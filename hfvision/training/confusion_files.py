"""A confusion matrix in files: its numbers as JSON or CSV, its picture as PNG."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from hfvision.errors import ConfigError
from hfvision.metrics.confusion import ConfusionMatrix
from hfvision.plots.confusion import confusion_sheet
from hfvision.row_files import check_row_file
from hfvision.writing import new_file

CORNER = "truth / answer"


def check_confusion_files(paths: Sequence[Path]) -> None:
    """Raises ConfigError for files of other endings, early."""
    for path in paths:
        check_row_file(path, FORMS)


def write_confusion(matrix: ConfusionMatrix, path: Path, title: str, subtitle: str) -> None:
    """One file, whole or not at all. Raises ConfigError for another ending and where the disk does not let it."""
    check_confusion_files([path])
    with new_file(path, ConfigError) as work:
        FORMS[path.suffix.lower()](matrix, work, title, subtitle)


def _json(matrix: ConfusionMatrix, path: Path, title: str, subtitle: str) -> None:
    document = {"title": title, "subtitle": subtitle, **matrix.to_dict()}
    path.write_text(json.dumps(document, ensure_ascii=False) + "\n", encoding="utf-8")


def _csv(matrix: ConfusionMatrix, path: Path, title: str, subtitle: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([CORNER, *matrix.names])
        for name, row in zip(matrix.names, matrix.counts.tolist(), strict=True):
            writer.writerow([name, *row])


def _png(matrix: ConfusionMatrix, path: Path, title: str, subtitle: str) -> None:
    confusion_sheet(matrix.counts, matrix.names, title=title, subtitle=subtitle).save(path, optimize=True)


FORMS: dict[str, Callable[[ConfusionMatrix, Path, str, str], None]] = {".json": _json, ".csv": _csv, ".png": _png}
