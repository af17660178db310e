"""Objects in an image that is large beside them: tile by tile, each tile seen as an image of its own.

An object that a seam cuts is found in pieces. A piece ends at an inner border of its tile, and gives way to a box that
holds it and that no seam cuts: of a neighbour that repeats this part of the image, or of a pass over the whole image.
Pieces of objects that nothing shows in full are merged with each other. The whole image is seen less well than tiles:
what it shows of objects that fit into a tile gives way to what tiles show of them.

Shapes: n boxes, xyxy in pixels of the image. Images are (C, H, W).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from hfvision.errors import ConfigError, numbered
from hfvision.geometry.arrays import descending
from hfvision.geometry.merging import merge_detections
from hfvision.pipelines.raster_sources import Source, naming_window
from hfvision.pipelines.windows import Side, Tiling, make_tiling
from hfvision.reporting import report_once
from hfvision.upsampling import Size

MERGES = ("nms", "nmm")
SEAM = 0.01  # of a tile's side: a box that comes as near to an inner border may go on behind it
WHOLE_PIXELS = 1 << 24  # of an array that the model sees as a whole; larger ones are reduced first
PAIRS = 1 << 22  # of boxes that are compared at once

Array = npt.NDArray[Any]


class Found(NamedTuple):
    """Objects, whatever they are found in."""

    boxes: Array  # (n, 4) float64
    scores: Array  # (n,)
    labels: Array  # (n,) int64

    def take(self, rows: Any) -> "Found":
        return Found(*(field[rows] for field in self))

    @classmethod
    def joined(cls, parts: "Sequence[Found]") -> "Found":
        return cls(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))


@dataclass(frozen=True)
class Detector:
    """How objects are found in images."""

    prepare: Callable[[Any], Any]  # an image, array or picture, as the model takes it
    detect: Callable[[Sequence[Any], Sequence[Size]], Sequence[Found]]  # prepared, and the sizes that boxes are in
    reduces: bool  # whether the model sees images smaller than they are, so that a large one may be reduced before


@dataclass(frozen=True)
class Tiles:
    """The options of a call."""

    tiling: Tiling
    whole: bool  # whether the model sees the whole image, too
    merge: str  # one of MERGES
    merge_iou: float


def make_tiles(
    tile: Any = None,
    overlap: float | None = None,
    stride: Any = None,
    whole: bool | None = None,
    merge: str | None = None,
    merge_iou: float | None = None,
) -> Tiles:
    """None is the default: a whole pass, "nms" at 0.5; the first three as `make_tiling`, and what it raises, too.

    Raises ConfigError listing all faults.
    """
    problems = []
    if whole not in (None, False, True):
        problems.append(f"whole is True or False; got {whole!r}")
    if merge not in (None, *MERGES):
        problems.append(f"merge is {' or '.join(map(repr, MERGES))}; got {merge!r}")
    if merge_iou is not None and not (isinstance(merge_iou, int | float) and 0 < merge_iou <= 1):
        problems.append(f"merge_iou is above 0 and at most 1; got {merge_iou!r}")
    if problems:
        raise ConfigError(numbered("fault", problems))
    tiling = make_tiling(tile=tile, overlap=overlap, stride=stride)
    return Tiles(tiling, whole is not False, merge or "nms", 0.5 if merge_iou is None else float(merge_iou))


def detect_in_tiles(
    detector: Detector,
    image: Source,
    tiles: Tiles,
    batch_size: int,
    on_tiles: Callable[[int], Any] | None = None,
) -> Found:
    """The objects of an image, of which only tiles are read, and strips for the whole pass.

    `on_tiles` is told how many tiles have run. Errors of a tile say where it is.
    """
    down, across = tiles.tiling.sides(image.size)
    size, starts = (down.window, across.window), list(product(down.starts, across.starts))
    parts, cut = [], []
    for first in range(0, len(starts), batch_size):
        places = starts[first : first + batch_size]
        windows = []
        for top, left in places:
            with naming_window(top, left, *size):
                windows.append(detector.prepare(image.read(top, left, *size)))
        for (top, left), found in zip(places, detector.detect(windows, [size] * len(places)), strict=True):
            boxes = found.boxes + np.array([left, top, left, top])
            parts.append(found._replace(boxes=boxes))
            cut.append(_cut(boxes[:, 1::2], down, top) | _cut(boxes[:, ::2], across, left))
        image.release()
        if on_tiles is not None:
            on_tiles(len(places))
    if len(parts) == 1:
        return parts[0]  # the tile is the whole image
    near, of_seams = Found.joined(parts), np.concatenate(cut)
    full, far = near.take(~of_seams), near.take(slice(0, 0))
    if tiles.whole:
        seen, size = whole_image(image, detector.reduces)
        far = detector.detect([detector.prepare(seen)], [size])[0]
        fits = _fits(far.boxes[:, 1::2], down) & _fits(far.boxes[:, ::2], across)
        far = far.take(~(fits & _met(far, full, tiles.merge_iou, "either")))
    return merged(full, near.take(of_seams), far, tiles.merge, tiles.merge_iou)


def tile_count(tiles: Tiles, size: Size) -> int:
    down, across = tiles.tiling.sides(size)
    return len(down.starts) * len(across.starts)


def _cut(ends: Array, side: Side, start: int) -> Array:
    """(n, 2) where boxes begin and end along a side -> (n,): whether they come up to a border inside the image."""
    near, stop = SEAM * side.window, start + side.window
    at_start = (ends[:, 0] <= start + near) & (start > 0)
    return at_start | ((ends[:, 1] >= stop - near) & (stop < side.size))


def _fits(ends: Array, side: Side) -> Array:
    """(n, 2) where boxes begin and end along a side -> (n,): whether a tile holds all of that."""
    starts = np.array(side.starts)
    return np.any((ends[:, :1] >= starts) & (ends[:, 1:] <= starts + side.window), axis=1)


def whole_image(image: Source, reduces: bool) -> tuple[Any, Size]:
    """What the model sees of the whole image, and the size in pixels of the image that this stands for.

    A large array is reduced by a whole number, each pixel the mean of those it stands for, so that it never is in
    memory as floating-point numbers.
    """
    height, width = image.size
    factor = 1
    while -(-height // factor) * -(-width // factor) > WHOLE_PIXELS:
        factor += 1
    if factor == 1 or not reduces or isinstance(image.read(0, 0, 1, 1), Image.Image):  # pictures stay 8 bits wide
        return image.read(0, 0, height, width), image.size
    report_once(
        f"For the pass over the whole image, arrays of more than {WHOLE_PIXELS:,} pixels are reduced to the means of "
        "blocks before the processor resizes them."
    )
    strips = np.concatenate(list(_reduced(image, factor)), axis=1)
    return strips, (strips.shape[1] * factor, strips.shape[2] * factor)


def _reduced(image: Source, factor: int) -> Iterator[Array]:
    """Lines (C, 1, ceil(W / factor)) of the reduced image; a block at the border is the mean of what there is of it."""
    height, width = image.size
    starts = np.arange(0, width, factor)
    columns = np.minimum(starts + factor, width) - starts
    for top in range(0, height, factor):
        rows = min(factor, height - top)
        strip = np.asarray(image.read(top, 0, rows, width))
        sums = np.add.reduceat(strip.sum(axis=1, dtype=np.float64), starts, axis=1)
        means = sums / (rows * columns)
        if strip.dtype.kind in "iu":
            means = means.round()
        yield means.astype(strip.dtype)[:, None]
        image.release()


def merged(full: Found, pieces: Found, far: Found, rule: Any, share: float) -> Found:
    """One box for each object of several views of an image, most certain first. Only boxes of one class are merged.

    full and pieces: of tiles, not cut by seams and cut. far: of the whole image, which is seen less well than tiles.
    """
    both = Found.joined([full, far])
    best_first = np.concatenate([full.scores + 1, far.scores])
    full = _joined(both, best_first, iou=share, rule=rule)
    pieces = pieces.take(~_met(pieces, full, share, "own"))
    while True:  # what "nmm" makes of some pieces may hold others
        before, pieces = len(pieces.scores), _joined(pieces, _areas(pieces.boxes), iou=share, rule=rule, match="ios")
        if len(pieces.scores) == before:
            break
    both = Found.joined([full, pieces])
    return both.take(descending(both.scores))


def _joined(found: Found, ranks: Array, **options: Any) -> Found:
    """The boxes that come first by their ranks, with those that they match: as sure as the surest of them."""
    boxes, _, labels, groups = merge_detections(found.boxes, ranks, found.labels, **options)
    return Found(boxes, np.array([found.scores[group].max() for group in groups]), labels)


def _met(found: Found, others: Found, share: float, of: str) -> Array:
    """(n,): whether a box and one of the others, of its class, have more than this share of the box's "own" area in
    common, or of "either" one's.
    """
    answer = np.zeros(len(found.scores), bool)
    areas = _areas(others.boxes)
    at_once = max(1, PAIRS // max(1, len(areas)))
    for first in range(0, len(answer), at_once):
        boxes = found.boxes[first : first + at_once, None]
        low = np.maximum(boxes[..., :2], others.boxes[:, :2])
        high = np.minimum(boxes[..., 2:], others.boxes[:, 2:])
        smaller = _areas(boxes) if of == "own" else np.minimum(_areas(boxes), areas)
        enough = np.clip(high - low, 0, None).prod(axis=-1) > share * smaller
        same = found.labels[first : first + at_once, None] == others.labels
        answer[first : first + at_once] = (enough & same).any(axis=1)
    return answer


def _areas(boxes: Array) -> Array:
    return (boxes[..., 2:] - boxes[..., :2]).prod(axis=-1)
