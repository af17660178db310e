"""`hfvision train TASK`: fine-tune a model on a data set, or train one from nothing."""

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from hfvision.cli.output import JsonOption, emit

app = typer.Typer()

# What every task takes. An option that is not given is left to the settings, whose defaults depend on the model.
Model: TypeAlias = Annotated[
    str,
    typer.Option(
        help="Hub id, folder, or a model that ships with hfvision (see hfvision list). new: before it takes only its "
        "architecture, with new weights."
    ),
]
Output: TypeAlias = Annotated[Path, typer.Option(help="Folder to write: new, empty, or an interrupted run (--resume).")]
Epochs: TypeAlias = Annotated[
    float | None, typer.Option(help="Times to go through the training images. [default: 3; new weights: 24]")
]
MaxSteps: TypeAlias = Annotated[int | None, typer.Option(help="Optimizer steps; goes before --epochs.")]
BatchSize: TypeAlias = Annotated[
    int | None, typer.Option(help="Images per device and step. [default: 32; new weights: 16]")
]
Accumulation: TypeAlias = Annotated[int | None, typer.Option(help="Batches per optimizer step. [default: 1]")]
LearningRate: TypeAlias = Annotated[
    float | None, typer.Option(help="Highest learning rate (AdamW). [default: 5e-05; new weights: 0.002]")
]
Warmup: TypeAlias = Annotated[
    float | None, typer.Option(help="Share of the steps (below 1), or number of steps. [default: 0.1]")
]
WeightDecay: TypeAlias = Annotated[float | None, typer.Option(help="[default: 0.01; new weights: 0.05]")]
DropPath: TypeAlias = Annotated[float | None, typer.Option(help="Stochastic depth of the last block. [default: 0]")]
Seed: TypeAlias = Annotated[int | None, typer.Option(help="[default: 0]")]
Precision: TypeAlias = Annotated[str | None, typer.Option(help="fp32, bf16 or fp16 (mixed precision). [default: fp32]")]
Checkpointing: TypeAlias = Annotated[
    bool | None, typer.Option("--activation-checkpointing", help="Less memory, more time.")
]
SaveEvery: TypeAlias = Annotated[int | None, typer.Option(help="Steps between checkpoints. [default: one epoch]")]
KeepBest: TypeAlias = Annotated[bool | None, typer.Option("--keep-best", help="End with the best checkpoint.")]
Workers: TypeAlias = Annotated[int | None, typer.Option(help="Processes that read images. [default: 0]")]
HeadRate: TypeAlias = Annotated[
    float | None, typer.Option(help="Times the learning rate, for the head. [default: 10 for a new one]")
]
ImageColumn: TypeAlias = Annotated[str | None, typer.Option(help="Where several columns could hold the images.")]
TrainSplit: TypeAlias = Annotated[str | None, typer.Option(help="Split to train on.")]
EvalSplit: TypeAlias = Annotated[str | None, typer.Option(help="Split to measure on.")]
DatasetConfig: TypeAlias = Annotated[str | None, typer.Option(help="Configuration of a Hub data set.")]
HeldOut: TypeAlias = Annotated[float, typer.Option(help="Share to hold out where there is no split to measure on.")]
CheckImages: TypeAlias = Annotated[int, typer.Option(help="Images per split to decode before training.")]
License: TypeAlias = Annotated[str | None, typer.Option(help="Licence of the result. [default: the base model's]")]
Resume: TypeAlias = Annotated[bool, typer.Option(help="Continue an interrupted run; starts it if there is none.")]


@app.callback()
def tasks() -> None:
    """Fine-tune a model on a data set, or train one from nothing."""


@app.command()
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

    data_options = _data_options(given) | {"label_column": label_column, "drop_empty_classes": drop_empty_classes}
    result = train_classification(
        model, dataset, output, settings=_settings(given), data_options=data_options, resume=resume, license=license
    )
    text = (
        f"accuracy {result.accuracy:.2%} on {result.samples:,} held-out images ({result.split}) after {result.steps:,} "
        f"steps\nThe model is in {result.output_dir}: hfvision predict IMAGE --model {result.output_dir}"
    )
    emit(vars(result), text, as_json)


@app.command()
def segmentation(
    model: Model,
    dataset: Annotated[str, typer.Option(help='Hub id, folder of images and masks, parquet file, or "digit-scenes".')],
    output: Output,
    epochs: Epochs = None,
    max_steps: MaxSteps = None,
    batch_size: BatchSize = None,
    gradient_accumulation: Accumulation = None,
    learning_rate: LearningRate = None,
    head_rate_factor: HeadRate = None,
    warmup: Warmup = None,
    weight_decay: WeightDecay = None,
    drop_path: DropPath = None,
    seed: Seed = None,
    precision: Precision = None,
    activation_checkpointing: Checkpointing = None,
    save_every: SaveEvery = None,
    keep_best: KeepBest = None,
    workers: Workers = None,
    augment: Annotated[
        bool, typer.Option(help="The standard recipe: scaled, cut out, mirrored, other colours.")
    ] = True,
    scale: Annotated[tuple[float, float], typer.Option(help="Least and largest factor of the recipe.")] = (0.5, 2.0),
    crop: Annotated[
        int | None, typer.Option(help="Side of the windows that are cut out. [default: as the model is evaluated]")
    ] = None,
    flip: Annotated[bool, typer.Option(help="Mirror half of the images; not where left and right matter.")] = True,
    colour: Annotated[bool, typer.Option(help="Vary brightness, contrast, saturation and hue.")] = True,
    loss: Annotated[
        str | None, typer.Option(help='Such as "cross_entropy", "dice+cross_entropy". [default: the model\'s own]')
    ] = None,
    class_weights: Annotated[
        str | None, typer.Option(help='Numbers, one for each class: "1,2.5,1"; or "balanced", by how rare each is.')
    ] = None,
    image_column: ImageColumn = None,
    mask_column: Annotated[str | None, typer.Option(help="Where several columns could hold the masks.")] = None,
    label_map: Annotated[
        str | None, typer.Option(help="What the values of masks mean: ade20k-150, cityscapes-19, ..., or a JSON file.")
    ] = None,
    names: Annotated[str | None, typer.Option(help="Names of the classes: a file, or a list with commas.")] = None,
    ignore_index: Annotated[int, typer.Option(help="Value of mask pixels that do not count.")] = 255,
    train_split: TrainSplit = None,
    eval_split: EvalSplit = None,
    dataset_config: DatasetConfig = None,
    held_out: HeldOut = 0.1,
    check_images: CheckImages = 20_000,
    license: License = None,
    resume: Resume = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune semantic segmentation; other classes get a new head. The same command with --resume continues a run."""
    given = locals()
    from hfvision.training.augmentation import StandardAugmentation
    from hfvision.training.segmentation import train_segmentation

    data_options = _data_options(given) | {
        "mask_column": mask_column,
        "label_map": label_map,
        "names": names.split(",") if names is not None and "," in names else names,
        "ignore_index": ignore_index,
    }
    recipe = StandardAugmentation(scale=scale, crop=crop, flip=0.5 * flip, colour=colour) if augment else None
    result = train_segmentation(
        model,
        dataset,
        output,
        settings=_settings(given),
        augment=recipe,
        loss=loss,
        class_weights=_class_weights(class_weights),
        data_options=data_options,
        resume=resume,
        license=license,
    )
    text = (
        f"mean IoU {result.mean_iou:.2%} on {result.samples:,} held-out images ({result.split}) after "
        f"{result.steps:,} steps\nThe model is in {result.output_dir}: hfvision predict IMAGE --model "
        f"{result.output_dir} --output FOLDER"
    )
    emit(vars(result), text, as_json)


def _settings(given: dict[str, Any]) -> Any:
    """The settings of a command: what was given, and else the defaults for the model."""
    from dataclasses import fields

    from hfvision.training.arguments import TrainingSettings

    names = [field.name for field in fields(TrainingSettings)]
    return TrainingSettings.for_model(
        given["model"], **{name: given[name] for name in names if given.get(name) is not None}
    )


def _data_options(given: dict[str, Any]) -> dict[str, Any]:
    names = ("image_column", "train_split", "eval_split", "held_out", "check_images")
    return {name: given[name] for name in names} | {"config_name": given["dataset_config"]}


def _class_weights(given: str | None) -> Any:
    """None, "balanced", or the numbers."""
    if given is None or given == "balanced":
        return given
    try:
        return [float(weight) for weight in given.split(",")]
    except ValueError:
        raise typer.BadParameter(f'numbers with commas between them, or "balanced"; got {given!r}') from None
