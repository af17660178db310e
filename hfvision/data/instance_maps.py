"""Maps of objects beside maps of classes: Pascal VOC's SegmentationObject, Cityscapes' *_instanceIds, KITTI's instance.

    FOLDER/JPEGImages  FOLDER/SegmentationClass  FOLDER/SegmentationObject     splits in FOLDER/ImageSets/Segmentation
    FOLDER/leftImg8bit/SPLIT  FOLDER/gtFine/SPLIT/*_gtFine_instanceIds.png     1000 times the class, plus the object
    FOLDER/SPLIT/image_2  FOLDER/SPLIT/semantic  FOLDER/SPLIT/instance         256 times the class, plus the object

An object is of the class that most of its pixels have in the map of classes; pixels of no class or of the border belong
to none. Boxes are the smallest around the pixels. Classes are those of semantic segmentation without the background. In
Cityscapes, and in KITTI's own release, which has its ids, these are the eight classes whose objects are counted; where
a map has a class without a number, that is a group of them, a crowd, or it is stuff, which is no object.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hfvision.data.mask_classes import MaskClasses, classes_of
from hfvision.data.mask_layouts import (
    COLORS,
    KITTI_INSTANCES,
    KITTI_MASKS,
    RAW_IDS,
    TRAIN_IDS,
    cityscapes_masks,
    kitti_masks,
    voc_masks,
)
from hfvision.data.mask_pairs import MaskFolder
from hfvision.data.object_rows import ObjectRows
from hfvision.data.object_table import StoredSplit
from hfvision.data.shapes import add_shapes, mask_shape
from hfvision.errors import DatasetError, HfvisionError
from hfvision.objects.masks import SegmentMasks
from hfvision.processing.label_map import LabelMap
from hfvision.processing.label_reading import read_label_values, read_labels

OBJECTS = "SegmentationObject"
INSTANCE_IDS = "_gtFine_instanceIds"  # of Cityscapes
IGNORED = 255  # no class; and the number of borders in VOC's maps of objects
BORDER = 224 + 256 * 224 + 65536 * 192  # the same as a color
COUNTED = range(11, 19)  # train ids of Cityscapes whose objects are counted: person, rider, car to bicycle
PER_CLASS_OF_CITYSCAPES, PER_CLASS_OF_KITTI = 1000, 256
OTHERWISE = "; a file of names beside the data says otherwise"
UNCOUNTED = (
    f"its files *{INSTANCE_IDS}.png number no object, but only classes (Datumaro writes them so): all pixels of a "
    "class in an image are one crowd"
)

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Numbering:
    """How the maps of objects of a layout are found, and which of their numbers are those of single objects."""

    find: Callable[[Path], MaskFolder | None]  # the maps of classes
    map_of: Callable[[Path, Path], Path]  # folder, map of classes -> map of objects
    is_object: Callable[[NDArray[np.int64]], Any]  # of numbers, each
    has_groups: bool = False  # the other numbers are classes: of stuff, or of objects that nobody counted


VOC = Numbering(
    voc_masks,
    lambda folder, path: folder / OBJECTS / path.relative_to(folder / "SegmentationClass"),
    lambda numbers: ~np.isin(numbers, (0, IGNORED, BORDER)),
)
CITYSCAPES = Numbering(
    cityscapes_masks,
    lambda folder, path: path.with_name(
        re.sub(f"({TRAIN_IDS}|{RAW_IDS}|{COLORS})$", "", path.stem) + INSTANCE_IDS + ".png"
    ),
    lambda numbers: numbers >= PER_CLASS_OF_CITYSCAPES,
    has_groups=True,
)


def _beside_semantic(folder: Path, path: Path) -> Path:
    split = next(parent.parent for parent in path.parents if parent.name == KITTI_MASKS)
    return split / KITTI_INSTANCES / path.relative_to(split / KITTI_MASKS)


KITTI_OF_TOOLS = Numbering(
    kitti_masks, _beside_semantic, lambda numbers: numbers != 0
)  # objects are counted over all images
KITTI = Numbering(kitti_masks, _beside_semantic, lambda numbers: numbers % PER_CLASS_OF_KITTI != 0, has_groups=True)


def find_instance_maps(folder: Path) -> Numbering | None:
    """How the maps of objects in a folder are numbered; None where it has none."""
    if not folder.is_dir():
        return None
    if all((folder / name).is_dir() for name in (OBJECTS, "SegmentationClass", "JPEGImages")):
        return VOC
    if (folder / "leftImg8bit").is_dir() and any((folder / "gtFine").rglob(f"*{INSTANCE_IDS}.png")):
        return CITYSCAPES
    if any(folder.glob(f"*/{KITTI_INSTANCES}")) and kitti_masks(folder) is not None:
        return KITTI
    return None


def read_instance_maps(folder: Path, numbering: Numbering, masks: bool) -> dict[str, StoredSplit]:
    """The splits. Raises DatasetError where classes are not known, or lists do not fit."""
    found = numbering.find(folder)
    if found is None:
        raise DatasetError(f"{folder} has no maps of classes beside its maps of objects.")
    classes = classes_of(found, folder, advice=OTHERWISE)
    names = dict(enumerate(classes.names or []))
    if classes.label_map is not None:
        names = {number: names.get(number, name) for number, name in classes.label_map.id2label.items()}
    if not names:
        raise DatasetError(f"{folder}: nothing names the classes of its maps. Put class_names.txt beside them.")
    is_published = found.benchmark is not None and classes.label_map == found.benchmark.label_map
    if numbering is KITTI and not is_published:
        numbering = KITTI_OF_TOOLS
    maps = ObjectMaps(folder, numbering, found, classes)
    declared = {number: name for number, name in names.items() if number}
    said: tuple[str, ...] = ()
    if numbering.has_groups:
        things = set(COUNTED) if is_published else maps.classes_with_objects()
        declared = {number: name for number, name in declared.items() if number in (things or names)}
        said = () if things else (UNCOUNTED,)
    splits: dict[str, StoredSplit] = {}
    for split, pairs in found.splits.items():
        rows = ObjectRows(split, masks)
        rows.conclusions += [*found.conclusions, *classes.conclusions, *said]
        for image, path in pairs:
            if image is None:
                rows.faults.add("maps without an image", "" if path is None else path.name)
            elif path is None:  # nothing is marked in it
                rows.add_image(image)
            else:
                _read(rows, image, path, maps, declared)
        splits[split] = rows.stored(f"{found.layout}, maps of objects", categories=declared)
    return splits


@dataclass(frozen=True)
class ObjectMaps:
    """The maps of a folder."""

    folder: Path
    numbering: Numbering
    masks: MaskFolder
    classes: MaskClasses

    def read(self, path: Path) -> tuple[Ids, Ids]:
        """Numbers of objects (H, W) and of classes (H, W). Raises DatasetError, and as `read_labels`."""
        objects = self.masks.instances.get(path) or self.numbering.map_of(self.folder, path)
        if not objects.is_file():
            raise DatasetError(f"there is no {objects.relative_to(self.folder).as_posix()}")
        ids = _numbers(objects)
        # KITTI's classes count from 0 where only the map of objects tells the first of them from none.
        classes = _numbers(path) + 1 if self.masks.instances else _train_ids(path, self.classes.label_map)
        if ids.shape != classes.shape:
            raise DatasetError(f"the map of objects has {ids.shape} pixels, that of classes {classes.shape}")
        return ids, classes

    def classes_with_objects(self) -> set[int]:
        """Those of which some map has a single object; empty where none has."""
        found: set[int] = set()
        for path in self.masks.masks:
            try:
                ids, classes = self.read(path)
            except (HfvisionError, ValueError):  # named when the map is read for its objects
                continue
            found |= {region.label for region in _regions(ids, classes) if self.numbering.is_object(region.number)}
        return found


class Region(NamedTuple):
    """The pixels of one number in a map of objects."""

    number: NDArray[np.int64]  # ()
    label: int  # the class that most of them have
    pixels: NDArray[np.bool_]  # (h, w) of the smallest box around them
    left: int
    top: int


def _regions(ids: Ids, classes: Ids) -> Iterator[Region]:
    numbers = np.unique(ids)
    segments = SegmentMasks.of_ids(ids, numbers)
    values = int(classes.max()) + 1
    counts = np.bincount(((segments.places - 1) * values + classes).ravel(), minlength=len(numbers) * values)
    labels = counts.reshape(-1, values).argmax(axis=1).tolist()
    boxes = segments.boxes().astype(int).tolist()
    for place, (number, label, (left, top, right, bottom)) in enumerate(zip(numbers, labels, boxes, strict=True)):
        yield Region(number, label, segments.places[top:bottom, left:right] == place + 1, left, top)


def _read(rows: ObjectRows, image: Path, path: Path, maps: ObjectMaps, names: Mapping[int, str]) -> None:
    """Add an image with the objects of its maps."""
    try:
        ids, classes = maps.read(path)
    except (HfvisionError, ValueError) as error:
        rows.faults.add("maps that cannot be read", f"{path.name}: {error}")
        return
    size = (ids.shape[0], ids.shape[1])
    rows.add_image(image, size)
    for number, label, pixels, left, top in _regions(ids, classes):
        is_object = bool(maps.numbering.is_object(number))
        if label not in names and is_object:
            rows.leave_out("objects of the background or of no class", f"such as {number} of {path.name}")
        shape = mask_shape(str(label), pixels, left, top, crowd=not is_object)
        if shape is not None and label in names and (is_object or maps.numbering.has_groups):
            add_shapes(rows, [shape], size, path.name)
            rows.categories[-1] = label


def _train_ids(path: Path, label_map: LabelMap | None) -> Ids:
    values = read_labels(path, label_map)
    return (values if label_map is None else label_map.to_train_ids(values, IGNORED)).astype(np.int64)


def _numbers(path: Path) -> Ids:
    """(H, W) numbers of objects; of a picture in color R + 256 G + 65536 B."""
    values = read_label_values(path).astype(np.int64)
    return values if values.ndim == 2 else values[..., 0] + 256 * values[..., 1] + 65536 * values[..., 2]
