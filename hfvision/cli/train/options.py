"""What the commands of training have in common: their options, and what these say in Python."""

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

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
    float | None, typer.Option(help="Times to go through the training images.", show_default="3; new weights: 24")
]
MaxSteps: TypeAlias = Annotated[int | None, typer.Option(help="Optimizer steps; goes before --epochs.")]
BatchSize: TypeAlias = Annotated[
    int | None, typer.Option(help="Images per device and step.", show_default="32; new weights: 16")
]
Accumulation: TypeAlias = Annotated[int | None, typer.Option(help="Batches per optimizer step.", show_default="1")]
LearningRate: TypeAlias = Annotated[
    float | None, typer.Option(help="Highest learning rate (AdamW).", show_default="5e-05; new weights: 0.002")
]
Warmup: TypeAlias = Annotated[
    float | None, typer.Option(help="Share of the steps (below 1), or number of steps.", show_default="0.1")
]
WeightDecay: TypeAlias = Annotated[float | None, typer.Option(show_default="0.01; new weights: 0.05")]
DropPath: TypeAlias = Annotated[
    float | None, typer.Option(help="Stochastic depth of the last block.", show_default="0")
]
Seed: TypeAlias = Annotated[int | None, typer.Option(show_default="0")]
Precision: TypeAlias = Annotated[
    str | None, typer.Option(help="fp32, bf16 or fp16 (mixed precision).", show_default="fp32")
]
Checkpointing: TypeAlias = Annotated[
    bool | None, typer.Option("--activation-checkpointing", help="Less memory, more time.")
]
SaveEvery: TypeAlias = Annotated[int | None, typer.Option(help="Steps between checkpoints.", show_default="one epoch")]
KeepBest: TypeAlias = Annotated[bool | None, typer.Option("--keep-best", help="End with the best checkpoint.")]
Workers: TypeAlias = Annotated[int | None, typer.Option(help="Processes that read images.", show_default="0")]
HeadRate: TypeAlias = Annotated[
    float | None, typer.Option(help="Times the learning rate, for the head.", show_default="10 for a new one")
]
Flip: TypeAlias = Annotated[bool, typer.Option(help="Mirror half of the images; not where left and right matter.")]
Colour: TypeAlias = Annotated[bool, typer.Option(help="Vary brightness, contrast, saturation and hue.")]
ClassWeights: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help='Numbers, one for each class: "1,2.5,1"; or by name: "cat=2,dog=0.5"; or "balanced", by how rare each is.'
    ),
]
License: TypeAlias = Annotated[str | None, typer.Option(help="Licence of the result.", show_default="the base model's")]
Resume: TypeAlias = Annotated[bool, typer.Option(help="Continue an interrupted run; starts it if there is none.")]


def arguments_of_command(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of VisionTrainingArguments that a command was given; the task's defaults are left alone."""
    from hfvision.training.settings import arguments_of

    return arguments_of({name: value for name, value in given.items() if value is not None})


def class_weights_of(given: str | None) -> Any:
    """None, "balanced", the numbers, or those by name."""
    if given is None or given == "balanced":
        return given
    parts = [part.strip() for part in given.split(",")]
    try:
        if all("=" in part for part in parts):
            return {name.strip(): float(weight) for name, _, weight in (part.rpartition("=") for part in parts)}
        return [float(weight) for weight in parts]
    except ValueError:
        what = 'numbers with commas between them, names with numbers ("cat=2,dog=0.5"), or "balanced"'
        raise typer.BadParameter(f"{what}; got {given!r}") from None
