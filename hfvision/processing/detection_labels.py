"""Annotated objects on their way to a batch: brought to the geometry of their images, in the form of DETR's labels.

The labels of an image are a dict:

    class_labels (n,) int64; boxes (n, 4) float32, centre x, centre y, width, height as shares of the resized image;
    area (n,) float32, pixels of the resized image; iscrowd (n,) int64; masks (n, h, w) bool, padded as the batch is;
    orig_size, size (2,) int64, height and width of the image as it came and resized; image_id (1,) int64, or the
    string, where the annotation has one.

Boxes are shares of the image itself, as the original DETR has them, because its positions count from edge to edge of
the image and not of the padding. (transformers rescales them to the padded image where a batch needs padding.)

Formats: "coco_detection" leaves crowds out and gives masks on request; "coco_panoptic" keeps crowds and gives masks
unless told not to. In the panoptic form of COCO boxes reach, as in the original, to their last pixel's near edge.

Shapes: B images, n objects of an image, h x w pixels.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BatchFeature

from hfvision.errors import ConfigError, DatasetError, HfvisionError, numbered
from hfvision.geometry import BoxForm, box_area, boxes_to_unit, convert_boxes
from hfvision.objects import ImageObjects, read_objects
from hfvision.objects.columns import is_one_object
from hfvision.objects.reading import Empty, report_changes
from hfvision.processing.batch import LISTED
from hfvision.upsampling import Size

FORMATS = ("coco_detection", "coco_panoptic")
LAST_PIXEL = np.array([0.0, 0.0, 1.0, 1.0])  # by which the original's boxes of segments end before their edges


@dataclass(frozen=True)
class AnnotationPlan:
    """What happens to the annotations of one call."""

    panoptic: bool
    masks: bool | None  # None: as the format says
    masks_path: Path | None
    convert: bool  # whether boxes become centres and shares
    box_form: BoxForm | None
    relative: bool | None
    empty: Empty
    label2id: Mapping[Any, int] | None

    def read(self, annotation: Any, size: Size, what: str, notes: Counter[str]) -> tuple[ImageObjects, bool]:
        """The objects that are trained on, and whether with masks. Raises DatasetError."""
        segments = isinstance(annotation, Mapping) and "segments_info" in annotation
        if segments and annotation.get("segmentation") is None and self.masks_path and "file_name" in annotation:
            annotation = {**annotation, "segmentation": self.masks_path / annotation["file_name"]}
        objects = read_objects(
            annotation,
            size,
            box_form=self.box_form,
            relative=self.relative,
            labels=self.label2id,
            empty=self.empty,
            what=what,
            notes=notes,
        )
        panoptic = self.panoptic or segments
        if segments:
            objects = replace(objects, boxes=objects.boxes - LAST_PIXEL * (box_area(objects.boxes) > 0)[:, None])
        if not panoptic and objects.crowd.any():
            objects = objects.take(~objects.crowd)
        with_masks = panoptic if self.masks is None else self.masks
        if with_masks and objects.masks is None and len(objects):
            raise DatasetError(
                f"{what}: masks are asked for, but its objects have none; annotate them with a segmentation, or set "
                "return_segmentation_masks=False."
            )
        return objects if with_masks else replace(objects, masks=None), with_masks


def make_annotation_plan(
    options: Mapping[str, Any], masks: bool | None = None, masks_path: Any = None
) -> AnnotationPlan:
    """Raises ConfigError listing all faults."""
    faults = []
    name = options.get("format") or FORMATS[0]
    box_form: BoxForm | None = options.get("box_form")
    empty: Empty = options.get("empty_boxes", "drop") if options.get("empty_boxes") is not None else "drop"
    for option, value, known in (
        ("format", name, FORMATS),
        ("box_form", box_form, (None, *get_args(BoxForm))),
        ("empty_boxes", empty, get_args(Empty)),
    ):
        if value not in known:
            faults.append(f"{option} must be one of {', '.join(map(str, known))}; got {value!r}")
    if options.get("do_center_crop"):
        faults.append("objects would be cut: crop images and ImageObjects together before; got do_center_crop=True")
    if masks_path is not None and not isinstance(masks_path, str | os.PathLike):
        faults.append(f"masks_path must be the folder of panoptic pictures; got {type(masks_path).__name__}")
    if faults:
        raise ConfigError(faults[0] if len(faults) == 1 else numbered("fault", faults))
    return AnnotationPlan(
        panoptic=name == "coco_panoptic",
        masks=masks,
        masks_path=None if masks_path is None else Path(masks_path),
        convert=bool(options.get("do_convert_annotations")),
        box_form=box_form,
        relative=options.get("relative"),
        empty=empty,
        label2id=options.get("label2id"),
    )


def annotations_of(annotations: Any, images: int) -> list[Any]:
    """One annotation for each image. Of a single image, a list of its objects' records is one annotation.

    Raises DatasetError for another number of annotations than of images.
    """
    single = isinstance(annotations, Mapping | ImageObjects)
    each = [annotations] if single else list(annotations)
    if images == 1 and each and all(is_one_object(one) for one in each):
        each = [each]
    if len(each) != images:
        raise DatasetError(
            f"every image needs one annotation (of an image without objects, an empty list); got {images} images and "
            f"{len(each)} annotations"
        )
    return each


def make_detection_labels(
    annotations: Sequence[Any],
    sizes: Sequence[Size],
    resized: Sequence[Size],
    frames: Sequence[Size],
    plan: AnnotationPlan,
) -> list[dict[str, Any]]:
    """The labels of each image as arrays; sizes are those of the images as they came, resized, and padded.

    Raises one DatasetError for all faulty annotations.
    """
    notes: Counter[str] = Counter()
    labels, faults = [], []
    for i, (annotation, size, new, frame) in enumerate(zip(annotations, sizes, resized, frames, strict=True)):
        what = _name(i, annotation)
        try:
            objects, with_masks = plan.read(annotation, size, what, notes)
            labels.append(_labels(objects.resized(new), size, frame, with_masks, plan.convert))
        except HfvisionError as error:  # masks are decoded late, and know no name of their own
            faults.append(str(error) if str(error).startswith(what) else f"{what}: {error}")
    if faults:
        lines = faults[:LISTED] + ["..."] * (len(faults) > LISTED)
        raise DatasetError(lines[0] if len(faults) == 1 else numbered("faulty annotation", lines))
    report_changes(notes, "this call")
    return labels


def _name(place: int, annotation: Any) -> str:
    known = annotation.get("file_name", annotation.get("image_id")) if isinstance(annotation, Mapping) else None
    known = annotation.image_id if isinstance(annotation, ImageObjects) else known
    return f"annotation {place}" + ("" if known is None else f" (image {known})")


def _labels(objects: ImageObjects, size: Size, frame: Size, with_masks: bool, convert: bool) -> dict[str, Any]:
    boxes = boxes_to_unit(convert_boxes(objects.boxes, "xyxy", "cxcywh"), objects.size) if convert else objects.boxes
    labels: dict[str, Any] = {
        "size": np.array(objects.size, np.int64),
        "class_labels": objects.labels,
        "boxes": boxes.astype(np.float32),
        "area": objects.areas.astype(np.float32),
        "iscrowd": objects.crowd.astype(np.int64),
        "orig_size": np.array(size, np.int64),
    }
    if objects.image_id is not None:
        named = isinstance(objects.image_id, str)
        labels["image_id"] = objects.image_id if named else np.array([objects.image_id], np.int64)
    if with_masks:
        labels["masks"] = _framed_masks(objects, frame)
    return labels


def _framed_masks(objects: ImageObjects, frame: Size) -> NDArray[np.bool_]:
    out = np.zeros((len(objects), *frame), bool)
    if objects.masks is not None:
        out[:, : objects.size[0], : objects.size[1]] = objects.masks.decoded()
    return out


def delivered_labels(labels: list[dict[str, Any]], tensors: bool, home: torch.device) -> list[BatchFeature]:
    """With tensors at home in place of arrays, if they are wanted."""
    if not tensors:
        return [BatchFeature(one) for one in labels]
    return [
        BatchFeature(
            {
                name: torch.from_numpy(value).to(home) if isinstance(value, np.ndarray) else value
                for name, value in one.items()
            }
        )
        for one in labels
    ]
