"""Learned position tables, resampled to another patch grid or another attention window.

Shapes: a table is (1, P + h * w, D): P prefix tokens (class, distillation) and then the grid in row-major order. A
table of relative positions is ((2 * M - 1)^2, heads) for windows of M x M places: a row for each offset of two places,
from 1 - M to M - 1 down, then across.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from hfvision.errors import ConfigError

PositionRule = Literal["bicubic", "bilinear", "corner_aligned"]
Grid = tuple[int, int]  # patches: (height, width)


def resample_position_table(
    table: Tensor, old_grid: Grid, new_grid: Grid, prefix_tokens: int, rule: PositionRule = "bicubic"
) -> Tensor:
    """(1, P + h * w, D) -> (1, P + h' * w', D); the prefix rows are untouched.

    "bicubic": half-pixel centres, as DeiT's fine-tuning and the transformers library do it. "bilinear": likewise, as
    Segmenter does it. "corner_aligned": linear
    between grid points with the corners kept, the rule by which google-research/vision_transformer loads a checkpoint
    at another resolution (there `scipy.ndimage.zoom` of order 1). Raises ConfigError for another rule.
    """
    if rule not in get_args(PositionRule):
        raise ConfigError(f"position_rule is 'bicubic', 'bilinear' or 'corner_aligned'; got {rule!r}.")
    prefix, grid = table[:, :prefix_tokens], table[:, prefix_tokens:]
    grid = grid.reshape(1, *old_grid, -1).permute(0, 3, 1, 2)  # (1, D, h, w)
    dtype, grid = grid.dtype, grid.float()  # bicubic weights in half precision would move the table
    mode, aligned = ("bilinear", True) if rule == "corner_aligned" else (rule, False)
    grid = nn.functional.interpolate(grid, size=new_grid, mode=mode, align_corners=aligned)
    grid = grid.to(dtype).flatten(2).mT  # (1, h' * w', D)
    return torch.cat([prefix, grid], dim=1)


def fit_bias_table(
    table: Tensor, window: int, used: int, new_window: int, new_used: int, rule: PositionRule = "bicubic"
) -> Tensor:
    """A table of relative positions for windows of another size: ((2 M - 1)^2, heads) -> ((2 M' - 1)^2, heads).

    On maps smaller than its window a model has windows of `used` places per side, and only the offsets in the middle of
    the table. These are resampled by `rule` (see `resample_position_table`) where `used` changes; around them come
    zeros, for offsets that nothing has been learned of.
    """
    heads = table.shape[1]
    margin, side, new_side = window - used, 2 * used - 1, 2 * new_used - 1
    middle = table.reshape(2 * window - 1, 2 * window - 1, heads)
    middle = middle[margin : margin + side, margin : margin + side].reshape(1, -1, heads)
    if used != new_used:
        middle = resample_position_table(middle, (side, side), (new_side, new_side), 0, rule)
    around = new_window - new_used
    middle = middle.reshape(new_side, new_side, heads)
    return nn.functional.pad(middle, (0, 0, around, around, around, around)).reshape(-1, heads)
