"""Boxes that several looks at one image gave for the same object, as in overlapping tiles: one is kept, or all become
one.

"nms", non-maximum suppression: the best box stays and those that overlap it go. "nmm", non-maximum merging: they go
into it, and it becomes the smallest box that holds them all. Both are greedy: boxes come in order of their scores, and
each that is still there takes those after it that overlap it, as it was found, by more than a share.

Shapes: N boxes, xyxy in pixels.
"""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hfvision.errors import ConfigError, numbered
from hfvision.geometry.arrays import descending, to_numpy
from hfvision.geometry.boxes import as_floating, box_ios, box_iou

Rule = Literal["nms", "nmm"]
Match = Literal["iou", "ios"]
Groups = list[NDArray[np.int64]]

OVERLAPS: dict[str, Any] = {"iou": box_iou, "ios": box_ios}
PAIRS_AT_ONCE = 1 << 20


def merge_detections(
    boxes: Any,
    scores: Any,
    labels: Any,
    *,
    iou: float = 0.5,
    rule: Rule = "nms",
    match: Match = "iou",
    class_aware: bool = True,
) -> tuple[Any, Any, Any, Groups]:
    """The boxes (n, 4), scores (n,) and labels (n,) that are left of N, the best first, and the rows that went into
    each: the first is the one it is from, the others follow by score. Equal scores come in the order they are given in.

    Two boxes match where their overlap is above `iou`: the intersection over the union, or, with match="ios", over the
    smaller of the two, which finds pieces of an object that a seam cut. With `class_aware` only boxes of one label
    match. Tensors come back as tensors on their device, numpy arrays as arrays. Raises ConfigError, naming every fault,
    for lengths that differ, values that are not finite and options that do not exist.
    """
    arrays = [to_numpy(one) for one in (boxes, scores, labels)]
    corners = as_floating(arrays[0] if arrays[0].size else np.zeros((0, 4), np.float32))
    _check(corners, arrays[1], arrays[2], iou, rule, match)
    classes = arrays[2] if class_aware else np.zeros(len(corners), np.int64)
    ranks = descending(arrays[1])
    pairs = _matches(corners[ranks], classes[ranks], match, iou)
    groups = [ranks[group] for group in _greedy(len(corners), pairs)]
    kept = np.array([group[0] for group in groups], np.int64)
    merged = corners[kept]
    if rule == "nmm" and groups:
        members, starts = np.concatenate(groups), np.cumsum([0, *map(len, groups[:-1])])
        lowest = np.minimum.reduceat(corners[members, :2], starts)
        merged = np.concatenate([lowest, np.maximum.reduceat(corners[members, 2:], starts)], axis=1)
    results: list[Any] = [merged, arrays[1][kept], arrays[2][kept]]
    for place, given in enumerate((boxes, scores, labels)):
        if isinstance(given, Tensor):
            results[place] = given.new_tensor(results[place])
    return results[0], results[1], results[2], groups


def _check(boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any], iou: float, rule: str, match: str) -> None:
    problems = []
    if boxes.ndim != 2 or scores.shape != (len(boxes),) or labels.shape != (len(boxes),):
        problems.append(
            f"boxes are (N, 4), scores and labels (N,); got {boxes.shape}, {scores.shape} and {labels.shape}"
        )
    elif not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        wrong = np.flatnonzero(~(np.isfinite(boxes).all(axis=1) & np.isfinite(scores)))
        problems.append(f"boxes and scores are finite; those in rows {wrong[:10].tolist()} are not")
    if not 0 <= iou <= 1:
        problems.append(f"iou is a share in 0..1; got {iou}")
    for name, value, known in (("rule", rule, get_args(Rule)), ("match", match, get_args(Match))):
        if value not in known:
            problems.append(f"{name} is one of {', '.join(known)}; got {value!r}")
    if problems:
        raise ConfigError(numbered("problem", problems))


def _matches(boxes: NDArray[Any], labels: NDArray[Any], match: str, share: float) -> NDArray[np.int64]:
    """(pairs, 2): rows of boxes of one label whose overlap is above `share`, the earlier row first.

    Only boxes that share columns of pixels are compared: sorted by their left edges, those of a box are a run.
    """
    found = [np.zeros((0, 2), np.int64)]
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(boxes[rows, 0], kind="stable")]
        after = np.arange(1, len(rows) + 1)
        counts = np.maximum(np.searchsorted(boxes[rows, 0], boxes[rows, 2], side="left") - after, 0)
        for first, last in _portions(counts):
            part = counts[first:last]
            firsts = np.repeat(np.arange(first, last), part)
            seconds = np.arange(len(firsts)) - np.repeat(np.cumsum(part) - part, part) + firsts + 1
            pairs = np.stack([rows[firsts], rows[seconds]], axis=1)
            found.append(pairs[OVERLAPS[match](boxes[pairs[:, 0]], boxes[pairs[:, 1]]) > share])
    return np.sort(np.concatenate(found), axis=1)


def _portions(counts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ranges of boxes that have about PAIRS_AT_ONCE pairs together."""
    portion = np.cumsum(counts) // PAIRS_AT_ONCE
    edges = np.flatnonzero(np.diff(portion, prepend=-1)).tolist()
    return list(zip(edges, [*edges[1:], len(counts)], strict=True))


def _greedy(count: int, pairs: NDArray[np.int64]) -> Groups:
    """The rows that each row takes, itself first; rows are in the order in which they may choose."""
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    edges = np.searchsorted(pairs[:, 0], np.arange(count + 1)).tolist()
    later, free, groups = pairs[:, 1], np.ones(count, bool), []
    for row in range(count):
        if free[row]:
            taken = later[edges[row] : edges[row + 1]]
            taken = taken[free[taken]]
            free[taken] = False
            groups.append(np.append(row, taken))
    return groups
