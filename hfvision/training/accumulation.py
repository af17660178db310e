"""Trainer whose steps have the loss and the gradients of one large batch, however they are dealt out.

    class ExactTrainer(StepMeans, Trainer): ...

Trainer itself counts labels other than -100 over the batches of a step, which is right for classifiers. Models of
hfvision whose losses divide by something else (pixels that are not ignored, objects, hidden patches) say what a batch
adds to it, `model.step_counts`, and get the sums over the step, over all processes.

Losses of regions (dice, lovasz) are no sums: those of several batches are averaged.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import Trainer

from hfvision.losses.counts import StepCounts

if TYPE_CHECKING:
    _Trainer = Trainer
else:
    _Trainer = object


class StepMeans(_Trainer):
    """Mixed into a `transformers.Trainer`, before it; models that say nothing of counts are trained as without it.

    Example:
        >>> import transformers, hfvision
        >>> class Trainer(hfvision.StepMeans, transformers.Trainer):
        ...     pass
        >>> Trainer.__mro__[1].__name__
        'StepMeans'
    """

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, self._counts_of(batches) or count

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if not isinstance(num_items_in_batch, Mapping):  # in evaluation, where a batch is a step
            num_items_in_batch = self._counts_of([inputs]) or num_items_in_batch
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _counts_of(self, batches: Sequence[Mapping[str, Any]]) -> StepCounts | None:
        """The sums over the batches, and over all processes where Trainer averages over those."""
        model: Any = self.accelerator.unwrap_model(self.model)
        model = model.get_base_model() if hasattr(model, "get_base_model") else model  # inside an adapter
        if self.compute_loss_func is not None or not hasattr(model, "step_counts"):
            return None
        counts = [one for batch in batches if (one := _counts_if_it_learns(model, batch)) is not None]
        if not counts:
            return None
        names = list(counts[0])
        totals = torch.stack([torch.stack([torch.as_tensor(one[name]).cpu() for name in names]) for one in counts])
        totals = totals.sum(dim=0).to(self.args.device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            gathered: Any = self.accelerator.gather(totals[None])
            totals = gathered.sum(dim=0)
        return dict(zip(names, totals, strict=True))


def _counts_if_it_learns(model: Any, batch: Mapping[str, Any]) -> StepCounts | None:
    has_targets = any(batch.get(name) is not None for name in ("labels", "bool_masked_pos"))
    counts: StepCounts | None = model.step_counts(batch) if has_targets else None
    return counts
