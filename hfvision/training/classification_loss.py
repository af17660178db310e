"""The loss that a classifier is trained with where classes have weights or labels are smoothed.

Shapes: B images, K classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hfvision.errors import ConfigError
from hfvision.losses.classification import cross_entropy_sum
from hfvision.losses.counts import counted, share_of_step


class LabelLoss:
    """Trainer's `compute_loss_func`: the mean over images of each one's cross-entropy with a smoothed label times the
    weight of its class. In evaluation `ClassificationTrainer` measures plain cross-entropy, as `evaluate` does.
    """

    def __init__(self, class_weights: Sequence[float] | None = None, label_smoothing: float = 0.0) -> None:
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"label_smoothing is a share from 0 to below 1; got {label_smoothing}.")
        self.class_weights = None if class_weights is None else tuple(class_weights)
        self.label_smoothing = label_smoothing

    def describe(self) -> dict[str, Any]:
        """The settings as JSON values."""
        weights = None if self.class_weights is None else [round(weight, 6) for weight in self.class_weights]
        return {"class_weights": weights, "label_smoothing": self.label_smoothing}

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """labels: (B,). num_items_in_batch: of all batches of one step."""
        logits = outputs["logits"].float()
        weights = None if self.class_weights is None else torch.tensor(self.class_weights, device=logits.device)
        total = cross_entropy_sum(logits, labels, self.label_smoothing, weights)
        loss = total / counted(labels).sum().clamp(min=1)
        return loss if num_items_in_batch is None else loss * share_of_step(labels, num_items_in_batch)
