"""Every source of images with masks, opened: layouts of folders, objects whose outlines are drawn, columns, archives.

Objects (COCO, CVAT, LabelMe, YOLO, ...) become masks of classes as `hfvision.data.drawn_masks` says.
"""

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
from PIL import Image

from hfvision.data.cells import missing_rows, shown
from hfvision.data.class_files import BACKGROUND, BACKGROUND_NAMES
from hfvision.data.dataset_report import LeftOut
from hfvision.data.detection_sources import Wanted, read_object_files
from hfvision.data.drawn_masks import DRAWING, drawn_splits, is_empty
from hfvision.data.image_folder import is_image_folder
from hfvision.data.image_sizes import size_of_cell
from hfvision.data.mask_classes import classes_of
from hfvision.data.mask_folder import find_mask_folder, read_mask_folder
from hfvision.data.scenes import SCENE_SETS
from hfvision.data.sources import Kind, Source, open_source
from hfvision.errors import DatasetError
from hfvision.processing.label_map import LabelMap

Empty = Literal["drop", "keep"]


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


def _no_masks(path: Path) -> None:
    """For folders that no reader here knows: those of images alone are no data set of masks."""
    if is_image_folder(path):
        raise DatasetError(
            f"{path} holds images, but not in a layout of images and masks. Lay it out as images/ beside masks/ (with "
            "train/ and val/ above or below both), with equal file names; ADE20K, Cityscapes, Pascal VOC, CamVid, "
            "KITTI and objects with outlines (COCO, CVAT, LabelMe, YOLO) may stay as they are."
        )


MASKS = Kind(built_in=SCENE_SETS, folder="a folder with images/ and masks/", read_folder=_no_masks)


def open_masks(
    source: Source,
    *,
    config_name: str | None = None,
    layout: str | None = None,
    names: Sequence[str] | None = None,
    ignore_index: int = 255,
    empty: Empty = "drop",
) -> MaskSource:
    """The splits of a source, nothing decoded. `names` are those that were given for the classes.

    `empty` says what becomes of images of an annotation tool in which nothing is marked. Raises DatasetError for a
    source that is none, or that could be read in two ways.
    """
    path = Path(source) if isinstance(source, str | os.PathLike) else None
    if path is not None and path.is_dir() and not _is_data_of_datasets(path):
        found = find_mask_folder(path, layout)
        if found is not None:
            classes = classes_of(found, path, names, ignore_index)
            opened = MaskSource(
                read_mask_folder(found),
                found.layout,
                classes.label_map,
                classes.names,
                (*found.conclusions, *classes.conclusions),
            )
            return _without_empty(opened, empty, ignore_index) if found.lists_images else opened
    if path is not None and path.exists():
        stored = read_object_files(path, Wanted(masks=True))
        if stored is not None:
            drawn = drawn_splits(stored)
            opened = MaskSource(
                drawn.splits,
                "objects, drawn in the order in which they are stored",
                names=drawn.names,
                conclusions=(f"pixels of no object are the class {BACKGROUND!r}, number 0",),
                faults=tuple(drawn.faults),
            )
            return _without_empty(opened, empty, ignore_index)
    return MaskSource(open_source(source, MASKS, config_name))


def _is_data_of_datasets(path: Path) -> bool:
    """Whether a folder says itself how it is read: saved by `datasets`, or with a file of metadata."""
    saved = (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()
    return saved or any(path.glob("metadata.*")) or any(path.glob("*/metadata.*"))


def _without_empty(opened: MaskSource, empty: Empty, ignore_index: int) -> MaskSource:
    """The images in which nothing is marked left out, or with a mask that is all background.

    Splits where no image has anything keep their empty cells: published test splits hide their masks.
    """
    splits, left_out = {}, {}
    for split, data in opened.splits.items():
        is_drawn = data.features["mask"] == DRAWING
        rows = [row for row, text in enumerate(data["mask"][:]) if is_empty(text)] if is_drawn else _unmarked(data)
        if not rows or (len(rows) == len(data) and not (is_drawn and empty == "keep")):
            splits[split] = data
        elif empty == "drop":
            splits[split] = data.select(np.setdiff1d(np.arange(len(data)), rows))
            names = shown(Path(data[row]["image"]["path"]) for row in rows)
            reason = f"nothing is marked in them; empty='keep' (--empty keep) takes them as {BACKGROUND}: {names}"
            left_out[split] = (LeftOut(len(rows), "images without a mask", reason),)
        else:
            splits[split] = data if is_drawn else _as_background(data, rows, opened)
    return replace(opened, splits=splits, left_out=left_out)


def _unmarked(data: datasets.Dataset) -> list[int]:
    without_image = set(missing_rows(data, "image"))
    return [row for row in missing_rows(data, "mask") if row not in without_image]


def _as_background(data: datasets.Dataset, rows: Sequence[int], opened: MaskSource) -> datasets.Dataset:
    """The same with masks of background alone in some rows. Raises DatasetError where no class is the background."""
    number = next((n for n, name in enumerate(opened.names or ()) if name.lower() in BACKGROUND_NAMES), None)
    if number is None:
        raise DatasetError(
            f"{len(rows)} images have no mask and no class is called {BACKGROUND!r}, so empty='keep' cannot be done: "
            "name the class of unmarked pixels so, or leave these images out (empty='drop')."
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
