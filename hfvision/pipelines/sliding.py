"""Sliding windows over pixel values that are prepared already: what the original repositories' evaluation computes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hfvision.models.semantic import SemanticModel
from hfvision.pipelines.mosaic import WINDOWS, Mosaic, probabilities
from hfvision.pipelines.windows import Tiling, make_tiling
from hfvision.upsampling import Size

Version = tuple[Tensor, bool]  # pixel values (C, H, W) of an image, and whether it is mirrored


def mosaic_of(
    model: SemanticModel, version: Version, tiling: Tiling, target: Size | None = None, batch_size: int = WINDOWS
) -> Mosaic:
    """The mosaic of an image in memory, enlarged first where the tiling wants that."""
    pixels, mirrored = version
    given = (pixels.shape[-2], pixels.shape[-1])
    size = tiling.enlarged(given)
    if size != given:
        pixels = torch.nn.functional.interpolate(pixels[None].float(), size=size, mode="bilinear")[0]

    def read(top: int, left: int, height: int, width: int) -> Tensor:
        return pixels[:, top : top + height, left : left + width]

    return Mosaic(model, read, size, tiling, target=target or given, mirrored=mirrored, batch_size=batch_size)


def sliding_logits(
    model: SemanticModel,
    pixel_values: Tensor,
    window: int | Size,
    stride: int | Size,
    *,
    size: Size | None = None,
    blend: str = "mean",
    batch_size: int = WINDOWS,
) -> Tensor:
    """(B, C, H, W) -> logits (B, K, H, W), or of another `size`: windows of `window` pixels, every `stride` pixels.

    The last windows of a row and of a column are moved back inside; an image smaller than a window is one window. The
    logits of windows that overlap are averaged (mmsegmentation's slide mode), or as `blend` says. Raises ConfigError
    for windows that cannot be.
    """
    tiling = make_tiling(tile=window, stride=stride, blend=blend)
    images = []
    for pixels in pixel_values:
        mosaic = mosaic_of(model, (pixels, False), tiling, size, batch_size)
        images.append(mosaic.block(0, mosaic.target[0], 0, mosaic.target[1]).permute(2, 0, 1))
    return torch.stack(images)


def sliding_probabilities(
    model: SemanticModel,
    versions: Sequence[Version],
    window: int | Size,
    stride: int | Size,
    size: Size,
    *,
    rule: str = "segmenter",
    batch_size: int = WINDOWS,
) -> Tensor:
    """Versions of one image, in other sizes or mirrored -> the mean of their probabilities (K, *size)."""
    tiling = make_tiling(tile=window, stride=stride, rule=rule)
    mosaics = [mosaic_of(model, version, tiling, size, batch_size) for version in versions]
    return probabilities([m.block(0, size[0], 0, size[1]) for m in mosaics]).permute(2, 0, 1)
