"""Losses of classifiers: against labels, soft targets, and a teacher.

Papers: Szegedy et al. 2016, "Rethinking the Inception Architecture", arXiv 1512.00567, section 7 (label smoothing).
        Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531 (soft distillation).
        Touvron et al. 2020, "Training data-efficient image transformers & distillation through attention",
        arXiv 2012.12877, section 4 (hard distillation).
Source: facebookresearch/deit (Apache-2.0) for what is summed and what divides; checked against its numbers.

Shapes: B images, K labels. All losses are means over the images of the batch whose label is not -100; where there is
        none, they and their gradients are 0.
"""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from hfvision.errors import ConfigError, numbered
from hfvision.losses.counts import NOT_COUNTED, check_classes, counted

DistillationKind = Literal["hard", "soft"]


def classification_loss(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy. logits: (B, K). targets: (B,) class indices, or (B, K) probabilities as mixup makes them.

    With label smoothing s a target becomes (1 - s) times itself plus s / K for every class. Raises ConfigError for
    targets of another shape and for s outside [0, 1], DatasetError for indices that are no class.
    """
    problems = []
    if not 0.0 <= label_smoothing <= 1.0:
        problems.append(f"label_smoothing is a share, in [0, 1]; got {label_smoothing}")
    indices = not targets.is_floating_point()
    if tuple(targets.shape) != (tuple(logits.shape[:1]) if indices else tuple(logits.shape)):
        problems.append(
            f"for logits {tuple(logits.shape)} targets are {tuple(logits.shape[:1])} indices or "
            f"{tuple(logits.shape)} probabilities; got {tuple(targets.shape)} of {targets.dtype}"
        )
    if problems:
        raise ConfigError(numbered("problem", problems))
    if not indices:
        return functional.cross_entropy(logits, targets.to(logits.dtype), label_smoothing=label_smoothing)
    return cross_entropy_sum(logits, targets, label_smoothing) / counted(targets).sum().clamp(min=1)


def cross_entropy_sum(
    logits: Tensor, indices: Tensor, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy of logits (B, K) against class indices (B,), summed over the images whose index is not -100.

    class_weights: (K,), times the loss of each class.

    Raises DatasetError for indices that are no class.
    """
    remedy = f"Map these values to classes, or load the model with the num_labels they need; it has {logits.shape[1]}."
    check_classes(indices, logits.shape[1], NOT_COUNTED, "image", remedy)
    return functional.cross_entropy(
        logits,
        indices.long(),
        class_weights,
        reduction="sum",
        ignore_index=NOT_COUNTED,
        label_smoothing=label_smoothing,
    )


def teacher_loss(logits: Tensor, teacher_logits: Tensor, kind: DistillationKind, tau: float = 1.0) -> Tensor:
    """How far logits (B, K) are from a teacher's (B, K).

    "hard": cross-entropy with the teacher's best class as the label. "soft": the Kullback-Leibler divergence of the
    two softmaxes at temperature `tau`, summed, times tau^2 and divided by B * K. Raises ConfigError.
    """
    check_distillation(kind, tau=tau)
    if logits.shape != teacher_logits.shape:
        raise ConfigError(
            f"the teacher's logits are {tuple(teacher_logits.shape)}, the student's {tuple(logits.shape)}; "
            "a teacher has the student's labels."
        )
    if kind == "hard":
        return functional.cross_entropy(logits, teacher_logits.argmax(dim=1))
    ours, theirs = ((values / tau).log_softmax(dim=1) for values in (logits, teacher_logits))
    return functional.kl_div(ours, theirs, reduction="sum", log_target=True) * tau**2 / logits.numel()


def distillation_loss(
    cls_logits: Tensor,
    distillation_logits: Tensor,
    targets: Tensor,
    teacher_logits: Tensor,
    kind: DistillationKind,
    *,
    alpha: float = 0.5,
    tau: float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """(1 - alpha) * loss of the class token against `targets` + alpha * loss of the distillation token against the
    teacher. See `classification_loss` and `teacher_loss`, whose errors are raised, and ConfigError for alpha.

    The teacher is not heard on images whose label is -100, so that both parts are means over the same images.
    """
    check_distillation(kind, alpha=alpha, tau=tau)
    base = classification_loss(cls_logits, targets, label_smoothing)
    if not targets.is_floating_point():
        labeled = counted(targets)
        if not labeled.any():
            return base + distillation_logits.sum() * 0.0
        distillation_logits, teacher_logits = distillation_logits[labeled], teacher_logits[labeled]
    return base * (1 - alpha) + teacher_loss(distillation_logits, teacher_logits, kind, tau) * alpha


def check_distillation(kind: str, *, alpha: float = 0.5, tau: float = 1.0, label_smoothing: float = 0.0) -> None:
    """Raises ConfigError that names every value that cannot work."""
    rules = {
        f"kind is {' or '.join(get_args(DistillationKind))}; got {kind!r}": kind in get_args(DistillationKind),
        f"alpha is the teacher's share, in [0, 1]; got {alpha}": 0.0 <= alpha <= 1.0,
        f"tau is a temperature above 0; got {tau}": tau > 0.0 and torch.isfinite(torch.tensor(tau)).item(),
        f"label_smoothing is a share, in [0, 1]; got {label_smoothing}": 0.0 <= label_smoothing <= 1.0,
    }
    if problems := [problem for problem, holds in rules.items() if not holds]:
        raise ConfigError(numbered("problem", problems))
