"""Masked images: patches hidden behind a token, a linear map by which every token paints its patch, and the loss.

Paper: Xie et al. 2021, "SimMIM", arXiv 2111.09886, sections 3.3 and 3.4.
Shapes: B images, C channels, h x w tokens, D width, s pixels per side that a token paints.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hfvision.errors import ConfigError, ImageShapeError
from hfvision.layers.patch_embedding import ChannelInit, kernel_of, with_channels
from hfvision.layers.position import Grid


class PixelDecoder(nn.Sequential):
    """(B, D, h, w) -> (B, C, h * s, w * s)."""

    def __init__(self, hidden_size: int, stride: int, num_channels: int) -> None:
        super().__init__(nn.Conv2d(hidden_size, stride**2 * num_channels, kernel_size=1), nn.PixelShuffle(stride))
        self.hidden_size = hidden_size
        self.stride = stride
        self.num_channels = num_channels

    @torch.no_grad()
    def resized(self, stride: int, num_channels: int, channel_init: ChannelInit) -> "PixelDecoder":
        """A decoder that paints other channels, or the same picture finer or coarser.

        A new channel is the mean of the old ones that `channel_init` lets read it (see `with_channels`).
        """
        painter: Any = self[0]
        weight, bias = kernel_of(painter), painter.bias
        rows = torch.cat([weight.flatten(1), bias.unsqueeze(1)], dim=1)  # (C * s * s, D + 1)
        rows = rows.T.unflatten(1, (self.num_channels, self.stride, self.stride))
        readers = with_channels(torch.eye(self.num_channels).to(rows), num_channels, channel_init)  # (old, new)
        total = readers.sum(dim=0)
        rows = torch.einsum("kcij,cn->knij", rows, readers / total.where(total != 0, 1))
        rows = nn.functional.interpolate(rows, size=(stride, stride), mode="bilinear").flatten(1).T
        new = PixelDecoder(self.hidden_size, stride, num_channels).to(device=weight.device, dtype=weight.dtype)
        for parameter, values in zip(new.parameters(), (rows[:, :-1, None, None], rows[:, -1]), strict=True):
            parameter.copy_(values)
        return new


def hide_patches(tokens: Tensor, mask_token: Tensor | None, bool_masked_pos: Tensor) -> Tensor:
    """(B, N, D) -> (B, N, D): the mask token (1, 1, D) where bool_masked_pos (B, N) is True.

    Raises ConfigError without a mask token, ImageShapeError for another number of patches.
    """
    if mask_token is None:
        raise ConfigError("bool_masked_pos needs a mask token: build the model with use_mask_token=True.")
    if bool_masked_pos.shape != tokens.shape[:2]:
        raise ImageShapeError(
            f"bool_masked_pos has one entry per patch, {tuple(tokens.shape[:2])} for these images; got "
            f"{tuple(bool_masked_pos.shape)}."
        )
    return torch.where(bool_masked_pos.bool().unsqueeze(-1), mask_token, tokens)


def hidden_patches(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """What a batch adds to the counts of a step (see `losses.counts`): the patches that are hidden, float64."""
    return {"hidden": batch["bool_masked_pos"].sum().double()}


def masked_image_loss(
    pixel_values: Tensor,
    reconstruction: Tensor,
    bool_masked_pos: Tensor,
    grid: Grid,
    num_items_in_batch: Any = None,
    **_: Any,
) -> Tensor:
    """Mean absolute error over the hidden pixels and channels; 0 where nothing is hidden.

    pixel_values, reconstruction: (B, C, H, W). bool_masked_pos: (B, h * w), True where a patch is hidden.
    num_items_in_batch: given the mapping of `hidden_patches` over the batches of a step, their losses are weighed by
    their hidden patches and add up to the mean over the step. Trainer counts nothing here. Further options of `forward`
    concern other parts.
    """
    patch = reconstruction.shape[-2] // grid[0], reconstruction.shape[-1] // grid[1]
    hidden = bool_masked_pos.reshape(-1, 1, *grid).to(reconstruction.dtype)
    hidden = hidden.repeat_interleave(patch[0], dim=2).repeat_interleave(patch[1], dim=3)
    height, width = (min(a, b) for a, b in zip(pixel_values.shape[-2:], reconstruction.shape[-2:], strict=True))
    hidden = hidden[..., :height, :width]  # without padding, or without a partial patch that was left out
    error = (pixel_values[..., :height, :width] - reconstruction[..., :height, :width]).abs() * hidden
    loss = error.sum() / (hidden.sum() + 1e-5) / pixel_values.shape[1]
    if isinstance(num_items_in_batch, Mapping):
        loss = loss * (bool_masked_pos.sum() / num_items_in_batch["hidden"].clamp(min=1)).to(loss)
    return loss
