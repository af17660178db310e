"""Predictions in one call: what `hfvision predict` does."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hfvision.errors import ConfigError, ImageReadError, ImageShapeError, ImageValueError
from hfvision.models.detr.heads import DetrForSegmentation
from hfvision.pipelines.loading import load_pipeline
from hfvision.tasks import TASKS


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
    """The list of what `predictions` gives.

    Example:
        >>> import hfvision
        >>> digit = hfvision.load_digits()["test"][0]["image"]
        >>> answer = hfvision.predict([digit], "vit-digits")[0]
        >>> answer[0]["label"]
        '8'
    """
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

    The pipelines say what the options mean; all of them take optimize ("bfloat16", "int8", ...), and the options of the
    image processor that say how images are read (input_range=, bands=, do_rescale=, ...). Raises
    UnknownNameError where there is no such model, ConfigError for options of models that do something else, and what
    the pipeline raises for images.
    """
    found, options = _prepared(model, device, optimize, options)
    yield from found((image for image in images), batch_size=batch_size, **options)


@dataclass(frozen=True)
class Failure:
    """In the place of an answer: why there is none."""

    error: Exception

    def __str__(self) -> str:
        return f"{type(self.error).__name__}: {self.error}"


FAULTS = (ImageReadError, ImageShapeError, ImageValueError)
"""Errors that are one image's; all others would be those of the next image, too."""


def predictions_or_failures(
    images: Sequence[Any],
    model: str,
    *,
    batch_size: int = 1,
    device: str | int | None = None,
    optimize: Any = None,
    **options: Any,
) -> Iterator[Any]:
    """`predictions`, going on past images that cannot be read or taken: a Failure stands in their place.

    Other errors are raised: they are not one image's.
    """
    found, options = _prepared(model, device, optimize, options)
    faults = FAULTS if getattr(found, "_ours", False) else (*FAULTS, OSError, ValueError)
    done = 0
    while done < len(images):
        answers = found((image for image in images[done:]), batch_size=batch_size, **options)
        try:
            for answer in answers:
                yield answer
                done += 1
            return
        except faults as error:
            if batch_size == 1:
                yield Failure(error)
                done += 1
                continue
        finally:
            if hasattr(answers, "batches"):  # its thread
                answers.batches.close()
        for image in images[done : done + batch_size]:  # one of these it is: they are tried one by one
            yield _tried(partial(found, image, **options), faults)
            done += 1


def _tried(predict_one: Callable[[], Any], faults: tuple[type[Exception], ...]) -> Any:
    try:
        return predict_one()
    except faults as error:
        return Failure(error)


def _prepared(model: str, device: Any, optimize: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The pipeline of a model, and the options of a call. Raises ConfigError for those of models of other kinds."""
    found = load_pipeline(model, device, optimize)
    kind = _kind(found)
    options = {name: value for name, value in options.items() if value is not None}
    reading = found._reading_options() if getattr(found, "_ours", False) else frozenset()
    if unfit := [name for name in options if name not in kind.options and name not in reading]:
        others = [other.does for other in KINDS.values() if set(unfit) & set(other.options)]
        raise ConfigError(
            f"{', '.join(unfit)}: "
            + (f"for a model that {' or '.join(others)}; " if others else "no model takes this; ")
            + f"{model!r} is one that {kind.does} and takes {', '.join(kind.options)}."
        )
    fixed = {"output": "arrays"} if options.get("subtask") == "instance" else kind.fixed
    return found, {**fixed, **options}


def answer_of(found: Any, image: Any) -> tuple[str, Any]:
    """What a loaded pipeline says of one image, in the form of `predictions`, and which of KINDS the model is."""
    name = _kind_name(found)
    return name, found(image, **KINDS[name].fixed)


def _kind(found: Any) -> Kind:
    return KINDS[_kind_name(found)]


def _kind_name(found: Any) -> str:
    if isinstance(found.model, DetrForSegmentation):
        return "segments"
    return next((task.answer for task in TASKS if task.answer and task.name == found.task), "labels")
