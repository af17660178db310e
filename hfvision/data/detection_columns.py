"""Objects out of the columns of a data set: boxes and classes of each image, their masks or a map of segments.

A column of objects is a dict of lists or a list of dicts, {"bbox", "category", "area"?, "iscrowd"?, "id"?,
"segmentation"?} under the usual names; or each of these is a column. A map of segments is an image column beside a
column {"id", "category_id", ...} of segments, as in COCO's panoptic data, or beside objects with ids.

Shapes: N images, M objects of all of them together, H x W pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hfvision.data.annotation_files import Faults
from hfvision.data.columns import check_named, image_columns, select_columns, the_one, undecoded
from hfvision.data.object_table import IMAGE, MASKS, SEGMENTS, Floats, Integers, Key, ObjectTable, StoredSplit
from hfvision.data.scenes import FEATURES as SCENE_FEATURES
from hfvision.data.scenes import SCENE_CLASSES
from hfvision.errors import DatasetError
from hfvision.geometry import BoxForm

IMAGE_COLUMNS = ("image", "images", "img", "picture", "pixel_values")
FIELDS: dict[str, tuple[str, ...]] = {  # what an object has, and the names it goes by
    "box": ("bbox", "boxes", "bboxes", "box"),
    "category": ("category", "categories", "category_id", "category_ids", "class_labels", "labels", "label", "class"),
    "area": ("area", "areas"),
    "crowd": ("iscrowd", "is_crowd", "crowd"),
    "id": ("id", "ids", "bbox_id", "object_id", "segment_id"),
    "masks": ("segmentation", "segmentations", "masks", "mask", "polygons"),
    "thing": ("isthing", "is_thing"),
}
MAP_COLUMNS = (
    *("panoptic", "panoptic_map", "panoptic_mask", "segments", "segmentation", "instances", "instance_map"),
    *("annotation", "label", "mask"),
)
NUMBERS = ("area", "crowd", "thing")  # parts that are numbers
XYXY_NAMES = ("boxes", "bboxes", "box")  # "bbox" is COCO's name, and its boxes are xywh


@dataclass(frozen=True)
class ObjectColumns:
    """Where the parts of objects lie."""

    column: str | None  # of dicts; None where each part is a column of its own
    names: Mapping[str, str]  # part -> name of the field or column
    features: Mapping[str, Any]  # part -> feature of one value

    def path(self, part: str) -> str:
        """For messages."""
        return self.names[part] if self.column is None else f"{self.column}.{self.names[part]}"


def read_columns(
    split: str,
    data: datasets.Dataset,
    *,
    image_column: str | None = None,
    objects_column: str | None = None,
    map_column: str | None = None,
    masks: bool = False,
    panoptic: bool = False,
) -> StoredSplit:
    """One split of a data set; see `hfvision.data.detection.prepare_detection` for what is found where.

    Raises DatasetError where there are no such columns, or more than one to choose from.
    """
    data = data.with_format(None)
    check_named(data, image_column=image_column, objects_column=objects_column, map_column=map_column)
    found = _object_columns(data, objects_column)
    own = {found.column, *(found.names.values() if found.column is None else ())}
    pictures = [name for name in image_columns(data) if name not in own]
    is_scenes = data.features == SCENE_FEATURES
    if panoptic or (masks and "masks" not in found.names):
        map_column = map_column or ("instances" if is_scenes else _map_column(data, pictures, image_column, found))
    others = [name for name in pictures if name != map_column]
    named = [name for name in others if name.lower() in IMAGE_COLUMNS]
    image_column = image_column or the_one(named if len(named) == 1 else others, "image", data)
    chosen = {IMAGE: image_column}
    if map_column is not None and (panoptic or masks):
        chosen[SEGMENTS] = map_column
    elif masks:
        chosen[MASKS] = found.column or found.names["masks"]
    faults = Faults(f"split {split!r}")
    objects, things = _objects(data, found, faults)
    categories = _categories(found)
    if is_scenes and panoptic:
        objects, categories, things = _with_background(objects)
    form: BoxForm | None = "xyxy" if found.names.get("box") in XYXY_NAMES else "xywh"
    images = undecoded(select_columns(data, **chosen), IMAGE)
    return StoredSplit(
        undecoded(images, SEGMENTS, as_stored=True) if SEGMENTS in chosen else images,
        objects,
        _recorded_sizes(data, image_column),
        image_ids=_image_ids(data),
        categories=categories,
        things=things,
        box_form=None if "box" not in found.names or (is_scenes and panoptic) else form,
        relative=None,
        faults=faults.problems(),
        masks_field=found.names["masks"] if MASKS in chosen and found.column else None,
    )


def _object_columns(data: datasets.Dataset, column: str | None) -> ObjectColumns:
    features = data.features
    candidates = {}
    for name in [column] if column else features:
        fields = _fields(features[name])
        parts = _parts(fields)
        if "category" in parts and ("box" in parts or "id" in parts):
            candidates[name] = ObjectColumns(name, parts, {part: fields[field] for part, field in parts.items()})
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    lists = {name: _inner(feature) for name, feature in features.items() if _inner(feature) is not None}
    parts = _parts(lists)
    if not candidates and not column and {"box", "category"} <= parts.keys():
        return ObjectColumns(None, parts, {part: lists[name] for part, name in parts.items()})
    listed = f"The data set has {', '.join(features)}."
    if len(candidates) > 1:
        several = f"{len(candidates)} columns could hold the objects: {', '.join(candidates)}"
        raise DatasetError(f"{several}. Name it: objects_column=... {listed}")
    where = f"the column {column}" if column else "no column"
    raise DatasetError(
        f"{where} holds {'no ' * bool(column)}objects with boxes and classes. For each image they are "
        f'{{"bbox": [[left, top, width, height], ...], "category": [class, ...]}}, or columns of these. {listed}'
    )


def _fields(feature: Any) -> dict[str, Any]:
    """Of a column of objects: field -> feature of one value."""
    inner = _inner(feature)
    if isinstance(inner, dict):
        return dict(inner)
    if isinstance(feature, dict):
        return {name: _inner(field) for name, field in feature.items() if _inner(field) is not None}
    return {}


def _inner(feature: Any) -> Any:
    """Of a list: the feature of one of its values; None for anything else."""
    if isinstance(feature, datasets.List | datasets.LargeList):
        return feature.feature
    if isinstance(feature, list) and len(feature) == 1:
        return feature[0]
    if isinstance(feature, datasets.Array2D):
        return datasets.List(datasets.Value(feature.dtype))
    if isinstance(feature, datasets.Array3D):
        return datasets.Array2D(feature.shape[1:], feature.dtype)
    return None


def _parts(fields: Mapping[str, Any]) -> dict[str, str]:
    """Part -> the field that holds it, by their usual names."""
    lower = {name.lower(): name for name in fields}
    found = {part: next((lower[name] for name in names if name in lower), None) for part, names in FIELDS.items()}
    return {part: name for part, name in found.items() if name is not None}


def _map_column(data: datasets.Dataset, pictures: list[str], image: str | None, found: ObjectColumns) -> str:
    """The image column of segment ids."""
    if "id" not in found.names:
        raise DatasetError(
            f"the objects in {found.column or 'the columns'} have neither masks nor ids of segments in a map. Masks "
            'are a field "segmentation" of each object, or an image column of ids beside objects with "id".'
        )
    others = [name for name in pictures if name != image and name.lower() not in IMAGE_COLUMNS]
    named = [name for name in others if name.lower() in MAP_COLUMNS]
    return the_one(named if len(named) == 1 else others, "map", data)


def _objects(data: datasets.Dataset, found: ObjectColumns, faults: Faults) -> tuple[ObjectTable, set[Key] | None]:
    """All objects, and the keys of countable classes where the objects say so."""
    lengths, values = _values(data, found)
    counts = lengths["category"]
    complete = np.ones(len(counts), bool)  # rows with as many of each part
    for part, own in lengths.items():
        for row in np.flatnonzero(complete & (own != counts)).tolist():
            case = f"row {row}: {own[row]} in {found.path(part)}, {counts[row]} in {found.path('category')}"
            faults.add("numbers of objects that differ", case)
        complete &= own == counts
    images = np.repeat(np.arange(len(counts)), np.where(complete, counts, 0))
    parts = {part: array[np.repeat(complete, lengths[part])] for part, array in values.items()}
    good = np.array([key is not None for key in parts["category"].tolist()], bool)
    for row in np.flatnonzero(~good).tolist():
        faults.add("objects without a class", f"row {images[row]}, {found.path('category')}")
    boxes = parts.get("box", np.zeros((len(images), 4)))
    whole = ~np.isneginf(boxes).all(1)
    for row in np.flatnonzero(~whole).tolist():
        faults.add("boxes that are not four numbers", f"row {images[row]}, {found.path('box')}")
    good &= whole
    numbers = {part: parts[part][good] for part in NUMBERS if part in parts}
    categories = parts["category"][good].tolist()
    table = ObjectTable.of(
        images[good],
        len(counts),
        boxes[good],
        np.array(categories) if categories else np.zeros(0, np.int64),
        areas=numbers.get("area"),
        crowd=np.nan_to_num(numbers["crowd"]) != 0 if "crowd" in numbers else None,
        ids=np.array(parts["id"][good].tolist()) if "id" in parts else None,
    )
    if "thing" not in numbers:
        return table, None
    return table, set(np.array(categories)[numbers["thing"] == 1].tolist())


def _values(data: datasets.Dataset, found: ObjectColumns) -> tuple[dict[str, Integers], dict[str, Any]]:
    """Of each part but the masks: how many values each row has (N,), and all of them."""
    parts = [part for part in found.names if part != "masks"]
    lengths: dict[str, list[Integers]] = {part: [np.zeros(0, np.int64)] for part in parts}
    chunks: dict[str, list[Any]] = {part: [] for part in parts}
    columns = [found.column] if found.column else [found.names[part] for part in parts]
    for batch in data.select_columns(columns).with_format("arrow").iter(batch_size=1000):
        for part in parts:
            own, flat = _flat(batch, found, part)
            lengths[part].append(own)
            chunks[part].append(flat)
    values: dict[str, Any] = {}
    for part, flat in chunks.items():
        values[part] = _boxes(flat) if part == "box" else _numbers(flat) if part in NUMBERS else _keys(flat)
    return {part: np.concatenate(own) for part, own in lengths.items()}, values


def _flat(batch: pa.Table, found: ObjectColumns, part: str) -> tuple[Integers, Any]:
    """Of a part in some rows: how many values each row has, and all of them."""
    lists = _joined(batch[found.column or found.names[part]])
    if found.column is None:
        return _lengths(lists), lists.flatten()
    if pa.types.is_struct(lists.type):
        field = pc.struct_field(lists, found.names[part])
        field = field.storage if isinstance(field, pa.ExtensionArray) else field
        return _lengths(field), field.flatten()
    return _lengths(lists), pc.struct_field(lists.flatten(), found.names[part])


def _joined(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def _lengths(lists: pa.Array) -> Integers:
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def _boxes(chunks: list[Any]) -> Floats:
    """(M, 4); all -inf for a box that is not four numbers, which no file can hold."""
    boxes = [np.zeros((0, 4))]
    for flat in chunks:
        rows = flat.storage if isinstance(flat, pa.ExtensionArray) else flat
        lengths = _lengths(rows)
        is_box = lengths == 4
        numbers = rows.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
        found = np.full((len(rows), 4), -np.inf)
        found[is_box] = numbers[np.repeat(is_box, lengths)].reshape(-1, 4)
        boxes.append(found)
    return np.concatenate(boxes)


def _keys(chunks: list[Any]) -> Any:
    """(M,) whole numbers and texts as objects; None where there is none."""
    return np.array([value for flat in chunks for value in flat.to_pylist()] + [None], object)[:-1]


def _numbers(chunks: list[Any]) -> Floats:
    """(M,), NaN where there is none."""
    arrays = [flat.cast(pa.float64()).to_numpy(zero_copy_only=False) for flat in chunks]
    return np.concatenate([np.zeros(0), *arrays]).astype(np.float64)


def _categories(found: ObjectColumns) -> dict[Key, str] | None:
    feature = found.features["category"]
    return dict(enumerate(feature.names)) if isinstance(feature, datasets.ClassLabel) else None


def _with_background(objects: ObjectTable) -> tuple[ObjectTable, dict[Key, str], set[Key]]:
    """The objects of digit scenes and, before them, what lies behind: the segment 0 of class 0."""
    images = len(objects.starts) - 1
    digits = np.array(objects.keys, np.int64)[objects.classes]
    every = np.concatenate([np.arange(images), objects.images])
    table = ObjectTable.of(
        every,
        images,
        np.zeros((len(every), 4)),
        np.concatenate([np.zeros(images, np.int64), 1 + digits]),
        ids=np.concatenate([np.zeros(images, np.int64), np.asarray(objects.ids, np.int64)]),
    )
    return table, dict(enumerate(SCENE_CLASSES)), set(range(1, len(SCENE_CLASSES)))


def _recorded_sizes(data: datasets.Dataset, image_column: str) -> Integers:
    """(N, 2) H, W out of columns of these names or the shape of arrays; 0 where they are not there."""
    sizes = np.zeros((len(data), 2), np.int64)
    feature = data.features[image_column]
    if isinstance(feature, datasets.Array2D):
        sizes[:] = feature.shape
    elif {"height", "width"} <= data.features.keys():
        recorded = data.select_columns(["height", "width"]).with_format("numpy")[:]
        both = [np.nan_to_num(np.asarray(recorded[name], np.float64)) for name in ("height", "width")]
        sizes[:] = np.stack(both, 1)
    return sizes


def _image_ids(data: datasets.Dataset) -> list[Key] | None:
    name = next((name for name in ("image_id", "id") if name in data.features), None)
    values = [] if name is None else list(data[name])
    return values if values and all(isinstance(value, int | str) for value in values) else None
