"""Where data sets come from: a Hub id, local folders and files, objects in memory, or a name built in.

What is the same for every task stands here; a `Kind` says what is different: which folders it reads and which names it
knows.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import datasets

from hfvision.errors import DatasetError

Splits: TypeAlias = datasets.DatasetDict | Mapping[str, datasets.Dataset]
Source: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | datasets.Dataset | Splits


@dataclass(frozen=True)
class Kind:
    """The data sets of one task."""

    built_in: Mapping[str, Callable[[], datasets.DatasetDict]]  # by name
    folder: str  # "a folder of class folders"
    read_folder: Callable[[Path], datasets.DatasetDict | None]  # of images; None where it is none of this task

    @property
    def names(self) -> str:
        """The built-in names, for messages."""
        listed = ", ".join(map(repr, self.built_in))
        return "one of the built-in names " + listed if len(self.built_in) > 1 else listed


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


def open_source(source: Source, kind: Kind, config_name: str | None = None) -> Mapping[str, datasets.Dataset]:
    """Every split of the source with all its columns. A local path goes before a built-in name or a Hub id.

    Raises DatasetError if there is no such source or it cannot be read.
    """
    data = _open(source, kind, config_name)
    return data if isinstance(data, datasets.DatasetDict) else {str(data.split or "train"): data}


def is_data_of_datasets(path: Path) -> bool:
    """Whether a folder says itself how it is read: saved by `datasets`, or with a file of metadata."""
    if not path.is_dir():
        return False
    saved = (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()
    return saved or any(path.glob("metadata.*")) or any(path.glob("*/metadata.*"))


def _open(source: Source, kind: Kind, config_name: str | None) -> Any:
    if isinstance(source, datasets.Dataset | datasets.DatasetDict):
        return source
    if isinstance(source, Mapping) and source and all(isinstance(split, datasets.Dataset) for split in source.values()):
        return datasets.DatasetDict(source)
    if isinstance(source, datasets.IterableDataset | datasets.IterableDatasetDict):
        raise DatasetError(
            "a streamed data set cannot be shuffled or checked before training; load it without streaming=True."
        )
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        return _open_path(path, kind) if path.exists() else _open_name(str(source), kind, config_name)
    if isinstance(source, Sequence) and source and all(isinstance(path, str | os.PathLike) for path in source):
        return _open_parquet([str(path) for path in source], kind)
    raise DatasetError(
        f"a data set is a Hub id, a folder, parquet files, a Dataset or {kind.names}; got {type(source).__name__}."
    )


def _open_path(path: Path, kind: Kind) -> Any:
    if path.is_file():
        return _open_parquet([str(path)], kind)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _guarded(path, kind, datasets.load_from_disk, str(path))
    if any(path.glob("metadata.*")) or any(path.glob("*/metadata.*")):
        return _guarded(path, kind, datasets.load_dataset, "imagefolder", data_dir=str(path))
    read = kind.read_folder(path)
    return _guarded(path, kind, datasets.load_dataset, str(path)) if read is None else read


def _open_parquet(paths: list[str], kind: Kind) -> Any:
    strange = [path for path in paths if not path.endswith(".parquet")]
    missing = [path for path in paths if not Path(path).is_file()]
    if strange or missing:
        raise DatasetError(
            f"data files are existing .parquet files; got {', '.join(dict.fromkeys(strange + missing))}. For images in "
            "folders give the folder."
        )
    return _guarded(", ".join(paths), kind, datasets.load_dataset, "parquet", data_files=paths)


def _open_name(name: str, kind: Kind, config_name: str | None) -> Any:
    if name in kind.built_in:
        return kind.built_in[name]()
    if name.startswith((".", "~", os.sep)) or name.count("/") > 1 or name.endswith(".parquet"):
        raise DatasetError(f"there is no folder or file {name!r} (from {Path.cwd()}).")
    return _guarded(name, kind, datasets.load_dataset, name, config_name)


def _guarded(what: object, kind: Kind, load: Any, *args: Any, **options: Any) -> Any:
    """`load(...)`, its many ways to fail turned into one error that keeps their text."""
    try:
        return load(*args, **options)
    except Exception as error:
        raise DatasetError(
            f"cannot load the data set {what}: {type(error).__name__}: {error}\n    A data set is a Hub id (needs a "
            f"network unless it is cached), {kind.folder}, parquet files, or {kind.names}."
        ) from error
