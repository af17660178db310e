"""`hfvision predict IMAGE ...`: the labels of images."""

from typing import Annotated

import typer

from hfvision.cli.output import JsonOption, emit


def run(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files or URLs.")],
    model: Annotated[str, typer.Option(help="A starter model (vit-digits), a folder, or a Hub id.")],
    top_k: Annotated[int, typer.Option(min=1, help="Labels per image.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that run together.")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.")] = None,
    as_json: JsonOption = False,
) -> None:
    from hfvision.pipelines.predict import predict

    answers = predict(images, model, top_k=top_k, batch_size=batch_size, device=device)
    result = [{"image": image, "predictions": labels} for image, labels in zip(images, answers, strict=True)]
    width = max(len(row["label"]) for labels in answers for row in labels)
    text = [
        "\n".join([image, *(f"    {row['label']:<{width}}  {row['score']:.4f}" for row in labels)])
        for image, labels in zip(images, answers, strict=True)
    ]
    emit(result, "\n".join(text), as_json)
