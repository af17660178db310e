"""Reshapes that conversion rules name: pairs of functions that undo each other bit for bit.

Each works on real tensors and on the meta device, where only shapes exist.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Reshape = Callable[..., Tensor | tuple[Tensor, ...]]


@dataclass(frozen=True)
class Op:
    """`forward` takes the original's tensors to the model's, `backward` the model's to the original's.

    `exact` is False where that loses something: a resampled table stays resampled.
    """

    name: str
    forward: Reshape
    backward: Reshape
    exact: bool = True

    def reversed(self) -> "Op":
        return Op(f"{self.name}, backwards", self.backward, self.forward, self.exact)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _transpose(tensor: Tensor) -> Tensor:
    return tensor.mT


same = Op("same", _same, _same)

# (in, out) <-> (out, in): a Flax dense kernel, a torch Linear weight
transpose = Op("transpose", _transpose, _transpose)

# (H, W, in, out) <-> (out, in, H, W): a Flax convolution kernel, a torch Conv2d weight
hwio_to_oihw = Op("hwio_to_oihw", lambda kernel: kernel.permute(3, 2, 0, 1), lambda weight: weight.permute(2, 3, 1, 0))


def join_heads(heads: int) -> Op:
    """(in, heads, head_dim) <-> (heads * head_dim, in): the kernel of a Flax projection to heads, a Linear weight."""

    def join(kernel: Tensor) -> Tensor:
        return _with_heads(kernel, heads, 1).flatten(1).mT

    return Op("join_heads", join, lambda weight: weight.mT.unflatten(1, (heads, -1)))


def join_heads_bias(heads: int) -> Op:
    """(heads, head_dim) <-> (heads * head_dim): the bias of the same projection."""

    def join(bias: Tensor) -> Tensor:
        return _with_heads(bias, heads, 0).flatten()

    return Op("join_heads_bias", join, lambda bias: bias.unflatten(0, (heads, -1)))


def join_heads_out(heads: int) -> Op:
    """(heads, head_dim, out) <-> (out, heads * head_dim): the kernel of a Flax projection from heads."""

    def join(kernel: Tensor) -> Tensor:
        return _with_heads(kernel, heads, 0).flatten(0, 1).mT

    return Op("join_heads_out", join, lambda weight: weight.mT.unflatten(0, (heads, -1)))


def _with_heads(tensor: Tensor, heads: int, axis: int) -> Tensor:
    """Another number of heads would flatten to the same size and compute something else."""
    if tensor.shape[axis] != heads:
        raise ValueError(f"it has {tensor.shape[axis]} heads, the model {heads}")
    return tensor


def split(parts: int) -> Op:
    """(parts * D, ...) <-> `parts` of (D, ...): a fused projection such as query, key and value, and its parts."""

    def divide(fused: Tensor) -> tuple[Tensor, ...]:
        views = fused.unflatten(0, (parts, -1)).unbind()  # unlike chunk, refuses what does not divide
        return tuple(view.clone() for view in views)  # safetensors writes no parts of a larger storage

    def join(*tensors: Tensor) -> Tensor:
        return torch.cat(tensors)

    return Op(f"split in {parts}", divide, join)
