"""Batch norms that never change, and the convolutions that take them into their kernels.

A frozen batch norm is a scale and a shift of channels, which belong to the convolution before it: they are multiplied
into its kernel at each call, where that costs less than passing over the map once more. Nothing of it is kept.

Shapes: B images, C and F channels, h x w places of a map.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hfvision.layers.conv import conv_of_patches

NORM_EPS = 1e-5


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


class ConvAndNorm(NamedTuple):
    """Two modules of a block that follow each other."""

    conv: nn.Conv2d
    norm: FrozenBatchNorm

    def __call__(self, x: Tensor) -> Tensor:
        """norm(conv(x)), the norm folded into the kernel where the map has more places than a kernel has weights."""
        conv, norm = self
        if not self.is_plain():
            return norm(conv(x))
        scale, shift = norm.scale_and_shift()
        if not torch.compiler.is_compiling() and self._weights_outnumber(x):
            return torch.addcmul(shift[:, None, None], self._convolved(x, conv.weight, None), scale[:, None, None])
        return self._convolved(x, conv.weight * scale[:, None, None, None], shift)

    def is_plain(self) -> bool:
        """Whether it can be computed in another way: what somebody put in the place of a convolution, or hooked to it,
        has to be called."""
        return type(self.conv) is nn.Conv2d and not hasattr(self.conv, "_hf_hook")

    def _convolved(self, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        conv = self.conv
        # With gradients, torch's own convolution is faster there and back.
        if x.is_cpu and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            if conv.kernel_size == (1, 1):
                read = x[:, :, :: conv.stride[0], :: conv.stride[1]]
                return conv_of_patches(read.contiguous(memory_format=torch.channels_last), kernel, bias)
            if self._weights_outnumber(x):
                x = x.contiguous()  # torch brings kernels into the order of maps, and here the map is the smaller one
        return nn.functional.conv2d(x, kernel, bias, conv.stride, conv.padding, conv.dilation)

    def _weights_outnumber(self, x: Tensor) -> bool:
        places = x.shape[0] * x.shape[2] * x.shape[3] // self.conv.stride[0] ** 2
        return self.conv.weight[0].numel() > places
