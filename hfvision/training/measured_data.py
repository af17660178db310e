"""The data that a model is measured with: read as in its training unless something else is said, with its classes.

Shapes: K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hfvision.cards.records import read_record
from hfvision.data.classification import ClassificationData
from hfvision.data.columns import NoSuchColumn
from hfvision.data.remembering import in_words
from hfvision.data.segmentation import SegmentationData
from hfvision.errors import DatasetError
from hfvision.labels import numbers_of
from hfvision.licences.inheritance import RECORD_FILE
from hfvision.reading_options import options_of
from hfvision.reporting import report
from hfvision.training.base import Base
from hfvision.training.head import class_names
from hfvision.training.recipe import Recipe

NAMES_SHOWN = 5


def data_to_measure(
    recipe: Recipe,
    dataset: Any,
    base: Base,
    folder: Path,
    split: str | None,
    by_number: bool,
    given: Mapping[str, Any],
) -> Any:
    """The data set with the model's classes; `folder` is the model's, `given` what is said about reading.

    Raises DatasetError where classes do not match, and as `prepare_...` does.
    """
    names = class_names(base.model)
    always: dict[str, Any] = {"eval_split": split, "evaluate_only": True, **recipe.options().reading()}
    if by_number and recipe.data_class is SegmentationData:
        always["names"] = names
    if isinstance(dataset, recipe.data_class):
        return _with_classes_of(dataset, names, by_number)
    given = {**always, **{name: value for name, value in given.items() if value is not None}}
    found = _read_as_in_training(recipe.prepare, dataset, given, of_training(folder, recipe.reading))
    return _with_classes_of(found, names, by_number)


def of_training(folder: Path, task: str) -> dict[str, Any]:
    """What the record of a model's training keeps of how its data was read; options of this version alone."""
    record = read_record(folder / RECORD_FILE).get("reading", {})
    known = {option.name for option in options_of(task) if option.metadata["remembered"]}
    return {name: value for name, value in record.items() if name in known} if isinstance(record, dict) else {}


def _read_as_in_training(
    prepare: Callable[..., Any], dataset: Any, given: Mapping[str, Any], training: Mapping[str, Any]
) -> Any:
    """Columns that training was told of count where the data has them."""
    used = {name: value for name, value in training.items() if name not in given}
    if used:
        report(f"read as in training: {in_words(used)}. Options given here go before that.")
    try:
        return prepare(dataset, **used, **given)
    except NoSuchColumn as error:
        if not set(error.arguments) <= used.keys():
            raise
        kept = {name: value for name, value in used.items() if name not in error.arguments}
        named = in_words({name: used[name] for name in error.arguments})
        report(f"this data has not the columns of training ({named}): they are looked for by what they hold.")
        return prepare(dataset, **kept, **given)


def _with_classes_of(found: Any, names: Sequence[str], by_number: bool) -> Any:
    """The data with its classes numbered as the model has them."""
    part: Any
    if isinstance(found, ClassificationData):
        numbers = _numbers(found, names, by_number, found.evaluation.labels)
        part = replace(found.evaluation, labels=numbers[found.evaluation.labels])
    elif isinstance(found, SegmentationData):
        numbers = _numbers(found, names, by_number, np.arange(len(found.names)))
        if not np.array_equal(numbers, np.arange(len(names))):
            raise DatasetError(
                f"{found.name} has the classes {_listed(found.names)} and the model {_listed(names)}. Masks are "
                "compared by number: give names=... in the model's order, a label_map=... that numbers them so, or "
                "by_number."
            )
        part = found.evaluation
    else:
        objects = found.evaluation.objects
        numbers = _numbers(found, names, by_number, objects.classes)
        part = replace(found.evaluation, objects=replace(objects, classes=numbers[objects.classes]))
        if found.things is not None:
            found = replace(found, things=tuple(n for n in numbers[list(found.things)].tolist() if n >= 0))
    return replace(found, evaluation=part, names=names)


def _numbers(found: Any, ours: Sequence[str], by_number: bool, occurring: np.ndarray) -> np.ndarray:
    """(K,) int64: the model's number of each class of the data, -1 for those that it does not have and that do not
    occur (reported). Raises DatasetError for others that it does not have.
    """
    name, theirs = found.name, found.names
    if by_number:
        if len(theirs) > len(ours):
            raise DatasetError(f"{name} has {len(theirs)} classes and the model {len(ours)}: they are not the same.")
        return np.arange(len(theirs))
    number = numbers_of(dict(enumerate(ours)))
    occurs = np.isin(np.arange(len(theirs)), occurring)
    unknown = [one for one, seen in zip(theirs, occurs, strict=True) if one not in number and seen]
    unseen = [one for one, seen in zip(theirs, occurs, strict=True) if one not in number and not seen]
    if unseen and not unknown:
        report(f"classes of {name} that the model has not and of which there is nothing to measure: {_listed(unseen)}.")
    if unknown:
        raise DatasetError(
            f"{len(unknown)} of {len(theirs)} classes of {name} are none of the model's: {_listed(unknown)}; the model "
            f"has {_listed(ours)}. Rename them, or compare by number where both count alike (by_number, --by-number)."
        )
    return np.array([number.get(one, -1) for one in theirs], dtype=np.int64)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(map(repr, names[:NAMES_SHOWN])) + (f" and {more:,} more" if more > 0 else "")
