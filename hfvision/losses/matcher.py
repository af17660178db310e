"""Which prediction answers for which object: the cheapest one-to-one assignment, image by image.

Paper: Carion et al. 2020, "End-to-End Object Detection with Transformers", arXiv 2005.12872, section 3.1.

All decoder layers are matched at once, and costs exist only between the predictions and objects of the same image.

Shapes: L decoder layers, B images, Q queries, K classes, n objects of the fullest image, M matches of a layer.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hfvision.geometry import convert_boxes, generalized_box_iou
from hfvision.losses.detection_targets import DetectionTargets


@dataclass(frozen=True)
class Matches:
    """Matched pairs, by image and then by query; every layer has as many of an image as the next."""

    image: Tensor  # (M,)
    query: Tensor  # (L, M)
    target: Tensor  # (L, M): index among the objects of the batch


@torch.no_grad()
def match(
    log_probabilities: Tensor,
    boxes: Tensor,
    targets: DetectionTargets,
    class_cost: float,
    bbox_cost: float,
    giou_cost: float,
) -> Matches:
    """(L, B, Q, K + 1), (L, B, Q, 4) cxcywh -> the assignment with the least sum of
    bbox_cost * L1 - class_cost * probability - giou_cost * GIoU.

    A cost that is no number counts as the largest there is, so that single bad predictions end no training.
    """
    layers, images, queries = boxes.shape[:3]
    device = boxes.device
    matched = [min(size, queries) for size in targets.sizes]
    image = torch.arange(images).repeat_interleave(torch.tensor(matched, dtype=torch.int64))
    pairs = np.zeros((2, layers, len(image)), np.int64)  # query and target
    if len(image):
        costs = _costs(log_probabilities, boxes, targets, class_cost, bbox_cost, giou_cost)
        ends = np.cumsum(matched)
        for index, (size, start) in enumerate(zip(targets.sizes, targets.starts, strict=True)):
            place = slice(ends[index] - matched[index], ends[index])
            for layer in range(layers):
                query, target = linear_sum_assignment(costs[layer, index, :, :size])
                pairs[:, layer, place] = query, target + start
    query, target = torch.from_numpy(pairs).to(device)
    return Matches(image.to(device), query, target)


def _costs(
    log_probabilities: Tensor,
    boxes: Tensor,
    targets: DetectionTargets,
    class_cost: float,
    bbox_cost: float,
    giou_cost: float,
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """(L, B, Q, n); beyond the objects of an image the costs are of nothing."""
    classes = pad_sequence(list(targets.classes.split(targets.sizes)), batch_first=True)  # (B, n)
    places = classes[None, :, None].expand(*boxes.shape[:3], -1)
    costs = -class_cost * log_probabilities.gather(-1, places).exp()
    padded = pad_sequence(list(targets.boxes.split(targets.sizes)), batch_first=True)[:, None]  # (B, 1, n, 4)
    predicted = boxes[..., None, :]  # (L, B, Q, 1, 4)
    costs += bbox_cost * torch.stack([(predicted[..., i] - padded[..., i]).abs() for i in range(4)]).sum(dim=0)
    corners = [convert_boxes(some, "cxcywh", "xyxy") for some in (predicted, padded)]
    costs -= giou_cost * generalized_box_iou(corners[0], corners[1])
    most = torch.finfo(costs.dtype).max
    return costs.nan_to_num(nan=most, posinf=most, neginf=most).cpu().double().numpy()
