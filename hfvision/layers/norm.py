"""Layer norm, which compiled graphs leave to torch."""

import torch
from torch import Tensor, nn

from hfvision.layers.operators import operator, takes_operators
from hfvision.layers.plain import may_stand_plain


def _empty_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return x.new_empty(x.shape)


@operator("layer_norm(Tensor x, Tensor weight, Tensor bias, float eps) -> Tensor", _empty_norm)
def norm_of_graphs(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`torch.nn.functional.layer_norm` over the last axis in a compiled graph, where no gradients are wanted."""
    return nn.functional.layer_norm(x, x.shape[-1:], weight, bias, eps).contiguous()


@may_stand_plain
class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` over the last axis: (..., D) -> (..., D). Weights, names, start values and repr are its own.

    In graphs for running on a CPU it is torch's own norm: inductor's takes up to twice as long for rows of 64 numbers
    and more (torch 2.13).
    """

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if not torch.is_grad_enabled() and bias is not None and takes_operators(x, weight, bias):
            return norm_of_graphs(x, weight, bias, self.eps)
        return super().forward(x)
