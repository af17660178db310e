"""`hfvision train classification`."""

from typing import Annotated

import typer

from hfvision.cli.output import JsonOption, emit
from hfvision.cli.train.options import (
    Accumulation,
    BatchSize,
    CheckImages,
    Checkpointing,
    DatasetConfig,
    DropPath,
    Epochs,
    EvalSplit,
    HeldOut,
    ImageColumn,
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
    TrainSplit,
    Warmup,
    WeightDecay,
    Workers,
    data_options_of,
    settings_of,
)


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
    image_column: ImageColumn = None,
    label_column: Annotated[str | None, typer.Option(help="Where several columns could hold the labels.")] = None,
    train_split: TrainSplit = None,
    eval_split: EvalSplit = None,
    dataset_config: DatasetConfig = None,
    held_out: HeldOut = 0.1,
    drop_empty_classes: Annotated[bool, typer.Option(help="Leave out classes without a training image.")] = False,
    check_images: CheckImages = 20_000,
    license: License = None,
    resume: Resume = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune an image classifier; other classes get a new head. The same command with --resume continues a run."""
    given = locals()
    from hfvision.training.classification import train_classification

    data_options = data_options_of(given) | {"label_column": label_column, "drop_empty_classes": drop_empty_classes}
    result = train_classification(
        model, dataset, output, settings=settings_of(given), data_options=data_options, resume=resume, license=license
    )
    text = (
        f"accuracy {result.accuracy:.2%} on {result.samples:,} held-out images ({result.split}) after {result.steps:,} "
        f"steps\nThe model is in {result.output_dir}: hfvision predict IMAGE --model {result.output_dir}"
    )
    emit(vars(result), text, as_json)
