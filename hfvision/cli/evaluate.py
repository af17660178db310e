"""`hfvision evaluate MODEL --dataset DATA`: the figures of a model, with a record that its card reads."""

from pathlib import Path
from typing import Annotated

import typer

from hfvision.cli.output import JsonOption, emit
from hfvision.cli.reading import NOTHING_SAID, Reading, takes_reading
from hfvision.cli.train.options import Workers
from hfvision.reading_options import TASKS


@takes_reading(*TASKS, splits=False)
def run(
    model: Annotated[str, typer.Argument(help="A model folder, a Hub id, or a starter: its class says the task.")],
    dataset: Annotated[
        str, typer.Option(help="Folder, Hub id, parquet file, or a built-in name: digits, digit-scenes.")
    ],
    split: Annotated[str | None, typer.Option(help="Split to measure on.", show_default="validation, or test")] = None,
    by_number: Annotated[bool, typer.Option("--by-number", help="Match classes by number, not by name.")] = False,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Least score of a segment, or of an object in the confusion.")
    ] = 0.5,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that run together.")] = 8,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    workers: Workers = None,
    reading: Reading = NOTHING_SAID,
    record: Annotated[
        Path | None,
        typer.Option(help="File to add the result to.", show_default="hfvision_evaluation.json in the model's folder"),
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="File for the answer to every image: .json, .jsonl, .csv or .parquet.")
    ] = None,
    confusion: Annotated[
        list[Path] | None,
        typer.Option(help="File for the classes taken for each other: .json, .csv, or .png for a picture. Repeatable."),
    ] = None,
    no_record: Annotated[bool, typer.Option("--no-record", help="Write nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure a model on held-out images: accuracy, mean IoU, COCO's AP or PQ, by its task. `hfvision card FOLDER` then
    puts the figures into the model card.
    """
    from dataclasses import asdict

    from hfvision.training.evaluation import evaluate

    result = evaluate(
        model,
        dataset,
        split=split,
        by_number=by_number,
        threshold=threshold,
        batch_size=batch_size,
        precision=precision,
        workers=workers or 0,
        data_options=reading,
        predictions=predictions,
        confusion=confusion or (),
        record=False if no_record else True if record is None else record,
    )
    figures = [f"    {name:<20} {value:.4f}" for name, value in result.metrics.items()]
    head = f"{model} on {result.dataset} ({result.split}), {result.samples:,} images, {result.seconds:.0f} s"
    last = [f"The record is in {result.record}."] if result.record else []
    last += (
        [f"Written: {', '.join(written)}"]
        if (written := [*filter(None, [result.predictions]), *result.confusion])
        else []
    )
    emit(asdict(result), "\n".join([head, *figures, *last]), as_json)
