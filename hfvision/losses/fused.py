"""Sums over pixels of upsampled logits, without the upsampled logits: they are made, used and dropped strip by strip.

At 150 classes and 512 x 512 pixels the logits of one image take 150 MB, and training holds them four times: upsampled,
as log-probabilities, and the gradients of both. The gradient of a sum over pixels is known as soon as a strip is, so
the forward pass computes it at once and keeps what is left of it at the coarse size.

Shapes: B images, K classes, h x w places of the grid, H x W pixels.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hfvision.tracing import values_are_hidden
from hfvision.upsampling import Upsampling, upsample

PixelSum = Callable[[Tensor, Tensor], Tensor]  # logits (B, K, H, W), labels (B, H, W) -> a sum over all pixels

# Elements of a strip's logits: on a CPU a few megabytes, which caches hold; elsewhere enough to be worth a launch.
STRIP = {"cpu": 1 << 20}
STRIP_ELSEWHERE = 1 << 24
WORTHWHILE = 1 << 20  # elements of the upsampled logits from which strips are faster than all at once


def upsampled_sum(pixel_sum: PixelSum, logits: Tensor, labels: Tensor, upsampling: Upsampling) -> Tensor:
    """`pixel_sum` of the upsampled logits (B, K, H, W) and the labels, in strips where that pays and can be done.

    Compiled, exported and transformed by torch.func, it is computed all at once; so are second derivatives. Strips
    interpolate by products of matrices: GPUs that were allowed TF32 for those use it here, too.
    """
    if _in_strips(logits, labels):
        return _Strips.apply(logits, labels, upsampling, pixel_sum, torch.is_grad_enabled())
    return pixel_sum(upsample(logits, upsampling), labels)


def is_traced(tensor: Tensor) -> bool:
    """Whether values cannot be looked at: in graphs that are made, under torch.func, on the meta device."""
    return values_are_hidden() or tensor.is_meta


def _in_strips(logits: Tensor, labels: Tensor) -> bool:
    if is_traced(logits):
        return False
    pixels = labels.numel() * logits.shape[1]
    return pixels >= WORTHWHILE and pixels > logits.numel()


class _Strips(torch.autograd.Function):
    """The sum, and its gradient in the same pass."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, upsampling: Upsampling, pixel_sum: PixelSum, differentiable: bool
    ) -> Tensor:
        with_gradient = differentiable and ctx.needs_input_grad[0]
        with torch.autocast(logits.device.type, enabled=False):  # a product in bfloat16 would not be interpolation
            total, gradient = _sum_in_strips(pixel_sum, logits, labels, upsampling, with_gradient)
        if with_gradient:
            ctx.save_for_backward(logits, gradient)
            ctx.at_once = lambda coarse: pixel_sum(upsample(coarse, upsampling), labels)
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        logits, gradient = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient will be differentiated, which the stored one cannot be
            (gradient,) = torch.autograd.grad(ctx.at_once(logits), logits, create_graph=True)
        return gradient * grad_output, None, None, None, None


def _sum_in_strips(
    pixel_sum: PixelSum, logits: Tensor, labels: Tensor, upsampling: Upsampling, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    images, classes, coarse_height, _ = logits.shape
    height, width = upsampling.image_size
    row_elements = classes * width
    strip = STRIP.get(logits.device.type, STRIP_ELSEWHERE)
    rows = min(max(1, strip // row_elements), height)
    together = max(1, strip // (rows * row_elements))  # images
    mixing = _mixing(coarse_height, upsampling.size[0], logits.dtype)[:height]
    total = torch.zeros((), dtype=torch.float64, device=logits.device)
    gradient = torch.zeros_like(logits) if with_gradient else None
    for top in range(0, height, rows):
        mixed = mixing[top : top + rows]
        read = mixed.any(dim=0).nonzero()
        band = slice(int(read[0]), int(read[-1]) + 1)  # the coarse rows that this strip is made of
        mixed = mixed[:, band].to(logits.device)
        for image in range(0, images, together):
            some = slice(image, image + together)
            coarse = logits[some, :, band].detach().requires_grad_(with_gradient)
            with torch.set_grad_enabled(with_gradient):
                wide = upsample(coarse, Upsampling((coarse.shape[2], upsampling.size[1]), (coarse.shape[2], width)))
                strip_sum = pixel_sum(mixed @ wide, labels[some, top : top + rows])
            total += strip_sum.detach()
            if gradient is not None:
                gradient[some, :, band] += torch.autograd.grad(strip_sum, coarse)[0]
    return total.to(logits.dtype), gradient


def _mixing(coarse: int, fine: int, dtype: torch.dtype) -> Tensor:
    """(fine, coarse): how much of each coarse row a row holds, as torch's own interpolation has it."""
    identity = torch.eye(coarse, dtype=dtype)
    return nn.functional.interpolate(identity[None, None], size=(fine, coarse), mode="bilinear")[0, 0]
