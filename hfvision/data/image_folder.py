"""A folder of class folders: FOLDER/CLASS/*.png or FOLDER/SPLIT/CLASS/*.png.

Read here rather than by `datasets`' own "imagefolder", which caches on disk, takes words in file names for splits and
drops the labels without a word when there is a single class or when depths differ.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from hfvision.data.cells import shown
from hfvision.data.labelled_files import LabelledFiles, Labels
from hfvision.errors import DatasetError, numbered
from hfvision.processing.reading import IMAGE_SUFFIXES
from hfvision.reporting import report

CLASS_FOLDERS = "class-folders"  # the layout's name
ONE_SUBSET = "default"  # the name that Datumaro and CVAT give to a split where there is only one
NO_LABEL = "no_label"  # of Datumaro: images of which nobody said the class
OTHER_PARTS = {  # folders of data sets for segmentation and detection, not classes
    *("images", "image", "imgs", "img", "jpegimages", "leftimg8bit", "image_2", "img_dir", "upload"),
    *("masks", "mask", "labels", "annotations", "segmentationclass", "segmentationobject", "gtfine", "ann_dir"),
    *("semantic", "semantic_rgb", "instance", "label_2", "segmentationclassnpy", "segmentationobjectnpy"),
    *("obj_train_data", "obj_val_data", "obj_test_data", "imagesets"),
}
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


def class_folders(folder: Path, level: str | None = None, *, is_asked_for: bool = False) -> LabelledFiles:
    """The images with the names of their class folders, sorted.

    A class is the first folder below FOLDER or SPLIT, or with `level` "innermost" the one that an image lies in.
    Hidden files are passed over; other files that are no images are counted in a report. Raises DatasetError, listing
    every fault of the layout, for images outside class folders and for split folders beside class folders, and unless
    it `is_asked_for`, for folders that are no classes by their names: of images beside masks or labels.
    """
    split_folders = _split_folders(folder)
    roots = split_folders or {"train": [folder]}
    _check_layout(folder, roots)
    if not is_asked_for:
        _check_names(folder, roots)
    found = {split: [item for root in paths for item in _labelled_files(root)] for split, paths in roots.items()}
    others = [path for files in found.values() for path, _, _ in files if not is_image(path.name)]
    if others:
        report_left_out(folder, others)
    place = 2 if level == "innermost" else 1
    splits: dict[str, list[tuple[str, Labels]]] = {}
    for split, files in found.items():
        images = [file for file in files if is_image(file[0].name)]
        splits[split] = [(str(file[0]), () if file[1] == NO_LABEL else (str(file[place]),)) for file in images]
    images = [file for files in found.values() for file in files if is_image(file[0].name)]
    if images and all(outer == NO_LABEL for _, outer, _ in images):
        raise DatasetError(
            f"all images of {folder} are in {NO_LABEL}/, where Datumaro puts images of which nobody said the class: "
            f"label them there. (If {NO_LABEL!r} is a class, rename the folder.)"
        )
    if level == "innermost":
        classes = sorted({name for rows in splits.values() for _, labels in rows for name in labels})
    else:
        empty = {path.name for paths in roots.values() for root in paths for path in folders_in(root)}
        classes = sorted(empty - {NO_LABEL})
    return LabelledFiles("class folders", splits, classes, tuple(_conclusions(images, level)))


def _conclusions(images: Sequence[tuple[Path, str, str]], level: str | None) -> Iterator[str]:
    """The meaning of folders in class folders, where there are some."""
    deeper = [(outer, inner) for _, outer, inner in images if outer not in (inner, NO_LABEL)]
    if deeper:
        outer, inner = deeper[0]
        chosen, other = (inner, "outermost") if level == "innermost" else (outer, "innermost")
        yield (
            f"{len(deeper):,} of {len(images):,} images lie in folders of class folders, such as {outer}/{inner}: the "
            f"class is the {level or 'outermost'} one, {chosen!r}"
            + ("" if level else " (`datasets` takes the innermost)")
            + f"; class_level={other!r} (--class-level {other}) takes the other"
        )
    if any(outer == NO_LABEL for _, outer, _ in images):
        yield f"{NO_LABEL}/ is no class: Datumaro puts images there of which nobody said the class"


def _check_names(folder: Path, roots: dict[str, list[Path]]) -> None:
    """Raises DatasetError where all folders are named as parts of a data set for another task."""
    names = {path.name for paths in roots.values() for root in paths for path in folders_in(root)} - {NO_LABEL}
    parts = {name for name in names if name.lower() in OTHER_PARTS or name.removesuffix("annot") in names - {name}}
    pairs = {name.removesuffix("annot") for name in names if name.removesuffix("annot") in names - {name}}
    if names and names == parts | pairs:
        raise DatasetError(
            f"{folder} has no class folders: {shown(sorted(names))} are parts of a data set of images with masks or "
            "objects. Train segmentation or detection with it; if these are the classes, say so: "
            f"layout={CLASS_FOLDERS!r} (--layout {CLASS_FOLDERS})."
        )


def _split_folders(folder: Path) -> dict[str, list[Path]]:
    """Split name -> its folders; empty when the folders are classes (a class may be called "train", too)."""
    folders = folders_in(folder)
    if [path.name.lower() for path in folders] == [ONE_SUBSET] and folders_in(folders[0]):
        return {"train": folders}
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


def _labelled_files(root: Path) -> list[tuple[Path, str, str]]:
    """(file, outermost and innermost folder) of every file that is not hidden, in the order of names."""
    return [
        (Path(parent) / name, class_folder.name, Path(parent).name)
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
