"""How the places of a feature map are dealt to attention windows, shifted on every other block, and put back.

Padding to whole windows, the cyclic shift and the cutting into windows are one index; so is the way back. After the
shift only the windows of the last row and column hold places from two ends of the map, so there are four kinds of
window and one small mask for each: nothing here grows with the number of pixels but the two indices.

Shapes: B images, h x w places of a map, M places per side of a window, n windows, D width.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from hfvision.layers.linear import is_observed
from hfvision.layers.patch_embedding import pair
from hfvision.layers.position import Grid
from hfvision.models.swin.views import ViewedMerging, ViewedWindows, viewed_windows
from hfvision.tracing import greater, lesser, may_guard_sizes, sizes_are_symbols

APART = -100.0  # added to the score of two places that only the shift has brought together

# For each attention module and side of its windows, shifted or not: a copy of the table, and the biases made of it,
# which are the same for images of all sizes. They are used only while the module's table equals the copy, however
# it may be changed. Being outside of the module, they are neither saved nor copied with it; they go when it goes.
_biases: WeakKeyDictionary[nn.Module, dict[tuple[int, bool], tuple[Tensor, Tensor]]] = WeakKeyDictionary()
MOST_SIDES = 4  # kept for each module; a second one is only needed for maps smaller than a window


@dataclass(frozen=True, eq=False)
class WindowPlan:
    """The windows of one map. Holds no parameters and is never changed, so models and threads can share it."""

    side: int  # M
    count: int  # n
    padded: bool  # whether some places of the windows lie outside of the map
    places: Tensor  # (n * M * M,): the place of the map at each place of the windows; h * w outside of the map
    back: Tensor  # (h * w,): for each place of the map its place in the windows
    offsets: Tensor  # (M * M * M * M,): the row of the table of relative positions for each query and key
    kinds: Tensor | None  # (n,): 0, or 1 in the last column, 2 in the last row, 3 in both; None: nothing is masked
    masks: Tensor | None  # (4, M * M * M * M): APART or 0 for each kind, query and key

    def cut(self, x: Tensor) -> Tensor:
        """(B, h * w, D) -> (B * n, M * M, D); places outside of the map are zeros."""
        windows = _gather(x, self.places, self.padded)
        return windows.reshape(x.shape[0] * self.count, self.side * self.side, x.shape[-1])

    def join(self, windows: Tensor, batch: int) -> Tensor:
        """(B * n, M * M, D) -> (B, h * w, D)."""
        places = self.count * self.side * self.side
        return _rows(windows.reshape(batch, places, windows.shape[-1]), self.back)

    def bias(self, owner: nn.Module, table: Tensor, batch: int) -> Tensor:
        """What is added to the scores: (1 or B * n, heads, M * M, M * M), by the owner's table of positions."""
        biases = self._kept_biases(owner, table) if _can_be_kept(table) else self._biases(table)
        return biases if self.kinds is None else biases.index_select(0, self.kinds.repeat(batch))

    def _biases(self, table: Tensor) -> Tensor:
        """Those of each kind of window: (1 or 4, heads, M * M, M * M)."""
        bias = table.index_select(0, self.offsets).T.unsqueeze(0)  # (M^4, heads) -> (1, heads, M^4)
        if self.masks is not None:
            bias = bias + self.masks.to(bias.dtype).unsqueeze(1)  # (4, heads, M^4)
        return bias.reshape(*bias.shape[:2], self.side * self.side, self.side * self.side)

    def _kept_biases(self, owner: nn.Module, table: Tensor) -> Tensor:
        """The same, made only if the table is not the one of last time."""
        kept, key = _biases.setdefault(owner, {}), (self.side, self.masks is not None)
        copy, biases = kept.get(key, (None, None))
        if copy is None or biases is None or copy.dtype != table.dtype or not torch.equal(copy, table):
            with torch.inference_mode(False), torch.no_grad():  # else they could not be used in training
                copy, biases = table.clone(), self._biases(table)
            kept[key] = copy, biases
            for other in list(kept)[:-MOST_SIDES]:
                kept.pop(other, None)
        return biases


Windows = WindowPlan | ViewedWindows  # of a map, to cut it into and to join


def _can_be_kept(table: Tensor) -> bool:
    """Not what gradients flow through, nor what is being traced; on a GPU, comparing would wait for all work there."""
    return (
        not torch.compiler.is_compiling()
        and type(table) in (Tensor, nn.Parameter)
        and table.is_cpu
        and not (table.requires_grad and torch.is_grad_enabled())
        and not is_observed()
    )


def halved(grid: Grid) -> Grid:
    """The grid behind a merging layer, which pads an odd one."""
    return (grid[0] + 1) // 2, (grid[1] + 1) // 2


def shrunk_windows(
    image_size: int | Iterable[int], patch_size: int | Iterable[int], window_size: int, stages: int
) -> list[int]:
    """The side of the windows at each stage for images of this size, where windows shrink to small maps."""
    (height, width), (patch_height, patch_width) = pair(image_size), pair(patch_size)
    grid = -(-height // patch_height), -(-width // patch_width)
    sides = []
    for _ in range(stages):
        sides.append(min(window_size, *grid))
        grid = halved(grid)
    return sides


@dataclass(frozen=True, eq=False)
class MergingPlan:
    """Which four neighbours of a map become one place: (0, 0), (1, 0), (0, 1), (1, 1) in (row, column)."""

    count: int  # of the places that result
    padded: bool  # whether some neighbours lie outside of the map
    places: Tensor  # (4 * count,)

    def gather(self, x: Tensor) -> Tensor:
        """(B, h * w, D) -> (B, count, 4 * D); places outside of the map are zeros."""
        return _gather(x, self.places, self.padded).reshape(x.shape[0], self.count, 4 * x.shape[-1])


def window_plan(grid: Grid, window_size: int, shifted: bool, shrinks: bool, like: Tensor) -> Windows:
    """The plan for a map, on the device of `like`.

    With `shrinks`, a map that is not larger than the window on its smaller side has windows of that side, unshifted.
    """
    if may_guard_sizes():
        return viewed_windows(grid, window_size, shifted, shrinks, APART)
    plan: WindowPlan = _planned(_window_plan, like, grid, window_size, shifted, shrinks)
    return plan


def merging_plan(grid: Grid, like: Tensor) -> MergingPlan | ViewedMerging:
    """The plan for a map, on the device of `like`."""
    if may_guard_sizes():
        return ViewedMerging(grid)
    plan: MergingPlan = _planned(_merging_plan, like, grid)
    return plan


def _gather(x: Tensor, places: Tensor, padded: bool) -> Tensor:
    """(B, h * w, D) -> (B, len(places), D); the place h * w, if there is one, holds zeros."""
    if padded:
        x = nn.functional.pad(x, (0, 0, 0, 1))
    return _rows(x, places)


def _rows(x: Tensor, places: Tensor) -> Tensor:
    """x[:, places], for which torch has several kernels: a table's rows are the fastest to look up on a CPU."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or not x.is_cpu or is_observed():
        return x.index_select(1, places)
    batch, count, width = x.shape
    if batch > 1:
        places = (count * torch.arange(batch)[:, None] + places).flatten()
    return nn.functional.embedding(places, x.reshape(-1, width)).view(batch, -1, width)


def _planned(make: Callable[..., Any], like: Tensor, *arguments: Any) -> Any:
    if sizes_are_symbols():  # the plan becomes part of the graph
        return make(*arguments, like.device, symbolic=True)
    if type(like) not in (Tensor, nn.Parameter):  # a stand-in without storage, made for one trace
        return make(*arguments, like.device)
    return _stored(make, *arguments, like.device)


@lru_cache(maxsize=256)
def _stored(make: Callable[..., Any], *arguments: Any) -> Any:
    with torch.inference_mode(False):  # else a plan made there could not be used in training
        return make(*arguments)


def _window_plan(
    grid: Grid, window_size: int, shifted: bool, shrinks: bool, device: torch.device, symbolic: bool = False
) -> WindowPlan:
    height, width = grid
    side: Any = window_size
    shift: Any = window_size // 2 if shifted else 0
    masked = shift > 0
    if shrinks:
        smaller: Any = lesser(height, width)
        side = lesser(window_size, smaller)
        shift = shift * lesser(1, greater(0, smaller - window_size))  # a symbolic size decides no branch
    area: Any = side * side
    rows, columns = (height + side - 1) // side, (width + side - 1) // side  # of windows
    # All in one axis: with symbolic sizes, a broadcast would have to know which axes are 1 long.
    count = rows * columns
    if isinstance(height, torch.SymInt) or isinstance(width, torch.SymInt):
        count = count + 2  # empty windows at the end: a number that is never 1 needs no case of its own in the graph
    place = torch.arange(count * area, device=device)
    window, inner = place // area, place % area
    down = (window // columns * side + inner // side + shift) % (rows * side)
    across = (window % columns * side + inner % side + shift) % (columns * side)
    inside = (down < height) & (across < width) & (window < rows * columns)
    places = torch.where(inside, down * width + across, height * width)

    place = torch.arange(height * width, device=device)
    down, across = (place // width - shift) % (rows * side), (place % width - shift) % (columns * side)
    back = ((down // side * columns + across // side) * side + down % side) * side + across % side

    scored = torch.arange(area * area, device=device)
    query, key = scored // area, scored % area
    down, across = query // side - key // side, query % side - key % side  # 1 - M to M - 1
    offsets = (down + window_size - 1) * (2 * window_size - 1) + across + window_size - 1

    kinds = masks = None
    if masked and (symbolic or shift):
        window = torch.arange(count, device=device)
        kinds = 2 * (window // columns == rows - 1).long() + (window % columns == columns - 1).long()
        turn = side - shift  # from here on a last window holds the other end of the map
        row_apart = (query // side >= turn) ^ (key // side >= turn)  # inductor knows no != of booleans
        column_apart = (query % side >= turn) ^ (key % side >= turn)
        apart = torch.stack([torch.zeros_like(row_apart), column_apart, row_apart, row_apart | column_apart])
        masks = torch.where(apart, APART, 0.0)
    padded = symbolic or (rows * side, columns * side) != (height, width)
    return WindowPlan(side, count, padded, places, back, offsets, kinds, masks)


def _merging_plan(grid: Grid, device: torch.device, symbolic: bool = False) -> MergingPlan:
    (height, width), (rows, columns) = grid, halved(grid)
    place = torch.arange(4 * rows * columns, device=device)
    merged, neighbour = place // 4, place % 4
    down, across = 2 * (merged // columns) + neighbour % 2, 2 * (merged % columns) + neighbour // 2
    places = torch.where((down < height) & (across < width), down * width + across, height * width)
    return MergingPlan(rows * columns, symbolic or bool(height % 2 or width % 2), places)
