"""`load_image_dataset`: any source of labelled images, as a `datasets` object with the columns "image" and "label".

Sources: a Hub id; a folder of class folders, with or without split folders above them; lists and tables of images and
classes (`hfvision.data.label_lists`, `label_tables`); WebDataset archives; parquet files; a folder written by
`save_to_disk` or holding data files; a `Dataset`, `DatasetDict` or dict of splits in memory; the name "digits".
"""

from typing import Any, Literal

import datasets

from hfvision.data.labelled_sources import open_labelled
from hfvision.data.sources import Source, name_of
from hfvision.errors import DatasetError, numbered
from hfvision.reading_options import CLASSIFICATION, ReadingOptions


def load_image_dataset(
    source: Source,
    *,
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    config_name: str | None = None,
    layout: str | None = None,
    class_level: Literal["outermost", "innermost"] | None = None,
    several_classes: Literal["error", "drop"] = "error",
) -> Any:
    """Every split of the source as a DatasetDict, or one `split` as a Dataset; columns "image" and "label", no others.

    The image column is the only one of images (or, without any, the only one of arrays: `Array2D`, `Array3D`); the
    label column is the only ClassLabel, or else the only plain column that is named like one. Where that is ambiguous
    the arguments decide; a named image column may also hold paths or encoded bytes. `config_name` chooses among the
    configurations of a Hub data set. A local path goes before a built-in name or a Hub id of the same name.

    `layout` says how a folder is meant that could be read in several ways, `class_level` which folders are the classes
    where class folders hold folders. Images of several classes are an error or, with "drop", left out.

    Raises DatasetError if there is no such source, split or column, or more than one to choose from.

    Example:
        >>> import tempfile, PIL.Image, hfvision
        >>> from pathlib import Path
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog"):
        ...     (folder / name).mkdir()
        ...     PIL.Image.new("RGB", (8, 8)).save(folder / name / "1.png")
        >>> data = hfvision.load_image_dataset(folder)
        >>> data["train"]["label"][:], data["train"].features["label"].names
        ([0, 1], ['cat', 'dog'])
    """
    given = {"image_column": image_column, "label_column": label_column, "config_name": config_name, "layout": layout}
    given |= {"class_level": class_level, "several_classes": several_classes}
    opened = open_labelled(source, ReadingOptions.of(given, CLASSIFICATION))
    if opened.faults:
        raise DatasetError(f"{name_of(source)}: " + numbered("problem", opened.faults))
    if split is not None and split not in opened.splits:
        raise DatasetError(f"{name_of(source)} has no split {split!r}; it has {', '.join(opened.splits)}.")
    return datasets.DatasetDict(opened.splits) if split is None else opened.splits[split]
