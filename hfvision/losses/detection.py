"""What DETR is trained with: each object is compared with the prediction that the matcher assigns to it.

Paper:  Carion et al. 2020, "End-to-End Object Detection with Transformers", arXiv 2005.12872, appendix A.
Source: facebookresearch/detr (Apache-2.0), whose numbers these are.

Shapes: L decoder layers, B images, Q queries, K classes, M matches, h x w places of the grid, H x W pixels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hfvision.errors import ConfigError, numbered
from hfvision.geometry import convert_boxes, generalized_box_iou
from hfvision.losses.counts import ItemCount, StepCounts
from hfvision.losses.detection_masks import mask_losses
from hfvision.losses.detection_targets import DetectionTargets, read_targets
from hfvision.losses.matcher import Matches, match
from hfvision.options import numbers_by_name, option

WEIGHTS: Mapping[str, float] = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0, "loss_mask": 1.0, "loss_dice": 1.0}


@dataclass(frozen=True)
class DetectionLoss:
    """The loss of a detector's answers against the objects of each image.

    loss_ce: cross-entropy over all queries, where those without an object should say so, at a weight of
    `eos_coefficient`. loss_bbox, loss_giou: L1 distance and 1 - GIoU of matched boxes. loss_mask, loss_dice: focal and
    dice loss of matched masks. All but the first are sums over matches divided by the number of objects, which is the
    mean over processes where training is distributed. cardinality_error is for the log: by how many the queries that
    claim an object miss the number of objects.

    `weights` replace those of WEIGHTS; a weight of 0 leaves a term out of the sum. Raises ConfigError naming every
    setting that cannot work.

    Example:
        >>> import torch, hfvision
        >>> logits, boxes = torch.zeros(1, 1, 5, 3), torch.full((1, 1, 5, 4), 0.5)
        >>> labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.5, 0.5]])}]
        >>> loss, terms = hfvision.DetectionLoss(num_labels=2)(logits, boxes, labels)
        >>> round(loss.item(), 3), terms["loss_giou"].item()
        (1.099, 0.0)
    """

    num_labels: int  # K; class K is "no object"
    class_cost: float = option("Weight of the class in the matching.", 1.0)
    bbox_cost: float = option("Weight of the box's distance in the matching.", 5.0)
    giou_cost: float = option("Weight of the box's GIoU in the matching.", 2.0)
    eos_coefficient: float = option(
        "Weight of queries without an object.", 0.1, shown="the model's, 0.1", flags="--eos"
    )
    weights: Mapping[str, float] = field(
        default_factory=dict,
        hash=False,
        metadata={
            "help": 'Weights of terms: "loss_bbox=5,loss_giou=2".',
            **{"shown": "the model's", "flags": "--loss-weights", "parse": numbers_by_name},
        },
    )

    def __post_init__(self) -> None:
        costs = {"class_cost": self.class_cost, "bbox_cost": self.bbox_cost, "giou_cost": self.giou_cost}
        problems = [f"{name} is at least 0; got {cost}" for name, cost in costs.items() if not 0 <= cost < math.inf]
        if not problems and not any(costs.values()):
            problems.append(f"at least one of {', '.join(costs)} is above 0")
        if self.num_labels < 1:
            problems.append(f"num_labels is at least 1; got {self.num_labels}")
        if not 0 < self.eos_coefficient < math.inf:
            problems.append(f"eos_coefficient is above 0; got {self.eos_coefficient}")
        for name, weight in self.weights.items():
            if name not in WEIGHTS:
                problems.append(f"weights are for {', '.join(WEIGHTS)}; got {name!r}")
            elif not 0 <= weight < math.inf:
                problems.append(f"the weight of {name} is at least 0; got {weight}")
        if problems:
            raise ConfigError(numbered("problem", problems))
        object.__setattr__(self, "weights", {**WEIGHTS, **self.weights})

    def __call__(
        self,
        logits: Tensor,
        boxes: Tensor,
        labels: Sequence[Mapping[str, Tensor]],
        masks: Tensor | None = None,
        num_items_in_batch: ItemCount = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (L, B, Q, K + 1) and boxes (L, B, Q, 4), cxcywh in 0..1, of every decoder layer that is trained, the
        last one last; a dict {"class_labels" (n,), "boxes" (n, 4), "masks" (n, H, W)} for each image, masks only where
        those of the last layer (B, Q, h, w) are given. Returns the weighted sum and the terms, each a float32 scalar
        (float64 for such logits), those of earlier layers with the suffix _0, _1, ...

        num_items_in_batch: given the mapping of `step_counts` over the batches of a step, their losses add up to that
        of the step as one batch. Trainer's number is not read: it counts no objects.

        Raises ConfigError for answers whose shapes do not fit, and DatasetError for wrong labels, naming image and box.
        """
        self._check(logits, boxes, masks)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        logits, boxes = logits.to(dtype), boxes.to(dtype)
        targets = read_targets(labels, logits.shape[1], self.num_labels, masks is not None, like=boxes)
        log_probabilities = logits.log_softmax(dim=-1)
        matches = match(
            log_probabilities.detach(), boxes.detach(), targets, self.class_cost, self.bbox_cost, self.giou_cost
        )
        step = num_items_in_batch if isinstance(num_items_in_batch, Mapping) else None
        if step is None:
            objects = _mean_over_processes(boxes.new_tensor(float(sum(targets.sizes))))
        else:
            objects = step["objects"].to(boxes)
        objects = objects.clamp(min=1)
        of_layers = {
            "loss_ce": self._classes(log_probabilities, targets, matches, step),
            **_boxes(boxes, targets, matches, objects),
            "cardinality_error": _cardinality_error(logits, targets),
        }
        terms = {name: values[-1] for name, values in of_layers.items()}
        if masks is not None:
            terms |= _masks(masks.to(dtype), targets, matches, objects)
        for layer in range(len(logits) - 1):
            terms |= {f"{name}_{layer}": values[layer] for name, values in of_layers.items()}
        weighted = [self._weight(name) * term for name, term in terms.items() if self._weight(name)]
        return sum(weighted, start=logits.new_zeros(())), terms

    def step_counts(self, labels: Sequence[Mapping[str, Tensor]], queries: int) -> StepCounts:
        """What the objects of a batch add to the counts of a step, float64: objects, and the weights of all queries."""
        sizes = torch.tensor([len(label["class_labels"]) for label in labels], dtype=torch.float64)
        matched = sizes.clamp(max=queries)
        return {
            "objects": sizes.sum(),
            "class_weights": (matched + (queries - matched) * self.eos_coefficient).sum(),
        }

    def describe(self) -> dict[str, Any]:
        """What a record of training says, ready for JSON; `DetectionLoss(**description)` is the same loss."""
        names = ("num_labels", "class_cost", "bbox_cost", "giou_cost", "eos_coefficient")
        return {**{name: getattr(self, name) for name in names}, "weights": dict(self.weights)}

    def _weight(self, name: str) -> float:
        """Of a term of any layer."""
        return self.weights.get(name, self.weights.get(name.rpartition("_")[0], 0.0))

    def _check(self, logits: Tensor, boxes: Tensor, masks: Tensor | None) -> None:
        problems = []
        if logits.ndim != 4 or logits.shape[-1] != self.num_labels + 1:
            wanted = f"(layers, images, queries, {self.num_labels + 1})"
            problems.append(
                f"logits of {self.num_labels} classes and no object are {wanted}; got {tuple(logits.shape)}"
            )
        if boxes.ndim != 4 or tuple(boxes.shape) != (*logits.shape[:3], 4):
            problems.append(f"boxes of these logits are {(*logits.shape[:3], 4)}; got {tuple(boxes.shape)}")
        if masks is not None and (masks.ndim != 4 or masks.shape[:2] != logits.shape[1:3]):
            problems.append(f"masks are (images, queries, height, width); got {tuple(masks.shape)}")
        if problems:
            raise ConfigError(numbered("problem", problems))

    def _classes(
        self, log_probabilities: Tensor, targets: DetectionTargets, matches: Matches, step: StepCounts | None
    ) -> Tensor:
        """(L,)"""
        layers = torch.arange(len(log_probabilities), device=log_probabilities.device)[:, None]
        wanted = torch.full(log_probabilities.shape[:-1], self.num_labels, device=log_probabilities.device)
        wanted[layers, matches.image, matches.query] = targets.classes[matches.target]
        surprise = -log_probabilities.gather(-1, wanted[..., None])[..., 0]
        weights = torch.ones_like(surprise).masked_fill(wanted == self.num_labels, self.eos_coefficient)
        total = weights.sum(dim=(1, 2)) if step is None else step["class_weights"].to(weights)
        return (weights * surprise).sum(dim=(1, 2)) / total


def _boxes(boxes: Tensor, targets: DetectionTargets, matches: Matches, objects: Tensor) -> dict[str, Tensor]:
    """Terms of (L,)."""
    layers = torch.arange(len(boxes), device=boxes.device)[:, None]
    predicted = boxes[layers, matches.image, matches.query]  # (L, M, 4)
    wanted = targets.boxes[matches.target]
    overlap = generalized_box_iou(convert_boxes(predicted, "cxcywh", "xyxy"), convert_boxes(wanted, "cxcywh", "xyxy"))
    return {
        "loss_bbox": (predicted - wanted).abs().sum(dim=(1, 2)) / objects,
        "loss_giou": (1 - overlap).sum(dim=1) / objects,
    }


@torch.no_grad()
def _cardinality_error(logits: Tensor, targets: DetectionTargets) -> Tensor:
    """(L,)"""
    claimed = (logits.argmax(dim=-1) != logits.shape[-1] - 1).sum(dim=-1)  # (L, B)
    return (claimed - torch.tensor(targets.sizes, device=logits.device)).abs().to(logits.dtype).mean(dim=1)


def _masks(masks: Tensor, targets: DetectionTargets, matches: Matches, objects: Tensor) -> dict[str, Tensor]:
    """Scalars. Target masks of smaller images are padded with zeros, which count, as in the original."""
    assert targets.masks is not None
    predicted = masks[matches.image, matches.query[-1]]  # (M, h, w)
    if not len(predicted):
        return {"loss_mask": predicted.sum(), "loss_dice": predicted.sum()}
    height, width = (max(one.shape[axis] for one in targets.masks) for axis in (1, 2))
    wanted = torch.zeros(len(targets.classes), height, width, dtype=torch.bool, device=masks.device)
    for one, start in zip(targets.masks, targets.starts, strict=True):
        wanted[start : start + len(one), : one.shape[1], : one.shape[2]] = one != 0
    wanted = wanted[matches.target[-1]]
    focal, dice = mask_losses(predicted, wanted)
    return {"loss_mask": focal / objects, "loss_dice": dice / objects}


def _mean_over_processes(count: Tensor) -> Tensor:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return count
    torch.distributed.all_reduce(count)
    return count / torch.distributed.get_world_size()
