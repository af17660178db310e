"""Learned position tables, resampled to another patch grid.

Shapes: a table is (1, P + h * w, D): P prefix tokens (class, distillation) and then the grid in row-major order.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from hfvision.errors import ConfigError

PositionRule = Literal["bicubic", "corner_aligned"]
Grid = tuple[int, int]  # patches: (height, width)


def resample_position_table(
    table: Tensor, old_grid: Grid, new_grid: Grid, prefix_tokens: int, rule: PositionRule = "bicubic"
) -> Tensor:
    """(1, P + h * w, D) -> (1, P + h' * w', D); the prefix rows are untouched.

    "bicubic": half-pixel centres, as DeiT's fine-tuning and the transformers library do it. "corner_aligned": linear
    between grid points with the corners kept, the rule by which google-research/vision_transformer loads a checkpoint
    at another resolution (there `scipy.ndimage.zoom` of order 1). Raises ConfigError for another rule.
    """
    if rule not in ("bicubic", "corner_aligned"):
        raise ConfigError(f"position_rule is 'bicubic' or 'corner_aligned'; got {rule!r}.")
    prefix, grid = table[:, :prefix_tokens], table[:, prefix_tokens:]
    grid = grid.reshape(1, *old_grid, -1).permute(0, 3, 1, 2)  # (1, D, h, w)
    dtype, grid = grid.dtype, grid.float()  # bicubic weights in half precision would move the table
    if rule == "bicubic":
        grid = nn.functional.interpolate(grid, size=new_grid, mode="bicubic", align_corners=False)
    else:
        grid = nn.functional.interpolate(grid, size=new_grid, mode="bilinear", align_corners=True)
    grid = grid.to(dtype).flatten(2).mT  # (1, h' * w', D)
    return torch.cat([prefix, grid], dim=1)
