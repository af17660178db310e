"""Focal and dice loss of object masks, without keeping masks of the image's size.

Papers: Lin et al. 2017, "Focal Loss for Dense Object Detection", arXiv 1708.02002 (focal).
        Milletari et al. 2016, "V-Net", arXiv 1606.04797 (dice).

Twenty masks of 800 x 1066 pixels take 70 MB each time autograd keeps them, and it would ten times. Both gradients are
known once a mask is upsampled, so the forward pass computes them, mask by mask, and keeps them at the coarse size.

Shapes: M masks, h x w places of the grid, H x W pixels.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2
# Elements of the masks that are compared at once: on a CPU few, which caches hold; elsewhere enough to be worth it.
TOGETHER = {"cpu": 1 << 20}
TOGETHER_ELSEWHERE = 1 << 24


def mask_losses(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (M, h, w), upsampled to the truth, bool (M, H, W): the sums over masks of focal and dice loss.

    focal: the mean over pixels of alpha * (1 - p)^2 * cross-entropy, alpha 0.25 where the truth is set, else 0.75.
    dice: 1 - (2 overlap + 1) / (probabilities + pixels + 1).
    """
    return _MaskLosses.apply(logits, wanted, torch.is_grad_enabled())


class _MaskLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, wanted: Tensor, differentiable: bool) -> tuple[Tensor, Tensor]:
        with_gradient = differentiable and ctx.needs_input_grad[0]
        together = max(1, TOGETHER.get(logits.device.type, TOGETHER_ELSEWHERE) // max(wanted[:1].numel(), 1))
        focal, dice = logits.new_zeros(2)
        gradients: list[tuple[Tensor, Tensor]] = []
        for coarse, truth in zip(logits.split(together), wanted.split(together), strict=True):
            coarse = coarse.detach().requires_grad_(with_gradient)
            with torch.set_grad_enabled(with_gradient):
                wide = nn.functional.interpolate(coarse[None], size=truth.shape[1:], mode="bilinear")[0]
            slopes = []
            for total, (loss, slope) in zip((focal, dice), _losses(wide.detach(), truth), strict=True):
                total += loss
                slopes.append(slope)
            if with_gradient:
                gradients.append(
                    tuple(torch.autograd.grad(wide, coarse, slope, retain_graph=True)[0] for slope in slopes)
                )
        if with_gradient:
            ctx.save_for_backward(*(torch.cat(parts) for parts in zip(*gradients, strict=True)))
        return focal, dice

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, focal_factor: Tensor, dice_factor: Tensor) -> tuple[Tensor, None, None]:
        focal, dice = ctx.saved_tensors
        return focal * focal_factor + dice * dice_factor, None, None


def _losses(logits: Tensor, wanted: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(M, H, W) -> focal and dice: the sum over masks, and its slope for each logit (M, H, W)."""
    truth = wanted.to(logits.dtype)
    sign = 1 - 2 * truth
    doubt = logits * sign
    surprise = nn.functional.softplus(doubt)  # -log(1 - error)
    error = doubt.sigmoid_()  # 1 - the probability of the truth
    sure = 1 - error
    weighted = error.square().mul_(truth * (2 * FOCAL_ALPHA - 1) + (1 - FOCAL_ALPHA))
    pixels = wanted[0].numel()
    focal = (weighted * surprise).sum() / pixels
    focal_slope = surprise.mul_(sure).mul_(FOCAL_GAMMA).add_(error).mul_(weighted).mul_(sign).div_(pixels)

    size = truth.sum(dim=(1, 2))
    missed = (error * truth).sum(dim=(1, 2))
    overlap = size - missed
    total = (error.sum(dim=(1, 2)) - missed) + overlap + size + 1  # probabilities outside and inside, pixels, 1
    shares = (2 * overlap + 1) / total
    change = truth.mul_(-2 / total[:, None, None]).add_((shares / total)[:, None, None])  # with a probability
    return (focal, focal_slope), ((1 - shares).sum(), change.mul_(error).mul_(sure))
