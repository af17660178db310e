"""Panoptic quality: how well segments are found, and how well they are met.

Paper:  Kirillov et al. 2019, "Panoptic Segmentation", arXiv 1801.00868.
Source: the rules for crowds and pixels without a segment are those of cocodataset/panopticapi.

Definitions. A predicted and a true segment of the same class match if their IoU is above 0.5; pixels where the truth
has no segment count in no union. Then PQ = (sum of the IoUs of matches) / (matches + half of the others, predicted and
true) = SQ * RQ: the mean IoU of matches, and the share found. Crowds are never matched nor missed; a predicted segment
that is unmatched is no error where more than half of it has no true segment or lies in crowds of its class. Figures of
several classes are means over the classes that have a match or an error.

Shapes: B images, K classes, H x W pixels.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hfvision.errors import ConfigError, numbered
from hfvision.geometry.arrays import to_numpy
from hfvision.metrics.counting import CountingMetric

VOID = (0, -1)  # ids of pixels without a segment, unless a segment has them
FIGURES = ("PQ", "SQ", "RQ")
# An IoU above 0.5 is a whole number of 2^-53, so a sum of IoUs can be counted, too: exactly, whatever the order. Two
# counters hold it, one in units of 2^-26 and one of 2^-53.
FINE_BITS, LOW_BITS = 53, 27
FAULTS_NAMED = 10


class Segments(NamedTuple):
    """One segmentation; place 0 of each list stands for pixels without a segment."""

    places: NDArray[np.int64]  # (H, W): the segment of each pixel
    classes: NDArray[np.int64]  # (segments + 1,)
    crowd: NDArray[np.bool_]  # (segments + 1,)


class PanopticMetric(CountingMetric):
    """Counts of segments; see `CountingMetric` for how batches and processes add up.

    Example:
        >>> import numpy as np, hfvision
        >>> segments = [{"id": 1, "label_id": 0}, {"id": 2, "label_id": 1}]
        >>> answer = {"segmentation": np.array([[1, 1], [2, 2]]), "segments_info": segments}
        >>> metric = hfvision.PanopticMetric(num_labels=2)
        >>> metric.update([answer], [answer])
        >>> metric.compute()["PQ"]
        1.0
    """

    name = "hfvision_panoptic"
    counted = ("matched", "overlap", "unmatched_predicted", "unmatched_true", "images")
    decided_by = ("num_labels", "things")

    def __init__(self, num_labels: int, things: Iterable[int] | None = None) -> None:
        """`things` are the classes of countable objects; the others are stuff. None: figures over all classes only.

        Raises ConfigError for classes that do not exist.
        """
        self.num_labels = num_labels
        self.things = None if things is None else tuple(sorted(set(things)))
        problems = [f"num_labels is at least 1; got {num_labels}"] if num_labels < 1 else []
        if wrong := [label for label in self.things or () if not 0 <= label < num_labels]:
            problems.append(f"things are classes 0..{num_labels - 1}; got {wrong[:10]}")
        if problems:
            raise ConfigError(numbered("problem", problems))
        self.reset()

    def reset(self) -> None:
        """Forget what was counted."""
        self.images = np.zeros((), np.int64)
        self.matched, self.unmatched_predicted, self.unmatched_true = np.zeros((3, self.num_labels), np.int64)
        self.overlap = np.zeros((2, self.num_labels), np.int64)  # of matches: sum of IoUs, coarse and fine part

    def update(self, predictions: Iterable[Mapping[str, Any]], references: Iterable[Mapping[str, Any]]) -> None:
        """Count a batch: a dict {"segmentation" (H, W), "segments_info"} for each image, as `post_process_panoptic_
        segmentation` returns them. The map holds segment ids (0 and -1 where there is no segment), the list a dict
        {"id", "category_id" or "label_id"} for each segment, true ones also "iscrowd".

        Raises ConfigError, naming the faults by image, for maps of different sizes, ids without an entry or without
        pixels, ids twice, and classes outside 0..K-1; then nothing of the batch is counted.
        """
        predictions, references = list(predictions), list(references)
        problems = []
        if len(predictions) != len(references):
            problems.append(f"{len(predictions)} predictions for {len(references)} references")
        pairs = []
        for image, (prediction, reference) in enumerate(zip(predictions, references, strict=False)):
            faults: list[str] = []
            answer = self._read(prediction, "the prediction", faults)
            truth = self._read(reference, "the reference", faults)
            if not faults and answer.places.shape != truth.places.shape:
                faults.append(f"the prediction is {answer.places.shape}, the reference {truth.places.shape} (H, W)")
            problems += [f"image {image}: {fault}" for fault in faults]
            pairs.append((answer, truth))
        if problems:
            raise ConfigError(numbered("problem", problems, most=FAULTS_NAMED))
        for answer, truth in pairs:
            self._count(answer, truth)
            self.images += 1

    def add(self, *, predictions: Any, references: Any) -> None:
        """One image; the names are those that `evaluate` passes."""
        self.update([predictions], [references])

    def _read(self, given: Mapping[str, Any], what: str, faults: list[str]) -> Segments:
        nothing = Segments(np.zeros((0, 0), np.int64), np.zeros(1, np.int64), np.zeros(1, bool))
        if missing := [key for key in ("segmentation", "segments_info") if key not in given]:
            faults.append(f"{what} lacks {', '.join(missing)}; it has {', '.join(map(str, given)) or 'nothing'}")
            return nothing
        ids = to_numpy(given["segmentation"])
        if np.issubdtype(ids.dtype, np.floating) and (ids == np.floor(ids)).all():
            ids = ids.astype(np.int64)  # transformers' post-processing gives float maps where nothing was found
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
            faults.append(f"a segmentation is whole numbers (H, W); got {ids.dtype} {ids.shape} in {what}")
            return nothing
        segments = list(given["segments_info"])
        if any("id" not in segment or not {"label_id", "category_id"} & set(segment) for segment in segments):
            faults.append(f"{what} has segments without an id, or without a category_id or label_id")
            return nothing
        listed = np.array([segment["id"] for segment in segments], np.int64)
        classes = np.array([segment.get("label_id", segment.get("category_id")) for segment in segments], np.int64)
        crowd = np.array([bool(segment.get("iscrowd", 0)) for segment in segments], bool)
        present = np.unique(ids)
        known = np.isin(present, listed)
        outside = (classes < 0) | (classes >= self.num_labels)
        rules = {
            "has ids twice in segments_info": [one for one in set(listed.tolist()) if (listed == one).sum() > 1],
            "has ids in the map that segments_info lacks": present[~known & ~np.isin(present, VOID)].tolist(),
            "has ids in segments_info without a pixel": listed[~np.isin(listed, present)].tolist(),
            f"has classes outside 0..{self.num_labels - 1}": classes[outside].tolist(),
        }
        faults += [f"{what} {rule}: {some[:10]}" for rule, some in rules.items() if some]
        position = {one: place for place, one in enumerate(listed.tolist(), start=1)}
        places = np.array([position.get(one, 0) for one in present.tolist()], np.int64)
        return Segments(places[np.searchsorted(present, ids)], np.append(-1, classes), np.append(False, crowd))

    def _count(self, answer: Segments, truth: Segments) -> None:
        classes, true_classes, crowd = answer.classes, truth.classes, truth.crowd
        rows, columns = len(true_classes), len(classes)
        pairs = (truth.places * columns + answer.places).ravel()
        shared = np.bincount(pairs, minlength=rows * columns).reshape(rows, columns)  # pixels of both
        true_areas, areas = shared.sum(axis=1), shared.sum(axis=0)
        union = true_areas[:, None] + areas - shared - shared[0]  # where the truth has no segment nothing counts
        of_one_class = true_classes[:, None] == classes
        of_one_class[0], of_one_class[:, 0] = False, False
        # Segments do not overlap, so an IoU above 0.5 is the only one of both.
        match = of_one_class & ~crowd[:, None] & (2 * shared > union)
        row, column = match.nonzero()
        iou = shared[row, column] / union[row, column]
        whole = (iou * 2.0**FINE_BITS).astype(np.int64)
        for part, amount in enumerate((whole >> LOW_BITS, whole & ((1 << LOW_BITS) - 1))):
            np.add.at(self.overlap[part], classes[column], amount)
        self.matched += self._per_class(classes[column])
        missed = ~match.any(axis=1) & ~crowd
        missed[0] = False
        self.unmatched_true += self._per_class(true_classes[missed])
        excused = shared[0] + (shared * (of_one_class & crowd[:, None])).sum(axis=0)
        wrong = ~match.any(axis=0) & (2 * excused <= areas)
        wrong[0] = False
        self.unmatched_predicted += self._per_class(classes[wrong])

    def _per_class(self, classes: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(classes, minlength=self.num_labels)

    def result(self) -> dict[str, Any]:
        """`PQ`, `SQ` and `RQ` over all classes, `PQ_things`, `PQ_stuff` and so on where things are known, and
        `per_category_PQ` and so on (K,): shares in 0..1, NaN where a class has neither match nor error; `absent` lists
        those classes. Also the numbers of true `segments` without crowds and of `images`.

        Raises ConfigError when no image was counted.
        """
        if not self.images:
            raise ConfigError("no image was counted; call update(predictions, references) first.")
        figures = self._figures()
        groups: dict[str, Sequence[int]] = {"": range(self.num_labels)}
        if self.things is not None:
            groups["_things"] = self.things
            groups["_stuff"] = [label for label in range(self.num_labels) if label not in self.things]
        return {
            **{
                name + group: _mean(values[list(labels)])
                for group, labels in groups.items()
                for name, values in figures.items()
            },
            **{f"per_category_{name}": values for name, values in figures.items()},
            "absent": np.flatnonzero(np.isnan(figures["PQ"])).tolist(),
            "segments": int(self.matched.sum() + self.unmatched_true.sum()),
            "images": int(self.images),
        }

    def _figures(self) -> dict[str, NDArray[np.float64]]:
        sums = [(int(coarse) << LOW_BITS) + int(fine) for coarse, fine in self.overlap.T]
        overlap = np.array([total / (1 << FINE_BITS) for total in sums])
        halves = 2 * self.matched + self.unmatched_predicted + self.unmatched_true
        present = halves > 0
        nan = np.full(self.num_labels, math.nan)
        quality = np.where(self.matched > 0, overlap / np.maximum(self.matched, 1), 0.0)
        return {
            "PQ": np.divide(2 * overlap, halves, out=nan.copy(), where=present),
            "SQ": np.where(present, quality, math.nan),
            "RQ": np.divide(2 * self.matched, halves, out=nan.copy(), where=present),
        }


def _mean(values: NDArray[np.float64]) -> float:
    """Over the classes that have the figure; NaN if none has it."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan
