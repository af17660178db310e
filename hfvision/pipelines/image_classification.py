"""`pipeline("image-classification")`: transformers' own, taking any image and batches of mixed sizes.

Models that are not hfvision's go through transformers' code unchanged.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import ImageClassificationPipeline as TransformersPipeline
from transformers.modeling_outputs import ImageClassifierOutput

from hfvision.pipelines.any_image import AnyImages, plan_of, read_picture, run_by_size


class ImageClassificationPipeline(AnyImages, TransformersPipeline):  # type: ignore[misc]  # ours takes any options
    """Classifies paths, URLs, PIL images, numpy arrays and torch tensors; lists, generators and `datasets` columns.

    Arguments and results are transformers'. A 4-D array is a batch. With `batch_size` the images of one size run
    together, so that a result does not depend on its neighbours. Raises ImageValueError for an empty list, and what
    the image processor raises.
    """

    own_options = ("top_k", "function_to_apply")

    def preprocess(self, image: Any, timeout: float | None = None, **options: Any) -> Any:  # type: ignore[override]
        if not self._ours:
            return super().preprocess(image, timeout=timeout, **options)
        opened = read_picture(image, plan_of(self._processor, **options), timeout)
        processed = self._processor(images=opened, return_tensors="pt", **options)
        return {"pixel_values": [processed["pixel_values"].to(self.dtype)]}  # in a list: batches are not stacked yet

    def _forward(self, model_inputs: Any) -> Any:  # type: ignore[override]
        if not self._ours:
            return super()._forward(model_inputs)
        images = list(_flat(model_inputs["pixel_values"]))
        return ImageClassifierOutput(logits=torch.stack(run_by_size(images, self._logits)))

    def _logits(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values=pixel_values).logits


def _flat(images: Any) -> Iterator[Tensor]:
    if isinstance(images, Tensor):
        yield images
    else:
        for image in images:
            yield from _flat(image)
