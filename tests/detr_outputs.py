"""Random outputs of a DETR, as smooth as masks are or as rough as noise, and transformers' own post-processing."""

from types import SimpleNamespace

import torch
from torch.nn.functional import interpolate
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

peer = DetrImageProcessorPil()


def outputs(seed=0, images=2, queries=9, classes=5, grid=(13, 17), kind="smooth", dtype=torch.float32):
    """Class logits that are sure enough for many queries to count; masks of the kinds "smooth", "noise" and "ties"."""
    random = torch.Generator().manual_seed(seed)
    masks = 4 * torch.randn(images, queries, *grid, generator=random)
    if kind == "smooth":
        masks = 2 * interpolate(masks[:, :, :3, :4], size=grid, mode="bilinear")
    if kind == "ties":
        masks = masks.round().clamp(-2, 2)
    logits = 4 * torch.randn(images, queries, classes + 1, generator=random)
    if kind == "ties":
        logits[:, 1::2] = logits[:, : queries // 2 * 2 : 2]
    boxes = torch.rand(images, queries, 4, generator=random)
    return SimpleNamespace(logits=logits.to(dtype), pred_boxes=boxes.to(dtype), pred_masks=masks.to(dtype))


def part(given, image, rows=slice(None), columns=slice(None)):
    """The outputs of one image of a batch, and a part of its masks."""
    masks = given.pred_masks[image : image + 1][..., rows, columns].contiguous()
    one = slice(image, image + 1)
    return SimpleNamespace(logits=given.logits[one], pred_boxes=given.pred_boxes[one], pred_masks=masks)
