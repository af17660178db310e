"""Predictions in one call: what `hfvision predict` does."""

from collections.abc import Sequence
from typing import Any

from hfvision.errors import UnknownNameError
from hfvision.starters import STARTERS, resolve


def predict(
    images: Sequence[Any], model: str, *, top_k: int = 5, batch_size: int = 1, device: str | int | None = None
) -> list[list[dict[str, Any]]]:
    """The top_k labels and scores of each image: paths, URLs, PIL images, arrays or tensors.

    model: the name of a starter model, a folder, or a Hub id. Raises UnknownNameError where there is no such model, and
    what the pipeline raises for images.
    """
    from transformers import pipeline

    try:
        classify = pipeline("image-classification", model=resolve(model), device=device)
    except OSError as error:
        raise UnknownNameError(
            f"{model!r} is none of the starter models ({', '.join(STARTERS)}), not a folder with config.json and "
            f"model.safetensors, and cannot be had from the Hub: {str(error).splitlines()[0]}"
        ) from error
    answers: list[list[dict[str, Any]]] = classify(list(images), top_k=top_k, batch_size=batch_size)
    return answers
