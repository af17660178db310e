"""Accuracy of a classifier, counted batch by batch: top-k, per class, and the confusion matrix.

Definitions. A sample is right at k if fewer than k classes stand before its own when classes are ordered by falling
score, the lower index first where scores are equal; so top-1 is the argmax. The accuracy of a class is the share of its
own samples that are right at 1 (its recall); a class without samples has none, is left out of the mean, and is listed.

Shapes: B samples of a batch, K classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hfvision.errors import ConfigError, numbered
from hfvision.geometry.arrays import to_numpy
from hfvision.metrics.counting import CountingMetric


class ClassificationMetric(CountingMetric):
    """Counts of right answers; see `CountingMetric` for how batches and processes add up.

    Example:
        >>> import torch, hfvision
        >>> metric = hfvision.ClassificationMetric(num_labels=3, top_k=(1, 2))
        >>> metric.update(torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]), torch.tensor([0, 1]))
        >>> metric.compute()
        {'accuracy': 0.5, 'top_2_accuracy': 1.0, 'mean_class_accuracy': 0.5, 'samples': 2}
    """

    name = "hfvision_classification"
    counted = ("right_at", "right", "samples", "predicted", "confusion")
    decided_by = ("num_labels", "top_k", "keeps_confusion")

    def __init__(self, num_labels: int, top_k: Sequence[int] = (1, 5), confusion: bool = False) -> None:
        """`top_k` values that K classes make meaningless (k >= K) are left out. `confusion` keeps K x K counts."""
        if num_labels < 2:
            raise ConfigError(f"accuracy needs at least 2 classes, got num_labels={num_labels}.")
        if not top_k or min(top_k) < 1:
            raise ConfigError(f"top_k lists numbers of at least 1, got {list(top_k)}.")
        self.num_labels = num_labels
        self.top_k = tuple(sorted({k for k in top_k if k < num_labels} | {1}))
        self.keeps_confusion = confusion
        self.reset()

    def reset(self) -> None:
        """Forget what was counted."""
        self.right_at = np.zeros(len(self.top_k), np.int64)  # samples right at each k
        self.right = np.zeros(self.num_labels, np.int64)  # per true class: right at 1
        self.samples = np.zeros(self.num_labels, np.int64)  # per true class
        self.predicted = np.zeros(self.num_labels, np.int64)  # per class: how often it was the answer
        rows = self.num_labels if self.keeps_confusion else 0
        self.confusion = np.zeros((rows, rows), np.int64)  # row: true class, column: answer

    def update(self, predictions: ArrayLike, references: ArrayLike) -> None:
        """Count a batch: scores (B, K), or classes (B,) if only top-1 is kept; true classes (B,).

        Raises ConfigError, naming every fault, for shapes that do not fit, classes outside 0..K-1 and scores that are
        no numbers; then nothing of the batch is counted.
        """
        scores, truth = to_numpy(predictions), to_numpy(references)
        self._check(scores, truth)
        truth = truth.astype(np.int64)
        rows = np.arange(len(truth))
        if scores.ndim == 1:
            answers = scores.astype(np.int64)
            rank = (answers != truth).astype(np.int64)
        else:
            own = scores[rows, truth][:, None]
            before = (scores > own) | ((scores == own) & (np.arange(self.num_labels) < truth[:, None]))
            rank = before.sum(axis=1)  # (B,): how many classes stand before the true one
            answers = scores.argmax(axis=1)
        self.right_at += np.array([(rank < k).sum() for k in self.top_k])
        self.right += np.bincount(truth[rank == 0], minlength=self.num_labels)
        self.samples += np.bincount(truth, minlength=self.num_labels)
        self.predicted += np.bincount(answers, minlength=self.num_labels)
        if self.keeps_confusion:
            np.add.at(self.confusion, (truth, answers), 1)

    def _check(self, scores: np.ndarray, truth: np.ndarray) -> None:
        size = self.num_labels
        problems = []
        if truth.ndim != 1 or not np.issubdtype(truth.dtype, np.integer):
            problems.append(f"references are whole numbers of shape (B,), got {truth.dtype} {truth.shape}")
        elif len(truth) and not (truth.min() >= 0 and truth.max() < size):
            wrong = sorted(set(truth[(truth < 0) | (truth >= size)].tolist()))
            problems.append(f"references are classes 0..{size - 1}, got {wrong[:10]}")
        if scores.ndim == 1 and np.issubdtype(scores.dtype, np.integer):
            if self.top_k != (1,):
                problems.append(f"top-{self.top_k[-1]} needs scores (B, {size}), got classes; or pass top_k=(1,)")
            if len(scores) and not (scores.min() >= 0 and scores.max() < size):
                problems.append(f"predictions are classes 0..{size - 1}, got {scores.min()}..{scores.max()}")
        elif scores.ndim != 2 or scores.shape[1] != size:
            problems.append(f"predictions are scores (B, {size}) or classes (B,), got {scores.dtype} {scores.shape}")
        elif np.isnan(scores).any():
            problems.append(f"{np.isnan(scores).any(axis=1).sum()} of {len(scores)} samples have NaN scores")
        if truth.ndim and scores.ndim and len(truth) != len(scores):
            problems.append(f"{len(scores)} predictions for {len(truth)} references")
        if problems:
            raise ConfigError(numbered("problem", problems))

    def result(self) -> dict[str, Any]:
        """Shares in 0..1 (`accuracy`, `top_5_accuracy`, ..., `mean_class_accuracy`) and the number of samples.

        Raises ConfigError when nothing was counted.
        """
        total = int(self.samples.sum())
        if total == 0:
            raise ConfigError("no sample was counted; call update(predictions, references) first.")
        shares = {
            "accuracy" if k == 1 else f"top_{k}_accuracy": int(right) / total
            for k, right in zip(self.top_k, self.right_at, strict=True)
        }
        present = [accuracy for accuracy in self.per_class() if accuracy is not None]
        return {**shares, "mean_class_accuracy": sum(present) / len(present), "samples": total}

    def per_class(self) -> list[float | None]:
        """The accuracy of each class; None where it has no samples."""
        return [
            int(right) / int(samples) if samples else None
            for right, samples in zip(self.right, self.samples, strict=True)
        ]

    def absent(self) -> list[int]:
        """The classes without samples."""
        return np.flatnonzero(self.samples == 0).tolist()
