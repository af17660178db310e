"""Where a vision transformer looks: attention of the last block, and attention rollout over all of them.

Paper: Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers", arXiv 2005.00928 (rollout, section 3).

Shapes: B images, A heads, N = prefix + h * w tokens, h x w patches, H x W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel

from hfvision.errors import ConfigError, numbered
from hfvision.labels.outputs import names_in_order
from hfvision.plots.pictures import overlay

Method = Literal["last", "rollout"]
METHODS = ("last", "rollout")


def attention_map(
    attentions: Sequence[Tensor], grid: tuple[int, int], method: Method = "last", prefix_tokens: int = 1
) -> Tensor:
    """How much each patch counts for the answer: (B, h, w), shares of one (what the prefix tokens hold is missing).

    `attentions` are a model's with `output_attentions=True`: (B, A, N, N) for every block, rows summing to one. The row
    read is the class token's, which comes first; without prefix tokens it is the mean over all tokens, as the head
    reads them. "last" averages the heads of the last block. "rollout" multiplies all blocks, each averaged over its
    heads and mixed half and half with the identity that the residual connection adds.

    Raises ConfigError for another method, and for attentions that are missing or do not fit the grid.

    Example:
        >>> import torch, hfvision
        >>> maps = [torch.full((1, 2, 5, 5), 0.2)]
        >>> tuple(hfvision.attention_map(maps, grid=(2, 2)).shape)
        (1, 2, 2)
    """
    height, width = grid
    tokens = prefix_tokens + height * width
    problems = []
    if method not in METHODS:
        problems.append(f"method is one of {', '.join(METHODS)}; got {method!r}")
    if not attentions or any(attention is None for attention in attentions):
        attentions = ()
        problems.append("there are no attentions; call the model with output_attentions=True")
    for block, attention in enumerate(attentions):
        if attention.ndim != 4 or attention.shape[-2:] != (tokens, tokens):
            problems.append(
                f"block {block} has attentions of shape {tuple(attention.shape)}; {prefix_tokens} prefix tokens and "
                f"{height} x {width} patches make (B, heads, {tokens}, {tokens})"
            )
    if problems:
        raise ConfigError(numbered("problem", problems))
    if method == "last":
        flow = attentions[-1].float().mean(dim=1)  # (B, A, N, N) -> (B, N, N)
    else:
        identity = torch.eye(tokens, device=attentions[0].device)
        flow = identity.expand(attentions[0].shape[0], -1, -1)
        for attention in attentions:
            flow = (attention.float().mean(dim=1) + identity) / 2 @ flow
    row = flow[:, 0] if prefix_tokens else flow.mean(dim=1)
    return row[:, prefix_tokens:].unflatten(1, grid)


@dataclass(frozen=True)
class Explanation:
    """What a model saw of one image, and where it looked."""

    image: Image.Image  # RGB, W x H: the image as it entered the model, after resizing and cropping
    heat: np.ndarray  # (H, W) float32: 0 where the least attention went, 1 where the most
    patches: np.ndarray  # (h, w) float32: the share of attention that each patch got
    label: str | None = None  # a classifier's answer and its probability
    score: float | None = None

    def picture(self, size: tuple[int, int] | None = None) -> Image.Image:
        """The heat laid over the image, RGB; `size` (width, height) enlarges it."""
        return overlay(self.image, self.heat, size)


@torch.inference_mode()
def explain_attention(model: PreTrainedModel, processor: Any, image: Any, method: Method = "rollout") -> Explanation:
    """Where `model` looks in one image, in anything that its processor takes; see `attention_map` for the methods.

    Works with every attention implementation and every image size. The map shows how attention flowed, not what caused
    the answer: two models with the same answers can have different maps. Raises ConfigError for models without a grid
    of patches at full length through all blocks, and for more than one image.

    Example:
        >>> import PIL.Image, hfvision
        >>> model = hfvision.create("deit-tiny-patch16-224", num_hidden_layers=2).eval()
        >>> processor = hfvision.create_processor("deit-tiny-patch16-224")
        >>> seen = hfvision.explain_attention(model, processor, PIL.Image.new("RGB", (64, 64)))
        >>> seen.patches.shape
        (14, 14)
    """
    pixel_values: Tensor = processor(images=image, return_tensors="pt")["pixel_values"]
    if pixel_values.ndim != 4 or pixel_values.shape[0] != 1:
        raise ConfigError(
            f"explain_attention takes one image; the processor made {tuple(pixel_values.shape)} of what it got. "
            "Call it once for each image."
        )
    embeddings: Any = getattr(model.base_model, "embeddings", None)
    if not hasattr(embeddings, "patch_grid"):
        raise ConfigError(
            f"{type(model).__name__} does not say on which patch grid it computes; explain_attention takes "
            "hfvision's ViT models."
        )
    was_training = model.training
    model.eval()
    try:
        outputs = model(pixel_values=pixel_values.to(model.device, model.dtype), output_attentions=True)
    finally:
        model.train(was_training)
    grid = embeddings.patch_grid(pixel_values)
    prefix_tokens = outputs.attentions[0].shape[-1] - grid[0] * grid[1]
    patches = attention_map(outputs.attentions, grid, method, prefix_tokens).cpu()
    # the patches of a hybrid are cut from a feature map, whose places are several pixels wide
    patch_size = getattr(embeddings, "pixels_per_patch", None) or embeddings.patch_embeddings.patch_size
    heat = _to_pixels(patches, patch_size, pixel_values.shape[-2:])
    label, score = _answer(outputs, model.config)
    return Explanation(_as_seen(pixel_values[0], processor), heat[0].numpy(), patches[0].numpy(), label, score)


def _to_pixels(patches: Tensor, patch_size: tuple[int, int], size: Sequence[int]) -> Tensor:
    """(B, h, w) -> (B, H, W): interpolated, without the padding to whole patches, stretched to 0..1."""
    scale = (float(patch_size[0]), float(patch_size[1]))
    heat = nn.functional.interpolate(patches.unsqueeze(1), scale_factor=scale, mode="bilinear")[:, 0]
    height, width = size
    heat = heat[:, :height, :width]
    low, high = heat.amin((1, 2), keepdim=True), heat.amax((1, 2), keepdim=True)
    heat = (heat - low) / (high - low).clamp_min(torch.finfo(heat.dtype).tiny)
    # A model that leaves partial patches out did not look at the right and lower margin.
    return nn.functional.pad(heat, (0, width - heat.shape[2], 0, height - heat.shape[1]))


def _as_seen(pixels: Tensor, processor: Any) -> Image.Image:
    """(C, H, W) as the model got them, back to an RGB picture; other than 1 or 3 channels show their mean."""
    values = pixels.float().cpu().numpy()
    if getattr(processor, "do_normalize", False):
        mean, std = (np.reshape(value, (-1, 1, 1)) for value in (processor.image_mean, processor.image_std))
        values = values * std + mean
    values = values * 255 if getattr(processor, "do_rescale", True) else values
    if values.shape[0] not in (1, 3):
        values = values.mean(axis=0, keepdims=True)
    values = np.round(np.clip(values, 0, 255)).astype(np.uint8)
    return Image.fromarray(values[0] if values.shape[0] == 1 else values.transpose(1, 2, 0)).convert("RGB")


def _answer(outputs: Any, config: Any) -> tuple[str | None, float | None]:
    """A classifier's label and probability."""
    logits = getattr(outputs, "logits", None)
    if logits is None or logits.ndim != 2 or logits.shape[1] < 2:
        return None, None
    several = config.problem_type == "multi_label_classification"
    scores = logits[0].float().sigmoid() if several else logits[0].float().softmax(dim=0)
    return names_in_order(config.id2label, len(scores))[int(scores.argmax())], float(scores.max())
