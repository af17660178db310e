"""From coarse logits to pixels: dense models answer on a grid that is coarser than the image.

How a model's grid covers its image is an `Upsampling`; models give one (`model.upsampling(size)`), losses and
post-processing carry it out, so that nothing of (classes, height, width) has to exist at the size of a photo.

Shapes: B images, K classes, h x w places of the grid, H x W pixels.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from hfvision.tracing import sizes_are_symbols

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Upsampling:
    """Coarse logits become an image's by a bilinear resize to `size` (half-pixel centres), then by cutting `crop`."""

    size: Size  # of the image with the padding that the model gave it
    crop: Size | None = None  # of the image itself, which lies at the top left; None: nothing was padded

    @property
    def image_size(self) -> Size:
        return self.crop or self.size


def upsample(logits: Tensor, upsampling: Upsampling) -> Tensor:
    """(B, K, h, w) -> (B, K, H, W), all at once: for training and for images of the model's own size."""
    symbolic = sizes_are_symbols()
    if symbolic or tuple(logits.shape[-2:]) != upsampling.size:
        logits = nn.functional.interpolate(logits, size=upsampling.size, mode="bilinear", align_corners=False)
    if upsampling.crop is None:
        return logits
    (padded_height, padded_width), (height, width) = upsampling.size, upsampling.crop
    if symbolic:  # by a slice, torch.export would want to know that the padding is not negative
        return nn.functional.pad(logits, (0, width - padded_width, 0, height - padded_height))
    return logits[..., :height, :width]
