"""The catalogue: one row for each original checkpoint, and for each architecture that has no published weights.

    from hfvision.catalog import row, rows

    for one in rows(task="semantic-segmentation", family="segmenter"):
        print(one.name, one.parameters, one.file)

Nothing is imported for it but Python's own library; the rows are read when the first is asked for. TimeSformer's rows
(eleven) are not listed: that family is not built yet.
"""

from hfvision.catalog.facts import BOOKKEEPING, facts_of
from hfvision.catalog.table import FAMILIES, TASKS, CatalogRow, Figure, list_models, nearest, row, rows, signature

__all__ = [
    "BOOKKEEPING",
    "FAMILIES",
    "TASKS",
    "CatalogRow",
    "Figure",
    "facts_of",
    "list_models",
    "nearest",
    "row",
    "rows",
    "signature",
]
