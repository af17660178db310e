"""The loss of a classifier by its config's `problem_type`: one label, several, or numbers.

The losses are transformers' own (cross-entropy, binary cross-entropy, squared error), for labels of every type,
checked, and means over all batches of an optimizer step.

Shapes: B images, K labels.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hfvision.errors import ConfigError, DatasetError
from hfvision.losses.classification import cross_entropy_sum
from hfvision.losses.counts import NOT_COUNTED, counted, share_of_step, step_count
from hfvision.losses.fused import is_traced

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
WANTED = {
    SINGLE: "class indices of shape (B,), whole numbers",
    MULTI: "one number from 0 to 1 for each label, of shape (B, K)",
    REGRESSION: "one number for each output, of shape (B, K), or (B,) where K is 1",
}


def problem_type_loss(
    labels: Tensor, logits: Tensor, config: Any, num_items_in_batch: Tensor | int | None = None, **_: Any
) -> Tensor:
    """A scalar, of logits (B, K) against labels as WANTED says for the config's problem type.

    Where the config names none, one label means regression, whole numbers a single label, and other numbers several;
    the config then names it, as in transformers. Labels of -100 do not count where labels are classes.

    num_items_in_batch: Trainer's count of the labels of a step other than -100; see `losses.counts`. Raises
    ConfigError for labels of another shape or type, and DatasetError for labels that are no class.
    """
    labels = labels.to(logits.device)
    problem_type = config.problem_type or _problem_type_of(labels, logits)
    if problem_type not in WANTED:
        raise ConfigError(f"problem_type is {', '.join(WANTED)}, or None; got {problem_type!r}.")
    labels = _of_shape(labels, logits, problem_type)
    if problem_type == REGRESSION:
        loss = functional.mse_loss(logits, labels.to(logits.dtype))
        loss = loss if num_items_in_batch is None else loss * share_of_step(labels, num_items_in_batch).to(loss.dtype)
    else:
        total = cross_entropy_sum(logits, labels) if problem_type == SINGLE else _binary_cross_entropy(logits, labels)
        count = counted(labels).sum() if num_items_in_batch is None else num_items_in_batch
        loss = total / step_count(count, total)
    config.problem_type = problem_type
    return loss


def _problem_type_of(labels: Tensor, logits: Tensor) -> str:
    if logits.shape[1] == 1:
        return REGRESSION
    of_each_label = labels.is_floating_point() or (labels.dtype == torch.bool and labels.shape == logits.shape)
    return MULTI if of_each_label else SINGLE


def _of_shape(labels: Tensor, logits: Tensor, problem_type: str) -> Tensor:
    """The labels of a column as a row, or a row as a column, where the problem type wants them so."""
    images = tuple(logits.shape[:1])
    if problem_type == SINGLE:
        fits = tuple(labels.shape) in (images, (*images, 1)) and not labels.is_floating_point()
        wanted = images
    else:
        wanted = tuple(logits.shape)
        fits = tuple(labels.shape) == wanted or (
            problem_type == REGRESSION and logits.shape[1] == 1 and tuple(labels.shape) == images
        )
    if not fits:
        raise ConfigError(
            f"labels of {problem_type} are {WANTED[problem_type]}, for these logits {wanted}; got "
            f"{tuple(labels.shape)} of {labels.dtype}. Give such labels, or set config.problem_type to another of "
            f"{', '.join(WANTED)}."
        )
    return labels.reshape(wanted)


def _binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The sum over labels that are not -100."""
    known = counted(labels)
    labels = labels.to(logits.dtype)
    outside = known & ~((labels >= 0) & (labels <= 1))
    if not is_traced(labels) and outside.any():
        value = labels[outside][0].item()
        raise DatasetError(
            f"labels of {MULTI} are numbers from 0 (absent) to 1 (present), or {NOT_COUNTED} where one is ignored; got "
            f"{value:g} and others, {int(outside.sum()):,} in all.\n    Give a column of 0 and 1 for each label."
        )
    losses = functional.binary_cross_entropy_with_logits(logits, labels.masked_fill(~known, 0), reduction="none")
    return losses.masked_fill(~known, 0).sum()
