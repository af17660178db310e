"""`load_image_dataset`: any source of labelled images, as a `datasets` object with the columns "image" and "label".

Sources: a Hub id; a folder of class folders, with or without split folders above them; parquet files; a folder written
by `save_to_disk` or holding data files; a `Dataset`, `DatasetDict` or dict of splits in memory; the name "digits".
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import datasets

from hfvision.data.digits import load_digits
from hfvision.data.image_folder import is_image_folder, read_image_folder
from hfvision.errors import DatasetError

BUILT_IN = {"digits": load_digits}

Splits: TypeAlias = datasets.DatasetDict | Mapping[str, datasets.Dataset]
Source: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | datasets.Dataset | Splits

# Where a data set has no ClassLabel, a plain column of one of these names holds the labels.
LABEL_NAMES = ("label", "labels", "class", "target", "category")
_PLAIN_LABELS = ("string", "large_string", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")
_ARRAYS = (datasets.Array2D, datasets.Array3D)


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
    splits = _by_split(_open(source, config_name))
    if split is not None and split not in splits:
        raise DatasetError(f"{name_of(source)} has no split {split!r}; it has {', '.join(splits)}.")
    chosen = splits if split is None else {split: splits[split]}
    ready = {name: _two_columns(data, image_column, label_column) for name, data in chosen.items()}
    return datasets.DatasetDict(ready) if split is None else ready[split]


def name_of(source: Source) -> str:
    """What a source is called in messages and cards: its Hub id, folder name, file name or "a Dataset in memory"."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        return (path.resolve().name or str(path)) if path.exists() else str(source)
    if isinstance(source, datasets.Dataset | Mapping):
        infos = [data.info for data in (source.values() if isinstance(source, Mapping) else [source])]
        named = {info.dataset_name for info in infos if info.dataset_name}
        return named.pop() if len(named) == 1 else "a data set in memory"
    return ", ".join(Path(path).name for path in source)


def _open(source: Source, config_name: str | None) -> Any:
    if isinstance(source, datasets.Dataset | datasets.DatasetDict):
        return source
    if isinstance(source, Mapping) and source and all(isinstance(split, datasets.Dataset) for split in source.values()):
        return datasets.DatasetDict(source)
    if isinstance(source, datasets.IterableDataset | datasets.IterableDatasetDict):
        raise DatasetError(
            "a streamed data set cannot be shuffled or checked before training; load it without streaming=True."
        )
    if isinstance(source, str | os.PathLike):
        return _open_path(Path(source)) if Path(source).exists() else _open_name(str(source), config_name)
    if isinstance(source, Sequence) and source and all(isinstance(path, str | os.PathLike) for path in source):
        return _open_parquet([str(path) for path in source])
    raise DatasetError(
        f"a data set is a Hub id, a folder, parquet files, a Dataset or {_built_in()}; got {type(source).__name__}."
    )


def _open_path(path: Path) -> Any:
    if path.is_file():
        return _open_parquet([str(path)])
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _guarded(path, datasets.load_from_disk, str(path))
    if any(path.glob("metadata.*")) or any(path.glob("*/metadata.*")):
        return _guarded(path, datasets.load_dataset, "imagefolder", data_dir=str(path))
    if is_image_folder(path):
        return read_image_folder(path)
    return _guarded(path, datasets.load_dataset, str(path))


def _open_parquet(paths: list[str]) -> Any:
    strange = [path for path in paths if not path.endswith(".parquet")]
    missing = [path for path in paths if not Path(path).is_file()]
    if strange or missing:
        raise DatasetError(
            f"data files are existing .parquet files; got {', '.join(dict.fromkeys(strange + missing))}. For images in "
            "folders give the folder."
        )
    return _guarded(", ".join(paths), datasets.load_dataset, "parquet", data_files=paths)


def _open_name(name: str, config_name: str | None) -> Any:
    if name in BUILT_IN:
        return BUILT_IN[name]()
    if name.startswith((".", "~", os.sep)) or name.count("/") > 1 or name.endswith(".parquet"):
        raise DatasetError(f"there is no folder or file {name!r} (from {Path.cwd()}).")
    return _guarded(name, datasets.load_dataset, name, config_name)


def _guarded(what: object, load: Any, *args: Any, **options: Any) -> Any:
    """`load(...)`, its many ways to fail turned into one error that keeps their text."""
    try:
        return load(*args, **options)
    except Exception as error:
        raise DatasetError(
            f"cannot load the data set {what}: {type(error).__name__}: {error}\n    A data set is a Hub id (needs a "
            f"network unless it is cached), a folder of class folders, parquet files, or {_built_in()}."
        ) from error


def _built_in() -> str:
    return "one of the built-in names " + ", ".join(map(repr, BUILT_IN)) if len(BUILT_IN) > 1 else repr(*BUILT_IN)


def _by_split(data: datasets.Dataset | datasets.DatasetDict) -> Mapping[str, datasets.Dataset]:
    if isinstance(data, datasets.DatasetDict):
        return data
    return {str(data.split or "train"): data}


def _two_columns(data: datasets.Dataset, image_column: str | None, label_column: str | None) -> datasets.Dataset:
    """The image and the label column under their fixed names, images not decoded, without the caller's formatting."""
    data = data.with_format(None)
    _check_named(data, image_column=image_column, label_column=label_column)
    image_column = image_column or _find_images(data)
    label_column = label_column or _find_labels(data, image_column)
    chosen = data.select_columns([image_column, label_column])
    feature = chosen.features[image_column]
    if not isinstance(feature, _ARRAYS):
        chosen = chosen.cast_column(image_column, datasets.Image(decode=False, mode=getattr(feature, "mode", None)))
    chosen = chosen.rename_columns({image_column: "\0image", label_column: "\0label"})  # they may be named crosswise
    return chosen.rename_columns({"\0image": "image", "\0label": "label"})


def _check_named(data: datasets.Dataset, **columns: str | None) -> None:
    missing = [f"{argument}={name!r}" for argument, name in columns.items() if name and name not in data.features]
    if missing:
        raise DatasetError(f"no column {' and '.join(missing)}; the data set has {_listed(data.features)}.")


def _find_images(data: datasets.Dataset) -> str:
    features = data.features
    found = [name for name, feature in features.items() if _holds_images(feature)]
    found = found or [name for name, feature in features.items() if isinstance(feature, _ARRAYS)]
    return _the_one(found, "image", data)


def _find_labels(data: datasets.Dataset, image_column: str) -> str:
    features = {name: feature for name, feature in data.features.items() if name != image_column}
    found = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    plain = [name for name, feature in features.items() if getattr(feature, "dtype", None) in _PLAIN_LABELS]
    found = found or [name for name in plain if name.lower() in LABEL_NAMES]
    return _the_one(found, "label", data)


def _the_one(found: list[str], kind: str, data: datasets.Dataset) -> str:
    if len(found) == 1:
        return found[0]
    several = f"{len(found)} columns could hold the {kind}s: {', '.join(found)}"
    problem = several if found else f"no column is known to hold {kind}s"
    raise DatasetError(f"{problem}. Name it: {kind}_column=... The data set has {_listed(data.features)}.")


def _holds_images(feature: Any) -> bool:
    # Parquet files written without `datasets` keep images as plain structs.
    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})


def _listed(features: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} ({_kind(feature)})" for name, feature in features.items())


def _kind(feature: Any) -> str:
    if isinstance(feature, datasets.ClassLabel):
        return f"ClassLabel of {feature.num_classes}"
    return str(getattr(feature, "dtype", None) or type(feature).__name__) if not _holds_images(feature) else "Image"
