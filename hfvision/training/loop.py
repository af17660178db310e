"""What transformers' Trainer lacks for a run that can be resumed bit for bit, whatever the task.

Trainer restores weights, optimizer, schedule, random numbers and the place in the epoch. Here: samples whose
augmentation depends on seed, epoch and row only, evaluations that draw no random numbers of training's, old
checkpoints removed without trusting file times, and a run that was killed between its last step and its end.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer_callback import PrinterCallback

from hfvision.errors import ConfigError, DatasetError
from hfvision.training.accumulation import StepMeans
from hfvision.training.progress import no_bars
from hfvision.training.run_folder import LAST_FILE, RunFolder

Collate = Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]


class QuietTrainer(StepMeans, Trainer):
    """Trainer that prints nothing and whose evaluations leave the random numbers of training alone.

    The head (what is not the trunk) learns `head_rate_factor` times as fast as the rest.
    """

    def __init__(self, *args: Any, head_rate_factor: float = 1.0, **kwargs: Any) -> None:
        self.head_rate_factor = head_rate_factor
        super().__init__(*args, **kwargs)
        self.remove_callback(PrinterCallback)  # it prints to stdout
        config: Any = getattr(self.model, "config", None)
        vars(config).pop("use_cache", None)  # set by Trainer, and no field of an image model

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        is_new = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **kwargs)
        factors = self.rate_factors() if is_new else {}
        for group in list(optimizer.param_groups) if factors else []:
            parameters = group["params"]
            group["params"] = [parameter for parameter in parameters if id(parameter) not in factors]
            for factor in sorted(set(factors.values())):
                some = [parameter for parameter in parameters if factors.get(id(parameter)) == factor]
                optimizer.add_param_group({**group, "params": some, "lr": group["lr"] * factor})
        return optimizer

    def rate_factors(self) -> dict[int, float]:
        """By the id of a parameter: times the learning rate, for those that do not learn at the rate of the rest."""
        if self.head_rate_factor == 1.0:
            return {}
        return {id(parameter): self.head_rate_factor for parameter in head_parameters(self.model)}

    def train_on(self, checkpoint: Path | None, is_shorter: bool = False) -> None:
        """Train from the beginning or from a checkpoint, that of a shorter run perhaps, to the last step."""
        if checkpoint is None or is_shorter or not self._was_trained(checkpoint):
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def _was_trained(self, checkpoint: Path) -> bool:
        """Whether the checkpoint is that of the last step; then its weights are loaded, or the best one's if wanted.

        A run can be killed between its last step and its end, and Trainer would then train one step too many.
        """
        state = TrainerState.load_from_json(str(checkpoint / LAST_FILE))
        ends = [callback for callback in self.callback_handler.callbacks if isinstance(callback, EarlyEnd)]
        if state.global_step < state.max_steps and not any(end.is_reached(state) for end in ends):
            return False
        best = state.best_model_checkpoint if self.args.load_best_model_at_end else None
        self.take_weights(checkpoint.parent / Path(best).name if best else checkpoint)
        self.state = state
        return True

    def take_weights(self, folder: Path) -> None:
        """Those of a saved model of the same class."""
        model: Any = self.model
        model.load_state_dict(type(model).from_pretrained(folder, dtype=torch.float32).state_dict())

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        share_buffers(self.model)
        with torch.random.fork_rng(devices=[]):  # starting a data loader draws a number
            return super().evaluate(*args, **kwargs)

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        with no_bars():
            super().save_model(*args, **kwargs)


def share_buffers(model: Any) -> None:
    """Give every process the buffers of the first, which are saved: batch norms have seen other images in each."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


class Samples(torch.utils.data.Dataset[dict[str, Any]], ABC):
    """One split for a data loader: decoded when asked for, and augmented by epoch where there is an augmentation."""

    def __init__(self, part: Any, augment: Callable[..., Any] | None = None, seed: int = 0) -> None:
        self.part = part
        self.augment = augment
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {**self.sample(row, np.random.default_rng((self.seed, self.epoch, row))), "row": row}

    @abstractmethod
    def sample(self, row: int, generator: np.random.Generator) -> dict[str, Any]:
        """ "image" and what belongs to it."""


def process(processor: Any, samples: Sequence[Mapping[str, Any]], **options: Any) -> Any:
    """The image processor's answer for the samples' images. Raises DatasetError that names their rows."""
    try:
        return processor(images=[sample["image"] for sample in samples], return_tensors="pt", **options)
    except ValueError as error:  # what processors raise, hfvision's own errors included
        rows = ", ".join(str(sample["row"]) for sample in samples)
        raise DatasetError(f"the image processor cannot take the images of rows {rows}: {error}") from error


def head_parameters(model: Any) -> list[torch.nn.Parameter]:
    """The parameters outside the trunk. Raises ConfigError for a model that has no trunk."""
    trunk = f"{model.base_model_prefix}."
    head = [parameter for name, parameter in model.named_parameters() if not name.startswith(trunk)]
    if len(head) == len(list(model.parameters())):
        raise ConfigError(f"{type(model).__name__} has no trunk apart from its head; leave head_rate_factor at 1.")
    return head


class EpochOfSamples(TrainerCallback):
    """Tells the samples which epoch it is, after a resumption, too; `before` epochs of a lengthened run have passed."""

    def __init__(self, samples: Samples, before: int = 0) -> None:
        self.samples = samples
        self.before = before

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.samples.epoch = self.before + int(state.epoch or 0)


class EarlyEnd(TrainerCallback, ABC):
    """Ends training at an evaluation. What decides is in the history of the state, so a resumed run ends there, too."""

    figure: str

    @abstractmethod
    def is_over(self, figures: Sequence[float]) -> bool:
        """Whether training ends after evaluations with these figures."""

    def is_reached(self, state: TrainerState) -> bool:
        name = f"eval_{self.figure}"
        return self.is_over([entry[name] for entry in state.log_history if name in entry])

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.is_reached(state):
            control.should_training_stop = True


class NoProgress(EarlyEnd):
    """After `patience` evaluations in a row that are no better than the best before."""

    def __init__(self, figure: str, patience: int) -> None:
        self.figure = figure
        self.patience = patience

    def is_over(self, figures: Sequence[float]) -> bool:
        return len(figures) > self.patience and max(figures[-self.patience :]) <= max(figures[: -self.patience])


class OldCheckpoints(TrainerCallback):
    """Removes what a new checkpoint replaces."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.folder.keep_last(state.best_model_checkpoint)
