"""How the original repositories prepare images for evaluation, by name, as options of any image processor here.

    ViTImageProcessor.from_protocol("deit", size=224)
    DeiTImageProcessor(**protocol_options("swin", size=384))

Those with a crop fraction bring the short side to a size larger than the model's and take the square at the centre; the
others resize straight to a square. Sizes and the place of the crop are rounded as each repository does it; for the
latter transformers has no option, so a processor with a crop is saved under a type of our own unless it is made with
`crop_rounding=None`, which moves the crop by one pixel where the margin is odd.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers.utils.constants import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
)

from hfvision.errors import ConfigError, UnknownNameError, numbered
from hfvision.processing.resizing import Resampling

IMAGENET = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)  # of the training images
HALF = (IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD)  # pixel values to [-1, 1]


@dataclass(frozen=True)
class Protocol:
    """One way to prepare images; see PROTOCOLS."""

    source: str
    statistics: tuple[list[float], list[float]]  # mean and standard deviation of each channel
    crop_fraction: float | None  # of the short side that is kept; None: straight to the square
    resample: Resampling = Resampling.BICUBIC
    rounding: Callable[[float], int] = int


PROTOCOLS = {
    "google": Protocol("google-research/vision_transformer", HALF, None, Resampling.BILINEAR),
    "deit": Protocol("facebookresearch/deit", IMAGENET, 0.875),
    "swin": Protocol("microsoft/Swin-Transformer, models at 224 pixels", IMAGENET, 0.875),
    "swin-no-crop": Protocol("microsoft/Swin-Transformer, models at 384 pixels", IMAGENET, None),
    "timm-vit": Protocol("timm, most ViTs at 224 pixels", HALF, 0.9, rounding=math.floor),
    "timm-mixer": Protocol("timm, Mixers at 224 pixels", HALF, 0.875, rounding=math.floor),
    "timm-deit": Protocol("timm, DeiTs at 224 pixels", IMAGENET, 0.9, rounding=math.floor),
}


SEGMENTATION_PROTOCOLS = {  # name -> statistics, and what both sides are brought up to a multiple of
    "mmseg": (IMAGENET, None),
    "mmseg-aligned": (IMAGENET, 32),
    "segmenter-vit": (HALF, None),
    "segmenter-deit": (IMAGENET, None),
}


def segmentation_options(name: str, size: tuple[int, int] = (2048, 512), **options: Any) -> dict[str, Any]:
    """The options of mmsegmentation's test pipeline: the image keeps its ratio inside `size`, (long, short) sides.

    Bilinear without antialiasing, as OpenCV resizes. "mmseg": with ImageNet's statistics (SETR, UPerNet, SegFormer on
    Cityscapes); "mmseg-aligned": both sides then brought up to multiples of 32 (SegFormer on ADE20K); "segmenter-vit",
    "segmenter-deit": with the statistics of Segmenter's backbones. Further `options` replace the protocol's.
    Raises UnknownNameError for other names, ConfigError for a size that is none.
    """
    if name not in SEGMENTATION_PROTOCOLS:
        raise UnknownNameError(
            f"no protocol of segmentation is called {name!r}; there are {', '.join(SEGMENTATION_PROTOCOLS)}."
        )
    sides = tuple(size)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides) or sides[0] < sides[1]:
        raise ConfigError(f"size is (long side, short side) in pixels, such as (2048, 512); got {size!r}")
    (mean, std), divisor = SEGMENTATION_PROTOCOLS[name]
    aligned = {} if divisor is None else {"size_divisor": divisor}
    return {
        "do_resize": True,
        "size": {"shortest_edge": sides[1], "longest_edge": sides[0]},
        "size_rounding": "nearest",
        **aligned,
        "resample": int(Resampling.BILINEAR),
        "antialias": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
        **options,
    }


def protocol_options(
    name: str, size: int | tuple[int, int] = 224, crop_fraction: float | None = None
) -> dict[str, Any]:
    """The options of the protocol for models of `size` pixels per side, or (height, width) where nothing is cropped.

    `crop_fraction` replaces the protocol's own. Raises UnknownNameError for a name that is not in PROTOCOLS, and
    ConfigError for values that cannot work.
    """
    if name not in PROTOCOLS:
        raise UnknownNameError(f"no protocol is called {name!r}; there are {', '.join(PROTOCOLS)}.")
    protocol = PROTOCOLS[name]
    fraction = protocol.crop_fraction if crop_fraction is None else crop_fraction
    sides = (size, size) if isinstance(size, int) else tuple(size)
    problems = []
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        problems.append(f"size is a positive number of pixels, or (height, width); got {size!r}")
    if crop_fraction is not None and protocol.crop_fraction is None:
        problems.append(f"{name!r} resizes straight to the square: it has no crop_fraction")
    elif fraction is not None and not 0 < fraction <= 1:
        problems.append(f"crop_fraction is the share that is kept, above 0 and up to 1; got {fraction}")
    elif fraction is not None and len(set(sides)) > 1:
        problems.append(f"{name!r} crops a square; got size {size!r}")
    if problems:
        raise ConfigError(numbered("problem", problems))
    mean, std = protocol.statistics
    square = {"height": sides[0], "width": sides[1]}
    options: dict[str, Any] = {
        "do_resize": True,
        "resample": int(protocol.resample),
        "do_center_crop": fraction is not None,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }
    if fraction is None:
        return options | {"size": square}
    short = {"shortest_edge": protocol.rounding(sides[0] / fraction)}
    return options | {"size": short, "crop_size": square, "crop_rounding": "nearest"}
