"""What the commands that train detectors have in common: options, and what these say in Python."""

from typing import Annotated, Any, TypeAlias

import typer

from hfvision.cli.train.options import arguments_of_command

Epochs: TypeAlias = Annotated[
    float | None, typer.Option(help="Times to go through the training images.", show_default="60; new weights: 150")
]
BatchSize: TypeAlias = Annotated[
    int | None, typer.Option(help="Images per device and step.", show_default="8; new weights: 16")
]
LearningRate: TypeAlias = Annotated[
    float | None, typer.Option(help="Highest learning rate (AdamW).", show_default="0.0001; new weights: 0.001")
]
Warmup: TypeAlias = Annotated[
    float | None, typer.Option(help="Share of the steps (below 1), or number of steps.", show_default="0.05")
]
WeightDecay: TypeAlias = Annotated[float | None, typer.Option(show_default="0.0001")]
GradNorm: TypeAlias = Annotated[
    float | None, typer.Option(help="Gradients are clipped to this norm.", show_default="0.1")
]
KeepBest: TypeAlias = Annotated[
    bool | None, typer.Option("--keep-best/--keep-last", help="Which checkpoint to end with.", show_default="keep-best")
]
HeadRate: TypeAlias = Annotated[
    float | None, typer.Option(help="Times the learning rate, for the head.", show_default="1")
]
Patience: TypeAlias = Annotated[
    int | None,
    typer.Option(
        help="Evaluations without progress after which training ends, 0: never.", show_default="12; new weights: 0"
    ),
]
Trunk: TypeAlias = Annotated[
    str | None, typer.Option(help="Classifier or segmenter (folder, Hub id) that the trunk's weights are taken from.")
]
TrunkRate: TypeAlias = Annotated[
    float | None,
    typer.Option(
        help="Times the learning rate, for the trunk; 0: it does not learn.", show_default="0.1; new trunk: 1"
    ),
]
Queries: TypeAlias = Annotated[
    int | None, typer.Option(help="The most objects found in an image.", show_default="the model's")
]
Eos: TypeAlias = Annotated[
    float | None, typer.Option(help="Weight of queries without an object in the loss.", show_default="the model's, 0.1")
]
LossWeights: TypeAlias = Annotated[
    str | None,
    typer.Option(help='Weights of terms of the loss: "loss_bbox=5,loss_giou=2".', show_default="the model's"),
]
Augment: TypeAlias = Annotated[
    bool, typer.Option(help="The standard recipe: cut out, scaled, mirrored, other colours.")
]
Scale: TypeAlias = Annotated[
    tuple[float, float], typer.Option(help="Least and largest factor of the size that the model is evaluated at.")
]
Crop: TypeAlias = Annotated[float, typer.Option(help="Share of the images that are cut to a random window.")]


def training_options_of(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments that `train_detection` and `train_panoptic` share."""
    from hfvision.training.detection_augmentation import DetectionAugmentation

    loss: dict[str, Any] = {} if given["eos"] is None else {"eos_coefficient": given["eos"]}
    if given["loss_weights"] is not None:
        loss["weights"] = _weights(given["loss_weights"])
    recipe = {"scale": given["scale"], "crop": given["crop"], "flip": 0.5 * given["flip"], "colour": given["colour"]}
    return {
        "args": arguments_of_command(given),
        "augment": DetectionAugmentation(**recipe) if given["augment"] else None,
        "patience": given["patience"],
        "trunk": given["trunk"],
        "trunk_rate_factor": given["trunk_rate_factor"],
        "num_queries": given["queries"],
        "loss": loss,
        "data_options": given["reading"],
        "resume": given["resume"],
        "license": given["license"],
    }


def _weights(given: str) -> dict[str, float]:
    pairs = (pair.partition("=") for pair in given.split(","))
    try:
        return {name.strip(): float(weight) for name, _, weight in pairs}
    except ValueError:
        raise typer.BadParameter(f'terms with their weights, "loss_bbox=5,loss_giou=2"; got {given!r}') from None
