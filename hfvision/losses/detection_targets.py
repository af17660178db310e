"""The objects that a detection loss compares with, checked: one error names every fault by image and box.

Shapes: B images, n objects of an image, N of the batch, K classes, H x W pixels. Boxes are cxcywh in 0..1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from hfvision.errors import DatasetError, numbered
from hfvision.geometry import convert_boxes

FAULTS_NAMED = 10
ROUNDING = 1e-4  # by which a coordinate may leave 0..1
OUTSIDE = 1e-2  # by which a box of mistaken form sticks out of the image


@dataclass(frozen=True)
class DetectionTargets:
    """The objects of a batch, image after image."""

    sizes: list[int]  # objects of each image
    classes: Tensor  # (N,) int64
    boxes: Tensor  # (N, 4)
    masks: list[Tensor] | None  # (n, H, W) of each image, if masks are compared

    @property
    def starts(self) -> list[int]:
        """Where the objects of each image begin."""
        return [0, *accumulate(self.sizes)][:-1]


def read_targets(
    labels: Sequence[Mapping[str, Tensor]], images: int, num_labels: int, with_masks: bool, like: Tensor
) -> DetectionTargets:
    """Labels {"class_labels" (n,), "boxes" (n, 4)[, "masks" (n, H, W)]}, with the dtype and on the device of `like`.

    Raises DatasetError.
    """
    _check_shapes(labels, images, with_masks)
    sizes = [len(label["class_labels"]) for label in labels]
    device = like.device
    # An image without objects may come with floating classes (an empty list has no other type).
    classes = torch.cat([label["class_labels"].to(device, torch.int64) for label in labels])
    boxes = torch.cat([label["boxes"].to(like).reshape(-1, 4) for label in labels])
    _check_values(classes, boxes, sizes, num_labels)
    masks = [label["masks"].to(device) for label in labels] if with_masks else None
    return DetectionTargets(sizes, classes, boxes, masks)


def _check_shapes(labels: Sequence[Mapping[str, Tensor]], images: int, with_masks: bool) -> None:
    if isinstance(labels, Mapping) or len(labels) != images:
        came = "one dict" if isinstance(labels, Mapping) else f"{len(labels)}"
        raise DatasetError(f"labels are a list of one dict for each of {images} images; got {came}.")
    wanted = ("class_labels", "boxes", "masks") if with_masks else ("class_labels", "boxes")
    problems = []
    for image, label in enumerate(labels):
        if missing := [name for name in wanted if name not in label]:
            problems.append(f"image {image}: lacks {', '.join(missing)}; it has {', '.join(map(str, label))}")
            continue
        if unusable := [name for name in wanted if not isinstance(label[name], Tensor)]:
            types = ", ".join(f"{name} is {type(label[name]).__name__}" for name in unusable)
            problems.append(f"image {image}: labels are tensors; {types}")
            continue
        classes, boxes = label["class_labels"], label["boxes"]
        objects = len(classes) if classes.ndim else 0
        if classes.ndim != 1 or (objects and classes.is_floating_point()):
            shape = tuple(classes.shape)
            problems.append(f"image {image}: class_labels are whole numbers (n,); got {classes.dtype} {shape}")
        elif tuple(boxes.shape) != (objects, 4) and (objects or boxes.numel()):
            problems.append(f"image {image}: {objects} objects need boxes ({objects}, 4); got {tuple(boxes.shape)}")
        elif with_masks and (label["masks"].ndim != 3 or len(label["masks"]) != objects):
            shape = tuple(label["masks"].shape)
            problems.append(f"image {image}: {objects} objects need masks ({objects}, height, width); got {shape}")
    _raise(problems)


def _check_values(classes: Tensor, boxes: Tensor, sizes: list[int], num_labels: int) -> None:
    no_class = (classes < 0) | (classes >= num_labels)
    lost = ~((boxes >= -ROUNDING) & (boxes <= 1 + ROUNDING)).all(dim=1)  # NaN is lost, too
    corners = convert_boxes(boxes, "cxcywh", "xyxy")
    sticks_out = ((corners < -OUTSIDE) | (corners > 1 + OUTSIDE)).any(dim=1)
    # Boxes that stick out are nothing unusual, but half of them, all in the order of corners, are another form.
    in_corner_order = (boxes[:, 2:] >= boxes[:, :2]).all()
    mistaken = in_corner_order & (2 * sticks_out.sum() > len(boxes))
    if not (no_class.any() | lost.any() | mistaken):  # the one value that a GPU is waited for
        return
    problems = []
    places = [(image, box) for image, size in enumerate(sizes) for box in range(size)]
    for index in (no_class | lost).nonzero()[:, 0].tolist():
        where = "image {}, box {}".format(*places[index])
        if no_class[index]:
            problems.append(
                f"{where}: class {int(classes[index])} is none of 0..{num_labels - 1}; map category ids to consecutive "
                "classes, or set num_labels to the largest id + 1"
            )
        if lost[index]:
            hint = "; are these pixels?" if boxes[index].max() > 1 + ROUNDING else ""
            problems.append(
                f"{where}: {_numbers(boxes[index])} does not lie within 0..1; boxes are centre x, centre y, width, "
                f"height as shares of the image{hint}"
            )
    if mistaken and not problems:
        index = int(sticks_out.nonzero()[0, 0])
        problems.append(
            f"image {places[index][0]}, box {places[index][1]}: {_numbers(boxes[index])} and most others stick out of "
            "their image as centre x, centre y, width, height, but are sound corners; convert boxes from xyxy to cxcywh"
        )
    _raise(problems)


def _numbers(box: Tensor) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in box.tolist()) + ")"


def _raise(problems: list[str]) -> None:
    if problems:
        raise DatasetError(numbered("fault", problems, most=FAULTS_NAMED))
