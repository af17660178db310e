"""Windows of a feature map as compiled graphs compute them: by views, padding and rolling, without a table of indices.

A compiler fuses these steps into what is before and behind them, while arithmetic on indices would run for every number
that is moved. See `models.swin.windows` for the same in eager mode and in exported graphs, and for the words.

Shapes: B images, h x w places of a map, M places per side of a window, n windows, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hfvision.layers.position import Grid


@dataclass(frozen=True, eq=False)
class ViewedWindows:
    """The windows of one map; what a WindowPlan is elsewhere."""

    grid: Grid
    window_size: int  # that the table of relative positions is made for
    side: int  # M
    shift: int
    apart: float  # added to the score of two places that only the shift has brought together

    @property
    def windows(self) -> Grid:
        """(rows, columns) of them."""
        height, width = self.grid
        return (height + self.side - 1) // self.side, (width + self.side - 1) // self.side

    def cut(self, x: Tensor) -> Tensor:
        """(B, h * w, D) -> (B * n, M * M, D); places outside of the map are zeros."""
        (height, width), (rows, columns), side = self.grid, self.windows, self.side
        x = x.unflatten(1, (height, width))
        x = nn.functional.pad(x, (0, 0, 0, columns * side - width, 0, rows * side - height))
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        x = x.view(x.shape[0], rows, side, columns, side, x.shape[-1]).transpose(2, 3)
        return x.reshape(-1, side * side, x.shape[-1])

    def join(self, windows: Tensor, batch: int) -> Tensor:
        """(B * n, M * M, D) -> (B, h * w, D)."""
        (height, width), (rows, columns), side = self.grid, self.windows, self.side
        x = windows.view(batch, rows, columns, side, side, windows.shape[-1]).transpose(2, 3)
        x = x.reshape(batch, rows * side, columns * side, windows.shape[-1])
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return x[:, :height, :width].reshape(batch, height * width, windows.shape[-1])

    def bias(self, owner: nn.Module, table: Tensor, batch: int) -> Tensor:
        """What is added to the scores: (1 or B * n, heads, M * M, M * M), by a table of positions."""
        side, length = self.side, 2 * self.window_size - 1
        place = torch.arange(side, device=table.device)
        offset = place[:, None] - place + self.window_size - 1  # of a query and a key along one axis
        rows = (offset[:, None, :, None] * length + offset[None, :, None, :]).flatten()  # (M * M * M * M,)
        bias = table.index_select(0, rows).T.reshape(1, -1, side * side, side * side)
        if not self.shift:
            return bias
        across_the_edge = place >= side - self.shift  # from here on a last window holds the other end of the map
        apart = across_the_edge[:, None] ^ across_the_edge  # (M, M): of a query and a key along one axis
        by_row = apart[:, None, :, None].expand(side, side, side, side).reshape(side * side, side * side)
        by_column = apart[None, :, None, :].expand(side, side, side, side).reshape(side * side, side * side)
        last_row, last_column = (torch.arange(n, device=table.device) == n - 1 for n in self.windows)
        hidden = (last_row[:, None, None, None] & by_row) | (last_column[:, None, None] & by_column)  # (r, c, M^2, M^2)
        hidden = hidden.flatten(0, 1)[:, None]  # (n, 1, M * M, M * M)
        return (bias + torch.where(hidden, self.apart, 0.0).to(bias.dtype)).repeat(batch, 1, 1, 1)


@dataclass(frozen=True, eq=False)
class ViewedMerging:
    """Four neighbours of a map that become one place; what a MergingPlan is elsewhere."""

    grid: Grid

    def gather(self, x: Tensor) -> Tensor:
        """(B, h * w, D) -> (B, count, 4 * D); places outside of the map are zeros."""
        height, width = self.grid
        rows, columns = (height + 1) // 2, (width + 1) // 2
        x = nn.functional.pad(x.unflatten(1, (height, width)), (0, 0, 0, 2 * columns - width, 0, 2 * rows - height))
        x = x.view(x.shape[0], rows, 2, columns, 2, x.shape[-1])
        return x.permute(0, 1, 3, 4, 2, 5).reshape(x.shape[0], rows * columns, 4 * x.shape[-1])  # down before across


def viewed_windows(grid: Grid, window_size: int, shifted: bool, shrinks: bool, apart: float) -> ViewedWindows:
    """Those of a map. With `shrinks`, a map that is not larger than the window on its smaller side has windows of that
    side, unshifted: a graph is for the one kind of maps or for the other.
    """
    side, shift = window_size, window_size // 2 if shifted else 0
    if shrinks and min(grid) <= window_size:
        side, shift = min(grid), 0
    return ViewedWindows(grid, window_size, side, shift, apart)
