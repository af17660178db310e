"""A folder of images and masks as a `datasets.DatasetDict` with the columns image and mask.

Layouts (SPLIT is any of train, training, val, valid, validation, dev, test, testing; without one all is "train"):

    FOLDER/images/a.jpg               FOLDER/masks/a.png               one file name, or mask names ending in _mask, ...
    FOLDER/images/SPLIT/a.jpg         FOLDER/annotations/SPLIT/a.png   as ADE20K
    FOLDER/SPLIT/images/a.jpg         FOLDER/SPLIT/masks/a.png
    FOLDER/leftImg8bit/SPLIT/CITY/    FOLDER/gtFine/SPLIT/CITY/        Cityscapes; *_labelTrainIds before *_labelIds
    FOLDER/JPEGImages/                FOLDER/SegmentationClass/        Pascal VOC; splits in ImageSets/Segmentation/

An image without a mask has an empty cell in the column mask, a mask without an image one in the column image.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets

from hfvision.data.cells import shown
from hfvision.data.image_folder import SPLITS, folders_in, is_image, report_left_out, walk
from hfvision.errors import DatasetError, numbered
from hfvision.processing.label_map import Label, LabelMap
from hfvision.reporting import report

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "img_dir")
MASK_FOLDERS = (
    *("masks", "mask", "annotations", "annotation", "ann_dir", "labels", "label", "labelmaps"),
    *("segmentation", "segmentations", "gt", "ground_truth"),
)
MASK_ENDINGS = ("_mask", "_masks", "_label", "_labels", "_annotation", "_gt", "_seg", "_segmentation")
FEATURES = datasets.Features({"image": datasets.Image(decode=False), "mask": datasets.Image(decode=False)})

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

TRAIN_IDS, RAW_IDS = "_gtFine_labelTrainIds", "_gtFine_labelIds"  # of Cityscapes; the first need no label map

Files = dict[str, Path]  # by what an image and its mask have in common
Pairs = list[tuple[Path | None, Path | None]]  # (image, mask)


def read_mask_folder(folder: Path) -> datasets.DatasetDict | None:
    """The pairs of a folder in one of the layouts above, nothing decoded; None for a folder in none of them.

    Hidden files are passed over; other files that are no images are counted in a report. Raises DatasetError for
    folders that could be read in two ways and for two files that claim the same pair.
    """
    if _is_cityscapes(folder):
        splits = _cityscapes(folder)
    elif (folder / "JPEGImages").is_dir() and (folder / "SegmentationClass").is_dir():
        splits = _voc(folder)
    elif both := _image_and_mask_folder(folder):
        splits = _splits_below(*both)
    else:
        splits = {}
        for path in folders_in(folder):
            both = _image_and_mask_folder(path) if path.name.lower() in SPLITS else None
            if both:
                pairs = _pairs(_files(both[0]), _files(both[1]))
                splits.setdefault(SPLITS[path.name.lower()], []).extend(pairs)
    if not splits:
        return None
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {"image": [_cell(image) for image, _ in pairs], "mask": [_cell(mask) for _, mask in pairs]},
                features=FEATURES,
                split=datasets.NamedSplit(split),
            )
            for split, pairs in splits.items()
        }
    )


def label_map_of_layout(folder: Path) -> LabelMap | None:
    """What the masks of a folder hold, where its layout is that of a data set known by name."""
    if _is_cityscapes(folder):
        raw = LabelMap.named("cityscapes-19")
        return _of_train_ids(raw) if _has_train_ids(folder) else raw
    if (folder / "JPEGImages").is_dir() and (folder / "SegmentationClass").is_dir():
        rows = (Label(number, number, name) for number, name in enumerate(VOC_CLASSES))
        return LabelMap((*rows, Label(255, None, "void")))
    if (folder / "objectInfo150.txt").is_file():
        return LabelMap.named("ade20k-150")
    return None


def _image_and_mask_folder(folder: Path) -> tuple[Path, Path] | None:
    folders = folders_in(folder)
    images = [path for path in folders if path.name.lower() in IMAGE_FOLDERS]
    masks = [path for path in folders if path.name.lower() in MASK_FOLDERS]
    for kind, found in (("images", images), ("masks", masks)):
        if images and masks and len(found) > 1:
            raise DatasetError(f"{folder} has several folders of {kind}: {shown(found)}. Leave one of them there.")
    return (images[0], masks[0]) if images and masks else None


def _splits_below(images: Path, masks: Path) -> dict[str, Pairs]:
    """Split folders below both, or everything as "train"."""
    kinds = {path.name: SPLITS.get(path.name.lower()) for root in (images, masks) for path in folders_in(root)}
    loose = [path.name for root in (images, masks) for path in sorted(root.iterdir()) if is_image(path.name)]
    if not any(kinds.values()):
        return {"train": _pairs(_files(images), _files(masks))}
    others = [name for name, kind in kinds.items() if kind is None] + loose
    if others:
        raise DatasetError(
            f"{images.parent} mixes split folders ({', '.join(name for name, kind in kinds.items() if kind)}) with "
            f"others in {images.name}/ and {masks.name}/: {shown(others)}."
        )
    splits: dict[str, Pairs] = {}
    for name, kind in kinds.items():
        splits.setdefault(str(kind), []).extend(_pairs(_files(images / name), _files(masks / name)))
    return splits


def _is_cityscapes(folder: Path) -> bool:
    return (folder / "leftImg8bit").is_dir() and (folder / "gtFine").is_dir()


def _has_train_ids(folder: Path) -> bool:
    return next((folder / "gtFine").rglob(f"*{TRAIN_IDS}.png"), None) is not None


def _cityscapes(folder: Path) -> dict[str, Pairs]:
    ending = TRAIN_IDS if _has_train_ids(folder) else RAW_IDS
    report(f"{folder} is laid out as Cityscapes: the masks are its files *{ending}.png.")
    return {
        SPLITS.get(path.name.lower(), path.name): _pairs(
            _files(path, ending="_leftImg8bit"), _files(folder / "gtFine" / path.name, ending=ending)
        )
        for path in folders_in(folder / "leftImg8bit")
    }


def _of_train_ids(label_map: LabelMap) -> LabelMap:
    """The map of label maps that hold train ids already, 255 and -1 being ignored."""
    rows = {
        label.train_id: Label(label.train_id, label.train_id, label.name, label.color) for label in label_map.labels
    }
    kept = (row for train_id, row in sorted(rows.items(), key=lambda item: item[0] or 0) if train_id is not None)
    return LabelMap((*kept, Label(255, None), Label(-1, None)))


def _voc(folder: Path) -> dict[str, Pairs]:
    images, masks = _files(folder / "JPEGImages"), _files(folder / "SegmentationClass")
    lists = {
        SPLITS[path.stem.lower()]: path.read_text(encoding="utf-8").split()
        for path in sorted((folder / "ImageSets" / "Segmentation").glob("*.txt"))
        if path.stem.lower() in SPLITS
    }
    if not lists:  # most images of VOC have no mask: without lists the masks say which are meant
        lists = {"train": sorted(masks)}
    lost = [name for names in lists.values() for name in names if name not in images and name not in masks]
    if lost:
        raise DatasetError(
            f"{folder}: ImageSets/Segmentation lists {len(lost)} images that are not in JPEGImages: {shown(lost)}."
        )
    return {split: [(images.get(name), masks.get(name)) for name in names] for split, names in lists.items()}


def _files(folder: Path, ending: str = "") -> Files:
    """Image files below a folder by their path in it without suffix and `ending`; others are passed over."""
    found: Files = {}
    others, twice = [], []
    for parent, _, names in walk(folder) if folder.is_dir() else []:
        for name in sorted(names):
            path = Path(parent) / name
            key = path.relative_to(folder).with_suffix("").as_posix()
            if name.startswith(".") or not key.endswith(ending):
                continue
            if not is_image(name):
                others.append(path)
            elif found.setdefault(key.removesuffix(ending), path) != path:
                twice.append(f"{found[key.removesuffix(ending)].name} and {name}")
    if twice:
        raise DatasetError(f"{folder}: " + numbered("pair of files of one name", twice))
    if others:
        report_left_out(folder, others)
    return found


def _pairs(images: Files, masks: Files) -> Pairs:
    """Images in order, each with its mask or None; then the masks that belong to none of them."""
    partners: Files = {}
    orphans: Pairs = []
    twice = []
    for key, path in masks.items():
        mine = key if key in images else next((cut for cut in _without_ending(key) if cut in images), None)
        if mine is None:
            orphans.append((None, path))
        elif partners.setdefault(mine, path) != path:
            twice.append(f"{images[mine].name} has {partners[mine].name} and {path.name}")
    if twice:
        raise DatasetError(numbered("image with two masks", twice))
    return [(path, partners.get(key)) for key, path in images.items()] + orphans


def _without_ending(key: str) -> Iterable[str]:
    return (key.removesuffix(ending) for ending in MASK_ENDINGS if key.endswith(ending))


def _cell(path: Path | None) -> dict[str, Any] | None:
    return None if path is None else {"bytes": None, "path": str(path)}
