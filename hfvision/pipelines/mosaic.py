"""The logits and classes of an image of any size, from windows that run when they are needed.

Of the coarse logits only one row of windows is kept, and what the rows above still add to it; pixels are made in blocks
of a few rows, so that nothing of (classes, height, width) ever exists.

Shapes: an image (C, H, W); K classes, h x w places on a window's coarse grid; blocks are (rows, columns, K).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hfvision.models.semantic import SemanticModel
from hfvision.pipelines.windows import Tiling, bilinear
from hfvision.upsampling import Size

Reader = Callable[[int, int, int, int], Tensor]  # top, left, height, width -> pixel values (C, height, width)

WINDOWS = 4  # that run together
STRIP = 64  # rows of pixels at a time
BLOCK = 1 << 21  # numbers of a block, about
WIDEST, NARROWEST = 512, 128  # columns of a block


@dataclass
class _Row:
    """The coarse logits (n, h, w, K) of one row of windows, from line `first` of their grids on."""

    logits: Tensor
    first: int = 0


class Mosaic:
    """The logits of one image at the pixels of a map of `target` size, in strips from top to bottom.

    `read` gives the pixel values of a window; `mirrored` says that the image is, so that the map is turned back.
    `on_windows` is told how many windows have run.
    """

    def __init__(
        self,
        model: SemanticModel,
        read: Reader,
        size: Size,
        tiling: Tiling,
        *,
        target: Size | None = None,
        mirrored: bool = False,
        batch_size: int = WINDOWS,
        on_windows: Callable[[int], Any] | None = None,
    ) -> None:
        self.model = model
        self.read = read
        self.size = size
        self.target = target or size
        self.mirrored = mirrored
        self.blend = tiling.blend
        self.down, self.across = tiling.sides(size)
        self.batch_size = batch_size
        self.on_windows = on_windows
        self._rows: dict[int, _Row] = {}
        self._done = 0  # rows of windows
        self._places = 0  # h
        self._vertical: Any = None  # (H, n * h) and (W, n * w): known when the first windows have run
        self._horizontal: Any = None
        self._columns: dict[tuple[int, int], list[tuple[int, slice, Tensor]]] = {}

    @property
    def windows(self) -> int:
        return len(self.down.starts) * len(self.across.starts)

    @property
    def classes(self) -> int:
        """K, as the first row of windows shows it."""
        if not self._done:
            self._run_row(0)
        return self._rows[self._done - 1].logits.shape[-1]

    def block(self, top: int, bottom: int, left: int, right: int) -> Tensor:
        """The logits (rows, columns, K) of a block of the map, in float32. `top` must not go back."""
        if not self._done:
            self._run_row(top)
        weights = self._vertical[top:bottom]
        while weights.indices.max() >= self._done * self._places:
            self._run_row(top)
        parts = []
        for index, row in self._rows.items():
            own = _within(weights, index, self._places)
            if own is None:
                continue
            lines = row.logits[:, own.start - row.first : own.stop - row.first]
            # (columns, w) @ (lines, w, K) -> (lines, columns, K), summed over the windows beside each other
            wide: Any = sum(matrix @ lines[window, :, part] for window, part, matrix in self._widening(left, right))
            parts.append(_dense(weights, index, self._places, own, wide) @ wide.flatten(1))
        return sum(parts[1:], parts[0]).view(bottom - top, right - left, -1)

    def prepare(self, spans: Sequence[tuple[int, int]]) -> None:
        """Make what all blocks of these columns share."""
        if not self._done:
            self._run_row(0)
        for left, right in spans:
            self._widening(left, right)

    def _widening(self, left: int, right: int) -> list[tuple[int, slice, Tensor]]:
        """For each window that reaches these columns: its index, the columns of its grid, and their matrix."""
        if (left, right) not in self._columns:
            places = self._horizontal.shape[1] // len(self.across.starts)
            weights = self._horizontal[left:right]
            like = next(iter(self._rows.values())).logits
            self._columns[left, right] = [
                (window, own, _dense(weights, window, places, own, like))
                for window in range(len(self.across.starts))
                if (own := _within(weights, window, places)) is not None
            ]
        return self._columns[left, right]

    @torch.no_grad()
    def _run_row(self, top: int) -> None:
        """Run the next row of windows, and drop what no pixel from `top` on needs."""
        self._forget(top)
        starts, coarse = self.across.starts, torch.empty(0)
        for first in range(0, len(starts), self.batch_size):
            lefts = starts[first : first + self.batch_size]
            height, width = self.down.window, self.across.window
            pixels = [self.read(self.down.starts[self._done], left, height, width) for left in lefts]
            batch = torch.stack(pixels).to(self.model.device, self.model.dtype)
            logits = self.model(pixel_values=batch, upsample=False).logits.float().permute(0, 2, 3, 1)
            if not first:
                coarse = logits.new_empty(len(starts), *logits.shape[1:])
            coarse[first : first + len(lefts)] = logits
            if self.on_windows is not None:
                self.on_windows(len(lefts))
        if not self._done:
            self._lay_out((coarse.shape[1], coarse.shape[2]))
        self._rows[self._done] = _Row(coarse)
        self._done += 1

    def _lay_out(self, grid: Size) -> None:
        """The matrices, once it is known how the model answers for a window."""
        padded = self.model.upsampling((self.down.window, self.across.window)).size
        sides = zip((self.down, self.across), grid, padded, self.target, strict=True)
        self._vertical, self._horizontal = (
            side.matrix(places, length, self.blend)
            if side.size == wanted
            else bilinear(wanted, side.size) @ side.matrix(places, length, self.blend)
            for side, places, length, wanted in sides
        )
        if self.mirrored:
            self._horizontal = self._horizontal[::-1]
        self._places = grid[0]

    def _forget(self, top: int) -> None:
        for index, row in list(self._rows.items()):
            own = _within(self._vertical[top:], index, self._places)
            if own is None:
                del self._rows[index]
            elif own.start > row.first:  # copied, so that the rest is freed
                self._rows[index] = _Row(row.logits[:, own.start - row.first :].clone(), own.start)


def _within(weights: Any, index: int, places: int) -> slice | None:
    """The lines of the grid of window `index` that these pixels need; None if they need none."""
    own = weights.indices[(weights.indices >= index * places) & (weights.indices < (index + 1) * places)]
    return slice(int(own.min()) - index * places, int(own.max()) + 1 - index * places) if own.size else None


def _dense(weights: Any, index: int, places: int, own: slice, like: Tensor) -> Tensor:
    """(pixels, lines): the weights of these lines of the grid of window `index`."""
    part = weights[:, index * places + own.start : index * places + own.stop].toarray()
    return torch.from_numpy(part.astype(np.float32)).to(like.device)


def segment(mosaics: Sequence[Mosaic], want_scores: bool = False) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """The map in strips from top to bottom: the first row, its classes (rows, W), and how sure they are (rows, W).

    Several mosaics are versions of one image: the probabilities of their classes are averaged. Where there is one
    class, 1 says that it is there and 0 that it is not.
    """
    height, width = mosaics[0].target
    count = mosaics[0].classes
    broad = min(width, max(NARROWEST, min(WIDEST, BLOCK // (STRIP * count))))
    tall = max(1, min(STRIP, BLOCK // (broad * count)))
    spans = [(left, min(left + broad, width)) for left in range(0, width, broad)]
    for mosaic in mosaics:
        mosaic.prepare(spans)
    for top in range(0, height, tall):
        # Nothing small may be allocated between blocks and outlive them: their memory would never be given back.
        bottom = min(top + tall, height)
        classes = torch.empty(bottom - top, width, dtype=torch.int64)
        scores = torch.empty(bottom - top, width) if want_scores else None
        for left, right in spans:
            block, sure = _decide([mosaic.block(top, bottom, left, right) for mosaic in mosaics], want_scores)
            classes[:, left:right] = block
            if scores is not None and sure is not None:
                scores[:, left:right] = sure
        yield top, classes, scores


def _decide(versions: Sequence[Tensor], want_scores: bool) -> tuple[Tensor, Tensor | None]:
    """(rows, columns, K) logits of each version -> classes (rows, columns) int64, and their probabilities."""
    logits = versions[0]
    if len(versions) > 1:
        shares = probabilities(versions)
        if shares.shape[-1] == 1:
            shares = torch.cat([1 - shares, shares], dim=-1)
        best, classes = shares.max(dim=-1)
        return classes, best if want_scores else None
    if logits.shape[-1] == 1:
        only = logits.squeeze(-1)
        return (only > 0).long(), only.abs().sigmoid() if want_scores else None
    best, classes = logits.max(dim=-1)
    return classes, (best - logits.logsumexp(dim=-1)).exp_() if want_scores else None


def probabilities(versions: Sequence[Tensor]) -> Tensor:
    """The mean over versions of an image of the probabilities that their logits (..., K) are."""
    activate = torch.sigmoid if versions[0].shape[-1] == 1 else partial(torch.softmax, dim=-1)
    shares = activate(versions[0])
    for logits in versions[1:]:
        shares = shares + activate(logits)
    return shares / len(versions)
