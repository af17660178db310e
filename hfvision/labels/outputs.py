"""Names of a model's outputs, whatever its config's `id2label` looks like.

A config that is read from a file has whole numbers as keys; one that was written to by hand may have text ("0"), gaps,
or fewer names than the model has outputs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hfvision.errors import ConfigError, numbered
from hfvision.reporting import report_once

SHOWN = 5  # class numbers in a report


def output_names(model: Any) -> list[str]:
    """The names of a model's classes in the order of its outputs; LABEL_n, and a report, where there is none.

    Raises ConfigError for keys of `id2label` that are no class numbers.
    """
    count = vars(model).get("num_labels") or model.config.num_labels or 0
    return names_in_order(model.config.id2label, count)


def names_in_order(id2label: Any, count: int) -> list[str]:
    """The same of so many outputs. A name of a number that is none of 0..count-1 is left out, and reported."""
    names = by_number(id2label or {})
    unnamed = [number for number in range(count) if number not in names]
    beyond = [number for number in sorted(names) if not 0 <= number < count]
    if unnamed or beyond:
        parts = [f"has no name for {_listed(unnamed)}, called LABEL_{unnamed[0]} and so on"] if unnamed else []
        parts += [f"names {_listed(beyond)}, which the model does not have"] if beyond else []
        report_once(f"id2label {' and '.join(parts)}: the model has the classes 0 to {count - 1}.")
    return [names.get(number, f"LABEL_{number}") for number in range(count)]


def complete_names(model: Any) -> None:
    """Make the config's `id2label` name every output by its number. Raises ConfigError as `output_names` does."""
    config, names = model.config, dict(enumerate(output_names(model)))
    if config.id2label != names:
        config.id2label = names
        config.label2id = {name: number for number, name in reversed(names.items())}


def by_number(id2label: Any) -> dict[int, str]:
    """{number: name} of `id2label` in any form: keys may be text, and a list names the classes from 0 on.

    Raises ConfigError for keys that are no class numbers and for two names of one class.
    """
    if not isinstance(id2label, Mapping):
        if isinstance(id2label, str) or not isinstance(id2label, Sequence):
            raise ConfigError(f"id2label is a dict of class numbers and names; got {id2label!r}.")
        id2label = dict(enumerate(id2label))
    names: dict[int, str] = {}
    problems = []
    for key, name in id2label.items():
        try:
            number = int(key)
        except (TypeError, ValueError):
            problems.append(f"{key!r}: {name!r}")
            continue
        if names.setdefault(number, str(name)) != str(name):
            problems.append(f"{number} is {names[number]!r} and {str(name)!r}")
    if problems:
        raise ConfigError(
            f"id2label names classes by their numbers, as in {{0: 'cat', 1: 'dog'}}; "
            f"{numbered('fault', problems, most=SHOWN)}\n    Were id2label and label2id swapped?"
        )
    return names


def _listed(numbers: list[int]) -> str:
    more = len(numbers) - SHOWN
    shown = ", ".join(map(str, numbers[:SHOWN])) + (f" and {more:,} more" if more > 0 else "")
    return f"class{'' if len(numbers) == 1 else 'es'} {shown}"
