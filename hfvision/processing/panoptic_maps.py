"""From masks of queries to segments: instance, panoptic and semantic maps of each image.

Paper:  Carion et al. 2020, "End-to-End Object Detection with Transformers", arXiv 2005.12872, section 4.4.
Source: two sets of rules. "transformers": those of its `DetrImageProcessor`; mask probabilities, weighed by the
        scores of their classes, compete for each pixel, and a segment stays where enough of its mask is left to it.
        "detr": those of facebookresearch/detr's `PostProcessPanoptic`, with which its figures are made; mask logits
        compete, every pixel goes to a segment, and segments of a few pixels give theirs to the others.

Where stuff is fused, transformers lists a segment once for each query that went into it, and may give the next segment
an id that another has already. Here a segment has one entry, with the best of the scores, and an id of its own.

Shapes: B images, Q queries, K classes, h x w places of a mask, H x W pixels; n queries of an image with a class.
"""

from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from hfvision.errors import ConfigError
from hfvision.geometry import nearest_places
from hfvision.processing import semantic_maps
from hfvision.processing.mask_winners import softmax_winners, weighted_winners
from hfvision.processing.queries import (
    MaskQueries,
    check_shares,
    checked_labels,
    extents_of,
    mask_queries,
    read_outputs,
    without_padding,
)
from hfvision.processing.semantic_maps import checked_sizes
from hfvision.upsampling import Size

Rule = Literal["transformers", "detr"]

THRESHOLDS: dict[str, float] = {"transformers": 0.5, "detr": 0.85}  # of classes
MASK_THRESHOLD, OVERLAP = 0.5, 0.8
FEW_PIXELS = 4  # that the original's segments have to be more than
DIGITS = 6  # of scores
NO_SEGMENT = -1  # in maps of images without any, as in transformers


def post_process_panoptic_segmentation(
    outputs: Any,
    threshold: float | None = None,
    mask_threshold: float = MASK_THRESHOLD,
    overlap_mask_area_threshold: float = OVERLAP,
    label_ids_to_fuse: Iterable[int] | None = None,
    target_sizes: Any = None,
    *,
    pixel_mask: Tensor | None = None,
    rule: Rule = "transformers",
    processed_sizes: Any = None,
) -> list[dict[str, Any]]:
    """{"segmentation": (H, W) int32 of segment ids from 1, 0 where there is none, "segments_info"} for each image. The
    list holds a dict of each segment: "id", "label_id", "was_fused", "score", and with rule="detr" "area" in pixels.

    outputs have `logits` (B, Q, K + 1) and `pred_masks` (B, Q, h, w). Queries count whose best class is an object and
    scores above `threshold` (None: 0.5, or 0.85 with rule="detr"). `label_ids_to_fuse`: classes of stuff, of which an
    image has one segment at most. `target_sizes`: (height, width) for each image; without it maps have the masks' size.
    `pixel_mask`, (B, H', W') as the processor gives it: an image that was padded is answered for without its padding,
    as if it had been alone; transformers and the original stretch masks with their padding over the image.

    rule="transformers": a pixel is of a mask from `mask_threshold` on, and a segment is dropped unless it wins more
    than `overlap_mask_area_threshold` of its mask's pixels. Without any query the map is -1, in floats, as it is there.
    rule="detr": masks compete at `processed_sizes`, the images' sizes for the model (by default those of `pixel_mask`,
    else the target sizes), and the map is resized to nearest neighbours. Duplicates of stuff are merged; then segments
    of 4 pixels or fewer are dropped until there are none, and the others compete again.

    Raises ConfigError for sizes that do not match the batch, shares outside 0..1, classes the model does not have,
    options of the other rule, and outputs that lack a field.
    """
    if rule not in get_args(Rule):
        raise ConfigError(f"rule is one of {', '.join(get_args(Rule))}; got {rule!r}.")
    _check_options_of(rule, mask_threshold, overlap_mask_area_threshold, processed_sizes)
    threshold = THRESHOLDS[rule] if threshold is None else threshold
    check_shares(
        threshold=threshold,
        mask_threshold=mask_threshold,
        overlap_mask_area_threshold=overlap_mask_area_threshold,
    )
    logits, masks = read_outputs(outputs, "logits", "pred_masks")
    fused = checked_labels(label_ids_to_fuse, logits.shape[-1] - 1)
    found = _alone(mask_queries(logits, masks, threshold), pixel_mask)
    sizes = _targets(target_sizes, [queries.masks for queries in found])
    if rule == "detr":
        if processed_sizes is None:
            processed = extents_of(pixel_mask, len(logits)) or sizes
        else:
            processed = checked_sizes(processed_sizes, len(logits), "processed size")
        return [_original(*image, fused) for image in zip(found, sizes, processed, strict=True)]
    return [
        _segments(queries, size, mask_threshold, overlap_mask_area_threshold, fused)
        for queries, size in zip(found, sizes, strict=True)
    ]


def post_process_instance_segmentation(
    outputs: Any,
    threshold: float = THRESHOLDS["transformers"],
    mask_threshold: float = MASK_THRESHOLD,
    overlap_mask_area_threshold: float = OVERLAP,
    target_sizes: Any = None,
    return_coco_annotation: bool | None = False,
    return_binary_maps: bool | None = False,
    *,
    pixel_mask: Tensor | None = None,
) -> list[dict[str, Any]]:
    """As `post_process_panoptic_segmentation` with transformers' rule and nothing fused: instances do not overlap.

    return_coco_annotation: "segmentation" is transformers' list of runs, for each id of the map, 0 included: where each
    run starts, counted from 1 row by row, and its length. return_binary_maps: it is bool (segments, H, W). (Masks that
    may overlap, and COCO's own run lengths, are what `post_process_object_detection` gives with `masks`.)
    """
    if return_coco_annotation and return_binary_maps:
        raise ConfigError("return_coco_annotation and return_binary_maps exclude each other; choose one.")
    check_shares(
        threshold=threshold,
        mask_threshold=mask_threshold,
        overlap_mask_area_threshold=overlap_mask_area_threshold,
    )
    logits, masks = read_outputs(outputs, "logits", "pred_masks")
    found = _alone(mask_queries(logits, masks, threshold), pixel_mask)
    sizes = _targets(target_sizes, [queries.masks for queries in found])
    results = []
    for queries, size in zip(found, sizes, strict=True):
        result = _segments(queries, size, mask_threshold, overlap_mask_area_threshold, frozenset())
        if return_binary_maps:
            ids = torch.tensor([info["id"] for info in result["segments_info"]], device=queries.masks.device)
            result["segmentation"] = result["segmentation"] == ids[:, None, None]
        elif return_coco_annotation and len(queries):
            result["segmentation"] = segment_runs(result["segmentation"])
        results.append(result)
    return results


def post_process_semantic_segmentation(
    outputs: Any,
    target_sizes: Any = None,
    return_segmentation_scores: bool = False,
    *,
    pixel_mask: Tensor | None = None,
) -> list[Any]:
    """The class (H, W) int64 of each pixel: queries' class probabilities, weighed by those of their masks, add up.

    return_segmentation_scores: dicts with "segmentation" and "segmentation_scores" (K, H, W). The rest is as in
    `post_process_panoptic_segmentation`.
    """
    logits, masks = read_outputs(outputs, "logits", "pred_masks")
    classes = logits.softmax(dim=-1)[..., :-1]
    maps = without_padding(torch.einsum("bqc,bqhw->bchw", classes, masks.sigmoid()), pixel_mask)
    sizes = _targets(target_sizes, maps)
    results = []
    for one, size in zip(maps, sizes, strict=True):
        alone = one.shape[0] == 1  # a single logit would be read as a binary mask: a second class that never wins
        pair = torch.cat([one, torch.full_like(one, -1)]) if alone else one
        (answer,) = semantic_maps.post_process_semantic_segmentation(
            SimpleNamespace(logits=pair[None]), [size], return_segmentation_scores
        )
        if alone and return_segmentation_scores:
            answer["segmentation_scores"] = answer["segmentation_scores"][:1]
        results.append(answer)
    return results


def _check_options_of(rule: Rule, mask_threshold: float, overlap: float, processed_sizes: Any) -> None:
    if rule == "detr":
        others = {"mask_threshold": mask_threshold != MASK_THRESHOLD, "overlap_mask_area_threshold": overlap != OVERLAP}
        wrong, other = [name for name, given in others.items() if given], "transformers"
    else:
        wrong, other = ["processed_sizes"] if processed_sizes is not None else [], "detr"
    if wrong:
        raise ConfigError(f"{' and '.join(wrong)} belong to rule={other!r}; rule={rule!r} has no use for them.")


def _alone(images: list[MaskQueries], pixel_mask: Tensor | None) -> list[MaskQueries]:
    """The queries of each image with masks that end where the image does."""
    masks = without_padding([queries.masks for queries in images], pixel_mask)
    return [replace(queries, masks=one) for queries, one in zip(images, masks, strict=True)]


def _targets(target_sizes: Any, masks: list[Tensor]) -> list[Size]:
    if target_sizes is None:
        return [(one.shape[-2], one.shape[-1]) for one in masks]
    return checked_sizes(target_sizes, len(masks))


def _segments(
    queries: MaskQueries, size: Size, mask_threshold: float, overlap: float, fused: frozenset[int]
) -> dict[str, Any]:
    """The segments of one image by transformers' rules."""
    if not len(queries):
        return {"segmentation": torch.full(size, float(NO_SEGMENT), device=queries.masks.device), "segments_info": []}
    winners, masked = weighted_winners(queries.masks.sigmoid(), queries.scores, size, mask_threshold)
    won = torch.bincount(winners.flatten(), minlength=len(queries))
    shares = torch.where((won > 0) & (masked > 0), won / masked, 0.0).tolist()
    stays = [share > overlap for share in shares]  # of a float32 with a float64, as there
    infos, table = _listed(queries, stays, fused)
    return {"segmentation": _looked_up(winners, table), "segments_info": infos}


def _listed(queries: MaskQueries, stays: list[bool], fused: frozenset[int]) -> tuple[list[dict[str, Any]], list[int]]:
    """The segments, and the id of each query's (0: none)."""
    infos: list[dict[str, Any]] = []
    table = [0] * len(queries)
    of_class: dict[int, dict[str, Any]] = {}
    labels, scores = queries.labels.tolist(), queries.scores.tolist()
    for query, (label, score) in enumerate(zip(labels, scores, strict=True)):
        if not stays[query]:
            continue
        score = round(score, DIGITS)
        info = of_class.get(label)
        if info is None:
            info = {"id": len(infos) + 1, "label_id": label, "was_fused": label in fused, "score": score}
            infos.append(info)
            if label in fused:
                of_class[label] = info
        info["score"] = max(info["score"], score)
        table[query] = info["id"]
    return infos, table


def _original(queries: MaskQueries, target: Size, processed: Size, fused: frozenset[int]) -> dict[str, Any]:
    """The segments of one image by the original's rules."""
    rows, columns = (
        torch.from_numpy(nearest_places(old, new)).to(queries.masks.device)
        for old, new in zip(processed, target, strict=True)
    )
    merged = _duplicates_merged(queries.labels.tolist(), fused)
    while len(queries):
        winners = _looked_up(softmax_winners(queries.masks, processed), merged)[rows][:, columns]
        areas = torch.bincount(winners.flatten(), minlength=len(queries))
        large = areas > FEW_PIXELS
        if bool(large.all()):
            infos, table = _listed(queries, [True] * len(queries), fused)
            for info, area in zip(infos, areas.tolist(), strict=True):
                info["area"] = area
            return {"segmentation": _looked_up(winners, table), "segments_info": infos}
        queries = queries.take(large)
        merged = list(range(len(queries)))  # the first of duplicates is the only one left
    return {"segmentation": torch.zeros(target, dtype=torch.int32, device=rows.device), "segments_info": []}


def _duplicates_merged(labels: list[int], fused: frozenset[int]) -> list[int]:
    """For each query itself, or, of a class to be fused, the first of its class."""
    return [labels.index(label) if label in fused else query for query, label in enumerate(labels)]


def _looked_up(winners: Tensor, table: list[int]) -> Tensor:
    """(H, W) int32 -> (H, W) int32: table[winner]."""
    values = torch.tensor(table, dtype=torch.int32, device=winners.device)
    return values.index_select(0, winners.flatten()).view(winners.shape)


def segment_runs(segmentation: Tensor) -> list[list[int]]:
    """(H, W) -> for each id of the map, in order: start (from 1, row by row), length, start, length, ..."""
    flat = segmentation.flatten().cpu().numpy()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    runs = np.stack([starts + 1, np.diff(starts, append=len(flat))], axis=1)
    return [runs[flat[starts] == one].ravel().tolist() for one in np.unique(flat)]
