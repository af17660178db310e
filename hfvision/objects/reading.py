"""Annotations of every usual form -> `ImageObjects`; the forms are those of `hfvision.objects.columns`.

Shapes: n objects, H x W pixels.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hfvision.errors import ConfigError, DatasetError, numbered
from hfvision.geometry import BoxForm, box_area, boxes_to_pixels, clip_boxes, convert_boxes
from hfvision.objects.columns import Columns, object_columns, segment_columns
from hfvision.objects.id_maps import read_id_map
from hfvision.objects.image_objects import ImageObjects
from hfvision.objects.masks import ListedMasks, SegmentMasks
from hfvision.reporting import report_kind

Empty = Literal["drop", "keep"]
Size = tuple[int, int]  # height, width

SLACK = 1.0  # pixels by which a box may leave its image without being counted as one that does
UNITS = 2.0  # a box in 0..1 that reaches this far is one in pixels
FAULTS_NAMED = 10
REPORTS = {  # what was changed -> what is logged the first time that it happens
    "clipped": "Boxes that stick out of their image were clipped: {n} in {where}. If those are many, see box_form.",
    "dropped": "Objects whose box has no area were dropped: {n} in {where}.",
    "kept": "Objects whose box has no area were kept: {n} in {where}.",
    "unlisted": "Pixels of segments that segments_info does not list belong to no object: {n} in {where}.",
}


def read_objects(
    annotation: Any,
    size: Size,
    *,
    box_form: BoxForm | None = None,
    relative: bool | None = None,
    labels: Mapping[Any, int] | None = None,
    empty: Empty = "drop",
    what: str = "image",
    notes: Counter[str] | None = None,
) -> ImageObjects:
    """The objects of an image of `size` (H, W), whatever form their annotation has; `ImageObjects` stay as they are.

    `box_form` is xyxy, xywh or cxcywh; without it "bbox" is xywh and "boxes" is xyxy. `relative` boxes are shares of
    the image's sides, 0..1, others pixels. `labels` maps the ids or names of classes, as annotated, to class numbers;
    without it they are taken as they are. Boxes are clipped to the image; objects whose box has no area are dropped or
    kept, as `empty` says. What was changed is counted in `notes`, for the caller to report with `report_changes`, or
    reported at once where there are none.

    Raises DatasetError with all faults of the annotation, which `what` names: boxes that are NaN, infinite, of
    negative size or outside the image, columns of different lengths, ids given twice, classes that are not in
    `labels`, masks of another size than the image. Raises ConfigError for options that there are not.
    """
    if box_form not in (None, *get_args(BoxForm)) or empty not in get_args(Empty):
        raise ConfigError(
            f"box_form is {', '.join(get_args(BoxForm))} or None, and empty is {' or '.join(get_args(Empty))}; got "
            f"{box_form!r} and {empty!r}"
        )
    counted: Counter[str] = Counter() if notes is None else notes
    size = int(size[0]), int(size[1])
    try:
        if isinstance(annotation, ImageObjects):
            objects = _of_size(annotation, size)
        elif isinstance(annotation, Mapping) and "segments_info" in annotation:
            objects = _segments(annotation, size, labels, counted)
        else:
            objects = _listed(object_columns(annotation), size, box_form, relative, labels, counted)
    except DatasetError as error:
        raise DatasetError(f"{what}: {error}") from error
    without = box_area(objects.boxes) <= 0
    counted["dropped" if empty == "drop" else "kept"] += int(without.sum())
    if empty == "drop" and without.any():
        objects = objects.take(~without)
    if notes is None:
        report_changes(counted, what)
    return objects


def report_changes(notes: Counter[str], where: str) -> None:
    """Say what was changed, each kind once in this process."""
    for kind, sentence in REPORTS.items():
        if notes[kind]:
            report_kind(f"objects {kind}", sentence.format(n=f"{notes[kind]:,}", where=where))


def _of_size(objects: ImageObjects, size: Size) -> ImageObjects:
    if tuple(objects.size) != size:
        raise DatasetError(f"its objects are those of an image of {_by(objects.size)} pixels, but it has {_by(size)}.")
    return objects


def _listed(
    columns: Columns,
    size: Size,
    box_form: BoxForm | None,
    relative: bool | None,
    labels: Mapping[Any, int] | None,
    counted: Counter[str],
) -> ImageObjects:
    """Objects that are told one by one: boxes, and perhaps masks."""
    faults = _doubled(columns)
    boxes = _boxes(columns, size, box_form or columns.form, relative, faults, counted)
    classes = _classes(columns, labels, faults)
    masks = _masks(columns, size, faults)
    _raise(faults)
    box_areas = box_area(boxes)

    def measured(place: int) -> float:
        drawn = masks is not None and masks.items[place] is not None
        return masks.area(place) if masks is not None and drawn else box_areas[place]

    areas = _areas(columns, measured)
    return ImageObjects(size, boxes, classes, areas, _crowd(columns), masks, columns.image_id)


def _segments(
    annotation: Mapping[str, Any], size: Size, labels: Mapping[Any, int] | None, counted: Counter[str]
) -> ImageObjects:
    """Objects that a map shows: it says for each pixel which of them it belongs to."""
    if annotation.get("segmentation") is None:
        raise DatasetError(
            'segments_info needs its map of ids beside it, as "segmentation": an array, a picture or a path'
            + ("; for a file_name, give masks_path." if "file_name" in annotation else ".")
        )
    columns = segment_columns(annotation)
    faults = _doubled(columns)
    if odd := [one for one in columns.ids or [] if not isinstance(one, int)]:
        faults.append(f"the ids of segments are whole numbers, as in the map; got {odd[0]!r}")
    classes = _classes(columns, labels, faults)
    _raise(faults)
    id_map = read_id_map(annotation["segmentation"], size)
    masks = SegmentMasks.of_ids(id_map, np.array(columns.ids, np.int64))
    counted["unlisted"] += int(np.count_nonzero(id_map[masks.places == 0]))
    areas = _areas(columns, masks.areas().__getitem__)
    return ImageObjects(size, masks.boxes(), classes, areas, _crowd(columns), masks, columns.image_id)


def _doubled(columns: Columns) -> list[str]:
    twice = [repr(one) for one in columns.doubled_ids]
    return [f"every object has an id of its own; given more than once: {', '.join(twice[:FAULTS_NAMED])}"] * bool(twice)


def _boxes(
    columns: Columns, size: Size, form: BoxForm, relative: bool | None, faults: list[str], counted: Counter[str]
) -> NDArray[np.float64]:
    """(n, 4) xyxy in pixels, inside the image."""
    came, wrong = _rows_of_four(columns)
    if wrong or not len(came):
        faults += wrong
        return came
    if relative is None and 0 < came.max() <= 1 and min(size) > UNITS:
        wrong.append(
            f"the boxes lie within 0..1, such as {_numbers(came[0])}; if they are shares of the image's sides, say "
            "relative=True, if they are pixels, relative=False"
        )
    if relative and came.max() > UNITS:
        largest = int(came.max(axis=1).argmax())
        wrong.append(
            f"{columns.name(largest)}: the box {_numbers(came[largest])} does not lie within 0..1, as relative=True "
            "says; is it in pixels?"
        )
    boxes = convert_boxes(came, form, "xyxy")
    boxes = boxes_to_pixels(boxes, size) if relative else boxes
    left, top, right, bottom = boxes.T
    negative = (right < left) | (bottom < top)
    outside = (left > size[1] + SLACK) | (top > size[0] + SLACK) | (right < -SLACK) | (bottom < -SLACK)
    for place in np.flatnonzero(negative | outside).tolist() if not wrong else ():
        fault = "has a negative width or height" if negative[place] else f"lies outside the image of {_by(size)}"
        wrong.append(
            f"{columns.name(place)}: the box {_numbers(came[place])}, taken as {form}, {fault}; correct it, or "
            "name its form with box_form"
        )
    faults += wrong
    clipped = clip_boxes(boxes, size)
    counted["clipped"] += int((np.abs(clipped - boxes) > SLACK).any(axis=1).sum())
    return clipped


def _rows_of_four(columns: Columns) -> tuple[NDArray[np.float64], list[str]]:
    """(n, 4) finite numbers, and the faults where they are not."""
    rows, faults = [], []
    for place, box in enumerate(columns.boxes or []):
        try:
            row = np.asarray(box, np.float64)
        except (TypeError, ValueError):
            row = np.zeros(0)
        if row.shape != (4,):
            faults.append(f"{columns.name(place)}: a box is four numbers; got {str(box)[:60]}")
        elif not np.isfinite(row).all():
            faults.append(f"{columns.name(place)}: the box {_numbers(row)} is not finite")
        rows.append(row if row.shape == (4,) else np.zeros(4))
    return np.array(rows, np.float64).reshape(-1, 4), faults


def _classes(columns: Columns, labels: Mapping[Any, int] | None, faults: list[str]) -> NDArray[np.int64]:
    """(n,) class numbers."""
    classes = []
    for place, raw in enumerate(columns.labels):
        number = raw
        if labels is not None:
            number = labels.get(raw, labels.get(str(raw))) if isinstance(raw, int | float | str) else None
        whole = isinstance(number, int) or (isinstance(number, float) and number.is_integer())
        classes.append(int(number) if whole and number is not None else 0)
        if whole:
            continue
        if raw is None:
            faults.append(f"{columns.name(place)} has no class")
        elif labels is None:
            faults.append(f"{columns.name(place)}: class {raw!r} is no number; say which number each class has")
        else:
            near = get_close_matches(str(raw), map(str, labels), n=1)
            offer = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(map(str, islice(labels, 10)))}"
            faults.append(f"{columns.name(place)}: class {raw!r} is not in the label set; {offer}")
    return np.array(classes, np.int64)


def _masks(columns: Columns, size: Size, faults: list[str]) -> ListedMasks | None:
    """Masks are decoded later; here they are told apart, and those that say their size are checked."""
    if columns.masks is None or all(mask is None for mask in columns.masks):
        return None
    masks = []
    for place, mask in enumerate(columns.masks):
        if isinstance(mask, Tensor):
            mask = mask.detach().cpu().numpy()
        elif isinstance(mask, Image.Image) or _is_grid(mask, size):
            mask = np.asarray(mask)
        got = mask.shape if isinstance(mask, np.ndarray) else mask.get("size") if isinstance(mask, Mapping) else size
        if mask is not None and not isinstance(mask, Mapping | np.ndarray | list | tuple):
            faults.append(
                f"{columns.name(place)}: a mask is run lengths, polygons or an array; got {type(mask).__name__}"
            )
        elif got is None or tuple(got) != size:
            faults.append(f"{columns.name(place)}: its mask has the size {got}, the image {_by(size)} (height x width)")
        masks.append(dict(mask) if isinstance(mask, Mapping) else mask)
    return ListedMasks(masks, size)


def _is_grid(mask: Any, size: Size) -> bool:
    """Whether lists are the rows of a mask, rather than polygons."""
    return isinstance(mask, list) and len(mask) == size[0] and isinstance(mask[0], list) and len(mask[0]) == size[1]


def _areas(columns: Columns, measured: Callable[[int], float]) -> NDArray[np.float64]:
    """(n,) as annotated, else as measured. Raises DatasetError."""
    given: list[Any] = [None] * len(columns.labels) if columns.areas is None else columns.areas
    wrong = [
        f"{columns.name(place)}: its area is {area!r}; an area is a number of pixels"
        for place, area in enumerate(given)
        if area is not None and not (isinstance(area, int | float) and 0 <= area < np.inf)
    ]
    _raise(wrong)
    return np.array([measured(place) if area is None else area for place, area in enumerate(given)], np.float64)


def _crowd(columns: Columns) -> NDArray[np.bool_]:
    return np.array([bool(one) for one in columns.crowd or [False] * len(columns.labels)], bool)


def _raise(faults: list[str]) -> None:
    if faults:
        raise DatasetError(faults[0] if len(faults) == 1 else numbered("fault", faults, most=FAULTS_NAMED))


def _numbers(box: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in box) + ")"


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
