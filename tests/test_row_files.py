"""Rows reach every form of file with the same values, one after the other, and all or none of them."""

import csv
import json

import numpy as np
import pyarrow.parquet
import pytest

from hfvision.errors import ConfigError
from hfvision.row_files import FORMS, ROWS_AT_ONCE, row_file

COLUMNS = {"file": "text", "row": "whole", "score": "number", "right": "truth", "iou.a cat": "number", "parts": "json"}
ROWS = [
    {
        "file": "ä,\n.png",
        "row": np.int64(1),
        "score": np.float32(0.5),
        "right": True,
        "iou": {"a cat": 0.25},
        "more": 1,
    },
    {"file": "b.png", "row": 2, "score": float("nan"), "right": False, "iou": {"a cat": None}, "parts": [{"id": 3}]},
]


def written(path, rows, columns=COLUMNS):
    with row_file(path, columns) as file:
        for row in rows:
            file.write(row)
    return path


def read(path):
    """Every form's rows as the table has them."""
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def test_json_keeps_the_rows_as_they_are(tmp_path):
    for ending in (".json", ".jsonl"):
        first, second = read(written(tmp_path / f"rows{ending}", ROWS))
        assert first == {"file": "ä,\n.png", "row": 1, "score": 0.5, "right": True, "iou": {"a cat": 0.25}, "more": 1}
        assert second["score"] is None and second["parts"] == [{"id": 3}]


def test_tables_have_one_column_for_each_value(tmp_path):
    first, second = read(written(tmp_path / "rows.parquet", ROWS))
    values = {"file": "ä,\n.png", "row": 1, "score": 0.5, "right": True, "iou.a cat": 0.25, "parts": None}
    assert first == values
    assert second == {
        "file": "b.png",
        "row": 2,
        "score": None,
        "right": False,
        "iou.a cat": None,
        "parts": '[{"id": 3}]',
    }
    lines = read(written(tmp_path / "rows.csv", ROWS))
    assert lines[0] == {name: "" if value is None else str(value) for name, value in values.items()}


@pytest.mark.parametrize("ending", FORMS)
def test_no_row_and_very_many_are_as_good(ending, tmp_path):
    assert read(written(tmp_path / f"none{ending}", [])) == []
    many = read(
        written(tmp_path / f"many{ending}", ({"row": row} for row in range(2 * ROWS_AT_ONCE + 1)), {"row": "whole"})
    )
    assert [int(row["row"]) for row in many] == list(range(2 * ROWS_AT_ONCE + 1))


@pytest.mark.parametrize("ending", FORMS)
def test_a_failure_leaves_nothing_and_an_older_file_as_it_was(ending, tmp_path):
    path = tmp_path / f"rows{ending}"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), row_file(path, {"row": "whole"}) as rows:
        rows.write({"row": 1})
        rows.write({"row": 1 / 0})
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"end in .json, .jsonl, .csv, .parquet; got 'rows.xls'"):
        written(tmp_path / "rows.xls", ROWS)
