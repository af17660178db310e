"""How to train: the settings that users give, checked together, and the transformers.TrainingArguments they become."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType
from transformers.utils.import_utils import is_torch_bf16_gpu_available

from hfvision.errors import ConfigError, numbered
from hfvision.processes import ADVICE, launched_alone
from hfvision.reporting import report_once

PRECISIONS = ("fp32", "bf16", "fp16")
SCHEDULERS = tuple(kind.value for kind in SchedulerType)
LOGGING_STEPS = 10
NEW = "new:"  # before the name of a model: its architecture with new weights
FROM_SCRATCH = {"epochs": 24.0, "batch_size": 16, "learning_rate": 2e-3, "weight_decay": 0.05, "eval_batch_size": 50}
# A set of objects takes longer to learn than a class, and its gradients are clipped as the original does.
DETECTION = {
    **{"epochs": 60.0, "batch_size": 8, "learning_rate": 1e-4, "warmup": 0.05, "weight_decay": 1e-4},
    **{"max_grad_norm": 0.1, "keep_best": True},
}
DETECTION_FROM_SCRATCH = {**DETECTION, "epochs": 150.0, "batch_size": 16, "learning_rate": 1e-3, "eval_batch_size": 50}


@dataclass(frozen=True)
class TrainingSettings:
    """Everything about a run that is a number; the defaults fine-tune a pretrained model, those of FROM_SCRATCH train
    new weights. Raises ConfigError, naming every value that cannot work.
    """

    epochs: float = 3.0
    max_steps: int | None = None  # optimizer steps; goes before epochs
    batch_size: int = 32  # images per device and step
    gradient_accumulation: int = 1  # batches per optimizer step
    learning_rate: float = 5e-5  # the highest, of AdamW
    head_rate_factor: float | None = None  # times learning_rate, for the head; None: as the task has it
    scheduler: str = "cosine"  # a name that transformers knows
    warmup: float = 0.1  # share of the steps (below 1), or their number
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    drop_path: float = 0.0  # stochastic depth of the last block
    seed: int = 0
    precision: str = "fp32"  # or mixed: "bf16", "fp16" (GPU only)
    activation_checkpointing: bool = False  # less memory, about a third more time
    save_every: int | None = None  # steps between checkpoints, each evaluated; None: after every epoch
    keep_best: bool = False  # end with the checkpoint of the best held-out figure rather than the last
    eval_batch_size: int | None = None  # None: batch_size
    workers: int = 0  # processes that read images

    def __post_init__(self) -> None:
        counts = ("max_steps", "batch_size", "gradient_accumulation", "save_every", "eval_batch_size")
        rules = {
            **{name: (_at_least_one(getattr(self, name)), "a whole number of at least 1") for name in counts},
            "epochs": (self.epochs > 0, "above 0"),
            "learning_rate": (self.learning_rate > 0, "above 0"),
            "head_rate_factor": (self.head_rate_factor is None or self.head_rate_factor > 0, "above 0"),
            "scheduler": (self.scheduler in SCHEDULERS, f"one of {', '.join(SCHEDULERS)}"),
            "warmup": (self.warmup >= 0, "a share of the steps below 1, or a number of steps"),
            "weight_decay": (self.weight_decay >= 0, "at least 0"),
            "max_grad_norm": (self.max_grad_norm >= 0, "at least 0 (0: no limit)"),
            "drop_path": (0 <= self.drop_path < 1, "a rate from 0 to below 1"),
            "seed": (isinstance(self.seed, int) and 0 <= self.seed < 2**32, "a whole number from 0 to below 2^32"),
            "precision": (self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
            "workers": (isinstance(self.workers, int) and self.workers >= 0, "a whole number of at least 0"),
        }
        problems = [
            f"{name} is {rule}; got {getattr(self, name)!r}" for name, (holds, rule) in rules.items() if not holds
        ]
        if self.precision == "fp16" and not torch.accelerator.is_available():
            problems.append("precision fp16 needs a GPU and there is none here; use bf16 or fp32")
        if self.precision == "bf16" and torch.accelerator.is_available() and not is_torch_bf16_gpu_available():
            problems.append("precision bf16 is not supported by the GPU here; use fp16 or fp32")
        if problems:
            raise ConfigError(numbered("problem", problems))

    @classmethod
    def for_model(cls, model: object, **given: Any) -> "TrainingSettings":
        """The defaults for a model, those for new weights behind "new:", with what is given in their place."""
        return cls(**{**(FROM_SCRATCH if is_new(model) else {}), **given})

    @classmethod
    def for_detector(cls, model: object, **given: Any) -> "TrainingSettings":
        """The same for detection and panoptic segmentation: the defaults of DETECTION and DETECTION_FROM_SCRATCH."""
        return cls(**{**(DETECTION_FROM_SCRATCH if is_new(model) else DETECTION), **given})

    def changed(self) -> dict[str, Any]:
        """The settings that differ from the defaults."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    def of_the_weights(self) -> dict[str, Any]:
        """The settings that decide which weights come out; what else there is may change when a run is resumed."""
        return {name: value for name, value in asdict(self).items() if name not in ("eval_batch_size", "workers")}

    def arguments(self, output_dir: Path, figure: str) -> TrainingArguments:
        """The same for transformers' Trainer: nothing on stdout, no column dropped, no prediction accumulated.

        figure: the metric that the best checkpoint is chosen by.
        """
        if launched_alone():
            report_once(ADVICE)
        when = "epoch" if self.save_every is None else "steps"
        return TrainingArguments(
            output_dir=str(output_dir),
            num_train_epochs=self.epochs,
            max_steps=self.max_steps or -1,
            per_device_train_batch_size=self.batch_size,
            per_device_eval_batch_size=self.eval_batch_size or self.batch_size,
            gradient_accumulation_steps=self.gradient_accumulation,
            learning_rate=self.learning_rate,
            lr_scheduler_type=self.scheduler,
            warmup_steps=self.warmup,
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
            seed=self.seed,
            use_cpu=not torch.accelerator.is_available(),
            bf16=self.precision == "bf16",
            fp16=self.precision == "fp16",
            activation_checkpointing=self.activation_checkpointing,
            # Evaluated and saved together, so that a resumed run has missed no evaluation.
            eval_strategy=when,
            save_strategy=when,
            eval_steps=self.save_every,
            save_steps=self.save_every or 500,
            save_total_limit=None,  # RunFolder removes old checkpoints, without trusting file times
            load_best_model_at_end=self.keep_best,
            metric_for_best_model=figure if self.keep_best else None,
            greater_is_better=True if self.keep_best else None,
            batch_eval_metrics=True,
            label_names=["labels"],
            logging_steps=LOGGING_STEPS,
            logging_nan_inf_filter=False,  # a loss that is no number must be seen
            report_to="none",
            disable_tqdm=True,  # transformers' bar writes to stdout; see progress.py
            remove_unused_columns=False,
            dataloader_num_workers=self.workers,
            dataloader_pin_memory=torch.cuda.is_available(),
        )


def is_new(model: object) -> bool:
    """Whether the name of a model asks for its architecture with new weights."""
    return isinstance(model, str) and model.startswith(NEW)


def _at_least_one(value: object) -> bool:
    return value is None or (isinstance(value, int) and value >= 1)
