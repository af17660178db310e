"""Means over all that one optimizer step sees, where the step is made of several batches or processes.

transformers' Trainer hands each forward `num_items_in_batch`: how many labels other than -100 the batches of a step
have, over all processes. A loss that is the sum over its own batch divided by a count of the whole step adds up to the
mean over the step, however the step is dealt out. Trainer counts nothing where labels are no tensor, and it counts
pixels that a loss ignores by another number than -100; `training.accumulation` counts what the losses here divide by,
and hands over a mapping of these counts in the place of the one number.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from hfvision.errors import DatasetError
from hfvision.losses.fused import is_traced

NOT_COUNTED = -100  # the label that Trainer leaves out of its count
VALUES_NAMED = 10  # of labels out of range

StepCounts = Mapping[str, Tensor]  # by what is counted
ItemCount = Tensor | int | StepCounts | None  # `num_items_in_batch`; None: the batch is the whole step


def step_count(count: Tensor | int, like: Tensor) -> Tensor:
    """A count of the step as a scalar on the device of `like`, at least 1."""
    return torch.as_tensor(count, device=like.device).reshape(()).clamp(min=1)


def counted(labels: Tensor) -> Tensor:
    """The items that Trainer counts: True where a label is not -100, which unsigned ones cannot be."""
    return (labels if labels.is_floating_point() else labels.long()).ne(NOT_COUNTED)


def share_of_step(labels: Tensor, count: Tensor | int) -> Tensor:
    """The share of Trainer's items of a step that are in these labels; over the batches of a step they add up to 1."""
    return counted(labels).sum() / step_count(count, labels)


def check_classes(labels: Tensor, classes: int, ignore_index: int, item: str, remedy: str) -> None:
    """Raises DatasetError for labels outside 0..classes-1, but for the ignored ones, with values and counts.

    item: the thing that has a label ("pixel"). Where values cannot be looked at nothing is checked.
    """
    if is_traced(labels):
        return
    labels = labels.long()  # unsigned labels would wrap where they are compared with -100
    outside = ((labels < 0) | (labels >= classes)) & (labels != ignore_index)
    if not outside.any():
        return
    values, counts = labels[outside].unique(return_counts=True)
    named = [
        f"{value} ({count:,} {item}{'' if count == 1 else 's'})"
        for value, count in zip(values.tolist(), counts.tolist(), strict=True)
    ]
    more = f" and {len(named) - VALUES_NAMED} other values" if len(named) > VALUES_NAMED else ""
    article = "an" if item[0] in "aeiou" else "a"
    raise DatasetError(
        f"labels are classes 0..{classes - 1}, or {ignore_index} where {article} {item} is ignored; got "
        f"{', '.join(named[:VALUES_NAMED])}{more}.\n    {remedy}"
    )
