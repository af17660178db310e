"""Which classes are taken for which: a matrix of counts, and for boxes the pairing that it counts.

A row is a true class, a column an answer. Objects and segments have one more row and column: an answer where there is
nothing stands in the last row, what was not found in the last column.

Pairs of boxes. Answers below a score are left out. Those of a true object's own class are paired first, as COCO pairs
them: in the order of their scores, each with the object of the largest IoU, at least `iou`, that is not taken yet. What
is left is then paired alike, whatever its class: those are the confusions. An answer that has no object counts in the
last row unless a crowd of its class covers half of it; crowds are never found nor missed.

Shapes: n answers or objects of an image, K classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfvision.errors import ConfigError, numbered
from hfvision.geometry import box_area, box_iou, convert_boxes
from hfvision.geometry.arrays import descending
from hfvision.metrics.counting import CountingMetric
from hfvision.metrics.detection_records import RecordReader

NOTHING = "(background)"  # the last row and column, where there is nothing
COVERED = 0.5  # share of an answer's box inside a crowd from which on it is no error


@dataclass(frozen=True)
class ConfusionMatrix:
    """Counts of truth and answer."""

    names: tuple[str, ...]  # of rows and columns alike
    counts: NDArray[np.int64]  # row: truth, column: answer
    unit: str  # "images", "pixels", "objects"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "rows": "truth",
            "columns": "answer",
            "unit": self.unit,
            "classes": list(self.names),
            "counts": self.counts.tolist(),
        }


class BoxConfusion(CountingMetric):
    """Counts of paired boxes; see `CountingMetric` for how batches and processes add up."""

    name = "hfvision_box_confusion"
    counted = ("confusion", "images")
    decided_by = ("num_labels", "threshold", "iou")

    def __init__(self, num_labels: int, threshold: float = 0.5, iou: float = 0.5) -> None:
        """`threshold` is the least score of an answer. Raises ConfigError for values that cannot work."""
        problems = [f"num_labels is at least 1; got {num_labels}"] if num_labels < 1 else []
        shares = {"threshold": threshold, "iou": iou}
        problems += [
            f"{name} is a share from 0 to 1; got {value}" for name, value in shares.items() if not 0 <= value <= 1
        ]
        if problems:
            raise ConfigError(numbered("problem", problems))
        self.num_labels, self.threshold, self.iou = num_labels, threshold, iou
        self.reader = RecordReader(num_labels, ("boxes",), "xyxy")
        self.reset()

    def reset(self) -> None:
        """Forget what was counted."""
        self.images = np.zeros((), np.int64)
        self.confusion = np.zeros(
            (self.num_labels + 1, self.num_labels + 1), np.int64
        )  # row: true class, column: answer

    def update(self, predictions: Iterable[Mapping[str, Any]], references: Iterable[Mapping[str, Any]]) -> None:
        """Count a batch: for each image a dict of "scores", "labels" and "boxes" (xyxy), and one of "labels", "boxes"
        and "iscrowd", as `DetectionMetric` takes them. Raises ConfigError as that does.
        """
        for prediction, reference in zip(predictions, references, strict=True):
            record = self.reader.read(prediction, reference)
            kept = record.scores >= self.threshold
            order = descending(record.scores[kept])
            assert record.detected.boxes is not None and record.true.boxes is not None
            self._count(
                record.detected.labels[kept][order],
                convert_boxes(record.detected.boxes[kept][order], "xywh", "xyxy"),
                record.true.labels,
                convert_boxes(record.true.boxes, "xywh", "xyxy"),
                record.crowd,
            )
            self.images += 1

    def _count(
        self,
        answers: NDArray[np.int64],
        boxes: NDArray[np.float64],
        truths: NDArray[np.int64],
        true_boxes: NDArray[np.float64],
        crowd: NDArray[np.bool_],
    ) -> None:
        overlap = np.asarray(box_iou(boxes[:, None], true_boxes)).reshape(len(answers), len(truths))
        overlap = np.where(crowd, -1.0, overlap)
        same = answers[:, None] == truths
        pairs = paired(np.where(same, overlap, -1.0), self.iou)
        overlap[list(pairs)] = -1.0
        overlap[:, list(pairs.values())] = -1.0
        pairs |= paired(overlap, self.iou)
        nothing = self.num_labels
        for answer, truth in pairs.items():
            self.confusion[truths[truth], answers[answer]] += 1
        found = list(pairs.values())
        missed = np.setdiff1d(np.flatnonzero(~crowd), found)
        np.add.at(self.confusion, (truths[missed], np.full(len(missed), nothing)), 1)
        alone = np.setdiff1d(np.arange(len(answers)), list(pairs))
        alone = alone[~self._in_crowds(boxes[alone], true_boxes[crowd], answers[alone], truths[crowd])]
        np.add.at(self.confusion, (np.full(len(alone), nothing), answers[alone]), 1)

    def _in_crowds(
        self,
        boxes: NDArray[np.float64],
        crowds: NDArray[np.float64],
        answers: NDArray[np.int64],
        classes: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """(n,): whether a crowd of an answer's class covers enough of it."""
        low = np.maximum(boxes[:, None, :2], crowds[None, :, :2])
        high = np.minimum(boxes[:, None, 2:], crowds[None, :, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=-1)
        areas = np.asarray(box_area(boxes))[:, None]
        covered = (shared >= COVERED * areas) & (areas > 0) & (answers[:, None] == classes)
        return np.asarray(covered.any(axis=1))

    def result(self) -> dict[str, Any]:
        """`confusion` (K + 1, K + 1) and the number of `images`. Raises ConfigError when no image was counted."""
        if not self.images:
            raise ConfigError("no image was counted; call update(predictions, references) first.")
        return {"confusion": self.confusion.copy(), "images": int(self.images)}


def paired(overlap: NDArray[np.float64], least: float) -> dict[int, int]:
    """Row -> column: each row in turn takes the free column that it overlaps most, if by `least`."""
    pairs: dict[int, int] = {}
    free = np.ones(overlap.shape[1], bool)
    for row, shares in enumerate(overlap):
        if not free.any():
            break
        column = int(np.where(free, shares, -1.0).argmax())
        if shares[column] >= least and free[column]:
            pairs[row] = column
            free[column] = False
    return pairs


def pixel_confusion(truth: NDArray[Any], answer: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """(classes, classes) counts of two maps of one shape; negative truths count nowhere."""
    counts = truth >= 0
    pairs = truth[counts].astype(np.int64) * classes + answer[counts]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def with_nothing(names: Sequence[str]) -> tuple[str, ...]:
    """The names of rows and columns where one more stands for nothing."""
    return (*names, NOTHING)
