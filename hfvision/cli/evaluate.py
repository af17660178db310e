"""`hfvision evaluate MODEL --dataset DATA`: the figures of a model, with a record that its card reads."""

from typing import Annotated

import typer

from hfvision.cli.options import NOTHING, Given, reading_of, source_of, takes
from hfvision.cli.output import JsonOption, emit
from hfvision.reading_options import TASKS
from hfvision.training.evaluation_options import EvaluationOptions


@takes(options=source_of(EvaluationOptions), reading=reading_of(*TASKS, splits=False))
def run(
    model: Annotated[str, typer.Argument(help="A model folder, a Hub id, or a starter: its class says the task.")],
    dataset: Annotated[
        str, typer.Option(help="Folder, Hub id, parquet file, or a built-in name: digits, digit-scenes.")
    ],
    options: Given = NOTHING,
    reading: Given = NOTHING,
    as_json: JsonOption = False,
) -> None:
    """Measure a model on held-out images: accuracy, mean IoU, COCO's AP or PQ, by its task. `hfvision card FOLDER` then
    puts the figures into the model card.
    """
    from dataclasses import asdict

    from hfvision.training.evaluation import evaluate

    result = evaluate(model, dataset, data_options=reading, **options)
    figures = [f"    {name:<20} {value:.4f}" for name, value in result.metrics.items()]
    head = f"{model} on {result.dataset} ({result.split}), {result.samples:,} images, {result.seconds:.0f} s"
    last = [f"The record is in {result.record}."] if result.record else []
    if written := [*filter(None, [result.predictions]), *result.confusion]:
        last.append(f"Written: {', '.join(written)}")
    emit(asdict(result), "\n".join([head, *figures, *last]), as_json)
