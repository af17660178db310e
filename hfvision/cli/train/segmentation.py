"""`hfvision train segmentation`."""

from typing import Annotated

import typer

from hfvision.cli.output import JsonOption, emit
from hfvision.cli.reading import NOTHING_SAID, Reading, takes_reading
from hfvision.cli.train.options import (
    Accumulation,
    BatchSize,
    Checkpointing,
    ClassWeights,
    Colour,
    DropPath,
    Epochs,
    Flip,
    HeadRate,
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
    arguments_of_command,
    class_weights_of,
)
from hfvision.reading_options import SEGMENTATION


@takes_reading(SEGMENTATION)
def segmentation(
    model: Model,
    dataset: Annotated[
        str, typer.Option(help='Hub id, folder of images and masks, parquet file, or "digit-scenes[-large]".')
    ],
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
        int | None, typer.Option(help="Side of the windows that are cut out.", show_default="as the model is evaluated")
    ] = None,
    flip: Flip = True,
    colour: Colour = True,
    loss: Annotated[
        str | None, typer.Option(help='Such as "cross_entropy", "dice+cross_entropy".', show_default="the model's own")
    ] = None,
    class_weights: ClassWeights = None,
    reading: Reading = NOTHING_SAID,
    license: License = None,
    resume: Resume = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune semantic segmentation; other classes get a new head. The same command with --resume continues a run."""
    given = locals()
    from hfvision.training.augmentation import StandardAugmentation
    from hfvision.training.segmentation import train_segmentation

    recipe = StandardAugmentation(scale=scale, crop=crop, flip=0.5 * flip, colour=colour) if augment else None
    result = train_segmentation(
        model,
        dataset,
        output,
        args=arguments_of_command(given),
        augment=recipe,
        loss=loss,
        class_weights=class_weights_of(class_weights),
        data_options=reading,
        resume=resume,
        license=license,
    )
    text = (
        f"mean IoU {result.mean_iou:.2%} on {result.measured_on} after "
        f"{result.steps:,} steps\nThe model is in {result.output_dir}: hfvision predict IMAGE --model "
        f"{result.output_dir} --output FOLDER"
    )
    emit(vars(result), text, as_json)
