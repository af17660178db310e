"""Every source of labelled images, opened: lists, tables, archives, class folders, and columns of data sets."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import datasets

from hfvision.data.columns import check_named, image_columns, select_columns, the_one, undecoded
from hfvision.data.digits import load_digits
from hfvision.data.image_folder import CLASS_FOLDERS, class_folders, is_image_folder
from hfvision.data.label_lists import coco_labels, datumaro_labels, imagenet_txt, voc_labels
from hfvision.data.label_tables import csv_labels, roboflow_labels
from hfvision.data.labelled_files import LabelledFiles, LabelledSource, labelled_source
from hfvision.data.sources import Kind, Source, is_data_of_datasets, name_of, open_source
from hfvision.data.webdataset import ARCHIVES, tar_labels
from hfvision.errors import DatasetError
from hfvision.reading_options import ReadingOptions

LABELLED = Kind(
    built_in={"digits": load_digits},
    folder="a folder of class folders",
    read_folder=lambda path: None,
)
TABLE = "csv"
LAYOUTS: Mapping[str, Callable[[Path], LabelledFiles | None]] = {
    "imagenet-txt": imagenet_txt,
    "voc": voc_labels,
    "coco": coco_labels,
    "datumaro": datumaro_labels,
    "roboflow": roboflow_labels,
}
NAMES = (*LAYOUTS, TABLE, ARCHIVES, CLASS_FOLDERS)

# Where a data set has no ClassLabel, a plain column of one of these names holds the labels.
LABEL_NAMES = ("label", "labels", "class", "target", "category")
_PLAIN_LABELS = ("string", "large_string", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")


def open_labelled(source: Source, options: ReadingOptions) -> LabelledSource:
    """The splits of a source with the columns "image" and "label", nothing decoded.

    Raises DatasetError for a source that is none, or that could be read in two ways.
    """
    if options.layout not in (None, *NAMES):
        raise DatasetError(f"layout is one of {', '.join(NAMES)}; got {options.layout!r}.")
    files = _labelled_files(source, options)
    if files is not None:
        opened = labelled_source(files, options.several_classes)
        return replace(opened, splits={split: undecoded(data, "image") for split, data in opened.splits.items()})
    if options.layout is not None:
        raise DatasetError(f"{name_of(source)} is not laid out as {options.layout!r}.")
    return LabelledSource(
        {
            split: _two_columns(data, options.image_column, options.label_column)
            for split, data in open_source(source, LABELLED, options.config_name).items()
        }
    )


def _labelled_files(source: Source, options: ReadingOptions) -> LabelledFiles | None:
    """By the files that are there; None for a source that is none of these layouts."""
    layout = options.layout
    if layout in (None, ARCHIVES) and (found := tar_labels(source)) is not None:
        return found
    path = Path(source) if isinstance(source, str | os.PathLike) else None
    if path is None or not path.exists() or is_data_of_datasets(path):
        return None
    columns = options.image_column, options.label_column
    if path.is_file():
        return csv_labels(path, *columns) if path.suffix.lower() in (".csv", ".tsv") else None
    chosen = LAYOUTS if layout is None else {name: read for name, read in LAYOUTS.items() if name == layout}
    found_in = {name: files for name, read in chosen.items() if (files := read(path)) is not None}
    if layout in (None, TABLE) and (table := csv_labels(path, *columns, is_asked_for=layout == TABLE)) is not None:
        found_in[TABLE] = table
    if len(found_in) > 1:
        raise DatasetError(
            f"{path} has labels in {len(found_in)} layouts: {', '.join(one.layout for one in found_in.values())}. Say "
            f"which is meant: layout={next(iter(found_in))!r} (--layout {next(iter(found_in))}), ..."
        )
    if found_in:
        return next(iter(found_in.values()))
    if layout in (None, CLASS_FOLDERS) and is_image_folder(path):
        return class_folders(path, options.class_level, is_asked_for=layout == CLASS_FOLDERS)
    return None


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
