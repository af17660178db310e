"""Whose keys a checkpoint has: as they are, or inside what a training has put around them; or whose they nearly are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch

from hfvision.checkpoints import Checkpoint
from hfvision.conversion import lookalikes
from hfvision.conversion.engine import AnyRule, Rule, groups
from hfvision.conversion.formats import Format
from hfvision.conversion.tables import FORMATS, candidates, of_family, recognise
from hfvision.errors import ConversionError
from hfvision.registry import (
    ARCHITECTURES,
    IMAGE_CLASSIFICATION,
    IMAGE_SEGMENTATION,
    OBJECT_DETECTION,
    SEMANTIC_SEGMENTATION,
    load,
)

# What a training loop calls the model inside itself: the attribute of a Lightning module, of torch's averaged or
# parallel model, of a self-distillation. Keys begin with one or several of them; the first that fits is taken.
ATTRIBUTES = ("model", "module", "net", "network", "_orig_mod", "teacher", "student", "ema_model", "model_ema", "ema")
DEEPEST = 3  # attributes inside attributes
NEAREST = 2  # formats that an error names
SHOWN = 3  # keys that an error writes out
# Of the names of tensors here, the first that is part of one, and what users call it.
PARTS = {
    "backbone.bit": "the ResNet of a hybrid",
    "patch_embed": "the patch embedding",
    "position": "position embeddings",
    "cls_token": "the class token",
    "mask_head": "the mask head",
    "class_labels_classifier": "the classes of queries",
    "bbox_predictor": "the boxes of queries",
    "query_position": "queries",
    "decode_head": "the decoder",
    "auxiliary_head": "auxiliary heads",
    "decoder": "the decoder",
    "downsample": "the steps between stages",
    "token_m": "the mixing of tokens",
    "attention": "attention",
    "attn": "attention",
    "mlp": "MLPs",
    "intermediate": "MLPs",
    "norm": "norms",
    "classifier": "the classifier",
    "backbone": "the trunk",
}
HEADS = (SEMANTIC_SEGMENTATION, OBJECT_DETECTION, IMAGE_SEGMENTATION, IMAGE_CLASSIFICATION)


def unwrap(checkpoint: Checkpoint, family: str | None = None) -> tuple[Checkpoint, Format, tuple[str, ...]]:
    """The checkpoint under the original's own names, its format, and what of that is assumed, one line each.

    Raises ConversionError for a family that has no place here (see `lookalikes`), and one that names the nearest
    formats, and what they lack, where none has these keys; UnknownNameError for a family that is none.
    """
    lookalikes.check_said(checkpoint)
    format, assumed = _format_of(checkpoint.tensors, family, checkpoint.entry)
    if format is not None and format.matches(checkpoint.tensors):
        lookalikes.check_tensors(checkpoint)
        return checkpoint, format, assumed
    for prefix in _prefixes(checkpoint.tensors):
        inside = {
            key.removeprefix(prefix): tensor for key, tensor in checkpoint.tensors.items() if key.startswith(prefix)
        }
        inner, assumed = _format_of(inside, family, checkpoint.entry)
        if inner is None or not inner.matches(inside):
            continue
        lookalikes.check_tensors(replace(checkpoint, tensors=inside))
        outside = [key for key in checkpoint.tensors if not key.startswith(prefix)]
        said = [f"{prefix!r} at the beginning of {'every key' if not outside else f'{len(inside)} keys'}"]
        if outside:
            said.append(f"{len(outside)} tensors outside of {prefix!r}: {_shown(outside)}")
        return replace(checkpoint, tensors=inside, left_out=(*checkpoint.left_out, *said)), inner, assumed
    lookalikes.check_tensors(checkpoint)
    if family is not None:  # the rules say what does not fit
        return checkpoint, _near_format(family, checkpoint), ()
    try:
        return checkpoint, recognise(checkpoint.tensors, family, checkpoint.entry), ()
    except ConversionError as error:
        raise ConversionError(f"{error}\n{_nearest_formats(list(checkpoint.tensors))}") from error


def _near_format(family: str, checkpoint: Checkpoint) -> Format:
    """The format that the user named, of several the nearest, whose keys these are not all.

    Raises ConversionError for another family's file: one of which most tensors have no place there, or that has the
    keys of another format.
    """
    keys = list(checkpoint.tensors)
    likeness = max((_likeness(format, keys) for format in of_family(family)), key=lambda one: one.fitting)
    format = likeness.format
    others = [name for name in _formats_of(checkpoint) if name != format.name]
    if 2 * likeness.fitting >= len(keys) and not others:
        return format
    parts = list(dict.fromkeys(filter(None, map(_in_words, likeness.lacking_targets))))
    lacking = f" It has nothing that could be {', '.join(parts)}." if parts else ""
    advice = f"Its tensors are named as in {' or '.join(others)}: --family {others[0]}, or none." if others else ""
    advice = advice or f"{_nearest_formats(keys)}"
    raise ConversionError(
        f"{checkpoint.name} is no {format.family} checkpoint of the format {format.name} ({format.title}): "
        f"{likeness.fitting or 'none'} of its {len(keys)} tensors are named as there{_not(likeness.strange)}.{lacking}"
        f"\n    {advice}"
    )


def _formats_of(checkpoint: Checkpoint) -> list[str]:
    """The names of the formats whose keys these are, as they stand or inside of what a training has put around them."""
    if found := candidates(checkpoint.tensors, None, checkpoint.entry):
        return [one.name for one in found]
    try:
        return [unwrap(checkpoint)[1].name]
    except ConversionError:
        return []


def _not(strange: Sequence[str]) -> str:
    return f", {_shown(strange)} are not" if strange else ""


def _in_words(target: str) -> str | None:
    """The part of a model that a tensor belongs to, as users call it; None for one that has no such name."""
    return next((words for part, words in PARTS.items() if part in target), None)


def _format_of(keys: Iterable[str], family: str | None, entry: str | None) -> tuple[Format | None, tuple[str, ...]]:
    """The one format in question; of several that share their keys, the one that training loops write, which is said.

    No authors' own loop is known by this entry, and of those formats only that of a library has no loop of its own.
    """
    found = candidates(keys, family, entry)
    if len(found) > 1:
        loose = [one for one in found if None in one.entries]
        if len(loose) != 1:
            return None, ()
        others = " or ".join(one.name for one in found if one is not loose[0])
        return loose[0], (f"the format {loose[0].name} and not {others}, which has the same keys (--family names it)",)
    return (found[0] if found else None), ()


def _prefixes(keys: Iterable[str]) -> list[str]:
    """Beginnings of keys that are attributes of training loops, in the order in which they are tried."""
    found: set[tuple[str, ...]] = set()
    for key in keys:
        parts = key.split(".")[:DEEPEST]
        for depth in range(1, len(parts) + 1):
            if parts[depth - 1] not in ATTRIBUTES:
                break
            found.add(tuple(parts[:depth]))
    ordered = sorted(found, key=lambda names: [ATTRIBUTES.index(name) for name in names])
    return [f"{'.'.join(names)}." for names in ordered]


@dataclass(frozen=True)
class _Likeness:
    """How far a checkpoint's keys are those of a format."""

    format: Format
    fitting: int  # keys that have a place
    strange: list[str]  # keys that have none
    lacking: list[str]  # patterns that every file of the format has
    lacking_targets: list[str]  # what is made of those

    def line(self) -> str:
        text = f"{self.format.name} ({self.format.title}): {self.fitting} keys fit"
        if self.lacking:
            text += f"; it lacks {_shown(self.lacking)}"
        return text + (f"; without a place: {_shown(self.strange)}" if self.strange else "")


def _nearest_formats(keys: list[str]) -> str:
    for format in FORMATS:
        targets = [target for rule in _rules(format) if isinstance(rule, Rule) for target in rule.targets]
        if 2 * sum(bool(groups(tuple(targets), [key])) for key in keys) >= len(keys):
            return (
                "These are transformers' own names, of a model such as "
                f"{' or '.join(format.model_types)}: give the folder that has its config.json beside the weights."
            )
    likenesses = [_likeness(format, keys) for format in FORMATS]
    likenesses = [one for one in likenesses if one.fitting]
    if not likenesses:
        return "No format has a place for even one of these keys: it is another model, or its keys were renamed."
    ranked = sorted(likenesses, key=lambda one: (one.fitting - len(one.strange), -len(one.lacking)), reverse=True)
    lines = "".join(f"\n    {one.line()}" for one in ranked[:NEAREST])
    return f"The nearest are:{lines}"


def _likeness(format: Format, keys: list[str]) -> _Likeness:
    fitting: set[str] = set()
    lacking: list[str] = []
    lacking_targets: list[str] = []
    for rule in _rules(format):
        if not isinstance(rule, Rule):
            continue
        found = {key for pattern in rule.sources for key in keys if groups((pattern,), [key])}
        fitting |= found
        if not found and not rule.optional and not rule.or_zeros:
            lacking += rule.sources
            lacking_targets += rule.targets
    strange = [key for key in keys if key not in fitting]
    return _Likeness(format, len(fitting), strange, lacking, lacking_targets)


@cache
def _rules(format: Format) -> Sequence[AnyRule]:
    """The table for a small model of the format, the one with the most parts."""
    row = ARCHITECTURES[format.model_types[0]]
    auto_class = next(head for head in HEADS if head in row.models)
    config = load(row.config)(**row.tiny)
    with torch.device("meta"):
        keys = load(row.models[auto_class])(config).state_dict()
    return format.plan_back(config, keys).rules


def _shown(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
