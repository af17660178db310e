"""`hfvision predict IMAGE ...`: the labels of images, or of their pixels."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from hfvision.cli.output import JsonOption, emit
from hfvision.errors import ConfigError


def run(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files or URLs.")],
    model: Annotated[str, typer.Option(help="A starter model (vit-digits), a folder, or a Hub id.")],
    top_k: Annotated[int | None, typer.Option(min=1, help="Labels per image (5), of models that classify.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for each image's label map and overlay, where pixels get labels.")
    ] = None,
    tile: Annotated[int | None, typer.Option(min=1, help="Side in pixels of windows to cut large images into.")] = None,
    overlap: Annotated[float | None, typer.Option(help="Share of a window that its neighbour repeats (0.25).")] = None,
    blend: Annotated[str | None, typer.Option(help="How windows are joined: gauss, mean, none.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images (or windows) that run together.")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.")] = None,
    as_json: JsonOption = False,
) -> None:
    from hfvision.pipelines.predict import predictions

    windows = {"tile": tile, "overlap": overlap, "blend": blend}
    options = {name: value for name, value in windows.items() if value is not None}
    answers = predictions(images, model, top_k=top_k, batch_size=batch_size, device=device, **options)
    stems = Counter[str]()
    rows = []
    for image, answer in zip(images, answers, strict=True):
        row = {"image": image, "predictions": answer["labels"] if isinstance(answer, dict) else answer}
        if output is not None:
            if not isinstance(answer, dict):
                raise ConfigError(f"--output is for models that give a class to every pixel; {model!r} classifies.")
            stem = Path(image).stem
            stems[stem] += 1
            row |= _written(image, answer, output / (stem if stems[stem] == 1 else f"{stem}-{stems[stem]}"))
        rows.append(row)
    emit(rows, "\n".join(map(_text, rows)), as_json)


def _written(image: str, answer: dict[str, Any], path: Path) -> dict[str, str]:
    """Where the label map and the overlay of an image have been written: beside each other, at `path` and an ending."""
    from hfvision.errors import ImageWriteError
    from hfvision.plots.segmentation import segmentation_overlay
    from hfvision.writing import new_file

    names = {label["id"]: label["label"] for label in answer["labels"]}
    overlay = segmentation_overlay(image, answer["classes"], answer["colours"], names, ignore_index=None)
    written = {}
    for kind, picture in {"map": answer["map"], "overlay": overlay}.items():
        file = path.with_name(f"{path.name}.{kind}.png")
        with new_file(file, ImageWriteError) as work:
            picture.save(work)
        written[kind] = str(file)
    return written


def _text(row: dict[str, Any]) -> str:
    """The image, and a line for each of its labels."""
    width = max(len(label["label"]) for label in row["predictions"])
    lines = [row["image"]]
    for label in row["predictions"]:
        numbers = "  ".join(f"{label[name]:.4f}" for name in ("share", "score") if name in label)
        lines.append(f"    {label['label']:<{width}}  {numbers}")
    return "\n".join(lines + [f"    {kind}: {row[kind]}" for kind in ("map", "overlay") if kind in row])
