"""Finding the columns of a data set by what they hold and what they are called."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets

from hfvision.errors import DatasetError

ARRAYS = (datasets.Array2D, datasets.Array3D)


class NoSuchColumn(DatasetError):
    """A column was asked for that a data set has not; `arguments` are the options that named it."""

    def __init__(self, message: str, arguments: Sequence[str]) -> None:
        super().__init__(message)
        self.arguments = tuple(arguments)


def check_named(data: datasets.Dataset, **columns: str | None) -> None:
    """Raises NoSuchColumn for columns asked for (argument=name) that the data set has not."""
    missing = {argument: name for argument, name in columns.items() if name and name not in data.features}
    if missing:
        asked = " and ".join(f"{argument}={name!r}" for argument, name in missing.items())
        raise NoSuchColumn(f"no column {asked}; the data set has {_listed(data.features)}.", list(missing))


def image_columns(data: datasets.Dataset) -> list[str]:
    """Columns of images; without any, those of arrays."""
    features = data.features
    found = [name for name, feature in features.items() if _holds_images(feature)]
    return found or [name for name, feature in features.items() if isinstance(feature, ARRAYS)]


def the_one(found: Sequence[str], kind: str, data: datasets.Dataset) -> str:
    """The only column found; DatasetError names the argument that settles it where there are none or several."""
    if len(found) == 1:
        return found[0]
    several = f"{len(found)} columns could hold the {kind}s: {', '.join(found)}"
    problem = several if found else f"no column is known to hold {kind}s"
    raise DatasetError(f"{problem}. Name it: {kind}_column=... The data set has {_listed(data.features)}.")


def select_columns(data: datasets.Dataset, **columns: str) -> datasets.Dataset:
    """The columns asked for (new name=column) and no others."""
    chosen = data.select_columns(list(columns.values()))
    chosen = chosen.rename_columns({old: f"\0{new}" for new, old in columns.items()})  # they may be named crosswise
    return chosen.rename_columns({f"\0{new}": new for new in columns})


def undecoded(data: datasets.Dataset, column: str, *, as_stored: bool = False) -> datasets.Dataset:
    """A column of images, paths or encoded bytes as one of images that are not decoded; arrays stay what they are.

    The mode that the data set wants its images in is kept, unless `as_stored`: label maps must not change theirs.
    """
    feature = data.features[column]
    if isinstance(feature, ARRAYS):
        return data
    mode = None if as_stored else getattr(feature, "mode", None)
    return data.cast_column(column, datasets.Image(decode=False, mode=mode))


def _holds_images(feature: Any) -> bool:
    # Parquet files written without `datasets` keep images as plain structs.
    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})


def _listed(features: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} ({_kind(feature)})" for name, feature in features.items())


def _kind(feature: Any) -> str:
    if isinstance(feature, datasets.ClassLabel):
        return f"ClassLabel of {feature.num_classes}"
    return str(getattr(feature, "dtype", None) or type(feature).__name__) if not _holds_images(feature) else "Image"
