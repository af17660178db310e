"""Predictions in one call: what `hfvision predict` does."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hfvision.errors import ConfigError
from hfvision.models.detr_heads import DetrForSegmentation
from hfvision.pipelines.loading import load_pipeline


@dataclass(frozen=True)
class Kind:
    """What a model of a kind does, and the options of its pipeline."""

    does: str
    options: tuple[str, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)


_TILES = ("tile", "overlap", "stride")
_THRESHOLDS = ("threshold", "mask_threshold", "overlap_mask_area_threshold")
KINDS = {
    "labels": Kind("classifies", ("top_k",)),
    "pixels": Kind(
        "gives a class to every pixel",
        (*_TILES, "blend", "rule", "scales", "flip"),
        {"output": "map", "scores": True},
    ),
    "objects": Kind(
        "detects objects",
        ("threshold", *_TILES, "whole", "merge", "merge_iou"),
        {"output": "arrays"},
    ),
    "segments": Kind(
        "segments objects",
        ("subtask", *_THRESHOLDS, "label_ids_to_fuse", "rule"),
        {"output": "map"},
    ),
}


def predict(images: Iterable[Any], model: str, **options: Any) -> list[Any]:
    """The list of what `predictions` gives."""
    return list(predictions(images, model, **options))


def predictions(
    images: Iterable[Any],
    model: str,
    *,
    batch_size: int = 1,
    device: str | int | None = None,
    optimize: Any = None,
    **options: Any,
) -> Iterator[Any]:
    """What a model says of each image: paths, URLs, PIL images, arrays or tensors.

    model: the name of a starter model, a folder, or a Hub id. What comes, and what `options` there are, depends on what
    the model does:

    - it classifies: a list of the `top_k` (5) labels and scores;
    - it gives a class to every pixel: the dict of the image-segmentation pipeline's output="map" with scores; options
      are tile, overlap, stride, blend, rule, scales, flip;
    - it detects objects: `Detections`; options are threshold, tile, overlap, stride, whole, merge, merge_iou;
    - it segments objects: the dict of output="map"; with subtask="instance" `Detections` with masks. Options are
      subtask, threshold, mask_threshold, overlap_mask_area_threshold, label_ids_to_fuse, rule.

    The pipelines say what the options mean; all of them take optimize ("bfloat16", "int8", ...). Raises
    UnknownNameError where there is no such model, ConfigError for options of models that do something else, and what
    the pipeline raises for images.
    """
    found = load_pipeline(model, device, optimize)
    kind = _kind(found)
    options = {name: value for name, value in options.items() if value is not None}
    if unfit := [name for name in options if name not in kind.options]:
        others = [other.does for other in KINDS.values() if set(unfit) & set(other.options)]
        raise ConfigError(
            f"{', '.join(unfit)}: "
            + (f"for a model that {' or '.join(others)}; " if others else "no model takes this; ")
            + f"{model!r} is one that {kind.does} and takes {', '.join(kind.options)}."
        )
    fixed = {"output": "arrays"} if options.get("subtask") == "instance" else kind.fixed
    yield from found((image for image in images), batch_size=batch_size, **fixed, **options)


def answer_of(found: Any, image: Any) -> tuple[str, Any]:
    """What a loaded pipeline says of one image, in the form of `predictions`, and which of KINDS the model is."""
    name = _kind_name(found)
    return name, found(image, **KINDS[name].fixed)


def _kind(found: Any) -> Kind:
    return KINDS[_kind_name(found)]


def _kind_name(found: Any) -> str:
    if isinstance(found.model, DetrForSegmentation):
        return "segments"
    return {"image-segmentation": "pixels", "object-detection": "objects"}.get(found.task, "labels")
