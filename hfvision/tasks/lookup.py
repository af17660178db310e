"""Rows of the table of tasks by what a card, a pipeline, a model class or a user calls them."""

import inspect
import os
import warnings
from collections.abc import Collection
from difflib import get_close_matches

from hfvision.errors import UnknownNameError, did_you_mean
from hfvision.tasks.table import TASKS, Task

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def task_of_auto_class(auto_class: str | None) -> Task | None:
    """The row whose models an auto class of transformers gives; None where no row has it."""
    return next((task for task in TASKS if auto_class in task.auto_classes), None)


def task_of_class(name: str) -> Task | None:
    """The row with the longest ending of the class name `name`; None where no ending fits."""
    fitting = [(len(ending), task) for task in TASKS for ending in task.class_endings if name.endswith(ending)]
    return max(fitting, key=lambda pair: pair[0])[1] if fitting else None


def tasks_named(
    name: str,
    kind: str | None = None,
    *,
    among: Collection[Task] = TASKS,
    owner: str = "the Hub",
    warn: bool = True,
) -> list[Task]:
    """The rows of `among` with that name: all kinds for the Hub's name, one for a name of 0.4.0, which is deprecated.
    With a `kind` those that have it.

    `owner` is who has these tasks, for the message. `warn` says an old name in a DeprecationWarning that points at the
    caller outside this package. Raises UnknownNameError, naming the nearest one.

    >>> [task.kind for task in tasks_named("image-segmentation")]
    ['semantic', 'panoptic']
    >>> [task.kind for task in tasks_named("image-segmentation", "instance")]
    ['panoptic']
    """
    if kind is not None:
        rows = tasks_named(name, among=among, owner=owner, warn=warn)
        if found := [task for task in rows if kind in task.kinds]:
            return found
        kinds = [kind for task in rows for kind in task.kinds]
        has = f"has the kinds {', '.join(kinds)}; got {kind!r}." if kinds else f"has no kinds; got {kind!r}."
        raise UnknownNameError(f"task {name!r} {has}{did_you_mean(kind, kinds)}")
    if found := [task for task in among if task.name == name]:
        return found
    if old := [task for task in among if task.old_name == name]:
        if warn:
            said = f"task {name!r} is called {old[0].name!r} with kind {old[0].kind!r} from 0.5 on, as on the Hub"
            warnings.warn(said, DeprecationWarning, stacklevel=_outside())
        return old
    known = sorted({task.name for task in among})
    everything = [*known, *(task.old_name for task in among if task.old_name)]
    close = get_close_matches(name, everything, n=1)
    nearest = next((task.name for task in among if close and task.old_name == close[0]), close[0] if close else None)
    meant = f" Did you mean {nearest!r}?" if nearest else ""
    raise UnknownNameError(f"{owner} has no task {name!r}; it has {', '.join(known)}.{meant}")


def reading_named(name: str) -> str:
    """How a data set for a task is read; `name` is that itself, the Hub's name, or that of 0.4.0.

    Where the Hub's name covers several kinds, that of the first. Raises UnknownNameError, naming the nearest one.

    >>> reading_named("object-detection")
    'detection'
    """
    among = [(task, task.reading) for task in TASKS if task.reading]
    by_name = {task.name: reading for task, reading in reversed(among)}  # of several kinds the first
    by_name |= {task.recipe: reading for task, reading in among} | {reading: reading for _, reading in among}
    if name in by_name:
        return by_name[name]
    known = ", ".join(reading for _, reading in among)
    raise UnknownNameError(f"task is {known}, or the Hub's name of one; got {name!r}.{did_you_mean(name, by_name)}")


def _outside() -> int:
    """The stacklevel, for a warning in the caller, of the first frame that is not this package's."""
    level, frame = 0, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE + os.sep):
        level, frame = level + 1, frame.f_back
    return level
