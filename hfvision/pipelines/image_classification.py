"""`pipeline("image-classification")`: transformers' own, taking any image and batches of mixed sizes.

Models that are not hfvision's go through transformers' code unchanged.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import ImageClassificationPipeline as TransformersPipeline
from transformers.modeling_outputs import ImageClassifierOutput

from hfvision.errors import ImageValueError
from hfvision.models.base import VisionModel
from hfvision.processing.base import ImageProcessor
from hfvision.processing.reading import read_image

_SINGLE = (str, bytes, Path, Image.Image, np.ndarray, Tensor, dict)  # what is one image, though some have a length


class ImageClassificationPipeline(TransformersPipeline):
    """Classifies paths, URLs, PIL images, numpy arrays and torch tensors; lists, generators and `datasets` columns.

    Arguments and results are transformers'. A 4-D array is a batch. With `batch_size` the images of one size run
    together, so that a result does not depend on its neighbours. Raises ImageValueError for an empty list, and what
    the image processor raises.
    """

    def check_model_type(self, supported_models: Any) -> None:
        if not self._ours:  # the list that it reads knows transformers' names only
            super().check_model_type(supported_models)

    @property
    def _ours(self) -> bool:
        return isinstance(self.model, VisionModel) and isinstance(self.image_processor, ImageProcessor)

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

    def preprocess(self, image: Any, timeout: float | None = None) -> Any:  # type: ignore[override]
        if not self._ours:
            return super().preprocess(image, timeout=timeout)
        processor: Any = self.image_processor
        processed = processor(images=read_image(image, timeout=timeout), return_tensors="pt")
        return {"pixel_values": [processed["pixel_values"].to(self.dtype)]}  # in a list: batches are not stacked yet

    def _forward(self, model_inputs: Any) -> Any:  # type: ignore[override]
        if not self._ours:
            return super()._forward(model_inputs)
        images = list(_flat(model_inputs["pixel_values"]))  # each (1, C, H, W)
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            by_size.setdefault(tuple(image.shape), []).append(index)
        logits: list[Tensor] = [torch.empty(0)] * len(images)
        for indices in by_size.values():
            batch = self.model(pixel_values=torch.cat([images[index] for index in indices])).logits
            for index, row in zip(indices, batch, strict=True):
                logits[index] = row
        return ImageClassifierOutput(logits=torch.stack(logits))


def _items(column: Sequence[Any]) -> Iterator[Any]:
    yield from column


def _flat(images: Any) -> Iterator[Tensor]:
    if isinstance(images, Tensor):
        yield images
    else:
        for image in images:
            yield from _flat(image)
