"""Rows of results written one after the other to a file: JSON, JSON lines, CSV or Parquet, by its ending.

    with row_file(Path("answers.csv"), {"file": "text", "score": "number", "parts": "json"}) as rows:
        rows.write({"file": "a.png", "score": 0.9, "parts": [1, 2]})

Nothing is kept in memory but a few rows of Parquet, and the file appears when all of them are there.
"""

import csv
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from hfvision.errors import ConfigError, HfvisionError
from hfvision.writing import new_file

Kind = Literal["text", "whole", "number", "truth", "json"]  # of a column; "json": lists and the like, in tables as text
SEPARATOR = "."  # between the names of a value inside another: {"iou": {"cat": 0.5}} is the column "iou.cat"
ROWS_AT_ONCE = 1024  # of Parquet


class RowFile(ABC):
    """A file that takes rows; `columns` are those of tables."""

    def __init__(self, path: Path, columns: Mapping[str, Kind]) -> None:
        self.columns = columns

    @abstractmethod
    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row: numbers, text, None, and lists or dicts of these; NaN and infinities are written as None."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left."""


class _Json(RowFile):
    """A list with one row a line."""

    begin, between, end = "[\n", ",\n", "\n]\n"

    def __init__(self, path: Path, columns: Mapping[str, Kind]) -> None:
        super().__init__(path, columns)
        self.file = path.open("w", encoding="utf-8")
        self.before = self.begin

    def write(self, row: Mapping[str, Any]) -> None:
        self.file.write(self.before + json.dumps(_plain(row), ensure_ascii=False, allow_nan=False))
        self.before = self.between

    def close(self) -> None:
        self.file.write(self.end if self.before == self.between else "[]\n")
        self.file.close()


class _JsonLines(_Json):
    begin, between, end = "", "\n", "\n"

    def close(self) -> None:
        self.file.write(self.end if self.before == self.between else "")
        self.file.close()


class _Csv(RowFile):
    """A line of names, then one for each row; None is an empty cell."""

    def __init__(self, path: Path, columns: Mapping[str, Kind]) -> None:
        super().__init__(path, columns)
        self.file = path.open("w", encoding="utf-8", newline="")
        self.writer = csv.writer(self.file, lineterminator="\n")
        self.writer.writerow(columns)

    def write(self, row: Mapping[str, Any]) -> None:
        self.writer.writerow(_cells(row, self.columns).values())

    def close(self) -> None:
        self.file.close()


class _Parquet(RowFile):
    def __init__(self, path: Path, columns: Mapping[str, Kind]) -> None:
        import pyarrow
        import pyarrow.parquet

        super().__init__(path, columns)
        types = {
            "text": pyarrow.string(),
            "whole": pyarrow.int64(),
            "number": pyarrow.float64(),
            "truth": pyarrow.bool_(),
            "json": pyarrow.string(),
        }
        self.table = pyarrow.Table
        self.schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
        self.writer = pyarrow.parquet.ParquetWriter(path, self.schema)
        self.waiting: list[dict[str, Any]] = []

    def write(self, row: Mapping[str, Any]) -> None:
        self.waiting.append(_cells(row, self.columns))
        if len(self.waiting) >= ROWS_AT_ONCE:
            self._flush()

    def close(self) -> None:
        if self.waiting:
            self._flush()
        self.writer.close()

    def _flush(self) -> None:
        self.writer.write_table(self.table.from_pylist(self.waiting, schema=self.schema))
        self.waiting = []


FORMS: dict[str, type[RowFile]] = {".json": _Json, ".jsonl": _JsonLines, ".csv": _Csv, ".parquet": _Parquet}


def check_row_file(path: Path, forms: Mapping[str, Any] = FORMS) -> None:
    """Raises ConfigError for a file of another ending, early."""
    if path.suffix.lower() not in forms:
        raise ConfigError(f"results are written to files that end in {', '.join(forms)}; got {path.name!r}.")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give the name of a file in it.")


@contextmanager
def row_file(path: Path, columns: Mapping[str, Kind], kind: type[HfvisionError] = ConfigError) -> Iterator[RowFile]:
    """A file for rows, there when the block ends well; else nothing is left. `columns` are the names and kinds of a
    table's columns; rows may hold more, which JSON keeps.

    Raises ConfigError for another ending, and `kind` if the disk does not let it.
    """
    check_row_file(path)
    with new_file(path, kind) as work:
        rows = FORMS[path.suffix.lower()](work, columns)
        try:
            yield rows
        finally:
            rows.close()


def _cells(row: Mapping[str, Any], columns: Mapping[str, Kind]) -> dict[str, Any]:
    """The row's values by column; what is inside a dict has its name behind that of the dict."""
    flat = dict(_flat(_plain(row), columns, ""))
    return {
        name: json.dumps(flat[name], ensure_ascii=False) if kind == "json" and name in flat else flat.get(name)
        for name, kind in columns.items()
    }


def _flat(row: Mapping[str, Any], columns: Mapping[str, Kind], before: str) -> Iterator[tuple[str, Any]]:
    for key, value in row.items():
        name = before + key
        if isinstance(value, Mapping) and name not in columns:
            yield from _flat(value, columns, name + SEPARATOR)
        else:
            yield name, value


def _plain(value: Any) -> Any:
    """The same as JSON knows it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "item"):  # NumPy's and torch's numbers
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
