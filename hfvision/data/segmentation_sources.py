"""Every source of images with masks, opened: layouts of folders, objects whose outlines are drawn, columns, archives.

Objects (COCO, CVAT, LabelMe, YOLO, ...) become masks of classes as `hfvision.data.drawn_masks` says.
"""

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from hfvision.data.cells import missing_rows, shown
from hfvision.data.class_files import BACKGROUND, BACKGROUND_NAMES
from hfvision.data.coco_folder import find_coco_files, read_coco_files
from hfvision.data.columns import ARRAYS, check_named, image_columns, select_columns, the_one, undecoded
from hfvision.data.dataset_report import LeftOut
from hfvision.data.detection_sources import ANY as OBJECT_LAYOUT
from hfvision.data.detection_sources import FORMATS, Wanted, read_object_files
from hfvision.data.drawn_masks import DRAWING, EMPTY_DRAWING, drawn_splits, is_empty
from hfvision.data.image_folder import is_image_folder
from hfvision.data.image_sizes import size_of_cell
from hfvision.data.mask_classes import MaskClasses, classes_of
from hfvision.data.mask_folder import LAYOUTS, find_mask_folder, read_mask_folder
from hfvision.data.object_table import StoredSplit
from hfvision.data.panoptic_folder import find_panoptic_files, read_panoptic_files
from hfvision.data.scenes import SCENE_SETS
from hfvision.data.sources import Kind, Source, is_data_of_datasets, name_of, open_source
from hfvision.data.webdataset import ARCHIVES, tar_masks
from hfvision.errors import DatasetError
from hfvision.processing.label_map import LabelMap
from hfvision.reading_options import ReadingOptions

DRAWN_LAYOUTS = (OBJECT_LAYOUT, *(name for name, one in FORMATS.items() if one.has_masks))
OTHER_LAYOUTS = (*DRAWN_LAYOUTS, ARCHIVES)
IMAGE_COLUMNS = ("image", "images", "img", "picture", "pixel_values")
MASK_COLUMNS = (
    *("mask", "masks", "annotation", "annotations", "label", "labels", "label_map", "ground_truth", "gt"),
    *("segmentation", "segmentation_map", "segmentation_mask", "semantic_mask"),
)


@dataclass(frozen=True)
class MaskSource:
    """What a source holds, and what it says about its classes."""

    splits: Mapping[str, datasets.Dataset]
    layout: str = "columns"
    label_map: LabelMap | None = None
    names: list[str] | None = None
    conclusions: tuple[str, ...] = ()
    left_out: dict[str, tuple[LeftOut, ...]] = field(default_factory=dict)  # by split
    faults: tuple[str, ...] = ()
    is_drawn: bool = False  # masks are drawings: they hold the numbers of classes already


def _no_masks(path: Path) -> None:
    """For folders that no reader here knows: those of images alone are no data set of masks."""
    if is_image_folder(path):
        raise DatasetError(
            f"{path} holds images, but not in a layout of images and masks. Lay it out as images/ beside masks/ (with "
            "train/ and val/ above or below both), with equal file names; ADE20K, Cityscapes, Pascal VOC, CamVid, "
            "KITTI and objects with outlines (COCO, CVAT, LabelMe, YOLO) may stay as they are."
        )


MASKS = Kind(built_in=SCENE_SETS, folder="a folder with images/ and masks/", read_folder=_no_masks)


def open_masks(source: Source, options: ReadingOptions, names: Sequence[str] | None = None) -> MaskSource:
    """The splits of a source with the columns "image" and "mask", nothing decoded.

    `names` are those that were given for the classes. Raises DatasetError for a source that is none, or that could be
    read in two ways.
    """
    path = Path(source) if isinstance(source, str | os.PathLike) else None
    opened = None
    if options.layout not in (None, *LAYOUTS, *OTHER_LAYOUTS):
        raise DatasetError(f"layout is one of {', '.join((*LAYOUTS, *OTHER_LAYOUTS))}; got {options.layout!r}.")
    if path is not None and path.exists() and not is_data_of_datasets(path):
        opened = _of_layout(path, options, names) or _of_objects(path, options, names)
    if opened is None and options.layout in (None, ARCHIVES):
        opened = _of_archives(source, names)
    if opened is None:
        if options.layout is not None:
            raise DatasetError(f"layout={options.layout!r} is one of a folder; {name_of(source)} is not laid out so.")
        opened = MaskSource(open_source(source, MASKS, options.config_name))
    splits = {
        split: _two_columns(data, options.image_column, options.mask_column) for split, data in opened.splits.items()
    }
    return replace(opened, splits=splits)


def _of_layout(path: Path, options: ReadingOptions, names: Sequence[str] | None) -> MaskSource | None:
    """A folder of images and masks."""
    if not path.is_dir() or options.layout not in (None, *LAYOUTS):
        return None
    found = find_mask_folder(path, options.layout)
    if found is None:
        return None
    classes = MaskClasses()
    if options.label_map is None:
        classes = classes_of(found, path, names, options.ignore_index)
    opened = MaskSource(
        read_mask_folder(found),
        found.layout,
        classes.label_map,
        classes.names,
        (*found.conclusions, *classes.conclusions),
        is_drawn=bool(found.instances),
    )
    return _without_unmarked(opened, options) if found.lists_images else opened


def _of_archives(source: Source, given: Sequence[str] | None) -> MaskSource | None:
    """WebDataset archives."""
    found = tar_masks(source)
    if found is None:
        return None
    splits, names, faults = found
    return MaskSource(splits, "WebDataset archives", names=None if given else names, faults=tuple(faults))


def _of_objects(path: Path, options: ReadingOptions, given: Sequence[str] | None) -> MaskSource | None:
    """Annotations of objects, drawn; maps of segments before outlines, since they know every pixel."""
    if options.layout not in (None, *DRAWN_LAYOUTS) or path.suffix == ".tar":
        return None
    may_be_segments = path.is_dir() and options.layout in (None, OBJECT_LAYOUT, "coco-panoptic")
    if segments := find_panoptic_files(path) if may_be_segments else {}:
        stored: Mapping[str, StoredSplit] | None = read_panoptic_files(segments)
    elif path.is_dir() and not find_coco_files(path) and (stuff := find_coco_files(path, "stuff")):
        stored = read_coco_files(stuff, with_masks=True)
    else:
        stored = read_object_files(path, Wanted(options, masks=True))
    if not stored:
        return None
    drawn = drawn_splits(stored)
    said = [one for part in stored.values() for one in part.conclusions]
    opened = MaskSource(
        drawn.splits,
        next(iter(stored.values())).layout,
        names=drawn.names if given is None else _names_of_drawn(given, drawn.names),
        conclusions=(
            *dict.fromkeys(said),
            f"masks of classes are drawn from {'segments' if segments else 'outlines, later over earlier'}; pixels of "
            f"none are the class {BACKGROUND!r}, number 0",
        ),
        left_out={split: tuple(part.left_out) for split, part in stored.items()},
        faults=tuple(drawn.faults),
        is_drawn=True,
    )
    return _without_unmarked(opened, options)


def _names_of_drawn(given: Sequence[str], categories: Sequence[str]) -> list[str]:
    """Names that were given for all classes, or for all but the background. Raises DatasetError for other numbers."""
    names = [BACKGROUND, *given] if len(given) == len(categories) - 1 else list(given)
    if len(names) != len(categories):
        raise DatasetError(
            f"{len(given)} names are given for the {len(categories)} classes {', '.join(categories)}: give as many, or "
            "one less without the background."
        )
    return names


def _without_unmarked(opened: MaskSource, options: ReadingOptions) -> MaskSource:
    """The images in which nothing is marked left out, or with a mask that is all background.

    Splits where no image has anything keep their empty cells: published test splits hide their masks.
    """
    splits: dict[str, datasets.Dataset] = {}
    left_out = dict(opened.left_out)
    keep = options.unmarked == "keep"
    for split, data in opened.splits.items():
        is_drawn = data.features["mask"] == DRAWING
        rows = [row for row, text in enumerate(data["mask"][:]) if is_empty(text)] if is_drawn else _unmarked(data)
        if not rows or (len(rows) == len(data) and not (is_drawn and keep)):
            splits[split] = data
        elif not keep:
            splits[split] = data.select(np.setdiff1d(np.arange(len(data)), rows))
            names = shown(Path(data[row]["image"]["path"]) for row in rows)
            reason = f"nothing is marked in them; unmarked='keep' (--unmarked keep) takes them as {BACKGROUND}: {names}"
            kind = LeftOut(len(rows), f"image{'s' * (len(rows) > 1)} without a mask", reason)
            left_out[split] = (*left_out.get(split, ()), kind)
        else:
            splits[split] = _drawn_empty(data) if is_drawn else _as_background(data, rows, opened)
    return replace(opened, splits=splits, left_out=left_out)


def _drawn_empty(data: datasets.Dataset) -> datasets.Dataset:
    """The same with drawings of nothing where there are none."""
    drawings = [EMPTY_DRAWING if text is None else text for text in data["mask"][:]]
    return data.remove_columns(["mask"]).add_column("mask", drawings, feature=DRAWING)


def _unmarked(data: datasets.Dataset) -> list[int]:
    without_image = set(missing_rows(data, "image"))
    return [row for row in missing_rows(data, "mask") if row not in without_image]


def _as_background(data: datasets.Dataset, rows: Sequence[int], opened: MaskSource) -> datasets.Dataset:
    """The same with masks of background alone in some rows. Raises DatasetError where no class is the background."""
    number = next((n for n, name in enumerate(opened.names or ()) if name.lower() in BACKGROUND_NAMES), None)
    if number is None:
        raise DatasetError(
            f"{len(rows)} images have no mask and no class is called {BACKGROUND!r}, so unmarked='keep' cannot be "
            "done: name the class of unmarked pixels so, or leave these images out (unmarked='drop')."
        )
    stored = number
    if opened.label_map is not None:
        ids = [row.id for row in opened.label_map.labels if row.train_id == number and row.id is not None]
        stored = ids[0] if ids else number
    cells: list[Any] = data["mask"][:]
    for row in rows:
        height, width = size_of_cell(data[row]["image"], data.features["image"])
        file = io.BytesIO()
        Image.new("L", (width, height), stored).save(file, "png")
        cells[row] = {"bytes": file.getvalue(), "path": None}
    images = data.remove_columns(["mask"])
    return images.add_column("mask", cells, feature=data.features["mask"])


def _two_columns(data: datasets.Dataset, image_column: str | None, mask_column: str | None) -> datasets.Dataset:
    """The image and the mask column under their fixed names, not decoded, without the caller's formatting."""
    data = data.with_format(None)
    check_named(data, image_column=image_column, mask_column=mask_column)
    if data.features.get("mask") == DRAWING and set(data.features) == {"image", "mask"}:
        return data
    pictures = image_columns(data)
    mask_column = mask_column or _find_masks(data, [name for name in pictures if name != image_column])
    others = [name for name in pictures if name != mask_column]
    named = [name for name in others if name.lower() in IMAGE_COLUMNS]
    image_column = image_column or the_one(named if len(named) == 1 else others, "image", data)
    chosen = undecoded(select_columns(data, image=image_column, mask=mask_column), "image")
    return undecoded(chosen, "mask", as_stored=True)


def _find_masks(data: datasets.Dataset, pictures: Sequence[str]) -> str:
    arrays = [name for name, feature in data.features.items() if isinstance(feature, ARRAYS)]
    candidates = list(dict.fromkeys([*pictures, *arrays]))
    named = [name for name in candidates if name.lower() in MASK_COLUMNS]
    others = [name for name in candidates if name.lower() not in IMAGE_COLUMNS]
    return the_one(named if len(named) == 1 else others, "mask", data)
