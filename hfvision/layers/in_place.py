"""Work on large intermediate results that goes through memory less often, and gives the same numbers.

In inference, an activation is written over what a layer has just made, which nothing else holds; and steps that treat
each row by itself go through the rows in strips when what lies between them would be large.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2CLS, GELUActivation

from hfvision.layers.linear import is_observed
from hfvision.layers.operators import operator, takes_operators
from hfvision.layers.plain import may_stand_plain, stands_plain
from hfvision.tracing import sizes_are_symbols

WRITTEN_OVER = {GELUActivation: torch.ops.aten.gelu_, nn.ReLU: torch.ops.aten.relu_}

# Allocators give blocks from here on back to the system (glibc: 32 MB), which fills every new one with zeros, page by
# page. That takes longer than most of what is computed in them.
LARGE = 32 << 20  # bytes
STRIP = 4 << 20  # bytes of what lies between the steps: it stays in the cache
SMALL = 3 << 20  # bytes that a second block for costs nothing

_activations: Any = ACT2CLS.values()
for _known in _activations:  # a class, or a class and its options
    may_stand_plain(_known[0] if isinstance(_known, tuple) else _known)


def activated(layer: nn.Module, activation: nn.Module, x: Tensor) -> Tensor:
    """activation(layer(x)), for a linear map or a convolution."""
    y: Tensor = layer(x)
    if type(activation) is GELUActivation and not torch.is_grad_enabled() and takes_operators(y):
        return gelu_of_graphs(y) if stands_plain(activation) else activation(y)
    in_place = None if sizes_are_symbols() else WRITTEN_OVER.get(type(activation))
    if in_place is None or y.numel() * y.element_size() < SMALL or not _is_unseen(y, layer, activation):
        return activation(y)
    written: Tensor = in_place(y)
    return written


@operator("gelu(Tensor x) -> Tensor", lambda x: torch.empty_like(x))
def gelu_of_graphs(x: Tensor) -> Tensor:
    """The activation in a compiled graph, where no gradients are wanted: inductor's own takes 1.4 to 1.8 times as long
    as torch's on a CPU (torch 2.13)."""
    return nn.functional.gelu(x)


def in_strips(x: Tensor, first: nn.Module, *others: nn.Module) -> Tensor:
    """The steps one after another, each of which treats rows by themselves: (..., D) -> (..., E).

    In strips if what the first one makes is large, `first.out_features` values for each row.
    """
    if sizes_are_symbols():
        return _after(x, first, *others)
    width = getattr(first, "out_features", 0)
    rows = x.shape[:-1].numel()
    if rows * width * x.element_size() <= LARGE or not x.is_cpu or not _is_unseen(x, first, *others):
        return _after(x, first, *others)
    strips = x.reshape(rows, x.shape[-1]).split(max(1, STRIP // (width * x.element_size())))
    out = torch.cat([_after(strip, first, *others) for strip in strips])
    return out.view(*x.shape[:-1], out.shape[-1])


def _after(x: Tensor, *steps: nn.Module) -> Tensor:
    for step in steps:
        x = step(x)
    return x


def _is_unseen(x: Tensor, *steps: nn.Module) -> bool:
    """Whether nobody looks at what lies between the steps: gradients, hooks, a tracer, what stands in their place."""
    return (
        not torch.is_grad_enabled()
        and type(x) in (Tensor, nn.Parameter)
        and stands_plain(*(part for step in steps for part in step.modules()))
        and not is_observed()
    )
