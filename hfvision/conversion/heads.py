"""Numbers of attention heads, which most files do not show: queries, keys and values fit any that divides the width.

A wrong one gives a model that loads and computes something else, so each is said with where it comes from, and compared
with what published models of the same width have.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from hfvision.catalog import CatalogRow, rows
from hfvision.conversion.formats import Format, Plan

# The config field of a number of heads (of each stage, where there are stages), and that of the width they divide.
WIDTHS = {
    "num_attention_heads": ("hidden_size", "hidden_sizes"),
    "decoder_num_attention_heads": ("decoder_hidden_size",),
    "encoder_attention_heads": ("d_model",),
    "decoder_attention_heads": ("d_model",),
}
SHOWN = 3  # rows that a line names


def contradictions(plan: Plan, row: CatalogRow) -> tuple[str, ...]:
    """A line for each number of heads that was set and that the row has otherwise."""
    set_to = _fields(plan.given)
    return tuple(
        f"{name} was set to {plan.config[name]}, and {row.name} has {row.config[name]}"
        for name in WIDTHS
        if name in set_to and name in row.config and _differ(plan.config, row.config, name)
    )


def head_notes(plan: Plan, format: Format, row: CatalogRow | None) -> tuple[str, ...]:
    """A sentence for each number of heads that no tensor shows: assumed, set, or that of the published file `row`."""
    assumed, set_to = _fields(plan.assumed), _fields(plan.given)
    notes = []
    for name in WIDTHS:
        if name not in assumed | set_to:
            continue
        said = f"No tensor shows {name}: {plan.config[name]} was {'set' if name in set_to else 'assumed'}"
        if row is not None:
            notes.append(f"{said}, as {row.name} has it.")
            continue
        alike = _as_wide(plan.config, name, format)
        others = [one for one in alike if _differ(plan.config, one.config, name)]
        if name in set_to:
            said += ", and nothing in the file can confirm it"
        if not alike:
            said += "; no published model is as wide"
        elif not others:
            said += f", as published models of this width have ({_named(alike)})"
        else:
            said += f"; published models of this width have {_counts(others, name)}"
        notes.append(f"{said}. With another number the same tensors compute something else.")
    return tuple(notes)


def notes_of_the_way_back(config: Mapping[str, Any], format: Format) -> tuple[str, ...]:
    """A sentence for each number of heads that the file does not say and its authors' code takes otherwise."""
    notes = []
    for name in () if format.tells_heads else WIDTHS:
        alike = _as_wide(config, name, format) if name in config else []
        if alike and all(_differ(config, one.config, name) for one in alike):
            notes.append(
                f"the file does not say {name} = {config[name]}: build the original's model with that, as published "
                f"models of this width have {_counts(alike, name)}"
            )
    return tuple(notes)


def _as_wide(config: Mapping[str, Any], name: str, format: Format) -> list[CatalogRow]:
    """Published models of the format or its model types that are as wide where these heads are; its own files first."""
    related = [one for one in rows() if one.format == format.name or one.model_type in format.model_types]
    alike = [one for one in related if name in one.config and _same_width(config, one.config, WIDTHS[name])]
    return sorted(alike, key=lambda one: one.format != format.name)


def _counts(found: list[CatalogRow], name: str) -> str:
    counts = " or ".join(dict.fromkeys(str(one.config[name]) for one in found))
    return f"{counts} ({_named(found)})"


def _fields(lines: Iterable[str]) -> set[str]:
    """The names of lines "field = value"."""
    return {line.partition(" = ")[0] for line in lines}


def _same_width(ours: Mapping[str, Any], theirs: Mapping[str, Any], widths: Iterable[str]) -> bool:
    return any(field in ours and field in theirs and not _differ(ours, theirs, field) for field in widths)


def _differ(ours: Mapping[str, Any], theirs: Mapping[str, Any], field: str) -> bool:
    """A tuple and JSON's list are the same."""
    a, b = ours.get(field), theirs.get(field)
    return (list(a) if isinstance(a, tuple | list) else a) != (list(b) if isinstance(b, tuple | list) else b)


def _named(found: list[CatalogRow]) -> str:
    names = list(dict.fromkeys(one.name for one in found))
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
