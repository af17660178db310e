"""Stochastic depth: a residual branch is left out for some images of a training batch.

Paper: Huang et al. 2016, "Deep Networks with Stochastic Depth", arXiv 1603.09382 (the linear rule of section 3).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hfvision.errors import ConfigError


class DropPath(nn.Module):
    """(B, ...) -> (B, ...): in training, zero for each image with probability `rate`, else scaled by 1 / (1 - rate)."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return branch
        keep = 1.0 - self.rate
        mask = torch.empty((branch.shape[0],) + (1,) * (branch.ndim - 1), dtype=branch.dtype, device=branch.device)
        return branch * mask.bernoulli_(keep) / keep

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


def linear_rates(rate: float, depth: int) -> list[float]:
    """The rate of each block: 0 at the first, `rate` at the last. Raises ConfigError outside [0, 1)."""
    if not 0.0 <= rate < 1.0:
        raise ConfigError(f"drop_path_rate is the share of branches left out, in [0, 1); got {rate}.")
    return [rate * block / max(depth - 1, 1) for block in range(depth)]


def set_linear_rates(blocks: Sequence[nn.Module], rate: float) -> None:
    """Give every DropPath inside the blocks the linear rule's rate for its depth."""
    for block, block_rate in zip(blocks, linear_rates(rate, len(blocks)), strict=True):
        for module in block.modules():
            if isinstance(module, DropPath):
                module.rate = block_rate
