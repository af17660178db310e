"""What a detection metric keeps of an image: boxes, run lengths, classes and scores, read from any array and checked.

Shapes: n detections or objects of an image, K classes, H x W pixels.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hfvision.errors import ConfigError
from hfvision.geometry import BoxForm, Rle, convert_boxes, encode_rle, rle_area
from hfvision.geometry.arrays import to_numpy
from hfvision.geometry.rle import compressed_rle

Region = Literal["boxes", "masks"]


class Objects(NamedTuple):
    """Detected or true objects; what is not measured is None."""

    labels: NDArray[np.int64]  # (n,)
    boxes: NDArray[np.float64] | None  # (n, 4) xywh
    masks: list[Rle] | None  # n, compressed


class ImageRecord(NamedTuple):
    """Everything that is kept of one image."""

    image_id: int | str | None
    detected: Objects
    scores: NDArray[np.float64]  # of what was detected
    true: Objects
    areas: NDArray[np.float64]  # of the true objects, in pixels
    crowd: NDArray[np.bool_]  # of the true objects

    @property
    def size(self) -> tuple[int, int]:
        """Height and width where masks were kept, else (0, 0)."""
        for objects in (self.true, self.detected):
            for mask in objects.masks or []:
                return mask["size"][0], mask["size"][1]
        return 0, 0


class RecordReader(NamedTuple):
    """How predictions and references are read. `read` raises ConfigError (run lengths: DatasetError) for one fault."""

    num_labels: int
    regions: tuple[Region, ...]
    box_form: BoxForm

    def read(self, prediction: Mapping[str, Any], reference: Mapping[str, Any]) -> ImageRecord:
        """The record of one image."""
        name = "class_labels" if "class_labels" in reference else "labels"
        for what, given, wanted in (
            ("the prediction", prediction, ("scores", "labels", *self.regions)),
            ("the reference", reference, (name, *self.regions)),
        ):
            if missing := [key for key in wanted if key not in given]:
                raise ConfigError(
                    f"{what} lacks {', '.join(missing)}; it has {', '.join(map(str, given)) or 'nothing'}"
                )
        detected = self._objects(prediction, "labels", "the prediction")
        true = self._objects(reference, name, "the reference")
        sizes = {tuple(mask["size"]) for objects in (detected, true) for mask in objects.masks or []}
        if len(sizes) > 1:
            raise ConfigError(f"the masks of an image have one size; got {sorted(sizes)} (height, width)")
        scores = _column(prediction, "scores", len(detected.labels))
        if np.isnan(scores).any():
            raise ConfigError(f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN")
        crowd = _column(reference, "iscrowd", len(true.labels), default=0) != 0
        return ImageRecord(_id(reference), detected, scores, true, _areas(reference, true), crowd)

    def _objects(self, given: Mapping[str, Any], name: str, what: str) -> Objects:
        labels = to_numpy(given[name])
        if labels.ndim != 1 or (labels.size and not np.issubdtype(labels.dtype, np.integer)):
            raise ConfigError(f"{name} are whole numbers (n,); got {labels.dtype} {labels.shape} in {what}")
        labels = labels.astype(np.int64)
        if len(wrong := np.unique(labels[(labels < 0) | (labels >= self.num_labels)])):
            raise ConfigError(f"{name} are classes 0..{self.num_labels - 1}; got {wrong[:10].tolist()} in {what}")
        boxes = self._boxes(given["boxes"], len(labels), what) if "boxes" in self.regions else None
        masks = _masks(given["masks"], len(labels), what) if "masks" in self.regions else None
        return Objects(labels, boxes, masks)

    def _boxes(self, given: Any, count: int, what: str) -> NDArray[np.float64]:
        came = to_numpy(given).astype(np.float64)
        came = came.reshape(0, 4) if came.size == 0 else came
        if came.shape != (count, 4):
            raise ConfigError(f"{count} labels need boxes ({count}, 4); got {came.shape} in {what}")
        boxes = convert_boxes(came, self.box_form, "xywh")
        wrong = np.flatnonzero(~(np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] >= 0).all(axis=1)))
        if len(wrong):
            raise ConfigError(
                f"{len(wrong)} of {count} boxes in {what} are NaN, infinite or of negative size as {self.box_form}, "
                f"such as box {wrong[0]}: {came[wrong[0]].tolist()}"
            )
        return boxes


def unit_fault(records: Iterable[ImageRecord]) -> str | None:
    """What is wrong where true boxes lie within 0..1 and detected ones in pixels, or the other way round: every figure
    would be 0, and nothing would say why."""
    extents = []
    for which in ("detected", "true"):
        boxes = [getattr(record, which).boxes for record in records]
        extents.append(max((float((b[:, :2] + b[:, 2:]).max()) for b in boxes if b is not None and len(b)), default=0))
    if min(extents) == 0 or (max(extents) <= 2 or min(extents) > 1.01):
        return None
    names = ("predictions", "references") if extents[0] < extents[1] else ("references", "predictions")
    return (
        f"the boxes of the {names[0]} reach to {min(extents):.4g}, those of the {names[1]} to {max(extents):.6g}; "
        "give both in pixels (hfvision.geometry.boxes_to_pixels)"
    )


def _masks(given: Any, count: int, what: str) -> list[Rle]:
    if len(given) != count:
        raise ConfigError(f"{count} labels need {count} masks; got {len(given)} in {what}")
    return [compressed_rle(mask) if isinstance(mask, Mapping) else encode_rle(mask) for mask in given]


def _areas(reference: Mapping[str, Any], true: Objects) -> NDArray[np.float64]:
    """Those given; else of the masks; else of the boxes."""
    if "area" in reference:
        return _column(reference, "area", len(true.labels))
    return measured_areas(true, "boxes" if true.masks is None else "masks")


def measured_areas(objects: Objects, region: Region) -> NDArray[np.float64]:
    """(n,) in pixels."""
    if region == "masks":
        return np.array([rle_area(mask) for mask in objects.masks or []], np.float64)
    assert objects.boxes is not None
    return objects.boxes[:, 2] * objects.boxes[:, 3]


def _column(given: Mapping[str, Any], name: str, count: int, default: float | None = None) -> NDArray[np.float64]:
    if name not in given and default is not None:
        return np.full(count, default)
    values = to_numpy(given[name]).astype(np.float64)
    if values.shape != (count,):
        raise ConfigError(f"{count} labels need {name} ({count},); got {values.shape}")
    return values


def _id(reference: Mapping[str, Any]) -> int | str | None:
    image_id = reference.get("image_id")
    return image_id if image_id is None or isinstance(image_id, str) else int(to_numpy(image_id).reshape(-1)[0])
