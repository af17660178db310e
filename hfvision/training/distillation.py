"""Training a DeiT against a teacher, with transformers' Trainer or with `train_classification`.

    distillation = Distillation(teacher, kind="soft", tau=3.0)
    Trainer(model=student, compute_loss_func=distillation.loss_for(student), ...)
    train_classification(student, "photos/", "out", distillation=distillation)

Paper: Touvron et al. 2020, "Training data-efficient image transformers & distillation through attention",
       arXiv 2012.12877, section 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hfvision.errors import ConfigError
from hfvision.losses.classification import (
    DistillationKind,
    check_distillation,
    classification_loss,
    distillation_loss,
)
from hfvision.losses.counts import share_of_step
from hfvision.training.head import class_names

SHOWN = 5  # names of labels in an error


@dataclass(frozen=True)
class Distillation:
    """A teacher and how to listen to it; raises ConfigError, naming every value that cannot work.

    The teacher is any image classifier with the student's labels in the same order. It sees the student's
    `pixel_values`, in evaluation mode and without gradients, so it has to want the same preparation of images.

    Example:
        >>> import hfvision
        >>> teacher = hfvision.create("deit-tiny-patch16-224", num_labels=3)
        >>> hfvision.Distillation(teacher, kind="soft", tau=3.0).alpha
        0.5
    """

    teacher: PreTrainedModel
    kind: DistillationKind = "hard"
    alpha: float = 0.5  # the teacher's share of the loss
    tau: float = 1.0  # temperature of the soft loss
    label_smoothing: float = 0.0  # of the loss against the labels

    def __post_init__(self) -> None:
        check_distillation(self.kind, alpha=self.alpha, tau=self.tau, label_smoothing=self.label_smoothing)

    def describe(self) -> dict[str, Any]:
        """The settings as JSON values, the teacher by its class."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"teacher": type(self.teacher).__name__}

    def loss_for(self, student: PreTrainedModel) -> "TeacherLoss":
        """The loss of this student, for Trainer's `compute_loss_func`.

        Raises ConfigError for a student without a distillation head and for a teacher with other labels.
        """
        if not hasattr(student, "distillation_classifier"):
            raise ConfigError(
                f"a teacher trains the distillation head, which {type(student).__name__} does not have; use "
                "DeiTForImageClassificationWithTeacher."
            )
        check_same_labels(class_names(student), class_names(self.teacher))
        return TeacherLoss(self, student)


class TeacherLoss:
    """Trainer's `compute_loss_func`: the distillation loss in training, cross-entropy of the answer in evaluation.

    Trainer hands over outputs and labels but not the images that the teacher needs: a hook on the student keeps those
    of the batch at hand.
    """

    def __init__(self, distillation: Distillation, student: PreTrainedModel) -> None:
        self.distillation = distillation
        self.teacher = distillation.teacher.eval()
        self.student = student
        self.pixel_values: Tensor | None = None
        self.hook = student.register_forward_pre_hook(self._keep_images, with_kwargs=True)

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """labels: (B,) or (B, K), see `classification_loss`. num_items_in_batch: of all batches of one step."""
        options = self.distillation
        if not self.student.training or self.pixel_values is None:
            loss = classification_loss(outputs["logits"].float(), labels)
        else:
            loss = distillation_loss(
                outputs["cls_logits"].float(),
                outputs["distillation_logits"].float(),
                labels,
                self._answers(self.pixel_values).float(),
                options.kind,
                alpha=options.alpha,
                tau=options.tau,
                label_smoothing=options.label_smoothing,
            )
        self.pixel_values = None
        if num_items_in_batch is None:
            return loss
        return loss * share_of_step(labels, num_items_in_batch)  # a mean over the step, not over the batch

    @torch.no_grad()
    def _answers(self, pixel_values: Tensor) -> Tensor:
        if self.teacher.device != pixel_values.device:
            self.teacher.to(pixel_values.device)
        logits: Tensor = self.teacher(pixel_values.to(self.teacher.dtype)).logits
        return logits

    def _keep_images(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if self.student.training:
            self.pixel_values = kwargs["pixel_values"] if "pixel_values" in kwargs else args[0]

    def remove(self) -> None:
        """Take the hook off the student."""
        self.hook.remove()


def check_same_labels(student: list[str], teacher: list[str]) -> None:
    """Raises ConfigError unless both have the same names in the same order: a class is only known by its index."""
    if student == teacher:
        return
    if sorted(student) == sorted(teacher):
        index = next(i for i, (ours, theirs) in enumerate(zip(student, teacher, strict=True)) if ours != theirs)
        fault = f"has the student's {len(student)} labels in another order: {index} is {teacher[index]!r} to it and "
        fault += f"{student[index]!r} to the student. Reorder the rows of its head"
    else:
        extra = [name for name in teacher if name not in student]
        lacking = [name for name in student if name not in teacher]
        fault = f"has {len(teacher)} labels and the student {len(student)}; only the teacher has {_some(extra)}; only "
        fault += f"the student has {_some(lacking)}. Use a teacher of the same classes"
    raise ConfigError(f"the teacher {fault}, or set id2label if only the names are wrong.")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN]) or "none"
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
