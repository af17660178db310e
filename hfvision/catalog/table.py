"""The rows of the catalogue, read from this package's JSON when the first is asked for.

A row's `config`, `preprocessing`, `auto_class` and `model_class` are what converting the row's file gives. `parameters`
and `flops` were computed from the model that these build (`hfvision.creation.costs_of`), never copied. Figures are
quoted.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from hfvision.errors import UnknownNameError, did_you_mean
from hfvision.tasks import Task, task_of_auto_class, tasks_named

DATA = Path(__file__).with_name("data")  # one JSON file for each family
FAMILIES = ("vit", "hybrid", "mixer", "deit", "swin", "segformer", "segmenter", "setr", "upernet", "detr")
NEAREST = 3  # rows that an error names


@dataclass(frozen=True)
class Figure:
    """A published figure, quoted and not measured here; in per cent, as all figures of these sources are."""

    dataset: str  # "imagenet-1k"
    split: str
    metric: str  # "top-1 accuracy", "mIoU", "box AP", "PQ"; with what was done beyond the protocol in brackets
    value: float
    source: str  # who published it: "google-research/vision_transformer README"


@dataclass(frozen=True)
class CatalogRow:
    """One original checkpoint, or an architecture that its authors configured without publishing weights."""

    name: str  # "segmenter-small-mask-16-ade20k"
    family: str  # one of FAMILIES
    model_type: str
    auto_class: str  # "AutoModelForSemanticSegmentation"
    config: Mapping[str, Any]  # fields of the model_type's config
    file: str | None  # as the repository names it, a path inside its storage where it gives one; None: not published
    repository: str  # "rstrudel/segmenter"
    container: str  # how the tensors lie in the file
    format: str  # of `hfvision.convert`
    labels: str | None  # the label set of the head; None: the model has no head
    num_labels: int | None
    input_size: tuple[int, int]  # (height, width) in pixels: of the training images, in DETR of a photo with sides 4:3
    preprocessing: Mapping[str, Any]  # arguments of the image processor
    protocol: str  # of the evaluation, in words
    datasets: tuple[str, ...]  # trained on, in this order
    figures: tuple[Figure, ...]
    code_license: str  # the Hub's identifier, of the authors' code
    license: str  # the Hub's identifier, of the weights
    license_name: str | None  # where the Hub has no identifier for it and `license` is "other"
    parameters: int  # numbers in the model's parameters; buffers (running statistics, tables) do not count
    flops: int | None  # of one image of input_size through the model; a multiply-add counts as two; None: it cannot run
    sha256_prefix: str | None  # of the file, where its name says so
    signature: str  # of the file's keys and shapes, see `signature`
    notes: tuple[str, ...]
    config_class: str  # of hfvision, "SegmenterConfig"
    model_class: str  # what the auto class gives for this file: where it has several, one of them
    model_options: Mapping[str, Any]  # further arguments of the model class
    processor: str  # "module:Class" of the image processor
    size: str  # the authors' word for it: "base", "b3", "resnet-50"

    @property
    def task(self) -> str:
        """The Hub's name of what the model is for."""
        return self.task_row.name

    @property
    def kind(self) -> str | None:
        """The kind within the task, "semantic"; None where the task's name says it all."""
        return self.task_row.kind

    @property
    def task_row(self) -> Task:
        """The row of `hfvision.tasks` that its auto class says."""
        found = task_of_auto_class(self.auto_class)
        assert found is not None
        return found

    @property
    def published(self) -> bool:
        return self.file is not None


def rows(task: str | None = None, family: str | None = None, kind: str | None = None) -> tuple[CatalogRow, ...]:
    """All rows, or those of a task, a kind and a family; one model_type is a family's name too.

    `task` is the Hub's name, and `kind` semantic, panoptic or instance, where the name covers several. Raises
    UnknownNameError for a task, kind or family that no row has.
    """
    every = tuple(_by_name().values())
    chosen = list(dict.fromkeys(one.task_row for one in every))
    if task is not None:
        chosen = tasks_named(task, among=chosen, owner="the catalogue")
    if kind is not None:
        _check(kind, {name for one in chosen for name in one.kinds}, "kind")
        chosen = [one for one in chosen if kind in one.kinds]
    if family is not None:
        _check(family, {name for one in every for name in (one.family, one.model_type)}, "family")
    return tuple(
        one for one in every if one.task_row in chosen and (family is None or family in (one.family, one.model_type))
    )


def list_models(
    filter: str | Sequence[str] = "*",
    *,
    task: str | None = None,
    family: str | None = None,
    kind: str | None = None,
    pretrained: bool = False,
) -> list[str]:
    """The names that `hfvision.create` takes, sorted; with `pretrained` those of which weights are published.

    `filter` is a pattern with `*`, `?` and `[01]`, or several of them, of which a name fits one; that none fits is no
    error. `task`, `kind` and `family` are as in `rows`. Raises UnknownNameError for one that no model has.

    >>> import hfvision
    >>> hfvision.list_models("deit-tiny-*", pretrained=True)
    ['deit-tiny-distilled-patch16-224', 'deit-tiny-patch16-224']
    >>> hfvision.list_models(["mit-b0", "*b1*"], task="image-classification")
    ['mit-b0', 'mit-b1']
    """
    patterns = [filter] if isinstance(filter, str) else list(filter)
    return sorted(
        one.name
        for one in rows(task, family, kind)
        if (one.published or not pretrained) and any(fnmatchcase(one.name, pattern) for pattern in patterns)
    )


def row(name: str) -> CatalogRow:
    """The row of that name. Raises UnknownNameError that names the nearest ones."""
    every = _by_name()
    if name not in every:
        near = nearest(name, every)
        raise UnknownNameError(
            f"the catalogue has no row {name!r}; the nearest are {', '.join(near)}. "
            "`hfvision list --all` shows them all."
        )
    return every[name]


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The names most like `name`, best first: never none."""
    known = list(known)
    plain = name.lower().replace("_", "-").rsplit("/", 1)[-1]
    return get_close_matches(plain, known, n=NEAREST, cutoff=0.5) or get_close_matches(plain, known, n=1, cutoff=0.0)


def signature(shapes: Mapping[str, Sequence[int]]) -> str:
    """SHA-256 in hexadecimal of the sorted lines "key shape", "head.bias (1000,)": equal for equal keys and shapes."""
    lines = sorted(f"{key} {tuple(int(side) for side in shape)}" for key, shape in shapes.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _check(name: str, known: set[str], what: str) -> None:
    if name in known:
        return
    listed = ", ".join(sorted(known)) or "none of that task"
    raise UnknownNameError(f"the catalogue has no {what} {name!r}; it has {listed}.{did_you_mean(name, known)}")


@cache
def _by_name() -> dict[str, CatalogRow]:
    read = [entry for family in FAMILIES for entry in json.loads((DATA / f"{family}.json").read_text(encoding="utf-8"))]
    return {entry["name"]: _row(entry) for entry in read}


# What JSON has otherwise than a row, or leaves out where it is empty; None stands in for the rest.
_FROM_JSON: dict[str, Callable[[Any], Any]] = {
    "model_options": lambda value: value or {},
    "input_size": tuple,
    "datasets": tuple,
    "notes": lambda value: tuple(value or ()),
    "figures": lambda value: tuple(Figure(**one) for one in value or ()),
}


def _row(entry: Mapping[str, Any]) -> CatalogRow:
    names = [field.name for field in fields(CatalogRow)]
    return CatalogRow(**{name: _FROM_JSON.get(name, lambda value: value)(entry.get(name)) for name in names})
