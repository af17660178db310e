"""`hfvision demo [TASK]`: models that ship with hfvision, made and used before your eyes."""

from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from hfvision.cli.output import JsonOption, emit

if TYPE_CHECKING:
    from hfvision.training.demo import DemoResult
    from hfvision.training.demo_detection import DetectionDemoResult
    from hfvision.training.demo_segmentation import SegmentationDemoResult


class Task(StrEnum):
    """What there are demos of."""

    classification = "classification"
    segmentation = "segmentation"
    detection = "detection"


def run(
    task: Annotated[Task, typer.Argument(help="What is shown.")] = Task.classification,
    output: Annotated[
        str | None,
        typer.Option(help="Folder for models and pictures.", show_default="hfvision-demo, or hfvision-TASK-demo"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of initial weights, order and augmentation.")] = 0,
    model: Annotated[
        str | None,
        typer.Option(
            help="Segmentation, detection: which starter model.",
            show_default="segformer-digit-scenes, detr-digit-scenes",
        ),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help="Segmentation, detection: train it anew, ten minutes or more.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """classification: train a small vision transformer on 1,437 handwritten digits (about a minute on two cores), load
    it back through transformers.pipeline, predict held-out digits, fine-tune it to tell even from odd, and draw what it
    looks at. Fails (exit code 1) if fewer than 97 % of the 360 held-out digits are right.

    segmentation: give a class to every pixel of 200 scenes of digits with a model that ships with hfvision, or with one
    that is trained anew (--train); write the label maps and draw some. Fails if the mean IoU is below what the model is
    to reach, 80 %.

    detection: find the digits in the same scenes and draw their boxes; with --model detr-panoptic-digit-scenes their
    segments. Fails if AP50 is below 80 %, or PQ below 60 %.

    An interrupted training continues when the command is repeated.
    """
    if (train or model) and task is Task.classification:
        raise typer.BadParameter("--model and --train are for segmentation and detection; this demo always trains")

    def say(line: str) -> None:
        typer.echo(line, err=True)

    if task is Task.segmentation:
        from hfvision.training import demo_segmentation

        found = demo_segmentation.run_segmentation_demo(
            output or "hfvision-segmentation-demo",
            starter=model or demo_segmentation.STARTER,
            train=train,
            seed=seed,
            say=say,
        )
        emit({**asdict(found), "passed": found.passed}, _segmentation_text(found), json)
        passed, reached = found.passed, f"the mean IoU is {found.mean_iou:.2%} over {found.scenes} scenes"
        wanted = found.required_mean_iou
    elif task is Task.detection:
        from hfvision.training import demo_detection

        detected = demo_detection.run_detection_demo(
            output or "hfvision-detection-demo",
            starter=model or demo_detection.STARTER,
            train=train,
            seed=seed,
            say=say,
        )
        emit({**asdict(detected), "passed": detected.passed}, _detection_text(detected), json)
        passed = detected.passed
        reached = f"{detected.figure} is {detected.figures[detected.figure]:.2%} over {detected.scenes} scenes"
        wanted = detected.required
    else:
        from hfvision.training import demo

        result = demo.run_demo(output or "hfvision-demo", seed=seed, say=say)
        emit({**asdict(result), "passed": result.passed}, _text(result), json)
        passed = result.passed
        reached = f"{result.accuracy:.2%} of {result.held_out_images} held-out images are right"
        wanted = result.required_accuracy
    if not passed:
        typer.echo(f"The demo failed: {reached}; wanted at least {wanted:.0%}.", err=True)
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


def _segmentation_text(result: "SegmentationDemoResult") -> str:
    trained = f", trained in {result.seconds:.0f} s" if result.trained else ""
    width = max(map(len, result.per_class))
    lines = [
        "",
        f"Model       {result.model}{trained}",
        f"Mean IoU    {result.mean_iou:.2%} over {result.scenes} unseen scenes "
        f"({result.pixel_accuracy:.2%} of the pixels right)",
        "",
        f"    {'class':<{width}}   IoU",
        *(
            f"    {name:<{width}}   {'absent' if value is None else f'{value:.1%}'}"
            for name, value in result.per_class.items()
        ),
        "",
        f"Label maps  {result.maps}",
        f"Picture     {result.picture}",
    ]
    return "\n".join(lines)


def _detection_text(result: "DetectionDemoResult") -> str:
    trained = f", trained in {result.seconds:.0f} s" if result.trained else ""
    first, *others = (f"{name} {share:.2%}" for name, share in result.figures.items())
    width = max(map(len, result.per_class))
    of_class = "AP" if "AP" in result.figures else "PQ"
    lines = [
        "",
        f"Model       {result.model}{trained}",
        f"Figures     {first} over {result.scenes} unseen scenes ({', '.join(others)})",
        "",
        f"    {'class':<{width}}   {of_class}",
        *(
            f"    {name:<{width}}   {'absent' if value is None else f'{value:.1%}'}"
            for name, value in result.per_class.items()
        ),
        "",
        f"Picture     {result.picture}",
    ]
    return "\n".join(lines)
