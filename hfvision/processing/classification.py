"""Image processors for classification: named as the checkpoints name them, with their defaults."""

from typing import Any

from transformers.utils.constants import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD

from hfvision.processing.base import ImageProcessor
from hfvision.processing.options import ImageOptions

ViTImageProcessorKwargs = ImageOptions  # transformers looks the options of a class up under this name
MultispectralImageProcessorKwargs = ImageOptions


class ViTImageProcessor(ImageProcessor):
    """ViT's: straight to 224x224, bilinear, pixel values to [-1, 1]; any image (see `hfvision.processing.base`)."""

    size: Any = {"height": 224, "width": 224}
    image_mean: Any = IMAGENET_STANDARD_MEAN
    image_std: Any = IMAGENET_STANDARD_STD
    unknown_to_transformers_4 = ("do_center_crop", "do_pad")


class MultispectralImageProcessor(ImageProcessor):
    """For images of named bands or of their own value range, which transformers' processors do not know.

    `bands` names the channels in the model's order; `image_mean` and `image_std` have a value for each (after
    rescaling), or one for all; `input_range=(black, white)` are the limits of the raw values. A call may give
    `bands=[...]`, the names of its images' channels, to have the right ones picked and ordered.
    """

    size: Any = {"height": 224, "width": 224}
