"""`hfvision demo`: train on handwritten digits, predict, fine-tune, draw."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from hfvision.cli.output import JsonOption, emit

if TYPE_CHECKING:
    from hfvision.training.demo import DemoResult


def run(
    output: Annotated[str, typer.Option(help="Folder for the two models and the picture.")] = "hfvision-demo",
    seed: Annotated[int, typer.Option(help="Of initial weights, order and augmentation.")] = 0,
    json: JsonOption = False,
) -> None:
    """Train a small vision transformer on 1,437 handwritten digits (about a minute on two cores), load it back through
    transformers.pipeline, predict held-out digits, fine-tune it to tell even from odd, and draw what it looks at.

    Fails (exit code 1) if fewer than 97 % of the 360 held-out digits are right. An interrupted run continues when the
    command is repeated.
    """
    from hfvision.training.demo import run_demo

    result = run_demo(output, seed=seed, say=lambda line: typer.echo(line, err=True))
    emit({**asdict(result), "passed": result.passed}, _text(result), json)
    if not result.passed:
        typer.echo(
            f"The demo failed: {result.accuracy:.2%} of {result.held_out_images} held-out images are right; wanted at "
            f"least {result.required_accuracy:.0%}.",
            err=True,
        )
        raise typer.Exit(1)


def _text(result: "DemoResult") -> str:
    total = result.held_out_images
    training = (
        "had been trained before" if result.already_trained else f"{result.epochs:g} epochs, {result.seconds:.0f} s"
    )
    lines = [
        "",
        f"Trained     {result.parameters:,} parameters on {result.train_images:,} images: {training}",
        f"Accuracy    {result.accuracy:.2%} of {total} held-out images ({round(result.accuracy * total)} right)",
        f"Saved       {result.model}",
        "",
        f'pipeline("image-classification", model="{result.model}") says of held-out images:',
        "",
        "    image   digit   answer   probability",
        *(
            f"    {p.image:>5}   {p.true:>5}   {p.predicted:>6}   {p.probability:>11.1%}"
            + ("" if p.true == p.predicted else "   wrong")
            for p in result.predictions
        ),
        "",
        f"Fine-tuned  even or odd: {result.fine_tuned_accuracy:.2%} of {total} held-out images: {result.fine_tuned}",
        f"Picture     {result.picture}",
        "",
        f"Next:       hfvision predict IMAGE --model {result.model}",
    ]
    return "\n".join(lines)
