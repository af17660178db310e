"""The forms of an annotation, brought to one: columns with an entry for each object.

* COCO objects: {"image_id", "annotations": [{"bbox", "category_id", "area", "iscrowd", "segmentation"}, ...]}, that
  list alone, or one of its objects alone;
* columns, as the cells of `datasets` hold them: {"bbox" or "boxes": (n, 4), "labels" or "category": (n,), ...};
* COCO panoptic: {"segments_info": [{"id", "category_id", ...}, ...], "segmentation": a map of ids}.

Format: Lin et al. 2014, "Microsoft COCO: Common Objects in Context", arXiv 1405.0312; Kirillov et al. 2019, "Panoptic
Segmentation", arXiv 1801.00868.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hfvision.errors import DatasetError
from hfvision.geometry import BoxForm

BOX_FORMS: dict[str, BoxForm] = {"bbox": "xywh", "bboxes": "xywh", "boxes": "xyxy", "box": "xyxy"}  # their usual forms
LABEL_NAMES = ("class_labels", "labels", "category_id", "category_ids", "category", "categories", "label")  # first wins
MASK_NAMES = ("masks", "mask", "segmentation", "segmentations")
AREA_NAMES = ("area", "areas")
CROWD_NAMES = ("iscrowd", "is_crowd", "crowd")
ID_NAMES = ("id", "ids")
FORMS = (
    'COCO\'s {"image_id", "annotations": [...]} or that list alone, columns such as {"bbox": [...], "category": [...]} '
    'or {"boxes": ..., "labels": ...}, or COCO\'s panoptic {"segments_info": [...], "segmentation": ids}'
)


@dataclass(frozen=True)
class Columns:
    """What an annotation says of its n objects: a list of n each, None for what it does not say."""

    labels: list[Any]
    boxes: list[Any] | None = None
    form: BoxForm = "xyxy"
    areas: list[Any] | None = None
    crowd: list[Any] | None = None
    masks: Sequence[Any] | None = None  # as they came
    ids: list[Any] | None = None
    image_id: int | str | None = None

    def __post_init__(self) -> None:
        names = ("boxes", "labels", "areas", "crowd", "masks", "ids")
        counts = {name: len(getattr(self, name)) for name in names if getattr(self, name) is not None}
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{count} {name}" for name, count in counts.items())
            raise DatasetError(f"every object has one box, one class and one of all else; got {found}.")

    def name(self, place: int) -> str:
        """Of an object, for messages."""
        return f"object {place}" + ("" if self.ids is None else f" (id {self.ids[place]})")

    @property
    def doubled_ids(self) -> list[Any]:
        times = Counter(one for one in self.ids or [] if one is not None)
        return [one for one, count in times.items() if count > 1]


def object_columns(annotation: Any) -> Columns:
    """Of objects that are told one by one. Raises DatasetError for what is no annotation."""
    image_id = None
    if isinstance(annotation, Mapping):
        image_id = annotation.get("image_id")
        annotation = annotation.get("annotations", annotation)
    if is_one_object(annotation):
        annotation = [annotation]
    if isinstance(annotation, list | tuple) and all(isinstance(one, Mapping) for one in annotation):
        if not annotation:
            return Columns([], [], image_id=_scalar(image_id))
        image_id = annotation[0].get("image_id") if image_id is None else image_id
        annotation = _of_records(annotation)
    if not isinstance(annotation, Mapping):
        raise DatasetError(f"an annotation is {FORMS}; got {type(annotation).__name__}: {str(annotation)[:80]}")
    boxes = [name for name in BOX_FORMS if name in annotation]
    if len(boxes) != 1 or _first(annotation, LABEL_NAMES) is None:
        raise DatasetError(
            f"an annotation has one column of boxes ({', '.join(BOX_FORMS)}) and one of classes "
            f"({', '.join(LABEL_NAMES)}); this one has {', '.join(map(str, annotation)) or 'nothing'}."
        )
    return Columns(
        labels=_values(annotation, LABEL_NAMES) or [],
        boxes=_values(annotation, boxes),
        form=BOX_FORMS[boxes[0]],
        areas=_values(annotation, AREA_NAMES),
        crowd=_values(annotation, CROWD_NAMES),
        masks=_first(annotation, MASK_NAMES),
        ids=_values(annotation, ID_NAMES),
        image_id=_scalar(image_id),
    )


def is_one_object(annotation: Any) -> bool:
    """Whether it is an object's own record: four numbers where columns have rows of four."""
    box = _first(annotation, BOX_FORMS) if isinstance(annotation, Mapping) else None
    return box is not None and len(box) == 4 and all(np.ndim(number) == 0 for number in box)


def segment_columns(annotation: Mapping[str, Any]) -> Columns:
    """Of the segments of a panoptic annotation. Raises DatasetError for segments without id or class."""
    infos = annotation["segments_info"]
    infos = infos if isinstance(infos, Mapping) else _of_records(infos)
    if infos and not {"id", "category_id"} <= infos.keys():
        raise DatasetError(f"segments have an id and a category_id; these have {', '.join(map(str, infos))}.")
    return Columns(
        labels=_values(infos, ["category_id"]) or [],
        areas=_values(infos, AREA_NAMES),
        crowd=_values(infos, CROWD_NAMES),
        ids=_values(infos, ["id"]) or [],
        image_id=_scalar(annotation.get("image_id", annotation.get("id"))),
    )


def _of_records(records: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for record in records for name in record)
    return {name: [record.get(name) for record in records] for name in names}


def _first(columns: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((columns[name] for name in names if columns.get(name) is not None), None)


def _values(columns: Mapping[str, Any], names: Iterable[str]) -> list[Any] | None:
    """The column of the first of the names, as Python's own numbers and lists."""
    column = _first(columns, names)
    if column is None:
        return None
    column = column.tolist() if hasattr(column, "tolist") else column
    if not isinstance(column, list | tuple):
        raise DatasetError(f"a column is a list with an entry for each object; got {str(column)[:80]}.")
    return [one.tolist() if hasattr(one, "tolist") else one for one in column]


def _scalar(image_id: Any) -> int | str | None:
    """The id of an image, which some wrap in a list or tensor of one."""
    value = image_id.tolist() if hasattr(image_id, "tolist") else image_id
    value = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
    return value if value is None or isinstance(value, str) else int(value)
