"""A folder of class folders as a `datasets.DatasetDict`: FOLDER/CLASS/*.png or FOLDER/SPLIT/CLASS/*.png.

Read here rather than by `datasets`' own "imagefolder", which caches on disk, takes words in file names for splits and
drops the labels without a word when there is a single class or when depths differ.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import datasets

from hfvision.data.cells import shown
from hfvision.errors import DatasetError, numbered
from hfvision.processing.reading import IMAGE_SUFFIXES
from hfvision.reporting import report

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


def is_image_folder(folder: Path) -> bool:
    """Whether an image lies anywhere below the folder."""
    return any(is_image(name) for _, _, files in os.walk(folder, followlinks=True) for name in files)


def read_image_folder(folder: Path) -> datasets.DatasetDict:
    """Columns image (path, decoded on access) and label (ClassLabel, the class folders of all splits, sorted).

    A class is the first folder below FOLDER or SPLIT; deeper folders belong to it. Hidden files are passed over; other
    files that are no images are counted in a report. Raises DatasetError, listing every fault of the layout, for images
    outside class folders and for split folders beside class folders.
    """
    split_folders = _split_folders(folder)
    roots = split_folders or {"train": [folder]}
    _check_layout(folder, roots)
    found = {split: [item for root in paths for item in _labelled_files(root)] for split, paths in roots.items()}
    classes = sorted({path.name for paths in roots.values() for root in paths for path in folders_in(root)})
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=classes)})
    others = [path for files in found.values() for path, _ in files if not is_image(path.name)]
    if others:
        report_left_out(folder, others)
    index = {name: number for number, name in enumerate(classes)}
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {
                    "image": [str(path) for path, _ in files if is_image(path.name)],
                    "label": [index[label] for path, label in files if is_image(path.name)],
                },
                features=features,
                split=datasets.NamedSplit(split),
            )
            for split, files in found.items()
        }
    )


def _split_folders(folder: Path) -> dict[str, list[Path]]:
    """Split name -> its folders; empty when the folders are classes (a class may be called "train", too)."""
    folders = folders_in(folder)
    named = [path for path in folders if path.name.lower() in SPLITS]
    if not any(folders_in(path) for path in named):
        if named and len(named) == len(folders):
            raise DatasetError(
                f"{folder} holds {shown(named)}, which are names of splits, but no class folders "
                f"in them. Put the images into {named[0].name}/CLASS/."
            )
        return {}
    if len(named) < len(folders):
        classes = [path for path in folders if path not in named]
        raise DatasetError(
            f"{folder} mixes split folders ({shown(named)}) and others "
            f"({shown(classes)}). Lay it out as "
            "FOLDER/CLASS/image or FOLDER/SPLIT/CLASS/image."
        )
    splits: dict[str, list[Path]] = {}
    for path in named:
        splits.setdefault(SPLITS[path.name.lower()], []).append(path)
    return splits


def _check_layout(folder: Path, roots: dict[str, list[Path]]) -> None:
    problems = []
    for root in [folder] + [path for paths in roots.values() for path in paths if path != folder]:
        loose = [name for name in sorted(os.listdir(root)) if (root / name).is_file() and is_image(name)]
        if loose:
            where = "the folder itself" if root == folder else f"{root.name}/"
            problems.append(f"images in {where}, outside any class folder ({len(loose)}): {shown(loose)}")
    if problems:
        raise DatasetError(f"{folder}: " + numbered("problem", problems) + "\n    Put each image into CLASS/.")


def _labelled_files(root: Path) -> list[tuple[Path, str]]:
    """(file, class) of every file that is not hidden, in the order of names."""
    return [
        (Path(parent) / name, class_folder.name)
        for class_folder in folders_in(root)
        for parent, folders, files in walk(class_folder)
        for name in files
        if not name.startswith(".")
    ]


def walk(folder: Path) -> list[tuple[str, list[str], list[str]]]:
    """os.walk without hidden folders, sorted."""
    return sorted(
        (parent, folders, sorted(files))
        for parent, folders, files in os.walk(folder, followlinks=True)
        if not any(part.startswith(".") for part in Path(parent).relative_to(folder).parts)
    )


def folders_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")


def report_left_out(folder: Path, others: Sequence[Path]) -> None:
    """Say which files are no images."""
    report(f"files in {folder} that are no images and were left out ({len(others)}): {shown(others)}.")
