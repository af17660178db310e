"""`load_image_dataset`: any source of labelled images, as a `datasets` object with the columns "image" and "label".

Sources: a Hub id; a folder of class folders, with or without split folders above them; parquet files; a folder written
by `save_to_disk` or holding data files; a `Dataset`, `DatasetDict` or dict of splits in memory; the name "digits".
"""

from typing import Any

import datasets

from hfvision.data.columns import check_named, image_columns, select_columns, the_one, undecoded
from hfvision.data.digits import load_digits
from hfvision.data.image_folder import is_image_folder, read_image_folder
from hfvision.data.sources import Kind, Source, name_of, open_source
from hfvision.errors import DatasetError

CLASS_FOLDERS = Kind(
    built_in={"digits": load_digits},
    folder="a folder of class folders",
    read_folder=lambda path: read_image_folder(path) if is_image_folder(path) else None,
)

# Where a data set has no ClassLabel, a plain column of one of these names holds the labels.
LABEL_NAMES = ("label", "labels", "class", "target", "category")
_PLAIN_LABELS = ("string", "large_string", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")


def load_image_dataset(
    source: Source,
    *,
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    config_name: str | None = None,
) -> Any:
    """Every split of the source as a DatasetDict, or one `split` as a Dataset; columns "image" and "label", no others.

    The image column is the only one of images (or, without any, the only one of arrays: `Array2D`, `Array3D`); the
    label column is the only ClassLabel, or else the only plain column that is named like one. Where that is ambiguous
    the arguments decide; a named image column may also hold paths or encoded bytes. `config_name` chooses among the
    configurations of a Hub data set. A local path goes before a built-in name or a Hub id of the same name.

    Raises DatasetError if there is no such source, split or column, or more than one to choose from.
    """
    splits = open_source(source, CLASS_FOLDERS, config_name)
    if split is not None and split not in splits:
        raise DatasetError(f"{name_of(source)} has no split {split!r}; it has {', '.join(splits)}.")
    chosen = splits if split is None else {split: splits[split]}
    ready = {name: _two_columns(data, image_column, label_column) for name, data in chosen.items()}
    return datasets.DatasetDict(ready) if split is None else ready[split]


def _two_columns(data: datasets.Dataset, image_column: str | None, label_column: str | None) -> datasets.Dataset:
    """The image and the label column under their fixed names, images not decoded, without the caller's formatting."""
    data = data.with_format(None)
    check_named(data, image_column=image_column, label_column=label_column)
    image_column = image_column or the_one(image_columns(data), "image", data)
    label_column = label_column or _find_labels(data, image_column)
    return undecoded(select_columns(data, image=image_column, label=label_column), "image")


def _find_labels(data: datasets.Dataset, image_column: str) -> str:
    features = {name: feature for name, feature in data.features.items() if name != image_column}
    found = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    plain = [name for name, feature in features.items() if getattr(feature, "dtype", None) in _PLAIN_LABELS]
    found = found or [name for name in plain if name.lower() in LABEL_NAMES]
    return the_one(found, "label", data)
