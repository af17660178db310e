"""What all metrics share: the protocol of `evaluate`'s modules, and for most of them counters that add up.

The state of a `CountingMetric` is a fixed set of integer arrays (`counts`), so batches, processes and machines add up
exactly, and memory does not grow with the samples.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np

from hfvision.errors import ConfigError
from hfvision.geometry.arrays import to_numpy


class Metric(ABC):
    """`update` batches, then `compute`.

    It speaks the protocol of `evaluate`'s modules (`add_batch`, `compute(predictions=, references=)`), so it can stand
    in `evaluate.combine([...])`; unlike those it downloads nothing. It cannot be told from them by `isinstance`: their
    base class creates a cache folder on disk.
    """

    name: ClassVar[str]

    @abstractmethod
    def reset(self) -> None:
        """Forget what was counted."""

    @abstractmethod
    def update(self, predictions: Any, references: Any) -> None:
        """Count a batch."""

    @abstractmethod
    def result(self) -> dict[str, Any]:
        """The figures of everything counted. Raises ConfigError when nothing was."""

    def _feature_names(self) -> list[str]:  # `evaluate.combine` asks its modules for this
        return ["predictions", "references"]

    def add_batch(self, *, predictions: Any, references: Any) -> None:
        """`update` under the name that `evaluate` gives it."""
        self.update(predictions, references)

    def add(self, *, predictions: Any, references: Any) -> None:
        """One sample; the names are those that `evaluate` passes."""
        self.update(to_numpy(predictions)[None], to_numpy(references)[None])

    def compute(self, *, predictions: Any = None, references: Any = None) -> dict[str, Any]:
        """`result`, after counting what is passed; then forget, as `evaluate`'s modules do."""
        if predictions is not None and references is not None:
            self.update(predictions, references)
        elif predictions is not None or references is not None:
            raise ConfigError("compute takes predictions and references together, or neither after add_batch.")
        result = self.result()
        self.reset()
        return result


class CountingMetric(Metric):
    """A metric that keeps counters, not predictions; `merge` adds what other processes counted."""

    counted: ClassVar[tuple[str, ...]]  # attributes that hold the integer arrays
    decided_by: ClassVar[tuple[str, ...]]  # attributes that must agree for counts to add up

    @property
    def counts(self) -> dict[str, np.ndarray]:
        """Everything that was counted: integer arrays that add up over processes."""
        return {name: getattr(self, name) for name in self.counted}

    def merge(self, *others: "Self | dict[str, np.ndarray]") -> None:
        """Add what others counted, metrics or their `counts`. Raises ConfigError where they count something else."""
        for other in others:
            is_metric = isinstance(other, CountingMetric)
            counts = other.counts if isinstance(other, CountingMetric) else other
            settings = [getattr(self, name) for name in self.decided_by]
            shapes = {name: array.shape for name, array in self.counts.items()}
            if (is_metric and [getattr(other, name, None) for name in self.decided_by] != settings) or shapes != {
                name: array.shape for name, array in counts.items()
            }:
                named = ", ".join(f"{name} {value}" for name, value in zip(self.decided_by, settings, strict=True))
                raise ConfigError(f"only metrics of the same settings can be merged; this one has {named}.")
            for name, array in counts.items():
                setattr(self, name, getattr(self, name) + array)
