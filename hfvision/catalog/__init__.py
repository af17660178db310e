"""The catalogue: one row for each original checkpoint, and for each architecture that has no published weights.

    from hfvision.catalog import row, rows

    for one in rows(task="image-segmentation", family="segmenter"):
        print(one.name, one.parameters, one.file)

Nothing is imported for it but Python's own library; the rows are read when the first is asked for. TimeSformer's rows
(eleven) are not listed: that family is not built yet.
"""

import warnings
from typing import Any

from hfvision.catalog.facts import BOOKKEEPING, facts_of
from hfvision.catalog.table import FAMILIES, CatalogRow, Figure, list_models, nearest, row, rows, signature
from hfvision.tasks import TASKS as _TASKS

__all__ = [
    "BOOKKEEPING",
    "FAMILIES",
    "CatalogRow",
    "Figure",
    "facts_of",
    "list_models",
    "nearest",
    "row",
    "rows",
    "signature",
]


def __getattr__(name: str) -> Any:
    if name != "TASKS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    said = "hfvision.catalog.TASKS has the names of 0.4; the one table is hfvision.tasks.TASKS"
    warnings.warn(said, DeprecationWarning, stacklevel=2)
    return {task.auto_class: task.recipe for task in _TASKS if task.auto_class}
