"""Which row of the catalogue a checkpoint is, or which it is nearest to and in what it differs.

Keys and shapes tell the architecture, and several published files may share them; a file's SHA-256 and its name tell
which of these it is. What no tensor shows (how images are prepared, what the classes are called, how a stage is
dilated) is then taken from the catalogue, where all rows in question agree on it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from hfvision.catalog import CatalogRow, facts_of, rows, signature
from hfvision.checkpoints import Checkpoint
from hfvision.conversion.engine import without_biases
from hfvision.conversion.formats import Format, Plan
from hfvision.conversion.heads import contradictions
from hfvision.conversion.labelling import with_labels
from hfvision.errors import ConversionError
from hfvision.labels import label_set
from hfvision.registry import ARCHITECTURES

BY_HASH, BY_NAME, BY_SHAPES, BY_SIZES = "its sha256", "its name, keys and shapes", "its keys and shapes", "its sizes"
SHOWN = 6  # rows that a line writes out

# What a difference in a config field costs: the field of the smallest sum is the nearest row's.
WEIGHTS = {"num_labels": 1, "image_size": 2, "window_size": 3, "num_channels": 2, "dilation": 1}
OTHERWISE = 5
# Numerical choices of the code and what follows from other fields: they make no other architecture.
NO_SIZE = {"layer_norm_eps", "hidden_act", "activation_function", "pooler_act", "encoder_stride", "pooler_output_size"}
WORDS = {
    "num_labels": "a head of {} classes instead of {}",
    "image_size": "images of {} pixels instead of {}",
    "num_channels": "{} channels per pixel instead of {}",
    "patch_size": "patches of {} pixels instead of {}",
    "num_hidden_layers": "{} blocks instead of {}",
    "depths": "stages of {} blocks instead of {}",
    "hidden_size": "width {} instead of {}",
    "embed_dim": "width {} instead of {}",
    "num_queries": "{} queries instead of {}",
    "decoder_layers": "{} blocks in the decoder instead of {}",
    "qkv_bias": "biases of queries, keys and values {} instead of {}",
}
IMAGE_FIELDS = {"image_size", "num_channels", "patch_size"}  # set by a user, they ask for other images than the row's


@dataclass(frozen=True)
class Recognition:
    """`rows` are the rows in question, one where it is known which; empty for a variant, which has a `nearest` row and
    `differences` from it, one line each. `by` says what told.
    """

    rows: tuple[CatalogRow, ...] = ()
    by: str = ""
    nearest: CatalogRow | None = None
    differences: tuple[str, ...] = ()
    taken: tuple[str, ...] = field(default=())  # what was taken from the catalogue, one line each

    @property
    def row(self) -> CatalogRow | None:
        """The one row that the checkpoint is, or shares its architecture with."""
        return self.rows[0] if len(self.rows) == 1 else None

    @property
    def published(self) -> bool:
        """Whether it is the published file itself, as far as its hash or its name tell."""
        return self.row is not None and self.by in (BY_HASH, BY_NAME)

    def line(self) -> str:
        """In words: "vit-base-patch16-384-augreg, by its keys and shapes"."""
        if self.rows:
            names = [one.name for one in self.rows]
            shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" * (len(names) > SHOWN))
            text = names[0] if len(names) == 1 else f"one of {shown}"
            if self.published:
                return f"{text}, by {self.by}"
            known = "the weights may be others" if not self.differences else "; ".join(self.differences)
            return f"the architecture of {text}, by {self.by}; {known}"
        if self.nearest is None:
            return "no row of the catalogue has this format"
        return f"a variant of {self.nearest.name}: {'; '.join(self.differences)}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with names in the place of rows."""
        return {
            "rows": [one.name for one in self.rows],
            "published": self.published,
            "by": self.by or None,
            "nearest": None if self.nearest is None else self.nearest.name,
            "differences": list(self.differences),
            "taken": list(self.taken),
        }


def identify(checkpoint: Checkpoint, format: Format, plan: Plan) -> Recognition:
    """Compare with every row of the catalogue that this format or one of its model types has.

    Raises ConversionError for a published file whose number of heads was set to another than its authors'.
    """
    if hashed := [one for one in rows() if one.sha256_prefix and checkpoint.sha256.startswith(one.sha256_prefix)]:
        if wrong := [line for one in hashed for line in contradictions(plan, one)]:
            raise ConversionError(
                f"{'; '.join(wrong)}: {checkpoint.name} is that published file by its sha256, and would compute "
                "something else. Leave it out."
            )
        return Recognition(tuple(hashed), BY_HASH)
    own = signature({key: tensor.shape for key, tensor in checkpoint.tensors.items()})
    same = tuple(one for one in rows() if one.signature == own)
    if same:
        named = tuple(one for one in same if _is_file_of(checkpoint, one))
        if len(named) == 1:
            row = named[0]
            if wrong := list(contradictions(plan, row)):
                return Recognition(named, BY_SHAPES, differences=tuple(wrong))
            if row.sha256_prefix is None or not checkpoint.sha256:
                return Recognition(named, BY_NAME)
            others = f"its sha256 does not begin with {row.sha256_prefix}, so the weights are others"
            return Recognition(named, BY_SHAPES, differences=(others,))
        return Recognition(_fitting(same, plan), BY_SHAPES)
    biases = without_biases(plan.rules, checkpoint.tensors)
    others = "it has no biases of queries, keys and values" if biases else "it stores other tensors that no model uses"
    found = compare_sizes(plan, format.model_types, others, format.name)
    if found.rows and found.rows[0].format != format.name:
        return replace(found, differences=("its keys are others",))
    return found


def compare_sizes(plan: Plan, model_types: Iterable[str], otherwise: str, format: str | None = None) -> Recognition:
    """The rows of these model types, or of the format, with the plan's sizes, or the nearest one with what differs.

    `otherwise` says in what the checkpoint is not the row's, where all sizes are equal.
    """
    related = [one for one in rows() if one.format == format or one.model_type in model_types]
    if not related:
        return Recognition()
    compared = [(_differing(plan, one), one) for one in related]
    least = min(_cost(fields, plan, one, format) for fields, one in compared)
    nearest = [(fields, one) for fields, one in compared if _cost(fields, plan, one, format) == least]
    fields, row = nearest[0]
    if not fields and (row.model_type, row.auto_class) == (plan.model_type, plan.auto_class):
        return Recognition(tuple(one for _, one in nearest), BY_SIZES, differences=(otherwise,))
    return Recognition(nearest=row, differences=_in_words(fields, plan, row))


def settled(
    recognition: Recognition, format: Format, overrides: Mapping[str, Any], plan: Plan
) -> tuple[dict[str, Any], list[str]]:
    """Config fields that no tensor shows and on which the rows in question agree otherwise than the plan assumed.

    Only for keys and shapes that are exactly a row's; what a user has set is left out.
    """
    if recognition.by not in (BY_HASH, BY_NAME, BY_SHAPES):
        return {}, []
    known = set(format.fields()) & _assumed(plan) - overrides.keys()
    fields = {}
    for name in sorted(known):
        values = [one.config[name] for one in recognition.rows if name in one.config]
        agreed = len(values) == len(recognition.rows) and all(value == values[0] for value in values)
        if agreed and values[0] != plan.config.get(name):
            fields[name] = values[0]
    return fields, [f"{name} = {value!r}" for name, value in fields.items()]


def completed(
    recognition: Recognition, plan: Plan, overrides: Mapping[str, Any], told: bool, labels_given: bool
) -> tuple[Plan, Recognition]:
    """The plan with the preprocessing and the class names of the rows in question, where all of them agree.

    `told`: whether the checkpoint says itself how images are prepared, which counts more.
    """
    if recognition.by not in (BY_HASH, BY_NAME, BY_SHAPES):
        return plan, recognition
    taken = list(recognition.taken)
    whose = recognition.rows[0].name if recognition.row else "all of these"
    prepared = [(one.preprocessing, one.processor) for one in recognition.rows]
    if not told and not IMAGE_FIELDS & overrides.keys() and all(one == prepared[0] for one in prepared):
        preprocessing, processor = prepared[0]
        if _images(plan, preprocessing, processor) != _images(plan, plan.preprocessing, plan.processor):
            plan = replace(plan, preprocessing=preprocessing, processor=processor)
            taken.append(f"images are prepared as for {whose}")
    sets = {one.labels for one in recognition.rows}
    (name,) = sets if len(sets) == 1 else (None,)
    if name is not None and not labels_given and not plan.labels:
        chosen = label_set(name)
        if len(chosen.names) == plan.config.get("num_labels"):
            plan = with_labels(plan, name)
            sure = "" if recognition.published else "; give --labels if yours are others"
            taken.append(f"the classes are called as in {name}, as for {whose}{sure}")
    return plan, replace(recognition, taken=tuple(taken))


def _is_file_of(checkpoint: Checkpoint, row: CatalogRow) -> bool:
    """By the name; by the whole path in the repository where several rows' files are called the same."""
    if row.file is None:
        return False
    theirs = PurePosixPath(row.file)
    if theirs.name != checkpoint.name:
        return False
    if sum(one.file is not None and PurePosixPath(one.file).name == theirs.name for one in rows()) == 1:
        return True
    own = () if checkpoint.path is None else Path(checkpoint.path).resolve().parts
    return own[-len(theirs.parts) :] == theirs.parts


def _fitting(candidates: tuple[CatalogRow, ...], plan: Plan) -> tuple[CatalogRow, ...]:
    """Without those that the plan contradicts, where there are others: by a dilation that the name tells, for one.

    Something assumed to be off contradicts nothing: a name without "dc5" says nothing.
    """
    off = {name for name in _assumed(plan) if plan.config.get(name) is False}
    return tuple(one for one in candidates if not set(_differing(plan, one)) - off) or candidates


def _assumed(plan: Plan) -> set[str]:
    """The config fields among what the plan assumes."""
    return {line.partition(" = ")[0] for line in plan.assumed} & plan.config.keys()


def _images(plan: Plan, preprocessing: Mapping[str, Any], processor: str | None) -> Any:
    """How images are prepared, for comparison: a tuple and JSON's list are the same."""
    return json.loads(json.dumps(dict(preprocessing))), processor or ARCHITECTURES[plan.model_type].processor


def _differing(plan: Plan, row: CatalogRow) -> list[str]:
    ours, theirs = _sizes(plan.config), _sizes(row.config)
    shared = (ours.keys() & theirs.keys()) | {"num_labels"}
    return sorted(name for name in shared if ours.get(name) != theirs.get(name))


def _cost(fields: Iterable[str], plan: Plan, row: CatalogRow, format: str | None) -> tuple[int, ...]:
    """Fewer and smaller differences first; then the same format, model type and kind of model."""
    differences = sum(WEIGHTS.get(name.rpartition(".")[2], OTHERWISE) for name in fields)
    others = (row.format != format, row.model_type != plan.model_type, row.auto_class != plan.auto_class)
    return differences, *map(int, others)


def _in_words(fields: Iterable[str], plan: Plan, row: CatalogRow) -> tuple[str, ...]:
    lines = []
    ours, theirs = _sizes(plan.config), _sizes(row.config)
    for name in fields:
        got, had = ours.get(name), theirs.get(name)
        if name == "num_labels" and got is None:
            lines.append(f"no head, where it has one of {had} classes")
        elif name == "num_labels" and had is None:
            lines.append(f"a head of {got} classes, where it has none")
        else:
            lines.append(WORDS.get(name.rpartition(".")[2], f"{name} {{}} instead of {{}}").format(got, had))
    return tuple(lines) or (f"a {plan.auto_class.removeprefix('AutoModelFor')} model of the same sizes",)


def _sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that make an architecture, those of a trunk as "backbone_config.depths"; 8 and [8, 8] are one size."""
    found: dict[str, Any] = {}
    for name, value in facts_of(config).items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": one for inner, one in _sizes(value).items()}
        elif name not in NO_SIZE:
            pair = isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]
            found[name] = value[0] if pair else list(value) if isinstance(value, tuple) else value
    return found
