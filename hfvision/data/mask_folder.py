"""A folder of images and masks as a `datasets.DatasetDict` with the columns image and mask.

Layouts (SPLIT is any of train, training, val, valid, validation, dev, test, testing; without one all is "train"):

    FOLDER/images/a.jpg               FOLDER/masks/a.png               one file name, or mask names ending in _mask, ...
    FOLDER/images/SPLIT/a.jpg         FOLDER/annotations/SPLIT/a.png   as ADE20K
    FOLDER/SPLIT/images/a.jpg         FOLDER/SPLIT/masks/a.png

and those of `hfvision.data.mask_layouts`. An image without a mask has an empty cell in the column mask, a mask without
an image one in the column image.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets

from hfvision.data.cells import shown
from hfvision.data.drawn_masks import DRAWING, instance_drawing
from hfvision.data.image_folder import SPLITS, folders_in, is_image, is_image_folder
from hfvision.data.mask_layouts import camvid_masks, cityscapes_masks, kitti_masks, roboflow_masks, voc_masks
from hfvision.data.mask_pairs import Benchmark, MaskFolder, Pairs, files_in, pairs_of
from hfvision.errors import DatasetError
from hfvision.processing.label_map import LabelMap

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "img_dir")
MASK_FOLDERS = (
    *("masks", "mask", "annotations", "annotation", "ann_dir", "labels", "label", "labelmaps"),
    *("segmentation", "segmentations", "gt", "ground_truth"),
)
ADE_FILE = "objectInfo150.txt"


def folders_of_masks(folder: Path) -> MaskFolder | None:
    """A folder in one of the layouts above; None for others, also where no file of a mask is found."""
    if both := _image_and_mask_folder(folder):
        splits = _splits_below(*both)
    else:
        splits = {}
        for path in folders_in(folder):
            both = _image_and_mask_folder(path) if path.name.lower() in SPLITS else None
            if both:
                pairs = pairs_of(files_in(both[0]), files_in(both[1]))
                splits.setdefault(SPLITS[path.name.lower()], []).extend(pairs)
    if not any(mask for pairs in splits.values() for _, mask in pairs):
        return None  # labels or annotations of another kind
    is_ade = (folder / ADE_FILE).is_file()
    known = Benchmark(LabelMap.named("ade20k-150"), "ade20k-150", "", f"{ADE_FILE} is there") if is_ade else None
    return MaskFolder("ADE20K" if is_ade else "folders of images and masks", splits, known)


LAYOUTS: Mapping[str, Callable[[Path], MaskFolder | None]] = {
    "voc": voc_masks,
    "cityscapes": cityscapes_masks,
    "camvid": camvid_masks,
    "kitti": kitti_masks,
    "roboflow-masks": roboflow_masks,
    "images-and-masks": folders_of_masks,
}


def find_mask_folder(folder: Path, layout: str | None = None) -> MaskFolder | None:
    """The pairs of a folder in one of the layouts, nothing decoded; None for a folder in none of them.

    Hidden files are passed over; other files that are no images are counted in a report. Raises DatasetError for
    folders that could be read in two ways and for two files that claim the same pair.
    """
    found: dict[str, MaskFolder] = {}
    for name, read in LAYOUTS.items() if layout is None else [(layout, LAYOUTS[layout])]:
        if name == "images-and-masks" and found:
            break  # what it would find are parts of the layout that has a name
        one = read(folder)
        if one is not None:
            found[name] = one
    if len(found) > 1:
        raise DatasetError(
            f"{folder} fits {len(found)} layouts: {', '.join(one.layout for one in found.values())}. Say which "
            f"is meant: layout={next(iter(found))!r} (--layout), ..., or give the folder of one of them."
        )
    return next(iter(found.values()), None)


def read_mask_folder(found: MaskFolder) -> datasets.DatasetDict:
    """The pairs as columns of images and masks, nothing decoded."""
    mask = DRAWING if found.instances else datasets.Image(decode=False)
    features = datasets.Features({"image": datasets.Image(decode=False), "mask": mask})
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {
                    "image": [_cell(image) for image, _ in pairs],
                    "mask": [_mask_cell(mask, found.instances.get(mask)) for _, mask in pairs],
                },
                features=features,
                split=datasets.NamedSplit(split),
            )
            for split, pairs in found.splits.items()
        }
    )


def _image_and_mask_folder(folder: Path) -> tuple[Path, Path] | None:
    folders = folders_in(folder)
    images = [path for path in folders if path.name.lower() in IMAGE_FOLDERS]
    masks = [path for path in folders if path.name.lower() in MASK_FOLDERS]
    for kind, found in (("images", images), ("masks", masks)):
        if images and masks and len(found) > 1:
            raise DatasetError(f"{folder} has several folders of {kind}: {shown(found)}. Leave one of them there.")
    return (images[0], masks[0]) if images and masks and is_image_folder(masks[0]) else None


def _splits_below(images: Path, masks: Path) -> dict[str, Pairs]:
    """Split folders below both, or everything as "train"."""
    # maps of segments beside their annotations are COCO panoptic's
    folders = [path for root in (images, masks) for path in folders_in(root) if not path.with_suffix(".json").is_file()]
    kinds = {path.name: SPLITS.get(path.name.lower()) for path in folders}
    loose = [path.name for root in (images, masks) for path in sorted(root.iterdir()) if is_image(path.name)]
    if not any(kinds.values()):
        return {"train": pairs_of(files_in(images), files_in(masks))}
    others = [name for name, kind in kinds.items() if kind is None] + loose
    if others:
        raise DatasetError(
            f"{images.parent} mixes split folders ({', '.join(name for name, kind in kinds.items() if kind)}) with "
            f"others in {images.name}/ and {masks.name}/: {shown(others)}."
        )
    splits: dict[str, Pairs] = {}
    for name, kind in kinds.items():
        splits.setdefault(str(kind), []).extend(pairs_of(files_in(images / name), files_in(masks / name)))
    return splits


def _cell(path: Path | None) -> dict[str, Any] | None:
    return None if path is None else {"bytes": None, "path": str(path)}


def _mask_cell(path: Path | None, instances: Path | None) -> Any:
    return _cell(path) if path is None or instances is None else instance_drawing(str(path), str(instances))
