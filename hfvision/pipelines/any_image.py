"""What the pipelines share: any image as input, and batches whose images may have different sizes.

A pipeline of transformers with `AnyImages` before it does its own work where model and processor are hfvision's, and
transformers' code runs unchanged for all others.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Pipeline

from hfvision.errors import ImageValueError
from hfvision.models.base import VisionModel
from hfvision.processing.base import ImageProcessor
from hfvision.processing.channels import channels_first
from hfvision.processing.options import Plan, checked, make_plan
from hfvision.upsampling import Size

Answer = TypeVar("Answer")

_SINGLE = (str, bytes, Path, Image.Image, np.ndarray, Tensor, dict)  # what is one image, though some have a length


class AnyImages(Pipeline):
    """Takes paths, URLs, PIL images, arrays and tensors; lists, generators and `datasets` columns; 4-D arrays."""

    own_models: ClassVar[tuple[type[VisionModel], ...]] = (VisionModel,)  # that the pipeline does its own work for

    def check_model_type(self, supported_models: Any) -> None:
        if not self._ours:  # the list that it reads knows transformers' names only
            super().check_model_type(supported_models)

    @property
    def _ours(self) -> bool:
        return isinstance(self.model, self.own_models) and isinstance(self.image_processor, ImageProcessor)

    def __call__(self, inputs: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        inputs = kwargs.pop("images", inputs)  # the older name of the argument
        if not self._ours or inputs is None:
            return super().__call__(inputs, **kwargs)
        if isinstance(inputs, (np.ndarray, Tensor)) and inputs.ndim == 4:
            inputs = list(inputs)
        elif isinstance(inputs, Sequence) and not isinstance(inputs, (*_SINGLE, list)):
            items: Any = _items(inputs)  # a column of a dataset decodes one image at a time
            return list(super().__call__(items, **kwargs))
        if isinstance(inputs, list) and not inputs:
            raise ImageValueError("the pipeline takes at least one image; got an empty list.")
        return super().__call__(inputs, **kwargs)


def _items(column: Sequence[Any]) -> Iterator[Any]:
    yield from column


def plan_of(processor: ImageProcessor, **options: Any) -> Plan:
    """What the processor does with an image in a call with these options."""
    stored = {name: getattr(processor, name, None) for name in processor.option_names()}
    return make_plan(stored, checked(options, processor.valid_kwargs))


def size_of(image: Any, plan: Plan) -> Size:
    """Height and width of an image. Raises ImageShapeError as the processor does."""
    if isinstance(image, Image.Image):
        return image.height, image.width
    height, width = channels_first(image, plan.channels).shape[-2:]
    return height, width


def run_by_size(images: Sequence[Tensor], run: Callable[[Tensor], Iterable[Answer]]) -> list[Answer]:
    """`run` on batches of the images (each (1, C, H, W)) of one size: an answer for each, in their order."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        by_size.setdefault(tuple(image.shape), []).append(index)
    answers: dict[int, Answer] = {}
    for indices in by_size.values():
        answers |= zip(indices, run(torch.cat([images[index] for index in indices])), strict=True)
    return [answers[index] for index in range(len(images))]


def similar_sizes(sizes: Sequence[Size], most_padding: float = 0.2) -> list[list[int]]:
    """Which images to pad to one size and run together: at most this share of a batch's pixels is padding."""
    buckets: list[list[int]] = []
    height = width = pixels = 0
    for index in sorted(range(len(sizes)), key=lambda index: sizes[index]):
        taller, wider = max(height, sizes[index][0]), max(width, sizes[index][1])
        more = pixels + sizes[index][0] * sizes[index][1]
        if buckets and more >= (1 - most_padding) * taller * wider * (len(buckets[-1]) + 1):
            buckets[-1].append(index)
            height, width, pixels = taller, wider, more
        else:
            buckets.append([index])
            height, width = sizes[index]
            pixels = height * width
    return buckets


def padded(images: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Images (each (1, C, h, w)) as (B, C, H, W), with zeros below and to the right, and their mask (B, H, W): 1 on the
    image, 0 on its padding; None where nothing is padded.
    """
    height, width = (max(image.shape[axis] for image in images) for axis in (2, 3))
    if all(tuple(image.shape[2:]) == (height, width) for image in images):
        return torch.cat(list(images)), None
    around = [(0, width - image.shape[3], 0, height - image.shape[2]) for image in images]
    mask = [
        torch.nn.functional.pad(image.new_ones(image.shape[2:], dtype=torch.int64), pads)
        for image, pads in zip(images, around, strict=True)
    ]
    batch = [torch.nn.functional.pad(image, pads) for image, pads in zip(images, around, strict=True)]
    return torch.cat(batch), torch.stack(mask)
