"""Image processors for classification: named as the checkpoints name them, with their defaults."""

from typing import Any, Self

from transformers.utils.constants import (
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

from hfvision.processing.base import ImageProcessor
from hfvision.processing.options import ImageOptions
from hfvision.processing.protocols import protocol_options
from hfvision.processing.resizing import Resampling

ViTImageProcessorKwargs = ImageOptions  # transformers looks the options of a class up under this name
DeiTImageProcessorKwargs = ImageOptions
ViTHybridImageProcessorKwargs = ImageOptions
BitImageProcessorKwargs = ImageOptions
MultispectralImageProcessorKwargs = ImageOptions


class ClassificationImageProcessor(ImageProcessor):
    """What the processors here have in common."""

    @classmethod
    def from_protocol(
        cls, name: str, size: int | tuple[int, int] = 224, crop_fraction: float | None = None, **options: Any
    ) -> Self:
        """A processor that prepares images as an original repository does for evaluation: "deit", "swin", ...

        The names and their meaning are in `hfvision.processing.protocols`; further `options` replace the protocol's.
        """
        return cls(**{**protocol_options(name, size, crop_fraction), **options})


class ViTImageProcessor(ClassificationImageProcessor):
    """ViT's: straight to 224x224, bilinear, pixel values to [-1, 1]; any image (see `hfvision.processing.base`).

    Example:
        >>> import PIL.Image, hfvision
        >>> processor = hfvision.ViTImageProcessor(size={"height": 32, "width": 48})
        >>> tuple(processor(PIL.Image.new("RGB", (640, 480)), return_tensors="pt")["pixel_values"].shape)
        (1, 3, 32, 48)
    """

    size: Any = {"height": 224, "width": 224}
    image_mean: Any = IMAGENET_STANDARD_MEAN
    image_std: Any = IMAGENET_STANDARD_STD
    unknown_to_transformers_4 = ("do_center_crop", "do_pad")


class DeiTImageProcessor(ClassificationImageProcessor):
    """DeiT's: to 256x256, bicubic, the 224x224 pixels at the centre, pixel values to [-1, 1]; any image.

    These are the defaults of the Hub's class of that name. The evaluation of the original repository is another:
    `hfvision.processing.protocols`, "deit".

    Example:
        >>> import PIL.Image, hfvision
        >>> processor = hfvision.DeiTImageProcessor()
        >>> tuple(processor(PIL.Image.new("RGB", (640, 480)), return_tensors="pt")["pixel_values"].shape)
        (1, 3, 224, 224)
    """

    resample: Any = Resampling.BICUBIC
    size: Any = {"height": 256, "width": 256}
    crop_size: Any = {"height": 224, "width": 224}
    do_center_crop: Any = True
    image_mean: Any = IMAGENET_STANDARD_MEAN
    image_std: Any = IMAGENET_STANDARD_STD
    unknown_to_transformers_4 = ("do_pad",)


class ViTHybridImageProcessor(ClassificationImageProcessor):
    """Hybrid ViT's: the short side to 224, bicubic, the 224x224 pixels at the centre, CLIP's statistics; any image.

    These are the defaults of the Hub's class of that name, which transformers has up to version 4.57.

    Example:
        >>> import PIL.Image, hfvision
        >>> processor = hfvision.ViTHybridImageProcessor()
        >>> tuple(processor(PIL.Image.new("RGB", (640, 480)), return_tensors="pt")["pixel_values"].shape)
        (1, 3, 224, 224)
    """

    resample: Any = Resampling.BICUBIC
    size: Any = {"shortest_edge": 224}
    default_to_square = False
    crop_size: Any = {"height": 224, "width": 224}
    do_center_crop: Any = True
    image_mean: Any = OPENAI_CLIP_MEAN
    image_std: Any = OPENAI_CLIP_STD
    do_convert_rgb: Any = True
    unknown_to_transformers_4 = ("do_pad",)


class BitImageProcessor(ViTHybridImageProcessor):
    """BiT's, with the same defaults. Of the shared classes it is the one that takes a short side and crops in every
    version of transformers, so conversion writes it for originals that do so.

    Example:
        >>> import PIL.Image, hfvision
        >>> processor = hfvision.BitImageProcessor(size={"shortest_edge": 32}, crop_size=24)
        >>> tuple(processor(PIL.Image.new("RGB", (640, 480)), return_tensors="pt")["pixel_values"].shape)
        (1, 3, 24, 24)
    """


class MultispectralImageProcessor(ClassificationImageProcessor):
    """For images of named bands or of their own value range, and for other options that transformers does not know.

    `bands` names the channels in the model's order; `image_mean` and `image_std` have a value for each (after
    rescaling), or one for all; `input_range=(black, white)` are the limits of the raw values. A call may give
    `bands=[...]`, the names of its images' channels, to have the right ones picked and ordered.

    Example:
        >>> import numpy as np, hfvision
        >>> processor = hfvision.MultispectralImageProcessor(
        ...     bands=["red", "nir"], image_mean=0.5, image_std=0.5, input_range=(0, 10000),
        ...     size={"height": 32, "width": 32}
        ... )
        >>> image = np.full((64, 64, 2), (2500, 10000), dtype=np.uint16)
        >>> pixels = processor(image, bands=["nir", "red"], return_tensors="pt")["pixel_values"]
        >>> tuple(pixels.shape), pixels[0, :, 0, 0].tolist()
        ((1, 2, 32, 32), [1.0, -0.5])
    """

    size: Any = {"height": 224, "width": 224}
