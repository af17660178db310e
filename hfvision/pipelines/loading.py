"""A pipeline for a model of any of our tasks, found by the model itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hfvision.errors import UnknownNameError
from hfvision.registry import (
    ARCHITECTURES,
    IMAGE_CLASSIFICATION,
    IMAGE_SEGMENTATION,
    OBJECT_DETECTION,
    SEMANTIC_SEGMENTATION,
    class_name,
)
from hfvision.starters import STARTERS, resolve

TASKS = {
    IMAGE_CLASSIFICATION: "image-classification",
    SEMANTIC_SEGMENTATION: "image-segmentation",
    OBJECT_DETECTION: "object-detection",
    IMAGE_SEGMENTATION: "image-segmentation",
}


def load_pipeline(model: str, device: str | int | None = None, optimize: Any = None) -> Any:
    """The pipeline of a starter model, a folder or a Hub id; optimize: see AnyImages. Raises UnknownNameError where
    there is no such model, and ConfigError for what optimize cannot be.
    """
    from transformers import pipeline

    options: dict[str, Any] = {}
    if optimize is not None:  # what it cannot be is said before anything is loaded
        from hfvision.optimizing import optimize_options

        options["optimize"] = optimize_options(optimize)
    task: Any = _task(load_config(model))
    with _known(model):
        return pipeline(task, model=resolve(model), device=device, **options)


def load_config(model: str) -> Any:
    """The config of a starter model, a folder or a Hub id. Raises UnknownNameError where there is no such model."""
    from transformers import AutoConfig

    with _known(model):
        return AutoConfig.from_pretrained(resolve(model))


@contextmanager
def _known(model: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnknownNameError(
            f"{model!r} is none of the starter models ({', '.join(STARTERS)}), not a folder with config.json and "
            f"model.safetensors, and cannot be had from the Hub: {str(error).splitlines()[0]}"
        ) from error


def _task(config: Any) -> str:
    """The task of the class that the checkpoint names; of others, the first that the architecture can do."""
    row = ARCHITECTURES.get(config.model_type)
    offered = [auto_class for auto_class in TASKS if row is not None and auto_class in row.models]
    for auto_class in offered:
        if row is not None and class_name(row.models[auto_class]) in (config.architectures or ()):
            return TASKS[auto_class]
    return TASKS[offered[0]] if offered else TASKS[IMAGE_CLASSIFICATION]
