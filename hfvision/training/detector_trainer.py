"""The trainer of detectors: batches of similar shape, a slower trunk, and figures at the images' own size.

Shapes: B images, Q queries, K classes.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hfvision.objects import ImageObjects
from hfvision.training.buckets import BucketSampler, by_shape
from hfvision.training.held_out import losses_of_objects
from hfvision.training.parameter_groups import mask_parameters
from hfvision.training.progress import diverged
from hfvision.training.run import Counter
from hfvision.training.trainer import Trainer

Sizes = Sequence[tuple[int, int]]  # (height, width) of each image, as the processor makes them


class ObjectCounter(Counter, Protocol):
    """Trainer's compute_metrics for objects."""

    def count(self, outputs: Any, objects: Sequence[ImageObjects], pixel_mask: Tensor) -> dict[str, Tensor]:
        """What counts of a batch, as tensors (B, ...), which processes exchange."""
        ...


class DetectorTrainer(Trainer):
    """Masks learn at a rate of their own; a backbone whose rate is 0 does not learn and is no business of this."""

    compute_metrics: ObjectCounter

    def __init__(
        self,
        *args: Any,
        evaluation_sizes: Sizes,
        train_sizes: Sizes = (),
        mask_rate_factor: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.mask_rate_factor = mask_rate_factor
        self.train_sizes = train_sizes
        self.evaluation_sizes = evaluation_sizes
        super().__init__(*args, **kwargs)

    def rate_factors(self) -> dict[int, float]:
        factors = super().rate_factors()
        if self.mask_rate_factor is not None:
            factor = (getattr(self.args, "head_lr_multiplier", None) or 1.0) * self.mask_rate_factor
            factors |= {id(parameter): factor for parameter in mask_parameters(self.model)}
        return {key: factor for key, factor in factors.items() if factor != 1.0}

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        samples: Any = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "random":
            return super()._get_train_sampler(samples)
        return BucketSampler(samples, self.train_sizes, self.args.train_batch_size, self.args.data_seed)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return by_shape(self.evaluation_sizes)

    @torch.no_grad()
    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """What the metric needs of each image, its losses, and the images' rows."""
        inputs = self._prepare_inputs(inputs)
        labels, objects, rows = (inputs.pop(name) for name in ("labels", "objects", "rows"))
        with self.compute_loss_context_manager():
            outputs = model(**inputs)
        if outputs.logits.isnan().any():
            raise diverged("the model's scores are no numbers", self.args)
        counted = self.compute_metrics.count(outputs, objects, inputs["pixel_mask"])
        detector: Any = self.model
        return None, {**counted, **losses_of_objects(detector, outputs, labels, inputs["pixel_mask"])}, rows
