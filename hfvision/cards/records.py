"""What the records in a model folder say for its card: of its conversion, its training, its evaluations."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hfvision.cards.figures import Result
from hfvision.catalog import CatalogRow, row
from hfvision.errors import UnknownNameError
from hfvision.licences.inheritance import RECORD_FILE
from hfvision.reporting import report

EVALUATION = "hfvision_evaluation.json"
FIGURES_LEFT_OUT = ("loss",)


def read_record(path: Path) -> dict[str, Any]:
    """{} where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def of_these_weights(folder: Path, conversion: Mapping[str, Any]) -> bool:
    """Whether the folder still has the weights that the conversion wrote; records of 0.4 do not tell."""
    return conversion.get("weights") in (None, "", weights_digest(folder))


def row_of(conversion: Mapping[str, Any]) -> CatalogRow | None:
    """The catalogue's row of the published file that was converted; None for weights that nobody published."""
    named = conversion.get("catalog_row")
    try:
        return row(named) if isinstance(named, str) else None
    except UnknownNameError:  # of another version of the catalogue
        return None


def weights_digest(folder: Path) -> str:
    """SHA-256 of the weight files' contents in the order of their names: an evaluation is of these and no others."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def measured(folder: Path) -> list[Result]:
    """The figures of the folder's evaluations, and of its training's last one; of other weights they do not count."""
    found = [*_of_training(read_record(folder / RECORD_FILE)), *_of_evaluations(folder)]
    return list({(one.dataset, one.split, one.metric): one for one in found}.values())


def classes_of(folder: Path) -> tuple[str, Mapping[str, float | None]] | None:
    """The figure and the table by class of the last evaluation that has one."""
    for entry in reversed(evaluations(folder)):
        if entry.get("class_figure") and entry.get("per_class"):
            return str(entry["class_figure"]), entry["per_class"]
    return None


def evaluations(folder: Path) -> list[dict[str, Any]]:
    """The entries of the evaluation record that are about these weights; others are reported."""
    entries = read_record(folder / EVALUATION).get("evaluations", [])
    if not entries:
        return []
    digest = weights_digest(folder)
    valid = [entry for entry in entries if entry.get("weights") == digest]
    if len(valid) < len(entries):
        report(
            f"{len(entries) - len(valid)} of {len(entries)} evaluations in {EVALUATION} were of other weights than "
            "those in the folder, and are left out."
        )
    return valid


def _of_training(record: Mapping[str, Any]) -> list[Result]:
    plan, result = record.get("plan", {}), record.get("result", {})
    if not result.get("samples"):
        return []
    return [
        Result(plan["task"], plan["data"]["name"], result["split"], name, value, result["samples"])
        for name, value in result.get("metrics", {}).items()
        if name not in FIGURES_LEFT_OUT
    ]


def _of_evaluations(folder: Path) -> list[Result]:
    return [
        Result(
            entry["task"],
            entry["dataset"],
            entry["split"],
            name,
            value,
            entry["samples"],
            revision=entry.get("revision"),
            date=entry.get("date"),
        )
        for entry in evaluations(folder)
        for name, value in entry["metrics"].items()
        if name not in FIGURES_LEFT_OUT
    ]
