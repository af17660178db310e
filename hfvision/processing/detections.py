"""From a detector's outputs to the objects of each image: scores, classes, boxes, and masks where there are some.

Paper:  Carion et al. 2020, "End-to-End Object Detection with Transformers", arXiv 2005.12872.
Source: the rules are those of facebookresearch/detr's `PostProcess` (which keeps all queries: threshold 0) and
        `PostProcessSegm`; the form is that of transformers.

Shapes: B images, Q queries, K classes, h x w places of a mask, H x W pixels; n objects of an image.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hfvision.errors import ConfigError
from hfvision.geometry import convert_boxes, encode_rle
from hfvision.processing.queries import check_shares, extents_of, read_outputs
from hfvision.processing.semantic_maps import checked_sizes, chunks_of_classes
from hfvision.upsampling import Size

MaskForm = Literal["arrays", "rle"]


def post_process_object_detection(
    outputs: Any,
    threshold: float = 0.5,
    target_sizes: Any = None,
    *,
    masks: MaskForm | None = None,
    mask_threshold: float = 0.5,
    pixel_mask: Tensor | None = None,
) -> list[dict[str, Any]]:
    """{"scores" (n,), "labels" (n,) int64, "boxes" (n, 4)} for each image: queries whose best class scores above
    `threshold`, in their order.

    target_sizes: (height, width) for each image, a list or a tensor; boxes are xyxy in its pixels, or 0..1 without it.
    masks: with "masks" too, of outputs that have `pred_masks`: "arrays" gives bool (n, H, W), "rle" COCO's run lengths,
    made one by one. A pixel is of a mask where its probability is above `mask_threshold`, so masks may overlap; they
    are decided at the size the model saw, which `pixel_mask` (B, H', W') tells for images that were padded, and then
    resized to nearest neighbours, as the original does for COCO's figures.

    Raises ConfigError for sizes that do not match the batch, shares outside 0..1, and outputs that lack a field.
    """
    check_shares(threshold=threshold, mask_threshold=mask_threshold)
    if masks not in (None, "arrays", "rle"):
        raise ConfigError(f"masks is 'arrays', 'rle' or None; got {masks!r}.")
    names = ("logits", "pred_boxes") if masks is None else ("logits", "pred_boxes", "pred_masks")
    logits, centred, *mask_logits = read_outputs(outputs, *names)
    scores, labels = logits.softmax(dim=-1)[..., :-1].max(dim=-1)
    boxes = convert_boxes(centred, "cxcywh", "xyxy")
    sizes = None if target_sizes is None else checked_sizes(target_sizes, len(logits))
    if sizes is not None:
        sides = boxes.new_tensor(sizes)
        boxes = boxes * sides[:, [1, 0, 1, 0]][:, None]
    kept = scores > threshold
    results: list[dict[str, Any]] = [
        {"scores": scores[i][rows], "labels": labels[i][rows], "boxes": boxes[i][rows]} for i, rows in enumerate(kept)
    ]
    if masks is not None:
        grid = (mask_logits[0].shape[2], mask_logits[0].shape[3])
        extents = extents_of(pixel_mask, len(logits))
        for i, result in enumerate(results):
            size = sizes[i] if sizes is not None else grid if extents is None else extents[i]
            extent = size if extents is None else extents[i]
            padded = size if pixel_mask is None else (pixel_mask.shape[1], pixel_mask.shape[2])
            found = _binary_masks(mask_logits[0][i][kept[i]], padded, extent, size, mask_threshold)
            if masks == "rle":
                result["masks"] = [encode_rle(mask) for part in found for mask in part]
            else:
                empty = torch.zeros((0, *size), dtype=torch.bool, device=logits.device)
                result["masks"] = torch.cat([empty, *found])
    return results


def _binary_masks(logits: Tensor, padded: Size, extent: Size, target: Size, threshold: float) -> Iterator[Tensor]:
    """(n, h, w) over a padded image -> bool (.., H, W) of its top left `extent`, a few at a time."""
    if not len(logits):
        return
    batch = logits.contiguous()[None]
    for first, last in chunks_of_classes(batch, padded, None):
        values = nn.functional.interpolate(batch[:, first:last], size=padded, mode="bilinear", align_corners=False)[0]
        pixels = values.sigmoid_()[:, : extent[0], : extent[1]] > threshold
        if extent != target:
            pixels = nn.functional.interpolate(pixels[None].byte(), size=target, mode="nearest")[0] != 0
        yield pixels
