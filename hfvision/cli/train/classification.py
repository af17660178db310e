"""`hfvision train classification`."""

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
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Side of the images that the model takes.", show_default="the model's own")
    ] = None,
    augment: Annotated[
        bool, typer.Option(help="The standard recipe: a part of the image, mirrored, other colors.")
    ] = True,
    area: Annotated[tuple[float, float], typer.Option(help="Least and largest share of the image that is seen.")] = (
        0.35,
        1.0,
    ),
    flip: Flip = True,
    colour: Colour = True,
    class_weights: ClassWeights = None,
    label_smoothing: Annotated[
        float, typer.Option(min=0, max=0.99, help="Share of each label that all classes get.")
    ] = 0.0,
    reading: Reading = NOTHING_SAID,
    license: License = None,
    resume: Resume = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune an image classifier; other classes get a new head. The same command with --resume continues a run."""
    given = locals()
    from hfvision.training.classification import train_classification
    from hfvision.training.classification_augmentation import ClassificationAugmentation

    result = train_classification(
        model,
        dataset,
        output,
        args=arguments_of_command(given),
        augment=ClassificationAugmentation(area=area, flip=0.5 * flip, colour=colour) if augment else None,
        image_size=image_size,
        class_weights=class_weights_of(class_weights),
        label_smoothing=label_smoothing,
        data_options=reading,
        resume=resume,
        license=license,
    )
    text = (
        f"accuracy {result.accuracy:.2%} on {result.measured_on} after {result.steps:,} "
        f"steps\nThe model is in {result.output_dir}: hfvision predict IMAGE --model {result.output_dir}"
    )
    emit(vars(result), text, as_json)
