"""Batch norms that never change, and the convolutions that take them into their kernels.

A frozen batch norm is a scale and a shift of channels, which belong to the convolution before it: they are multiplied
into its kernel at each call, where that costs less than passing over the map once more. Nothing of it is kept.

Shapes: B images, C and F channels, h x w places of a map.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hfvision.layers.conv import channels_last, conv_of_patches
from hfvision.layers.plain import may_stand_plain, stands_plain
from hfvision.tracing import sizes_are_symbols

NORM_EPS = 1e-5


@may_stand_plain
class FrozenBatchNorm(nn.Module):
    """(B, F, h, w) -> (B, F, h, w): a scale and a shift of each channel, from four buffers that nothing changes."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Two of (F,)."""
        scale = self.weight * (self.running_var + NORM_EPS).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = (part[:, None, None] for part in self.scale_and_shift())
        return torch.addcmul(shift, x, scale)


class Kernel(NamedTuple):
    """The size and stride of a convolution, in places, as it was made: what stands in its place need not say it."""

    size: int
    stride: int

    @classmethod
    def of(cls, conv: nn.Conv2d) -> "Kernel":
        return cls(conv.kernel_size[0], conv.stride[0])


class ConvAndNorm(NamedTuple):
    """Two modules of a block that follow each other, and what holds both and calls them so."""

    conv: nn.Conv2d
    norm: FrozenBatchNorm
    kernel: Kernel
    holder: nn.Module | None = None  # None: nothing but the block

    def __call__(self, x: Tensor) -> Tensor:
        """norm(conv(x)), the norm folded into the kernel where the map has more places than a kernel has weights."""
        return self._folded(x) if self.is_plain() else self._called(x)

    def rectified(self, x: Tensor) -> Tensor:
        """relu(norm(conv(x)))."""
        return self._folded(x).relu_() if self.is_plain() else self._called(x).relu()

    def plus(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """norm(conv(x)) + shortcut."""
        return self._folded(x).add_(shortcut) if self.is_plain() else self._called(x) + shortcut

    def is_plain(self) -> bool:
        """Whether it can be computed in another way than by calling the modules."""
        conv, norm, _, holder = self
        if not (isinstance(conv, nn.Conv2d) and isinstance(norm, FrozenBatchNorm)):
            return False
        if not stands_plain(conv, norm) or not (holder is None or stands_plain(holder)):
            return False
        return conv.bias is None and conv.groups == 1 and conv.padding_mode == "zeros"

    def _called(self, x: Tensor) -> Tensor:
        called: Tensor = self.norm(self.conv(x)) if self.holder is None else self.holder(x)
        return called

    def _folded(self, x: Tensor) -> Tensor:
        """The norm within the convolution, in a map that nothing else holds."""
        conv, norm = self.conv, self.norm
        scale, shift = norm.scale_and_shift()
        if not sizes_are_symbols() and self._weights_outnumber(x):
            return torch.addcmul(shift[:, None, None], self._convolved(x, conv.weight, None), scale[:, None, None])
        return self._convolved(x, conv.weight * scale[:, None, None, None], shift)

    def _convolved(self, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        conv = self.conv
        # With gradients, torch's own convolution is faster there and back.
        if x.is_cpu and not torch.is_grad_enabled() and not sizes_are_symbols():
            if conv.kernel_size == (1, 1):
                read = x[:, :, :: conv.stride[0], :: conv.stride[1]]
                return conv_of_patches(channels_last(read), kernel, bias)
            if self._weights_outnumber(x):
                x = x.contiguous()  # torch brings kernels into the order of maps, and here the map is the smaller one
        return nn.functional.conv2d(x, kernel, bias, conv.stride, conv.padding, conv.dilation)

    def _weights_outnumber(self, x: Tensor) -> bool:
        places = x.shape[0] * x.shape[2] * x.shape[3] // self.conv.stride[0] ** 2
        return self.conv.weight[0].numel() > places
