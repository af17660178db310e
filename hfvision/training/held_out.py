"""The loss of held-out images, one by one, so that neither batches nor processes matter.

It is that of the model's answer by the model's own definition: a classifier's cross-entropy, the `default_loss` of a
segmenter without its auxiliary heads, that of a detector for its last decoder layer. What a run adds to it or puts in
its place to learn better (label smoothing, a teacher, other terms and weights, earlier layers) is not in it: training
and `evaluate` find the same for the same weights.

Shapes: B images, K classes, Q queries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hfvision.losses.counts import counted
from hfvision.losses.detection import WEIGHTS
from hfvision.losses.problem_types import MULTI, REGRESSION, SINGLE, problem_type_loss
from hfvision.models.base import VisionModel
from hfvision.models.detr.heads import DetrDetector
from hfvision.models.semantic import SemanticModel
from hfvision.processing.queries import without_padding
from hfvision.upsampling import Upsampling

LOSS = "loss"
TERMS = (LOSS, *WEIGHTS)  # of a detector


class KnownLosses:
    """Mean over the images of an evaluation of those losses that are known: of images whose labels count."""

    def __init__(self) -> None:
        self.total = 0.0
        self.images = 0

    def add(self, losses: Tensor) -> None:
        """(B, 2): the loss of each image, and 1 where it counts, else 0."""
        values = losses.double()
        self.total += float((values[:, 0] * values[:, 1]).sum())
        self.images += int(values[:, 1].sum())

    def mean(self) -> float | None:
        """None where no loss is known."""
        return self.total / self.images if self.images else None


class ImageMeans:
    """Means of losses over the images of an evaluation."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.images = 0

    def add(self, counted: Mapping[str, Any]) -> None:
        """Those of a batch, (B,) each; other entries are left alone."""
        losses = {name: torch.as_tensor(counted[name]) for name in TERMS if name in counted}
        for name, values in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(values.double().sum())
        self.images += len(losses[LOSS])

    def take(self) -> dict[str, float]:
        """The means; then begins anew."""
        means = {name: total / self.images for name, total in self.sums.items()}
        self.sums, self.images = {}, 0
        return means


def losses_of_images(model: Any, outputs: Any, labels: Any, batch: Mapping[str, Any]) -> Tensor | None:
    """(B, 2) for `KnownLosses`, of what a model of any task made of a batch; None where only the model knows its loss.

    labels: as the model takes them: (B,) or (B, K), label maps (B, H, W) of the images' size, a dict for each image.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # inside an adapter
    if labels is None or not isinstance(model, VisionModel):
        return None
    if isinstance(model, SemanticModel):
        return _all_count(_losses_of_label_maps(model, outputs["logits"], labels))
    if isinstance(model, DetrDetector):
        images = batch["pixel_values"]
        mask = batch.get("pixel_mask")
        mask = torch.ones_like(images[:, 0], dtype=torch.long) if mask is None else mask
        return _all_count(losses_of_objects(model, outputs, labels, mask)[LOSS])
    logits, problem = outputs.get("logits"), getattr(model.config, "problem_type", None)
    if logits is None or logits.ndim != 2 or problem not in (SINGLE, MULTI, REGRESSION):
        return None
    labels = labels.to(logits.device)
    if problem == SINGLE:
        losses = nn.functional.cross_entropy(logits.float(), labels.reshape(-1).long(), reduction="none")
        return torch.stack([losses, counted(labels.reshape(-1)).to(losses.dtype)], dim=1)
    losses = torch.stack(
        [
            problem_type_loss(label[None], logit[None].float(), model.config)
            for label, logit in zip(labels, logits, strict=True)
        ]
    )
    return _all_count(losses)


def _all_count(losses: Tensor) -> Tensor:
    return torch.stack([losses, torch.ones_like(losses)], dim=1)


def _losses_of_label_maps(model: SemanticModel, logits: Tensor, labels: Tensor) -> Tensor:
    criterion = model.pixel_loss
    size = (labels.shape[1], labels.shape[2])
    upsampling = Upsampling(size) if tuple(logits.shape[2:]) == size else model.upsampling(size)
    return torch.stack(
        [criterion(one[None].float(), label[None], upsampling) for one, label in zip(logits, labels, strict=True)]
    )


def losses_of_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (B, K), class indices (B,) -> (B,)."""
    return nn.functional.cross_entropy(logits.float(), labels, reduction="none")


def losses_of_pixels(
    model: SemanticModel, logits: Sequence[Tensor], labels: Sequence[Tensor], ignore_index: int
) -> Tensor:
    """Coarse logits (K, h, w) and label maps (H, W) of each image -> (B,)."""
    criterion = replace(model.default_loss, ignore_index=ignore_index)
    return torch.stack(
        [
            criterion(one[None].float(), label[None], model.upsampling((label.shape[0], label.shape[1])))
            for one, label in zip(logits, labels, strict=True)
        ]
    )


def losses_of_objects(
    model: DetrDetector, outputs: Any, labels: Sequence[Mapping[str, Tensor]], pixel_mask: Tensor
) -> dict[str, Tensor]:
    """(B,) of the loss and of each of its terms; masks are compared without the padding of their image."""
    criterion = model.default_loss
    masks: Any = [None] * len(labels)
    if outputs.get("pred_masks") is not None:
        masks = [one[None] for one in without_padding(outputs.pred_masks, pixel_mask)]
    rows = []
    for image, (label, mask) in enumerate(zip(labels, masks, strict=True)):
        logits, boxes = (one[None, image : image + 1].float() for one in (outputs.logits, outputs.pred_boxes))
        counts = criterion.step_counts([label], logits.shape[2])  # its own, which no other process is asked for
        loss, terms = criterion(logits, boxes, [label], mask, counts)
        rows.append({LOSS: loss, **{name: terms[name] for name in WEIGHTS if name in terms}})
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
