"""`hfvision evaluate MODEL --dataset DATA`: the figures of a model, with a record that its card reads."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hfvision.cli.output import JsonOption, emit
from hfvision.cli.train.options import DatasetConfig, ImageColumn, Names, Workers, names_of


def run(
    model: Annotated[str, typer.Argument(help="A model folder, a Hub id, or a starter: its class says the task.")],
    dataset: Annotated[
        str, typer.Option(help="Folder, Hub id, parquet file, or a built-in name: digits, digit-scenes.")
    ],
    split: Annotated[str | None, typer.Option(help="Split to measure on. [default: validation, or test]")] = None,
    by_number: Annotated[bool, typer.Option("--by-number", help="Match classes by number, not by name.")] = False,
    names: Names = None,
    label_map: Annotated[str | None, typer.Option(help="Segmentation: what the values of masks mean.")] = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Panoptic: least score of a segment.")] = 0.5,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that run together.")] = 8,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    workers: Workers = None,
    image_column: ImageColumn = None,
    dataset_config: DatasetConfig = None,
    check_images: Annotated[int, typer.Option(min=0, help="Images to decode before measuring.")] = 20_000,
    record: Annotated[
        Path | None,
        typer.Option(help="File to add the result to. [default: hfvision_evaluation.json in the model's folder]"),
    ] = None,
    no_record: Annotated[bool, typer.Option("--no-record", help="Write nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure a model on held-out images: accuracy, mean IoU, COCO's AP or PQ, by its task. `hfvision card FOLDER` then
    puts the figures into the model card.
    """
    from dataclasses import asdict

    from hfvision.training.evaluation import evaluate

    options: dict[str, Any] = {"names": names_of(names), "label_map": label_map}
    options = {name: value for name, value in options.items() if value is not None}
    result = evaluate(
        model,
        dataset,
        split=split,
        by_number=by_number,
        threshold=threshold,
        batch_size=batch_size,
        precision=precision,
        workers=workers or 0,
        data_options={"image_column": image_column, "config_name": dataset_config, "check_images": check_images}
        | options,
        record=False if no_record else True if record is None else record,
    )
    figures = [f"    {name:<20} {value:.4f}" for name, value in result.metrics.items()]
    head = f"{model} on {result.dataset} ({result.split}), {result.samples:,} images, {result.seconds:.0f} s"
    last = [f"The record is in {result.record}."] if result.record else []
    emit(asdict(result), "\n".join([head, *figures, *last]), as_json)
