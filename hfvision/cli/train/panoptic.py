"""`hfvision train panoptic`."""

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
from hfvision.reading_options import PANOPTIC


@takes_reading(PANOPTIC)
def panoptic(
    model: Model,
    dataset: Annotated[
        str, typer.Option(help='Hub id, parquet file, folder in the form of COCO panoptic, or "digit-scenes[-large]".')
    ],
    output: Output,
    threshold: Annotated[
        float, typer.Option(help="Score above which a query is a segment, in held-out figures.")
    ] = 0.5,
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
    """Fine-tune panoptic segmentation, from a panoptic model or from a detector, which gets a new mask head. The same
    command with --resume continues a run."""
    given = locals()
    from hfvision.training.panoptic import train_panoptic

    result = train_panoptic(model, dataset, output, threshold=threshold, **training_options_of(given))
    text = (
        f"PQ {result.PQ:.2%} (SQ {result.SQ:.2%}, RQ {result.RQ:.2%}) on {result.measured_on} "
        f"after {result.steps:,} steps\nThe model is in {result.output_dir}: hfvision predict IMAGE "
        f"--model {result.output_dir} --output FOLDER"
    )
    emit(vars(result), text, as_json)
