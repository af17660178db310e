"""Convolutions of decoders: with batch norm and ReLU, and over maps that are upsampled first.

Shapes: B images, C and O channels, h x w places of a coarse map, H x W of a finer one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hfvision.layers.linear import is_observed, product
from hfvision.layers.operators import operator, takes_operators
from hfvision.layers.plain import PLAIN_TENSORS, may_stand_plain, stands_plain
from hfvision.tracing import sizes_are_symbols
from hfvision.upsampling import Size


def resize(x: Tensor, size: Size, align_corners: bool = False) -> Tensor:
    """(B, C, h, w) -> (B, C, H, W), bilinear: half-pixel centres, or with the corners kept."""
    return nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def channels_last(x: Tensor) -> Tensor:
    """(B, C, h, w), the channels of a place beside each other in memory.

    Written without memory formats, which the tensors that torch.func's vmap hands out do not take.
    """
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def conv_of_patches(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """(B, C, h, w) -> (B, O, h // p, w // q): the convolution with kernel (O, C, p, q) whose stride is its size.

    Patches that do not overlap are the rows of one matrix, so that this is a product, for which maps in channels-last
    order lie ready; on CPUs, where torch has a slow convolution for the small ones among them, it is computed as such.
    """
    size = down, across = (kernel.shape[2], kernel.shape[3])
    places = x.movedim(1, -1)  # (B, h, w, C)
    if not torch.is_grad_enabled() and takes_operators(x, kernel, bias):
        return patches_of_graphs(x, kernel, bias)
    if torch.compiler.is_compiling() or not _lies_as_rows(places) or is_observed():
        return nn.functional.conv2d(x, kernel, bias, stride=size)
    high, wide = x.shape[2] // down, x.shape[3] // across
    patches = places[:, : high * down, : wide * across].unflatten(2, (wide, across)).unflatten(1, (high, down))
    patches = patches.transpose(2, 3).flatten(3)  # (B, h // p, w // q, p * q * C), of 1 x 1 without a copy
    return product(patches, kernel.permute(0, 2, 3, 1).flatten(1), bias).movedim(-1, 1)


def _empty_patches(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    outputs, _, down, across = kernel.shape
    return x.new_empty(x.shape[0], x.shape[2] // down, x.shape[3] // across, outputs).movedim(-1, 1)


@operator("conv_of_patches(Tensor x, Tensor kernel, Tensor? bias) -> Tensor", _empty_patches)
def patches_of_graphs(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """`conv_of_patches` in a compiled graph, where no gradients are wanted; in channels-last order."""
    return channels_last(conv_of_patches(x, kernel, bias))


def _lies_as_rows(places: Tensor) -> bool:
    return places.is_cpu and places.ndim == 4 and places.numel() > 0 and places.is_contiguous()


@may_stand_plain
class PatchConv(nn.Conv2d):
    """`nn.Conv2d` of patches that do not overlap, through `conv_of_patches`: (B, C, h, w) -> (B, O, h // p, w // p).

    Arguments, weights, names and start values are nn.Conv2d's; the stride is to be the kernel's size, and all others
    are torch's own. A kernel of 1 x 1 is a linear map of channels.
    """

    def forward(self, x: Tensor) -> Tensor:
        apart = self.stride == self.kernel_size and self.padding == (0, 0) and self.dilation == (1, 1)
        if not apart or self.groups != 1 or type(self.weight) not in PLAIN_TENSORS:
            return super().forward(x)
        return conv_of_patches(x, self.weight, self.bias)


def conv3x3_of_resized(
    x: Tensor, kernel: Tensor, size: Size, bias: Tensor | None = None, align_corners: bool = False
) -> Tensor:
    """(B, C, h, w) -> (B, O, H, W): the 3x3 convolution, padded with zeros, of x resized to H x W.

    kernel: (O, C, 3, 3). Each of its nine taps is one linear map of channels, which commutes with resizing: so the nine
    products are taken on the coarse map, and two matrices then resize, shift and sum them along each axis. Equal to the
    order that the name says, which large maps with few channels go, where it is cheaper, and graphs for files or
    gradients, where sizes are symbols.
    """
    if not torch.is_grad_enabled() and takes_operators(x, kernel, bias):
        return resized_of_graphs(x, kernel, bias, *size, align_corners)
    (height, width), (new_height, new_width) = x.shape[-2:], size
    straight = 9 * kernel.shape[1] * new_height * new_width  # products per output channel
    taps_first = 9 * kernel.shape[1] * height * width + 3 * height * new_width * (3 * width + new_height)
    if sizes_are_symbols() or 3 * taps_first > 2 * straight:  # small products run slower than a convolution
        return nn.functional.conv2d(resize(x, size, align_corners), kernel, bias, padding=1)
    outputs = kernel.shape[0]
    taps = kernel.permute(3, 2, 0, 1).flatten(0, 2)  # (O, C, 3, 3) -> (3 across * 3 down * O, C)
    products = product(x.movedim(1, -1), taps)  # (B, h, w, 9 * O)
    products = products.reshape(-1, 3 * width, 3 * outputs)  # (B * h, w * 3 across, 3 down * O)
    across = _shifted_resize(width, new_width, align_corners, x).permute(2, 1, 0).flatten(1)  # (W, w * 3)
    across = across.expand(products.shape[0], -1, -1)
    rows = [torch.bmm(across, part).reshape(-1, height, new_width * outputs) for part in products.chunk(3, dim=-1)]
    down = _shifted_resize(height, new_height, align_corners, x).permute(2, 0, 1).flatten(1)  # (H, 3 * h)
    resized = down @ torch.cat(rows, dim=1)  # (H, 3 * h) @ (B, 3 * h, W * O)
    resized = resized.unflatten(-1, (new_width, outputs)).movedim(-1, 1)
    return resized if bias is None else resized + bias[:, None, None]


def _empty_resized(
    x: Tensor, kernel: Tensor, bias: Tensor | None, height: int, width: int, align_corners: bool
) -> Tensor:
    return x.new_empty(x.shape[0], height, width, kernel.shape[0]).movedim(-1, 1)


@operator(
    "conv3x3_of_resized(Tensor x, Tensor kernel, Tensor? bias, SymInt height, SymInt width, bool align_corners)"
    " -> Tensor",
    _empty_resized,
)
def resized_of_graphs(
    x: Tensor, kernel: Tensor, bias: Tensor | None, height: int, width: int, align_corners: bool
) -> Tensor:
    """`conv3x3_of_resized` in a compiled graph, where no gradients are wanted; in channels-last order."""
    return channels_last(conv3x3_of_resized(x, kernel, (height, width), bias, align_corners))


def conv3x3_of_joined(maps: Sequence[Tensor], kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """The 3x3 convolution, padded with zeros, of all maps resized to the first one's size and joined along channels.

    maps: (B, C_i, h_i, w_i). kernel: (O, sum of C_i, 3, 3). Each map's share is computed by itself: nothing is joined.
    """
    first, *others = maps
    own, *shares = kernel.split([one.shape[1] for one in maps], dim=1)
    joined = nn.functional.conv2d(first, own, bias, padding=1)
    for one, share in zip(others, shares, strict=True):
        joined = joined + conv3x3_of_resized(one, share, (first.shape[-2], first.shape[-1]))
    return joined


def _shifted_resize(old: int, new: int, align_corners: bool, like: Tensor) -> Tensor:
    """(3, old, new): the matrix of a linear resize, reading one place before, at and one after; zero outside."""
    unit = torch.eye(old, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
    matrix = nn.functional.interpolate(unit[None], size=new, mode="linear", align_corners=align_corners)[0]
    matrix = nn.functional.pad(matrix, (1, 1)).to(like.dtype)
    return torch.stack([matrix[:, shift : shift + new] for shift in range(3)])


def keeps_size(conv: nn.Module, size: int) -> bool:
    """Whether it is a convolution by a kernel of size x size that is put on every place of a map padded with zeros."""
    return (
        isinstance(conv, nn.Conv2d)
        and conv.kernel_size == (size, size)
        and conv.padding == (size // 2, size // 2)
        and conv.stride == conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
    )


def stands_for_3x3(conv: nn.Conv2d, *others: nn.Module) -> bool:
    """Whether a 3x3 convolution that keeps a map's size, and modules around it, may be stood in for."""
    return stands_plain(conv, *others) and keeps_size(conv, 3)


def of_resized(conv: nn.Conv2d, x: Tensor, size: Size, align_corners: bool = False) -> Tensor:
    """A 3x3 convolution of x resized to `size`, by `conv3x3_of_resized` where that may stand for calling it."""
    if stands_for_3x3(conv):
        return conv3x3_of_resized(x, conv.weight, size, conv.bias, align_corners)
    convolved: Tensor = conv(resize(x, size, align_corners))
    return convolved


@may_stand_plain
class ConvNormRelu(nn.Module):
    """(B, C, h, w) -> (B, O, h, w): convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, bias: bool = False) -> None:
        super().__init__()
        self.conv: nn.Conv2d
        if kernel_size == 1:
            self.conv = PatchConv(inputs, outputs, 1, bias=bias)
        else:
            self.conv = nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=bias)
        self.batch_norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self._finished(self.conv(x))

    def of_resized(self, x: Tensor, size: Size) -> Tensor:
        """The same of x resized to `size`; for a 3x3 kernel."""
        if stands_for_3x3(self.conv, self):
            return self._finished(conv3x3_of_resized(x, self.conv.weight, size, self.conv.bias))
        finished: Tensor = self(resize(x, size))
        return finished

    def of_joined(self, maps: Sequence[Tensor]) -> Tensor:
        """The same of maps resized to the first one's size and joined; for a 3x3 kernel."""
        if stands_for_3x3(self.conv, self):
            return self._finished(conv3x3_of_joined(maps, self.conv.weight, self.conv.bias))
        first, *others = maps
        size = (first.shape[-2], first.shape[-1])
        finished: Tensor = self(torch.cat([first, *(resize(one, size) for one in others)], dim=1))
        return finished

    def _finished(self, y: Tensor) -> Tensor:
        y = self.batch_norm(y)
        return y.relu_() if stands_plain(self.batch_norm) else y.relu()  # else somebody may hold it
