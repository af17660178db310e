"""How to train: transformers' TrainingArguments with the defaults and the few further fields of vision models.

    args = VisionTrainingArguments("out", num_train_epochs=5, report_to="tensorboard")
    args = VisionTrainingArguments.for_task("object-detection", "new:detr-digit-scenes", num_train_epochs=80)

Every field of TrainingArguments means what it means there. A key that is none is refused with the nearest one, and so
are keys that mean nothing for images and values that contradict each other: one ConfigError lists all of them.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, TypeVar

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import SaveStrategy, SchedulerType
from transformers.utils.import_utils import is_torch_bf16_gpu_available

from hfvision.errors import ConfigError, UnknownNameError, numbered, one_line
from hfvision.processes import ADVICE, launched_alone
from hfvision.reporting import report_once

SCHEDULERS = tuple(kind.value for kind in SchedulerType)
NEW = "new:"  # before the name of a model: its architecture with new weights
FROM_SCRATCH: dict[str, Any] = {
    **{"num_train_epochs": 24.0, "per_device_train_batch_size": 16, "learning_rate": 2e-3, "weight_decay": 0.05},
    "per_device_eval_batch_size": 50,
}
# A set of objects takes longer to learn than a class, and its gradients are clipped as the original does.
DETECTION: dict[str, Any] = {
    **{"num_train_epochs": 60.0, "per_device_train_batch_size": 8, "learning_rate": 1e-4, "warmup_steps": 0.05},
    **{"weight_decay": 1e-4, "max_grad_norm": 0.1, "load_best_model_at_end": True},
}
DETECTION_FROM_SCRATCH: dict[str, Any] = {
    **{**DETECTION, "num_train_epochs": 150.0, "per_device_train_batch_size": 16, "learning_rate": 1e-3},
    "per_device_eval_batch_size": 50,
}
OF_OBJECTS = ("object-detection", "panoptic-segmentation")  # tasks with the defaults of DETECTION

# Names of other tools and of hfvision 0.4 for what TrainingArguments calls otherwise.
OTHER_NAMES = {
    "epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "gradient_accumulation": "gradient_accumulation_steps",
    "lr": "learning_rate",
    "head_rate_factor": "head_lr_multiplier",
    "trunk_rate_factor": "backbone_lr_multiplier",
    "scheduler": "lr_scheduler_type",
    "warmup": "warmup_steps",
    "warmup_ratio": "warmup_steps (below 1 it is a share of the steps)",
    "drop_path": "drop_path_rate",
    "precision": "bf16 or fp16",
    "save_every": "save_steps",
    "keep_best": "load_best_model_at_end",
    "workers": "dataloader_num_workers",
    "patience": "early_stopping_patience",
    "label_smoothing": "label_smoothing_factor",
    "evaluation_strategy": "eval_strategy",
}
# Fields of TrainingArguments that mean nothing here: the value that says nothing, and why.
MEANINGLESS: dict[str, tuple[Any, str]] = {
    "neftune_noise_alpha": (None, "it is noise on the embeddings of words, and an image has none"),
    "length_column_name": ("length", "images have no length in words"),
    "include_num_input_tokens_seen": ("no", "images have no tokens to count"),
    "use_liger_kernel": (False, "its kernels are those of language models"),
    "liger_kernel_config": (None, "its kernels are those of language models"),
    "use_cache": (False, "it keeps the keys and values of text that is being written"),
}


@dataclass(repr=False)
class VisionTrainingArguments(TrainingArguments):
    """TrainingArguments for images; the defaults fine-tune a pretrained classifier or segmenter.

    Defaults that differ: 32 images per device and step, a cosine schedule with a tenth of warm-up, weight decay 0.01,
    seed 0, an evaluation and a checkpoint after every epoch (or every `save_steps`), of which the last and the best are
    kept, columns of the data that are no input of the model kept, no bars but one on stderr. `for_task` has those of
    detection and of new weights.

    Raises UnknownNameError for a key that is no field, and ConfigError naming every value that cannot work.

    Example:
        >>> from hfvision import VisionTrainingArguments
        >>> args = VisionTrainingArguments("out", save_steps=100, load_best_model_at_end=True, bf16=False)
        >>> args.eval_strategy.value, args.eval_steps, args.warmup_steps
        ('steps', 100, 0.1)
    """

    per_device_train_batch_size: int = 32
    per_device_eval_batch_size: int | None = None  # type: ignore[assignment]  # None: as many as in training
    lr_scheduler_type: SchedulerType | str = "cosine"
    warmup_steps: float = 0.1
    weight_decay: float = 0.01
    seed: int = 0
    logging_steps: float = 10
    logging_nan_inf_filter: bool = False  # a loss that is no number must be seen
    eval_strategy: Any = None  # None: with the checkpoints
    save_strategy: Any = None  # None: "steps" where steps are given, else "epoch"
    save_steps: float | None = None  # type: ignore[assignment]
    save_total_limit: int | None = 1
    remove_unused_columns: bool = False
    drop_path_rate: float = field(default=0.0, metadata={"help": "Stochastic depth of the last block."})
    head_lr_multiplier: float | None = field(
        default=None, metadata={"help": "Times learning_rate, for the head; None: as the task has it, else 1."}
    )
    backbone_lr_multiplier: float | None = field(
        default=None, metadata={"help": "Times learning_rate, for the backbone; None: as the task has it, else 1."}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Evaluations without progress after which training ends; 0: never; None: as the task has it."
        },
    )

    def __new__(cls, *args: Any, **given: Any) -> "VisionTrainingArguments":
        refuse_unknown(given, (one.name for one in fields(cls)))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if launched_alone():
            report_once(ADVICE)
        self._settle()
        if problems := [*self._out_of_range(), *self._without_meaning(), *self._contradictions()]:
            raise ConfigError(numbered("problem", problems))
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.cuda.is_available()
        metric, greater = self.metric_for_best_model, self.greater_is_better
        try:
            super().__post_init__()
        except (ValueError, NotImplementedError, ImportError) as error:
            raise ConfigError(one_line(error)) from error
        if metric is None:  # left open here; the trainer or the task knows it
            self.metric_for_best_model, self.greater_is_better = None, greater

    @classmethod
    def for_task(cls, task: str, model: object = None, **given: Any) -> "VisionTrainingArguments":
        """The defaults for a task and a model (new weights behind "new:") with what is given in their place."""
        return cls(**{**defaults_of(task, model), **given})

    def _settle(self) -> None:
        """When is evaluated and saved, and with how many images at once, where it was left open."""
        if self.per_device_eval_batch_size is None:
            self.per_device_eval_batch_size = self.per_device_train_batch_size
        if self.save_strategy is None:
            follows = self.eval_strategy not in (None, "no")
            in_steps = "steps" if self.save_steps or self.eval_steps else "epoch"
            self.save_strategy = self.eval_strategy if follows else in_steps
        needs_metric = self.load_best_model_at_end or self.early_stopping_patience or self.save_strategy == "best"
        self.evaluates_by_default = self.eval_strategy is None and not needs_metric  # nothing, where there is no data
        if self.eval_strategy is None:
            in_steps = "steps" if self.save_steps or self.eval_steps else "epoch"
            self.eval_strategy = self.save_strategy if self.save_strategy in ("steps", "epoch") else in_steps
        if self.save_strategy == "steps":
            self.save_steps = self.save_steps or self.eval_steps or 500
        if self.eval_strategy == "steps":
            self.eval_steps = self.eval_steps or self.save_steps

    def _out_of_range(self) -> list[str]:
        whole = {
            "per_device_train_batch_size": 1,
            "per_device_eval_batch_size": 1,
            "gradient_accumulation_steps": 1,
            "dataloader_num_workers": 0,
            "save_total_limit": 1,
            "early_stopping_patience": 0,
        }
        rules = {
            **{
                name: (_is_whole(getattr(self, name), least), f"a whole number of at least {least}")
                for name, least in whole.items()
            },
            "num_train_epochs": (self.num_train_epochs > 0, "above 0"),
            "max_steps": (_is_whole(self.max_steps, 1) or self.max_steps == -1, "a whole number of at least 1, or -1"),
            "learning_rate": (self.learning_rate > 0, "above 0"),
            "head_lr_multiplier": (self.head_lr_multiplier is None or self.head_lr_multiplier > 0, "above 0"),
            "backbone_lr_multiplier": (
                self.backbone_lr_multiplier is None or self.backbone_lr_multiplier >= 0,
                "at least 0 (0: the backbone does not learn)",
            ),
            "lr_scheduler_type": (self.lr_scheduler_type in SCHEDULERS, f"one of {', '.join(SCHEDULERS)}"),
            "warmup_steps": (self.warmup_steps >= 0, "a share of the steps below 1, or a number of steps"),
            "weight_decay": (self.weight_decay >= 0, "at least 0"),
            "max_grad_norm": (self.max_grad_norm >= 0, "at least 0 (0: no limit)"),
            "drop_path_rate": (0 <= self.drop_path_rate < 1, "a rate from 0 to below 1"),
            "label_smoothing_factor": (0 <= self.label_smoothing_factor < 1, "a share from 0 to below 1"),
            "seed": (isinstance(self.seed, int) and 0 <= self.seed < 2**32, "a whole number from 0 to below 2^32"),
        }
        if self.per_device_eval_batch_size == self.per_device_train_batch_size:
            del rules["per_device_eval_batch_size"]  # which would say the same
        return [f"{name} is {rule}; got {getattr(self, name)!r}" for name, (holds, rule) in rules.items() if not holds]

    def _without_meaning(self) -> list[str]:
        problems = [
            f"{name} means nothing for images: {why}; got {getattr(self, name)!r}"
            for name, (silent, why) in MEANINGLESS.items()
            if getattr(self, name) not in (silent, False if silent == "no" else silent)
        ]
        if self.train_sampling_strategy == "group_by_length":
            problems.append(
                "train_sampling_strategy 'group_by_length' means nothing for images, which have no length in words; "
                "detection groups images by their shape by itself"
            )
        return problems

    def _contradictions(self) -> list[str]:
        never_evaluated, never_saved = self.eval_strategy == "no", self.save_strategy == "no"
        monitored = {
            "load_best_model_at_end": self.load_best_model_at_end,
            "early_stopping_patience": bool(self.early_stopping_patience),
            "save_strategy 'best'": self.save_strategy == SaveStrategy.BEST,
            f"lr_scheduler_type {str(self.lr_scheduler_type)!r}": self.lr_scheduler_type
            in ("reduce_lr_on_plateau", "greedy"),
        }
        problems = [
            f"{name} needs evaluations during training, and eval_strategy is 'no'"
            for name, is_asked in monitored.items()
            if is_asked and never_evaluated
        ]
        if self.load_best_model_at_end and never_saved:
            problems.append("load_best_model_at_end needs checkpoints, and save_strategy is 'no'")
        for what, when, steps in (
            ("eval", self.eval_strategy, self.eval_steps),
            ("save", self.save_strategy, self.save_steps),
        ):
            if steps and when != "steps":
                said = getattr(when, "value", when)
                rule = f"steps count with {what}_strategy='steps' alone"
                problems.append(f"{what}_steps is {steps:g} and {what}_strategy {said!r}: {rule}")
        if self.fp16 and self.bf16:
            problems.append("fp16 and bf16 are both asked for; choose one")
        if self.fp16 and (self.use_cpu or not torch.accelerator.is_available()):
            problems.append("fp16 needs a GPU and there is none here; use bf16=True, or neither")
        if self.bf16 and not self.use_cpu and torch.accelerator.is_available() and not is_torch_bf16_gpu_available():
            problems.append("bf16 is not supported by the GPU here; use fp16=True, or neither")
        for name in ("hub_model_id", "hub_revision"):
            if getattr(self, name) is not None and not self.push_to_hub:
                problems.append(f"{name} is {getattr(self, name)!r} and push_to_hub is False: nothing would be pushed")
        if self.dataloader_num_workers == 0 and self.dataloader_persistent_workers:
            problems.append("dataloader_persistent_workers needs dataloader_num_workers above 0")
        return problems


Arguments = TypeVar("Arguments", bound=TrainingArguments)


def refuse_unknown(
    given: Mapping[str, Any], known: Iterable[str], of: str = "the fields of VisionTrainingArguments", what: str = "key"
) -> None:
    """Raises UnknownNameError for keys that are none of those known, with the nearest one of each."""
    known = list(known)
    problems = []
    for name in given:
        if name not in known:
            other = OTHER_NAMES.get(name, "")
            near = other if other.split(" ")[0] in known else get_close_matches(name, known, n=1, cutoff=0.0)[0]
            problems.append(f"{name!r} is none of {of}; did you mean {near}?")
    if problems:
        raise UnknownNameError(numbered(f"unknown {what}", problems))


def defaults_of(task: str, model: object) -> dict[str, Any]:
    """What a task has in the place of the defaults, for a name of a model or a model."""
    if task in OF_OBJECTS:
        return DETECTION_FROM_SCRATCH if is_new(model) else DETECTION
    return FROM_SCRATCH if is_new(model) else {}


def changed(args: Arguments, **values: Any) -> Arguments:
    """A copy with other values, which fit those that are there."""
    other = copy.copy(args)
    for name, value in values.items():
        setattr(other, name, value)
    return other


def is_new(model: object) -> bool:
    """Whether the name of a model asks for its architecture with new weights."""
    return isinstance(model, str) and model.startswith(NEW)


def _is_whole(value: object, least: int) -> bool:
    return value is None or (isinstance(value, int) and value >= least)
