"""What the models of semantic segmentation have in common: coarse logits, how they become pixels, and the loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.modeling_outputs import SemanticSegmenterOutput

from hfvision.errors import ImageShapeError
from hfvision.layers.patch_embedding import by
from hfvision.losses.counts import ItemCount, StepCounts
from hfvision.losses.segmentation import SegmentationLoss
from hfvision.models.base import VisionModel
from hfvision.upsampling import Size, Upsampling


@dataclass
class SemanticOutput(SemanticSegmenterOutput):
    """logits: (B, K, H, W), or (B, K, h, w) where `upsample=False`; loss: given labels.

    auxiliary_logits: the coarse logits (B, K, h', w') of the auxiliary heads, which only run in training or given
    labels.
    """

    auxiliary_logits: tuple[Tensor, ...] | None = None


class SemanticModel(VisionModel):
    """Base of models that give a class to every pixel.

    `pixel_loss` is what `forward` computes from labels; training replaces it, and it is in no config. All forwards take
    `upsample`: True gives logits at the size of the images, False the coarse ones, for `upsampling` to finish.
    """

    auxiliary_loss_weight: float = 0.4

    @property
    def default_loss(self) -> SegmentationLoss:
        """What `pixel_loss` is until it is replaced."""
        return SegmentationLoss()

    @property
    def pixel_loss(self) -> SegmentationLoss:
        return self.__dict__.get("_pixel_loss", self.default_loss)

    @pixel_loss.setter
    def pixel_loss(self, loss: SegmentationLoss) -> None:
        self.__dict__["_pixel_loss"] = loss

    def upsampling(self, size: Size) -> Upsampling:
        """How the coarse logits of images of this height and width become pixels."""
        return Upsampling(size)

    def map_upsampling(self, size: Size) -> Upsampling | None:
        """The same for the label map of an image that was brought to this size for the model; None where the map is
        resized straight from the coarse logits, without a stop at that size.
        """
        return self.upsampling(size)

    def step_counts(self, batch: Mapping[str, Any]) -> StepCounts | None:
        return self.pixel_loss.step_counts(batch["labels"], self.config.num_labels or 0)

    def loss_of(
        self,
        logits: Tensor,
        labels: Tensor,
        upsampling: Upsampling,
        auxiliary_logits: Sequence[Tensor] = (),
        num_items_in_batch: ItemCount = None,
        **_: Any,
    ) -> Tensor:
        """`pixel_loss` of the coarse logits plus the weighted ones of the auxiliary heads; further options of `forward`
        concern other parts.

        Raises ImageShapeError unless labels are (B, H, W) for images (B, C, H, W).
        """
        wanted = (logits.shape[0], *upsampling.image_size)
        if tuple(labels.shape) != wanted:
            raise ImageShapeError(
                f"labels are one class per pixel, {wanted} for these {wanted[0]} images of {by(wanted[1:])}; got "
                f"{tuple(labels.shape)}."
            )
        criterion = self.pixel_loss
        loss = criterion(logits, labels, upsampling, num_items_in_batch)
        for auxiliary in auxiliary_logits:
            loss = loss + self.auxiliary_loss_weight * criterion(auxiliary, labels, upsampling, num_items_in_batch)
        return loss
