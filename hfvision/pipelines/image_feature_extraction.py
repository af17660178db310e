"""`pipeline("image-feature-extraction")`: transformers' own, taking any image and batches of mixed sizes.

Models that are not hfvision's go through transformers' code unchanged.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import ImageFeatureExtractionPipeline as TransformersPipeline

from hfvision.errors import ConfigError
from hfvision.pipelines.any_image import AnyImages, plan_of, read_picture


class ImageFeatureExtractionPipeline(AnyImages, TransformersPipeline):  # type: ignore[misc]  # ours takes any options
    """Features of paths, URLs, PIL images, numpy arrays and torch tensors; lists, generators and `datasets` columns.

    Arguments and results are transformers': of an image the model's first output, or with pool=True its pooled one, as
    nested lists, or with return_tensors=True as a tensor (1, ...). A model that gives feature maps (a backbone) has a
    list of them. image_processor_kwargs= are options of the image processor, which can also be given by themselves.

    With batch_size= the images that have one size for the model run together, so that features do not depend on an
    image's neighbours. Raises ImageValueError for an empty list, ConfigError where a model has no pooled output, and
    what the image processor raises.
    """

    own_options = ("pool", "return_tensors", "image_processor_kwargs")

    def _sanitize_parameters(self, **options: Any) -> Any:  # type: ignore[override]
        if self._ours and isinstance(inner := options.pop("image_processor_kwargs", None), Mapping):
            options = {**inner, **options}
        return super()._sanitize_parameters(**options)

    def preprocess(self, image: Any, timeout: float | None = None, **options: Any) -> Any:  # type: ignore[override]
        if not self._ours:
            return super().preprocess(image, timeout=timeout, **options)
        opened = read_picture(image, plan_of(self._processor, **options), timeout)
        processed = self._processor(images=opened, return_tensors="pt", **options)
        return {"image": dict(processed.to(self.dtype))}

    def _forward(self, model_inputs: Any) -> Any:  # type: ignore[override]
        if not self._ours:
            return super()._forward(model_inputs)
        images = model_inputs["image"]
        return {"features": self._features(images) if isinstance(images, list) else self._features([images])[0]}

    def _features(self, images: Sequence[dict[str, Tensor]]) -> list[dict[str, Any]]:
        """images: the inputs of the model, each of one image, (1, ...). For each its "first" and "pooled" output."""
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            by_size.setdefault(tuple(image["pixel_values"].shape), []).append(index)
        features: dict[int, dict[str, Any]] = {}
        for indices in by_size.values():
            names = images[indices[0]]
            outputs = self.model(**{name: torch.cat([images[index][name] for index in indices]) for name in names})
            kept = {"first": outputs[0], "pooled": outputs.get("pooler_output")}
            features |= {
                index: {name: _of_one(output, row) for name, output in kept.items()}
                for row, index in enumerate(indices)
            }
        return [features[index] for index in range(len(images))]

    def postprocess(self, model_outputs: Any, pool: Any = None, return_tensors: bool = False) -> Any:  # type: ignore[override]
        if not self._ours:
            return super().postprocess(model_outputs, pool=pool, return_tensors=return_tensors)
        features = model_outputs["features"]
        if pool and features["pooled"] is None:
            raise ConfigError(f"pool=True: {type(self.model).__name__} gives no pooled output; leave pool out.")
        chosen = features["pooled" if pool else "first"]
        if return_tensors:
            return chosen
        return chosen.tolist() if isinstance(chosen, Tensor) else [one.tolist() for one in chosen]


def _of_one(output: Any, row: int) -> Any:
    """(B, ...) -> (1, ...) of one image; of several outputs, of each."""
    if output is None or isinstance(output, Tensor):
        return None if output is None else output[row : row + 1]
    return [_of_one(one, row) for one in output]
