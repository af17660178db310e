"""Rename and reshape a checkpoint by a table of rules, in both directions, and prove that nothing was lost.

A rule takes one or more source keys to one or more target keys. A `{hole}` in a pattern stands for exactly one path
segment or a part of one, never for a separator ("." or "/"), and means the same in all patterns of its rule. Every
source key is used or dropped by exactly one rule, and every target is produced once and in its own shape; otherwise
`apply` names all offenders at once. A reversed table is a table: `reverse` turns each rule around, and the way back
is the same `apply`.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import TypeVar

import torch
from torch import Tensor

from hfvision.conversion.ops import Op, same
from hfvision.errors import ConversionError, numbered

Shape = tuple[int, ...]
T = TypeVar("T")
Restore = Callable[[Shape, torch.dtype], Tensor]

ZEROS = "zeros: the checkpoint was trained without this bias, which computes the same"

_HOLE = re.compile(r"\{(\w+)\}")


def _zeros(shape: Shape, dtype: torch.dtype) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


@dataclass(frozen=True)
class Rule:
    """`source` becomes `target` through `op`. An optional rule may find nothing; any other must.

    `or_zeros` marks biases that a training may leave out: of a checkpoint that has none of those of its table, the
    targets are zeros, which compute the same. One that has some of them is damaged.
    """

    source: str | tuple[str, ...]
    target: str | tuple[str, ...]
    op: Op = same
    optional: bool = False
    or_zeros: bool = False

    def __post_init__(self) -> None:
        holes = {frozenset(_HOLE.findall(pattern)) for pattern in self.sources + self.targets}
        if len(holes) > 1:
            raise ValueError(f"all patterns of a rule have the same holes; {self.source} -> {self.target} does not")

    @property
    def sources(self) -> tuple[str, ...]:
        return _as_tuple(self.source)

    @property
    def targets(self) -> tuple[str, ...]:
        return _as_tuple(self.target)


@dataclass(frozen=True)
class Drop:
    """`source` is not taken over. On the way back `restore` makes what the original stored, by default zeros."""

    source: str
    because: str
    restore: Restore = _zeros

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)


@dataclass(frozen=True)
class Add:
    """`target` has no source: `make` gives its value."""

    target: str
    because: str
    make: Callable[[], Tensor]


AnyRule = Rule | Drop | Add


@dataclass(frozen=True)
class Unused:
    """What is remembered of a dropped tensor: enough to write one of that shape again."""

    shape: Shape
    dtype: torch.dtype


@dataclass
class Converted:
    """The new tensors and where each came from."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)  # target -> the keys that it was made from
    dropped: dict[str, str] = field(default_factory=dict)  # source key -> reason
    added: dict[str, str] = field(default_factory=dict)  # target -> reason
    inexact: set[str] = field(default_factory=set)  # source keys that the way back does not reproduce
    absent: dict[str, Tensor] = field(default_factory=dict)  # keys of the original's biases that were left out -> zeros

    @property
    def used(self) -> set[str]:
        return {key for keys in self.sources.values() for key in keys}


def within(prefix: str, rules: Iterable[AnyRule]) -> tuple[AnyRule, ...]:
    """The same table for a checkpoint in which all of its source keys begin with `prefix`."""
    inside: list[AnyRule] = []
    for rule in rules:
        if isinstance(rule, Rule):
            sources = tuple(f"{prefix}{source}" for source in rule.sources)
            inside.append(replace(rule, source=sources if isinstance(rule.source, tuple) else sources[0]))
        else:
            inside.append(replace(rule, source=f"{prefix}{rule.source}") if isinstance(rule, Drop) else rule)
    return tuple(inside)


def reverse(rules: Iterable[AnyRule], unused: Mapping[str, Unused] | None = None) -> tuple[AnyRule, ...]:
    """The table of the way back.

    `unused` lists the tensors that were dropped on the way there: each is restored by the rule that dropped it.
    """
    backwards: list[AnyRule] = []
    for rule in rules:
        if isinstance(rule, Rule):
            backwards.append(Rule(rule.target, rule.source, rule.op.reversed(), rule.optional))
        elif isinstance(rule, Add):
            backwards.append(Drop(rule.target, rule.because))
        else:
            for key, was in (unused or {}).items():
                if _match(rule.source, key) is not None:
                    backwards.append(Add(key, rule.because, partial(rule.restore, was.shape, was.dtype)))
    return tuple(backwards)


def apply(
    checkpoint: Mapping[str, Tensor],
    rules: Sequence[AnyRule],
    expected: Mapping[str, Shape] | None = None,
) -> Converted:
    """Apply the rules. `expected` gives the shape of every target; without it, whatever the rules make is right.

    Raises ConversionError that lists every key without a rule or with several, every rule that found nothing, every
    incomplete group, every tensor that cannot be reshaped, and every target missing, doubled or of another shape.
    """
    result, problems = Converted(), []
    claims: dict[str, list[AnyRule]] = {key: [] for key in checkpoint}
    made_by: dict[str, list[str]] = {}  # target -> sources of each rule that makes it, to tell doubles apart
    unmatched: list[Rule] = []
    for rule in rules:
        if isinstance(rule, Add):
            made_by.setdefault(rule.target, []).append(rule.because)
            result.tensors[rule.target] = rule.make()
            result.added[rule.target] = rule.because
            continue
        matched = groups(rule.sources, checkpoint)
        if not matched and isinstance(rule, Rule) and not rule.optional:
            unmatched.append(rule)
        for holes in matched:
            keys = [_fill(pattern, holes) for pattern in rule.sources]
            for key in keys:
                claims.get(key, []).append(rule)
            if isinstance(rule, Drop):
                result.dropped.update(dict.fromkeys(keys, rule.because))
                continue
            if lacking := [key for key in keys if key not in checkpoint]:
                problems.append(f"the checkpoint lacks {', '.join(lacking)}, which belongs to {keys[0]}")
                made_by.update({_fill(pattern, holes): [] for pattern in rule.targets})  # said; not missing once more
                continue
            targets = [_fill(pattern, holes) for pattern in rule.targets]
            for target in targets:
                made_by.setdefault(target, []).append(" and ".join(keys))
            problem = _reshape(rule, keys, targets, checkpoint, result)
            if problem:
                problems.append(problem)
    problems += [
        f"{key} {_shape(checkpoint[key])} in the checkpoint has no rule" for key, by in claims.items() if not by
    ]
    problems += [f"{key} is claimed by {len(by)} rules" for key, by in claims.items() if len(by) > 1]
    problems += [
        f"{target} is produced {len(by)} times: from {', from '.join(by)}"
        for target, by in made_by.items()
        if len(by) > 1
    ]
    explained: set[int] = set()  # unmatched rules that a missing target already tells of
    if expected is not None:
        if biases := without_biases(rules, checkpoint):
            made_by.update((target, [ZEROS]) for target in _fill_in(biases, expected, made_by.keys(), result))
            explained.update(map(id, biases))
        problems += _against(expected, result, made_by, rules, explained)
    problems += [f"rule {', '.join(rule.sources)} matched nothing" for rule in unmatched if id(rule) not in explained]
    if problems:
        raise ConversionError(numbered("mismatch", problems))
    return result


def without_biases(rules: Iterable[AnyRule], keys: Iterable[str]) -> list[Rule]:
    """The rules of biases that a checkpoint was trained without: all that may be left out, if it has none of them."""
    keys = list(keys)
    biases = [rule for rule in rules if isinstance(rule, Rule) and rule.or_zeros]
    return [] if any(groups(rule.sources, keys) for rule in biases) else biases


def _fill_in(
    biases: Iterable[Rule], expected: Mapping[str, Shape], made: Collection[str], result: Converted
) -> list[str]:
    """Put zeros in the place of biases that were left out, and remember which; gives their targets."""
    filled = []
    for rule in biases:
        wanted = [target for target in expected if any(_match(part, target) is not None for part in rule.targets)]
        for holes in groups(rule.targets, (target for target in wanted if target not in made)):
            targets = [_fill(pattern, holes) for pattern in rule.targets]
            zeros = {target: torch.zeros(expected[target]) for target in targets}
            result.tensors.update(zeros)
            result.added.update(dict.fromkeys(targets, ZEROS))
            keys = (_fill(pattern, holes) for pattern in rule.sources)
            result.absent.update(zip(keys, _as_tuple(rule.op.backward(*zeros.values())), strict=True))
            filled += targets
    return filled


def _reshape(
    rule: Rule, keys: list[str], targets: list[str], checkpoint: Mapping[str, Tensor], result: Converted
) -> str | None:
    tensors = [checkpoint[key] for key in keys]
    came = ", ".join(f"{key} {_shape(tensor)}" for key, tensor in zip(keys, tensors, strict=True))
    try:
        made = _as_tuple(rule.op.forward(*tensors))
    except (RuntimeError, ValueError, IndexError) as error:  # torch's words for a tensor of another rank or size
        return f"{came} cannot go through {rule.op.name}: {str(error).splitlines()[0]}"
    if len(made) != len(targets):
        return f"{came}: {rule.op.name} gives {len(made)} tensors for {len(targets)} targets"
    for target, tensor in zip(targets, made, strict=True):
        result.tensors[target] = tensor.contiguous()
        result.sources[target] = tuple(keys)
    if not rule.op.exact:
        result.inexact.update(keys)
    return None


def _against(
    expected: Mapping[str, Shape],
    result: Converted,
    made_by: Mapping[str, list[str]],
    rules: Sequence[AnyRule],
    explained: set[int],
) -> list[str]:
    problems = []
    for target, shape in expected.items():
        if target in made_by:
            continue
        source = None
        for rule in rules:
            if not isinstance(rule, Rule):
                continue
            for pattern in rule.targets:
                if (holes := _match(pattern, target)) is not None:
                    source = ", ".join(_fill(part, holes) for part in rule.sources)
                    explained.add(id(rule))
        problems.append(
            f"the checkpoint lacks {source}, from which {target} {tuple(shape)} is made"
            if source
            else f"{target} {tuple(shape)} in the model has no rule that produces it"
        )
    for target, tensor in result.tensors.items():
        origin = result.sources.get(target)
        came = f" (from {', '.join(origin)})" if origin else ""
        if target not in expected:
            problems.append(f"{target} {_shape(tensor)} is not in the model{came}")
        elif tuple(tensor.shape) != tuple(expected[target]):
            problems.append(f"{target} is {_shape(tensor)}, the model wants {tuple(expected[target])}{came}")
    return problems


def groups(patterns: tuple[str, ...], keys: Iterable[str]) -> list[dict[str, str]]:
    """The distinct hole values for which at least one of the patterns is present."""
    found: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    for key in keys:
        for pattern in patterns:
            if (holes := _match(pattern, key)) is not None:
                found.setdefault(tuple(sorted(holes.items())), holes)
    return list(found.values())


def _match(pattern: str, key: str) -> dict[str, str] | None:
    match = _regex(pattern).fullmatch(key)
    return match.groupdict() if match else None


@lru_cache(maxsize=4096)
def _regex(pattern: str) -> re.Pattern[str]:
    parts, seen, position = [], Counter[str](), 0
    for hole in _HOLE.finditer(pattern):
        name = hole[1]
        parts += [re.escape(pattern[position : hole.start()]), f"(?P={name})" if seen[name] else f"(?P<{name}>[^./]+)"]
        seen[name] += 1
        position = hole.end()
    return re.compile("".join(parts) + re.escape(pattern[position:]))


def _fill(pattern: str, holes: Mapping[str, str]) -> str:
    return _HOLE.sub(lambda hole: holes[hole[1]], pattern)


def _as_tuple(value: T | tuple[T, ...]) -> tuple[T, ...]:
    return value if isinstance(value, tuple) else (value,)


def _shape(tensor: Tensor) -> Shape:
    return tuple(tensor.shape)
