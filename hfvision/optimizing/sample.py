"""The images on which an optimisation is weighed where the caller gives none.

Shapes: B images, C channels, H x W pixels.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hfvision.errors import ConfigError, ImageShapeError
from hfvision.layers.patch_embedding import by

IMAGES = 4  # B
SIDE = 256  # pixels, of models that have no size of their own
LARGE = 512 * 512  # pixels of an image; of larger ones, a single one is weighed
SEED = 0


def sample_pictures(count: int = IMAGES, side: int = SIDE) -> list[Image.Image]:
    """Scenes of handwritten digits, as pictures: for the processor of a pipeline."""
    from hfvision.data import load_digit_scenes

    scenes = load_digit_scenes(train=1, validation=count, size=max(side, 64), seed=SEED)["validation"]
    return [picture.resize((side, side)) for picture in scenes["image"]]


def processed_sample(processor: Any, model: Any) -> tuple[Tensor, str]:
    """(B, C, H, W) as an image processor makes it of those pictures, and what it is in words."""
    if getattr(_input_config(model), "num_channels", 3) != 3:
        return default_sample(model)
    pixels = processor(images=sample_pictures(), return_tensors="pt")["pixel_values"]
    pixels = pixels if pixels[0, 0].numel() <= LARGE else pixels[:1]
    return pixels, f"{len(pixels)} digit scenes, processed to {by(pixels.shape[-2:])} pixels"


def default_sample(model: Any) -> tuple[Tensor, str]:
    """(B, C, H, W) at the size that the model was made for, and what it is in words."""
    config = _input_config(model)
    size = getattr(config, "image_size", None) or SIDE
    height, width = (size, size) if isinstance(size, int) else size
    channels = getattr(config, "num_channels", 3)
    if channels == 3:
        pictures = [np.asarray(picture) for picture in sample_pictures(side=max(height, width))]
        pixels = torch.from_numpy(np.stack(pictures)[:, :height, :width]).movedim(-1, 1).float() / 127.5 - 1
        return pixels, f"{IMAGES} digit scenes of {by((height, width))} pixels"
    noise = torch.randn(IMAGES, channels, height, width, generator=torch.Generator().manual_seed(SEED))
    return noise, f"{IMAGES} images of noise, {by((height, width))} pixels in {channels} channels"


def _input_config(model: Any) -> Any:
    """The config that says what images the model takes: its own, or that of the trunk inside."""
    config = model.config
    while not hasattr(config, "num_channels") and getattr(config, "backbone_config", None) is not None:
        config = config.backbone_config
    return config


def check_sample(sample: Any) -> tuple[Tensor, str]:
    """The caller's images and what they are in words. Raises ConfigError or ImageShapeError for what is no batch."""
    if not isinstance(sample, Tensor) or not sample.is_floating_point():
        kind = sample.dtype if isinstance(sample, Tensor) else type(sample).__name__
        raise ConfigError(f"sample is a tensor of floats as the image processor makes it (pixel_values); got {kind}.")
    if sample.ndim != 4 or not sample.numel():
        raise ImageShapeError(f"sample is a batch of images (B, C, H, W); got {tuple(sample.shape)}.")
    images = "image" if len(sample) == 1 else "images"
    return sample, f"the {len(sample)} given {images} of {by(sample.shape[-2:])} pixels"
