"""A JPEG file to the tensor that a ViT takes: decoding, resizing, scaling; beside transformers' Pillow processor."""

from functools import partial
from typing import Any

from torch import Tensor
from transformers.image_utils import load_image

from hfvision.bench.case import Case, Goal, Pair, Setting
from hfvision.bench.suites.photos import Photos
from hfvision.bench.twins import their_class
from hfvision.processing.classification import ViTImageProcessor

DRAFT_ERROR = 0.05  # of the largest value: a draft is not the same picture


def jpeg_to_tensor(setting: Setting, width: int, height: int, draft: bool) -> Pair:
    if setting.tiny:
        width, height = width // 8, height // 8
    photo = Photos(1, width, height)
    theirs = their_class("vit.image_processing_pil_vit:ViTImageProcessorPil")()
    ours: Any = ViTImageProcessor()
    options: dict[str, Any] = {"decode": "draft"} if draft else {}

    def their_tensor() -> Tensor:
        pixels: Tensor = theirs(load_image(photo.paths[0]), return_tensors="pt").pixel_values
        return pixels

    def our_tensor() -> Tensor:
        pixels: Tensor = ours(photo.paths[0], return_tensors="pt", **options).pixel_values
        return pixels

    return Pair(their_tensor, our_tensor)


def _case(name: str, width: int, height: int, ratio: float, draft: bool = False) -> Case:
    build = partial(jpeg_to_tensor, width=width, height=height, draft=draft)
    return Case(name, build, Goal(ratio), tolerance=DRAFT_ERROR if draft else 1e-5, counts_flops=False)


CASES = (
    _case("jpeg-500x375", 500, 375, 1.6),
    _case("jpeg-1920x1080", 1920, 1080, 1.4),
    _case("jpeg-4000x3000", 4000, 3000, 2.0),
    _case("jpeg-4000x3000-draft", 4000, 3000, 4.5, draft=True),
)
