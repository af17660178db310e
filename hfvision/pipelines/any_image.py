"""What the pipelines share: any image as input, and batches whose images may have different sizes.

A pipeline of transformers with `AnyImages` before it does its own work where model and processor are hfvision's, and
transformers' code runs unchanged for all others.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Pipeline

from hfvision.errors import ImageValueError
from hfvision.models.base import VisionModel
from hfvision.processing.base import ImageProcessor

_SINGLE = (str, bytes, Path, Image.Image, np.ndarray, Tensor, dict)  # what is one image, though some have a length


class AnyImages(Pipeline):
    """Takes paths, URLs, PIL images, arrays and tensors; lists, generators and `datasets` columns; 4-D arrays."""

    own_models: ClassVar[type[VisionModel]] = VisionModel  # that the pipeline does its own work for

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


def run_by_size(images: Sequence[Tensor], run: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """`run` on batches of the images (each (1, C, H, W)) of one size: an answer for each, in their order."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        by_size.setdefault(tuple(image.shape), []).append(index)
    answers: list[Tensor] = [torch.empty(0)] * len(images)
    for indices in by_size.values():
        for index, answer in zip(indices, run(torch.cat([images[index] for index in indices])), strict=True):
            answers[index] = answer
    return answers
