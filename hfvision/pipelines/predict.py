"""Predictions in one call: what `hfvision predict` does."""

from collections.abc import Iterable, Iterator
from typing import Any

from hfvision.errors import ConfigError
from hfvision.pipelines.loading import load_pipeline


def predict(images: Iterable[Any], model: str, **options: Any) -> list[Any]:
    """The list of what `predictions` gives."""
    return list(predictions(images, model, **options))


def predictions(
    images: Iterable[Any],
    model: str,
    *,
    top_k: int | None = None,
    batch_size: int = 1,
    device: str | int | None = None,
    **options: Any,
) -> Iterator[Any]:
    """What a model says of each image: paths, URLs, PIL images, arrays or tensors.

    model: the name of a starter model, a folder, or a Hub id. A model that classifies gives lists of the `top_k` (5)
    labels and scores; one that gives a class to every pixel the dict of the image-segmentation pipeline's output="map"
    with scores, and takes its further options: tile, overlap, blend, ... Raises UnknownNameError where there is no such
    model, ConfigError for options of the other task, and what the pipeline raises for images.
    """
    found = load_pipeline(model, device)
    if found.task == "image-segmentation":
        if top_k is not None:
            raise ConfigError(f"top_k is for models that classify; {model!r} gives each pixel its one class.")
        options |= {"output": "map", "scores": True}
    elif options:
        raise ConfigError(f"{', '.join(options)}: for models that give a class to every pixel; {model!r} classifies.")
    else:
        options["top_k"] = 5 if top_k is None else top_k
    yield from found((image for image in images), batch_size=batch_size, **options)
