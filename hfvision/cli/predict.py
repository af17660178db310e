"""`hfvision predict IMAGE ...`: the labels of images, of their pixels, or of the objects in them."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from hfvision.cli.options import NOTHING, Given, source_of, takes
from hfvision.cli.output import JsonOption, emit
from hfvision.errors import ConfigError
from hfvision.options import option

PICTURES = ("map", "overlay")
BAR_FROM = 8  # images


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """Keywords of `hfvision.pipelines.predict`; what is not given is left to the model's pipeline."""

    top_k: int | None = option("Labels per image, of models that classify.", shown="5", min=1)
    threshold: float | None = option("Least score of an object.", shown="0.5; of a segment 0.9", min=0, max=1)
    subtask: str | None = option("Of models that segment objects: panoptic, instance, semantic.", shown="panoptic")
    tile: int | None = option("Side in pixels of windows to cut large images into.", min=1)
    overlap: float | None = option("Share of a window that its neighbor repeats.", shown="0.25")
    blend: str | None = option("How windows are joined where pixels get labels: gauss, mean, none.")
    batch_size: int = option("Images (or windows) that run together.", 1, min=1)
    device: str | None = option("cpu, cuda, cuda:1, mps.")
    optimize: str | None = option(
        "Faster, not quite the same numbers: bfloat16, int8, token_merging=8, compile, or several with commas."
    )


@takes(options=source_of(PredictionOptions))
def run(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files, folders, patterns or URLs.")],
    model: Annotated[str, typer.Option(help="A starter model (vit-digits), a folder, or a Hub id.")],
    output: Annotated[
        list[Path] | None,
        typer.Option(
            help="A file for all answers (.json, .csv, .parquet), or a folder for overlays; for label maps, where "
            "pixels get labels; for detections.json or segments.json and maps in COCO's form, where objects are found. "
            "May be given twice."
        ),
    ] = None,
    options: Given = NOTHING,
    processor: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="An option of the image processor: input_range=[0,1], do_rescale=false, bands=[...]. Repeatable.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Answers go to stdout as they come. An image that cannot be read does not stop the others: it is listed at the
    end, and the exit code is 1.
    """
    from transformers.utils import logging

    from hfvision.cli.predict_files import PictureFiles, entries_of, write_table
    from hfvision.data.inputs import listed
    from hfvision.pipelines.predict import Failure, predictions_or_failures

    options = {**options, **_processor_options(processor or [])}
    table, folder = _destinations(output or [])
    inputs = listed(images)
    if not inputs:
        raise ConfigError(f"no images in {', '.join(images)}")
    files = None if folder is None else PictureFiles(folder)
    answers = predictions_or_failures([one.source for one in inputs], model, **options)
    rows: list[dict[str, Any]] = []
    failures: list[Failure] = []
    few = True if len(inputs) < BAR_FROM else None  # None: a bar where stderr is a terminal
    for one, answer in zip(inputs, logging.tqdm(answers, total=len(inputs), unit="image", disable=few), strict=True):
        if isinstance(answer, Failure):
            if len(inputs) == 1:
                raise answer.error
            failures.append(answer)
            rows.append({"image": one.source, "error": str(answer)})
            continue
        row = {"image": one.source, "predictions": entries_of(answer)}
        if files is not None:
            if isinstance(answer, list):
                raise ConfigError(
                    f"--output is for models that say where something is; {model!r} classifies. A file for all answers "
                    "ends in .json, .csv or .parquet."
                )
            row |= files.add(one.source, one.name, answer)
        rows.append(row)
        if not as_json:
            emit(row, _text(row), as_json=False)
    summary = "" if files is None else files.finish()
    if table is not None:
        write_table(table, rows)
        summary = f"{summary}\n{table}".strip()
    if as_json:
        emit(rows, "", as_json=True)
    elif summary:
        emit(rows, summary, as_json=False)
    if failures:
        failed = [f"    {row['image']}: {row['error']}" for row in rows if "error" in row]
        print(f"{len(failed)} of {len(rows)} images failed:", *failed, sep="\n", file=sys.stderr)
        raise typer.Exit(1)


def _destinations(outputs: list[Path]) -> tuple[Path | None, Path | None]:
    """The table and the folder among what is to be written. Raises ConfigError for two of a kind."""
    from hfvision.cli.predict_files import TABLES

    tables = [path for path in outputs if path.suffix.lower() in TABLES and not path.is_dir()]
    folders = [path for path in outputs if path not in tables]
    if len(tables) > 1 or len(folders) > 1:
        raise ConfigError(f"--output is one folder, one file, or one of each; got {', '.join(map(str, outputs))}")
    if folders and folders[0].is_file():
        raise ConfigError(f"--output {folders[0]} is a file, and no name of a table ({', '.join(TABLES)})")
    return (tables[0] if tables else None), (folders[0] if folders else None)


def _processor_options(given: list[str]) -> dict[str, Any]:
    """NAME=VALUE as options; a value is JSON, or text where it is none. Raises ConfigError."""
    options: dict[str, Any] = {}
    for one in given:
        name, sign, value = one.partition("=")
        if not sign or not name:
            raise ConfigError(f"--processor takes NAME=VALUE; got {one!r}")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def _text(row: dict[str, Any]) -> str:
    """The image, and a line for each of its labels, segments or objects."""
    entries = row["predictions"]
    width = max((len(entry["label"]) for entry in entries), default=0)
    lines = [row["image"]] + ["    nothing was found"] * (not entries)
    for entry in entries:
        numbers = [f"{entry[name]:.4f}" for name in ("share", "score") if entry.get(name) is not None]
        if "box" in entry:
            numbers.append("  ".join(f"{edge:>5}" for edge in entry["box"].values()))
        lines.append(f"    {entry['label']:<{width}}  {'  '.join(numbers)}")
    return "\n".join(lines + [f"    {kind}: {row[kind]}" for kind in PICTURES if kind in row])
