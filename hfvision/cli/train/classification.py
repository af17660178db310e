"""`hfvision train classification`."""

from typing import Annotated

import typer

from hfvision.cli.output import JsonOption, emit
from hfvision.cli.reading import NOTHING_SAID, Reading, takes_reading
from hfvision.cli.train.options import (
    Accumulation,
    BatchSize,
    Checkpointing,
    DropPath,
    Epochs,
    KeepBest,
    LearningRate,
    License,
    MaxSteps,
    Model,
    Output,
    Precision,
    Resume,
    SaveEvery,
    Seed,
    Warmup,
    WeightDecay,
    Workers,
    settings_of,
)
from hfvision.reading_options import CLASSIFICATION


@takes_reading(CLASSIFICATION)
def classification(
    model: Model,
    dataset: Annotated[str, typer.Option(help='Hub id, folder of class folders, parquet file, or "digits".')],
    output: Output,
    epochs: Epochs = None,
    max_steps: MaxSteps = None,
    batch_size: BatchSize = None,
    gradient_accumulation: Accumulation = None,
    learning_rate: LearningRate = None,
    warmup: Warmup = None,
    weight_decay: WeightDecay = None,
    drop_path: DropPath = None,
    seed: Seed = None,
    precision: Precision = None,
    activation_checkpointing: Checkpointing = None,
    save_every: SaveEvery = None,
    keep_best: KeepBest = None,
    workers: Workers = None,
    reading: Reading = NOTHING_SAID,
    license: License = None,
    resume: Resume = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune an image classifier; other classes get a new head. The same command with --resume continues a run."""
    given = locals()
    from hfvision.training.classification import train_classification

    result = train_classification(
        model, dataset, output, settings=settings_of(given), data_options=reading, resume=resume, license=license
    )
    text = (
        f"accuracy {result.accuracy:.2%} on {result.measured_on} after {result.steps:,} "
        f"steps\nThe model is in {result.output_dir}: hfvision predict IMAGE --model {result.output_dir}"
    )
    emit(vars(result), text, as_json)
