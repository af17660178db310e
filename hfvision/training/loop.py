"""Samples whose augmentation depends on seed, epoch and row alone, and callbacks that tell epochs and end training."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerState

from hfvision.errors import DatasetError

Collate = Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]


class Samples(torch.utils.data.Dataset[dict[str, Any]], ABC):
    """One split for a data loader: decoded when asked for, and augmented by epoch where there is an augmentation."""

    def __init__(self, part: Any, augment: Callable[..., Any] | None = None, seed: int = 0) -> None:
        self.part = part
        self.augment = augment
        self.seed = seed
        self.epochs_before = 0  # of a finished run that is being lengthened
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # with workers that stay over the epochs

    @property
    def epoch(self) -> int:
        """Epochs that have passed; the augmentation depends on it."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch of training it is, counted from 0."""
        self._epoch.fill_(self.epochs_before + epoch)

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


class EpochOfSamples(TrainerCallback):
    """Tells a data set which epoch it is, after a resumption, too."""

    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.samples.set_epoch(int(state.epoch or 0))


class WorkersThatStay(TrainerCallback):
    """Draws the random number that a data loader draws when it starts an epoch, where its workers stay over the epochs
    and it does not: so a resumed run, whose workers are new, draws as many as one that was not interrupted.
    """

    def on_epoch_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        if getattr(train_dataloader, "_iterator", None) is not None:
            torch.empty((), dtype=torch.int64).random_()


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
    """Ends training after `patience` evaluations in a row that are no better than the best before."""

    def __init__(self, figure: str, patience: int, greater_is_better: bool = True) -> None:
        self.figure = figure.removeprefix("eval_")
        self.patience = patience
        self.sign = 1 if greater_is_better else -1

    def is_over(self, figures: Sequence[float]) -> bool:
        better = [self.sign * figure for figure in figures]
        return len(better) > self.patience and max(better[-self.patience :]) <= max(better[: -self.patience])
