"""Maps of objects: Pascal VOC's SegmentationObject/ beside its maps of classes, and KITTI's instance/.

    FOLDER/JPEGImages  FOLDER/SegmentationClass  FOLDER/SegmentationObject     splits in FOLDER/ImageSets/Segmentation
    FOLDER/SPLIT/image_2  FOLDER/SPLIT/instance                                256 times the class, plus the object

In VOC an object is of the class that most of its pixels have in SegmentationClass; pixels of no class or of the border
belong to none. Boxes are the smallest around the pixels. Classes are those of semantic segmentation without the
background.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hfvision.data.mask_classes import classes_of
from hfvision.data.mask_layouts import KITTI_INSTANCES, kitti_masks, voc_masks
from hfvision.data.mask_pairs import MaskFolder
from hfvision.data.object_rows import ObjectRows
from hfvision.data.object_table import StoredSplit
from hfvision.data.shapes import add_shapes, mask_shape
from hfvision.errors import DatasetError, HfvisionError
from hfvision.processing.label_map import LabelMap
from hfvision.processing.label_reading import read_label_values, read_labels

OBJECTS = "SegmentationObject"
IGNORED = 255  # no class; and the number of borders in VOC's maps of objects
BORDER = 224 + 256 * 224 + 65536 * 192  # the same as a color


def find_instance_maps(folder: Path) -> Callable[[Path], MaskFolder | None] | None:
    """The reader of the maps of classes in a folder that has maps of objects, too."""
    if not folder.is_dir():
        return None
    if all((folder / name).is_dir() for name in (OBJECTS, "SegmentationClass", "JPEGImages")):
        return voc_masks
    found = kitti_masks(folder) if any(folder.glob(f"*/{KITTI_INSTANCES}")) else None
    return kitti_masks if found is not None and found.instances else None


def read_instance_maps(folder: Path, find: Callable[[Path], MaskFolder | None], masks: bool) -> dict[str, StoredSplit]:
    """The splits; every map is decoded once. Raises DatasetError where classes are not known, or lists do not fit."""
    found = find(folder)
    if found is None:
        raise DatasetError(f"{folder} has no maps of classes beside its maps of objects.")
    classes = classes_of(found, folder)
    names = dict(enumerate(classes.names or []))
    if classes.label_map is not None:
        names = {number: names.get(number, name) for number, name in classes.label_map.id2label.items()}
    if not names:
        raise DatasetError(f"{folder}: nothing names the classes of its maps. Put class_names.txt beside them.")
    declared = {number: name for number, name in names.items() if number}
    splits: dict[str, StoredSplit] = {}
    for split, pairs in found.splits.items():
        rows = ObjectRows(split, masks)
        rows.conclusions += [*found.conclusions, *classes.conclusions]
        for image, path in pairs:
            if image is None:
                rows.faults.add("maps without an image", "" if path is None else path.name)
                continue
            _read(rows, image, path, folder, found.instances, classes.label_map, declared)
        splits[split] = rows.stored(f"{found.layout}, maps of objects", categories=declared)
    return splits


def _read(
    rows: ObjectRows,
    image: Path,
    path: Path | None,
    folder: Path,
    instances: Mapping[Path | None, Path],
    label_map: LabelMap | None,
    names: Mapping[int, str],
) -> None:
    """Add an image with the objects of its maps; an image without a map has none."""
    if path is None:
        rows.add_image(image)
        return
    is_kitti = bool(instances)
    try:
        ids = _numbers(instances[path] if is_kitti else _object_map(folder, path))
        classes = _numbers(path) + 1 if is_kitti else _train_ids(path, label_map)  # KITTI's count from 0
        if ids.shape != classes.shape:
            raise DatasetError(f"the map of objects has {ids.shape} pixels, that of classes {classes.shape}")
    except (HfvisionError, ValueError) as error:
        rows.faults.add("maps that cannot be read", f"{path.name}: {error}")
        return
    size = (ids.shape[0], ids.shape[1])
    rows.add_image(image, size)
    for number in np.unique(ids).tolist():
        if number == 0 or (not is_kitti and number in (IGNORED, BORDER)):
            continue
        pixels = ids == number
        found, counts = np.unique(classes[pixels], return_counts=True)
        label = int(found[counts.argmax()])
        if label not in names:
            rows.leave_out("objects of the background or of no class", f"such as {number} of {path.name}")
            continue
        shape = mask_shape(str(label), pixels, 0, 0)
        if shape is not None:
            add_shapes(rows, [shape], size, path.name)
            rows.categories[-1] = label


def _object_map(folder: Path, classes: Path) -> Path:
    inside = classes.relative_to(folder / "SegmentationClass")
    found = folder / OBJECTS / inside
    if not found.is_file():
        raise DatasetError(f"there is no {OBJECTS}/{inside.as_posix()}")
    return found


def _train_ids(path: Path, label_map: LabelMap | None) -> NDArray[np.int64]:
    values = read_labels(path, label_map)
    return (values if label_map is None else label_map.to_train_ids(values, IGNORED)).astype(np.int64)


def _numbers(path: Path) -> NDArray[np.int64]:
    """(H, W) numbers of objects; of a picture in color R + 256 G + 65536 B."""
    values = read_label_values(path).astype(np.int64)
    return values if values.ndim == 2 else values[..., 0] + 256 * values[..., 1] + 65536 * values[..., 2]
