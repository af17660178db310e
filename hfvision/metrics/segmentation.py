"""Figures of label maps, counted pixel by pixel: IoU, accuracy, dice, and how well outlines are met.

Papers: Csurka et al. 2013, "What is a good evaluation measure for semantic segmentation?", BMVC (boundary F-score).
        Perazzi et al. 2016, "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR
        (tolerance as a share of the diagonal, rounded up).

Definitions. Pixels whose true class is ignored count nowhere; all others add to a confusion matrix over the whole data
set. For class c with t true and p predicted pixels, r of them both: IoU = r / (t + p - r), dice = 2 r / (t + p),
accuracy = r / t. A class that is neither true nor predicted anywhere has no figures, is left out of the means, and is
listed as absent; one that is only predicted has an IoU and a dice of 0, but no accuracy.

Outlines. A pixel is on the boundary of its class if one of its four neighbours has another class (the margin of the
image and ignored pixels are no neighbours). It is met if the other map has a boundary pixel of the same class within
the tolerance. Precision is the share of predicted boundary pixels that are met, recall that of the true ones, and the
score their harmonic mean: of a class over the whole data set, where Csurka et al. average over images.

One class (num_labels=1) is told from the rest: maps of 0 and 1, logits above 0 are 1. The figures are those of the
class; only the overall accuracy counts the rest, too.

Shapes: B images, K classes, H x W pixels.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hfvision.errors import ConfigError, numbered
from hfvision.metrics.counting import CountingMetric

Figure = Literal["iou", "accuracy", "dice", "boundary_f"]
Maps: TypeAlias = "Tensor | NDArray[Any] | Sequence[Any]"


class SegmentationMetric(CountingMetric):
    """Counts of pixels; see `CountingMetric` for how batches and processes add up.

    The keys of a result are those of `evaluate`'s mean_iou where they mean the same.

    Example:
        >>> import numpy as np, hfvision
        >>> metric = hfvision.SegmentationMetric(num_labels=2)
        >>> metric.update(np.array([[0, 0], [1, 1]]), np.array([[0, 0], [1, 255]]))
        >>> metric.compute()["mean_iou"]
        1.0
    """

    name = "hfvision_segmentation"
    counted = ("confusion", "boundary", "images")
    decided_by = ("num_labels", "ignore_index", "boundary_tolerance")

    def __init__(
        self, num_labels: int, ignore_index: int | None = 255, boundary_tolerance: float | None = None
    ) -> None:
        """`ignore_index` marks true pixels that count nowhere, and is no class: what is 0 in a data set whose pixels of
        no class are 0 has to be mapped first. `boundary_tolerance` adds the boundary F-score: in pixels from 1, below 1
        as a share of the image's diagonal, rounded up to pixels (0.0075 is usual).

        Raises ConfigError naming every value that cannot work.
        """
        self.num_labels = num_labels
        self.ignore_index = ignore_index
        self.boundary_tolerance = boundary_tolerance
        self.values = max(num_labels, 2)  # that a pixel can have
        problems = []
        if num_labels < 1:
            problems.append(f"num_labels is at least 1; got {num_labels}")
        elif ignore_index is not None and 0 <= ignore_index < self.values:
            problems.append(
                f"ignore_index {ignore_index} is one of the classes 0..{self.values - 1}, whose pixels would be "
                "missed nowhere; map pixels without a class to another value, such as 255"
            )
        if boundary_tolerance is not None and not 0 < boundary_tolerance < math.inf:
            problems.append(f"boundary_tolerance is above 0, pixels or a share; got {boundary_tolerance}")
        if problems:
            raise ConfigError(numbered("problem", problems))
        self.reset()

    def reset(self) -> None:
        """Forget what was counted."""
        self.images = np.zeros((), np.int64)
        self.confusion = np.zeros((self.values, self.values), np.int64)  # row: true class, column: answer
        # boundary pixels of each class: predicted and met, predicted, true and met, true
        self.boundary = np.zeros((4 if self.boundary_tolerance else 0, self.values), np.int64)

    def update(self, predictions: Maps, references: Maps) -> None:
        """Count label maps (B, H, W), or one (H, W), or a list of them in different sizes; on any device.

        Predictions are classes, or logits (B, K, H, W) of the maps' size. Raises ConfigError, naming every fault, for
        shapes that do not fit, classes outside 0..K-1 and logits that are no numbers; then nothing is counted.
        """
        answers, truths = _batches(predictions), _batches(references)
        problems = []
        if len(answers) != len(truths):
            problems.append(f"{len(answers)} predictions for {len(truths)} references")
        for place, (answer, truth) in enumerate(zip(answers, truths, strict=False)):
            where = f" (map {place})" if len(truths) > 1 else ""
            problems += [problem + where for problem in self._faults(answer, truth)]
        if problems:
            raise ConfigError(numbered("problem", problems))
        for answer, truth in zip(answers, truths, strict=True):
            self._count(self._classes(answer), truth.to(answer.device).long())

    def _faults(self, answer: Tensor, truth: Tensor) -> list[str]:
        if truth.is_floating_point() or truth.ndim != 3:
            return [f"references are whole numbers (B, H, W); got {truth.dtype} {tuple(truth.shape)}"]
        if answer.is_floating_point():
            wanted: tuple[int, ...] = (truth.shape[0], self.num_labels, *truth.shape[1:])
        else:
            wanted = tuple(truth.shape)
        if tuple(answer.shape) != wanted:
            kind = "logits" if answer.is_floating_point() else "classes"
            return [f"{kind} of {tuple(answer.shape)} for references {tuple(truth.shape)}, which need {wanted}"]
        if answer.is_floating_point() and (lost := int(answer.isnan().sum())):
            return [f"{lost:,} of {answer.numel():,} logits are no numbers"]
        truth = truth.to(answer.device).long()
        valid = self._valid(truth)
        problems = []
        or_ignored = "" if self.ignore_index is None else f" or {self.ignore_index} (ignored)"
        for name, classes, more in (("references", truth, or_ignored), ("predictions", answer, "")):
            if not classes.is_floating_point():
                classes = classes.to(truth.device).long()
                wrong = classes[valid & ((classes < 0) | (classes >= self.values))]
                if wrong.numel():
                    found = wrong.unique()[:10].tolist()
                    problems.append(
                        f"{name} are classes 0..{self.values - 1}{more}; got {found} in {wrong.numel():,} pixels"
                    )
        return problems

    def _classes(self, answer: Tensor) -> Tensor:
        """(B, H, W) of a checked prediction."""
        if not answer.is_floating_point():
            return answer.long()
        return (answer[:, 0] > 0).long() if self.num_labels == 1 else answer.argmax(dim=1)

    def _valid(self, truth: Tensor) -> Tensor:
        return torch.ones_like(truth, dtype=torch.bool) if self.ignore_index is None else truth != self.ignore_index

    def _count(self, answer: Tensor, truth: Tensor) -> None:
        valid = self._valid(truth)
        pairs = torch.bincount(truth[valid] * self.values + answer[valid], minlength=self.values**2)
        self.confusion += pairs.reshape(self.values, self.values).cpu().numpy()
        self.images += len(truth)
        if self.boundary_tolerance is None:
            return
        radius = self.boundary_tolerance
        if radius < 1:
            radius = math.ceil(radius * math.hypot(*truth.shape[1:]))
        for one, true, counts in zip(answer, truth, valid, strict=True):
            drawn, real = _outlines(one, counts), _outlines(true, counts)
            rows = (*_met(drawn, real, radius, self.values), *_met(real, drawn, radius, self.values))
            self.boundary += torch.stack(rows).cpu().numpy()

    def result(self) -> dict[str, Any]:
        """Means (floats), `per_category_...` (arrays of K, NaN where a class has no such figure), `absent` classes,
        `pixels` (not ignored) and `images`. All shares are in 0..1.

        Raises ConfigError when no pixel was counted.
        """
        total = int(self.confusion.sum())
        if total == 0:
            raise ConfigError(
                "no pixel was counted; call update(predictions, references) first, with references that are not all "
                f"ignored ({self.ignore_index})."
            )
        figures = self._figures()
        true = self._own(self.confusion.sum(axis=1))
        present = true > 0  # an IoU exists then
        weighted = float((true[present] * figures["iou"][present]).sum() / true.sum()) if present.any() else math.nan
        return {
            **{f"mean_{name}": _mean(values) for name, values in figures.items()},
            "overall_accuracy": int(np.diagonal(self.confusion).sum()) / total,
            "frequency_weighted_iou": weighted,
            **{f"per_category_{name}": values for name, values in figures.items()},
            "absent": self.absent(),
            "pixels": total,
            "images": int(self.images),
        }

    def per_class(self, figure: Figure = "iou") -> list[float | None]:
        """A figure of each class; None where it has none. Raises ConfigError for a figure that is not counted."""
        figures = self._figures()
        if figure not in figures:
            hint = " It needs a boundary_tolerance." if figure in get_args(Figure) else ""
            raise ConfigError(f"the figures counted here are {', '.join(figures)}; got {figure!r}.{hint}")
        return [None if math.isnan(value) else float(value) for value in figures[figure]]

    def absent(self) -> list[int]:
        """The classes that are neither true nor predicted; counted from 0, also with one class."""
        return np.flatnonzero(self._own(self.confusion.sum(axis=0) + self.confusion.sum(axis=1)) == 0).tolist()

    def _figures(self) -> dict[str, NDArray[np.float64]]:
        right, true, answered = np.diagonal(self.confusion), self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        figures = {
            "iou": _share(right, true + answered - right),
            "accuracy": _share(right, true),
            "dice": _share(2 * right, true + answered),
        }
        if self.boundary_tolerance is not None:
            drawn_met, drawn, real_met, real = self.boundary
            precision, recall = _share(drawn_met, drawn), _share(real_met, real)
            # A class whose outline only one map has is missed there; one that neither has has no score.
            product, both = np.nan_to_num(2 * precision * recall), np.nan_to_num(precision) + np.nan_to_num(recall)
            score = np.divide(product, both, out=np.zeros_like(both), where=both > 0)
            figures["boundary_f"] = np.where(drawn + real > 0, score, math.nan)
        return {name: self._own(values) for name, values in figures.items()}

    def _own(self, values: NDArray[Any]) -> NDArray[Any]:
        """Those of the K classes: with one class, without the rest."""
        return values[1:] if self.num_labels == 1 else values


def _batches(given: Maps) -> list[Tensor]:
    """Batches, each of one image size: classes (B, H, W) or logits (B, K, H, W)."""
    if not hasattr(given, "dtype"):
        return [batch for one in given for batch in _batches(one if hasattr(one, "dtype") else np.asarray(one))]
    if isinstance(given, np.ndarray):
        if given.dtype == object:
            return _batches(list(given))
        native = given.dtype.newbyteorder("=")
        given = torch.from_numpy(np.require(given, native, ["C", "W"]))  # torch takes no other arrays
    tensor = torch.as_tensor(given)
    return [tensor[None] if tensor.ndim == 2 + tensor.is_floating_point() else tensor]


def _outlines(classes: Tensor, counts: Tensor) -> Tensor:
    """(H, W) -> (H, W): the class of pixels on a boundary, -1 elsewhere; only pixels that count have neighbours."""
    edge = torch.zeros_like(counts)
    for before, after in (
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
    ):
        differ = (classes[before] != classes[after]) & counts[before] & counts[after]
        edge[before] |= differ
        edge[after] |= differ
    return torch.where(edge, classes, -1)


def _met(own: Tensor, other: Tensor, radius: float, classes: int) -> tuple[Tensor, Tensor]:
    """Of each class (K,): the boundary pixels that have one of the same class within the radius, and all of them."""
    reach = int(radius)
    surrounded = nn.functional.pad(other, (reach, reach, reach, reach), value=-1)
    row_length = surrounded.shape[1]
    rows, columns = (own >= 0).nonzero(as_tuple=True)
    wanted = own[rows, columns]
    places = (rows + reach) * row_length + columns + reach
    surrounded = surrounded.flatten()
    found = torch.zeros_like(wanted, dtype=torch.bool)
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            if math.hypot(down, right) <= radius:
                found |= surrounded[places + (down * row_length + right)] == wanted
    return torch.bincount(wanted[found], minlength=classes), torch.bincount(wanted, minlength=classes)


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """part / whole, NaN where there is no whole."""
    return np.divide(part, whole, out=np.full(len(whole), math.nan), where=whole > 0)


def _mean(values: NDArray[np.float64]) -> float:
    """Over the classes that have the figure; NaN if none has it."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
