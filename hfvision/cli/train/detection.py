"""`hfvision train detection`."""

from dataclasses import asdict
from typing import Annotated

import typer

from hfvision.cli.output import JsonOption, emit
from hfvision.cli.reading import NOTHING_SAID, Reading, takes_reading
from hfvision.cli.train.detection_options import (
    Augment,
    BatchSize,
    Crop,
    Eos,
    Epochs,
    GradNorm,
    HeadRate,
    KeepBest,
    LearningRate,
    LossWeights,
    Patience,
    Queries,
    Scale,
    Trunk,
    TrunkRate,
    Warmup,
    WeightDecay,
    training_options_of,
)
from hfvision.cli.train.options import (
    Accumulation,
    Checkpointing,
    Colour,
    Flip,
    License,
    MaxSteps,
    Model,
    Output,
    Precision,
    Resume,
    SaveEvery,
    Seed,
    Workers,
)
from hfvision.reading_options import DETECTION


@takes_reading(DETECTION)
def detection(
    model: Model,
    dataset: Annotated[
        str,
        typer.Option(
            help='Hub id, parquet file, folder of an annotation tool (COCO, VOC, YOLO, ...), or "digit-scenes".'
        ),
    ],
    output: Output,
    overfit: Annotated[
        int | None,
        typer.Option(
            help="Only try whether so many images can be learnt by heart (AP50 above 0.9); exit code 1 if not."
        ),
    ] = None,
    epochs: Epochs = None,
    max_steps: MaxSteps = None,
    batch_size: BatchSize = None,
    gradient_accumulation: Accumulation = None,
    learning_rate: LearningRate = None,
    trunk: Trunk = None,
    trunk_rate_factor: TrunkRate = None,
    head_rate_factor: HeadRate = None,
    warmup: Warmup = None,
    weight_decay: WeightDecay = None,
    max_grad_norm: GradNorm = None,
    seed: Seed = None,
    precision: Precision = None,
    activation_checkpointing: Checkpointing = None,
    save_every: SaveEvery = None,
    keep_best: KeepBest = None,
    patience: Patience = None,
    workers: Workers = None,
    queries: Queries = None,
    eos: Eos = None,
    loss_weights: LossWeights = None,
    augment: Augment = True,
    scale: Scale = (0.6, 1.0),
    crop: Crop = 0.5,
    flip: Flip = True,
    colour: Colour = True,
    reading: Reading = NOTHING_SAID,
    license: License = None,
    resume: Resume = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune object detection; other classes get a new head. The same command with --resume continues a run."""
    given = locals()
    from hfvision.training.detection import train_detection

    result = train_detection(model, dataset, output, overfit=overfit, **training_options_of(given))
    text = (
        f"AP {result.AP:.2%}, AP50 {result.AP50:.2%} on {result.measured_on} after "
        f"{result.steps:,} steps\nThe model is in {result.output_dir}: hfvision predict IMAGE --model "
        f"{result.output_dir} --output FOLDER"
    )
    check = result.overfit
    if check is not None:
        verdict = "can be learnt" if check.passed else "could not be learnt"
        text = (
            f"{check.images} images {verdict} by heart: AP50 {result.AP50:.2%} after {result.steps:,} steps, more than "
            f"{check.required_AP50:.0%} twice in a row is wanted"
        ) + "".join(f"\n  look at: {advice}" for advice in check.advice)
    emit(asdict(result), text, as_json)
    if check is not None and not check.passed:
        raise typer.Exit(1)
