"""What a semantic segmentation model is trained with, from coarse logits and full-size label maps."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from hfvision.upsampling import Upsampling, upsample

PixelAverage = Literal["valid", "all"]  # over the pixels that are not ignored, or over all pixels


@dataclass(frozen=True)
class SegmentationLoss:
    """The loss of coarse logits (B, K, h, w) against label maps (B, H, W) of class indices."""

    ignore_index: int = 255
    average: PixelAverage = "valid"

    def __call__(self, logits: Tensor, labels: Tensor, upsampling: Upsampling) -> Tensor:
        full = upsample(logits, upsampling).float()
        losses = nn.functional.cross_entropy(full, labels.long(), ignore_index=self.ignore_index, reduction="none")
        valid = labels != self.ignore_index
        return losses.sum() / (valid.sum().clamp(min=1) if self.average == "valid" else labels.numel())
