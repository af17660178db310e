"""What the table of an original format says: how to recognise it, and the plans for both directions."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, NamedTuple

from transformers import PreTrainedConfig

from hfvision.checkpoints import Checkpoint
from hfvision.conversion.engine import AnyRule, Unused
from hfvision.errors import ConversionError, UnknownNameError, numbered


@dataclass(frozen=True)
class Plan:
    """How one checkpoint becomes a model of the registry."""

    model_type: str
    auto_class: str  # the column of the registry's row, "AutoModelForImageClassification"
    config: Mapping[str, Any]  # config fields
    rules: tuple[AnyRule, ...]
    preprocessing: Mapping[str, Any]  # arguments of the image processor
    processor: str | None = None  # "module:Class"; None: the architecture's
    model_name: str | None = None  # the model class, where the auto class has several
    model_options: Mapping[str, Any] = field(default_factory=dict)  # further arguments of the model class
    assumed: tuple[str, ...] = ()  # what the tensors cannot tell, one line each
    given: tuple[str, ...] = ()  # what was set and the tensors cannot confirm, "field = value" each
    changed: tuple[str, ...] = ()  # what cannot be undone exactly, one line each
    labels: tuple[str, ...] = ()  # names of the classes, where the checkpoint says them
    kept: Mapping[str, Any] = field(default_factory=dict)  # JSON, for the way back
    notes: tuple[str, ...] = ()  # what a reader of the model card should know


@dataclass(frozen=True)
class BackPlan:
    """How a Hugging Face folder becomes a file of the original format again."""

    auto_class: str
    model_options: Mapping[str, Any]
    rules: tuple[AnyRule, ...]  # in the direction of the way there
    model_name: str | None = None  # the model class, where the auto class has several
    bare: bool = False  # whether the weights are the file's content, with no entry around them
    extra: tuple[AnyRule, ...] = ()  # for the way back only: what the original format has no place for
    beside: Mapping[str, str] = field(default_factory=dict)  # name -> text of further files that the original reads
    stored: Mapping[str, Unused] = field(default_factory=dict)  # what the original's model has besides and never uses
    notes: tuple[str, ...] = ()  # where the original code will compute something else, one line each


@dataclass(frozen=True)
class Format:
    """One kind of original checkpoint. `plan` and `plan_back` raise ConversionError for what they cannot express."""

    name: str  # "google_vit", also the module's name
    family: str  # the model family, "vit"; `--family` takes either
    title: str
    repository: str  # where the files come from
    license: str  # of the published files
    container: str  # what the way back writes: "npz"
    model_types: tuple[str, ...]  # what the way back takes
    fields: Callable[[], tuple[str, ...]]  # config fields that can be set
    matches: Callable[[Iterable[str]], bool]  # whether a checkpoint with these keys is of this format
    plan: Callable[..., Plan]  # tensors, overrides, position rule; and what `facts` gave
    plan_back: Callable[[Any, Iterable[str]], BackPlan]  # the config object, the keys of the weights
    other_containers: tuple[str, ...] = ()  # that the way back can write, too
    entries: tuple[str | None, ...] = (None,)  # of torch files, that hold the weights (None: no entry around them);
    # the first is what the way back writes
    facts: Callable[[Checkpoint], Mapping[str, Any]] | None = None  # what is said beside the tensors; see `plan`
    tells_heads: bool = False  # whether what the way back writes says numbers of attention heads, in shapes or beside
    license_name: str | None = None  # where the Hub has no identifier for the licence, which then is "other"

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of the files that the way back can write."""
        return tuple(f".{container}" for container in (self.container, *self.other_containers))


def settle(known: Mapping[str, Any], assumed: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """One config from what the tensors say, what is usual, and what the user set.

    Raises ConversionError that lists every set value that the tensors contradict.
    """
    wrong = [
        f"{name} was set to {value!r}, the tensors say {known[name]!r}"
        for name, value in overrides.items()
        if name in known and _listed(value) != _listed(known[name])
    ]
    if wrong:
        raise ConversionError(f"{numbered('mismatch', wrong)}\nLeave out what the tensors say by themselves.")
    return {**assumed, **overrides, **known}


class Unseen(NamedTuple):
    """Config fields that no tensor shows, "field = value" each: those assumed, and those that were set."""

    assumed: tuple[str, ...]
    given: tuple[str, ...]


def unseen(names: Iterable[str], config: Mapping[str, Any], overrides: Mapping[str, Any]) -> Unseen:
    """Tell those of the named fields that are assumed from those that were set; position tables confirm a set size."""
    lines = {name: f"{name} = {config[name]!r}" for name in names if name in config}
    assumed = tuple(line for name, line in lines.items() if name not in overrides)
    given = tuple(line for name, line in lines.items() if name in overrides and name != "image_size")
    return Unseen(assumed, given)


def check_fields(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raises UnknownNameError that lists every unknown name, with the closest known ones."""
    known = sorted(known)
    problems = []
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            problems.append(f"no {what} is called {name!r}" + (f"; did you mean {close[0]!r}?" if close else "."))
    if problems:
        raise UnknownNameError(f"{' '.join(problems)} Known: {', '.join(known)}.")


def settable(config_class: type[Any], fixed: Collection[str]) -> tuple[str, ...]:
    """num_labels, and the fields that a config class adds to transformers' general ones, without the `fixed`."""
    general = {entry.name for entry in fields(PreTrainedConfig)}
    own = (entry.name for entry in fields(config_class) if entry.name not in general)
    return ("num_labels", *(name for name in own if name not in fixed))


def computed_otherwise(told: Iterable[tuple[str, Any, Any]]) -> tuple[str, ...]:
    """Of (config field, the original's value, the model's): a line for each on which the two differ."""
    return tuple(
        f"the original's code computes with {field} = {theirs!r}, this model with {ours!r}"
        for field, theirs, ours in told
        if theirs != ours
    )


def _listed(value: Any) -> Any:
    """8 and [8, 8] and (8, 8) are the same size."""
    if isinstance(value, list | tuple):
        return value[0] if len(value) == 2 and value[0] == value[1] else list(value)
    return value
