"""From coarse logits to the class of every pixel, at photo size, without the logits of every pixel.

The naive way interpolates (classes, H, W) and takes the best class of each pixel: 7 GB for 150 classes at 12
megapixels. Here it is done piece by piece: cell by cell where the kernel's arithmetic can be repeated exactly (see
`hfvision.processing.cells`), else a few classes at a time with the kernel itself. The result is the naive one to the
last pixel, ties included.

Shapes: K classes, h x w places of the coarse grid, H x W pixels.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput

from hfvision.errors import ConfigError, numbered
from hfvision.processing.cells import SMALL, Kernel, best_classes, channels_last_kernel, kernel_fuses_positions
from hfvision.upsampling import Size, Upsampling, upsample

WORKING_BYTES = 200 << 20  # of interpolated classes at a time
AT_ONCE = 16 << 20  # bytes up to which the naive way is the best
VECTOR = 16  # classes that kernels of channels-last logits work on at a time, on any CPU


def semantic_map(
    logits: Tensor, target: Size, upsampling: Upsampling | None = None, want_scores: bool = False
) -> tuple[Tensor, Tensor | None]:
    """(K, h, w) -> the best class of each pixel (H, W) int64, and its probability (H, W) float32 if wanted.

    The logits go through `upsampling`, if there is one, and then bilinearly (half-pixel centres) to `target`, (H, W).
    One logit is of a binary mask: the answer is 1 where its sigmoid is above 0.5, its probability that of the answer.
    """
    logits = logits.detach()
    if logits.shape[0] == 1:
        positive = at_target(logits[None], target, upsampling)[0].sigmoid()
        classes = positive > 0.5
        return classes.long(), torch.where(classes, positive, 1 - positive).float() if want_scores else None
    batch = _dense(logits[None])
    pixel = len(logits) * logits.element_size()  # bytes
    if upsampling is not None and upsampling.image_size != target:  # two steps: the first at once, if there is room
        room = pixel * math.prod(upsampling.size) < WORKING_BYTES
        if room:
            form = torch.channels_last if _is_channels_last(batch) else torch.contiguous_format
            batch, upsampling = upsample(batch, upsampling).contiguous(memory_format=form), None
    way = upsampling or Upsampling(target)
    if pixel * math.prod(target) > AT_ONCE and (kernel := _kernel(batch, way, target)) is not None:
        return best_classes(batch[0], way.size, target, kernel, want_scores)
    return _best_of_chunks(batch, target, upsampling, want_scores)


def _dense(batch: Tensor) -> Tensor:
    """The same in the memory format that the kernel would bring it to, which decides on its roundings."""
    if batch.is_contiguous() or batch.is_contiguous(memory_format=torch.channels_last):
        return batch
    classes_first = batch.stride(1) != 1
    return batch.contiguous(memory_format=torch.contiguous_format if classes_first else torch.channels_last)


def _is_channels_last(batch: Tensor) -> bool:
    return batch.is_contiguous(memory_format=torch.channels_last) and batch.shape[1] > 3


def _kernel(batch: Tensor, way: Upsampling, target: Size) -> Kernel | None:
    """The kernel that would be used, if `best_classes` can equal it."""
    size, classes = (batch.shape[2], batch.shape[3]), batch.shape[1]
    if goes_by_cells(batch, way, target):
        fused = kernel_fuses_positions(size, way.size)
        return None if fused is None else Kernel(fused)
    if _is_channels_last(batch) and _is_plain(batch, way, target):
        return channels_last_kernel(size, way.size, classes)
    return None


def goes_by_cells(batch: Tensor, way: Upsampling, target: Size) -> bool:
    """Whether the kernel that would be used is the one whose arithmetic the cells repeat."""
    return (
        not _is_channels_last(batch)
        and batch.shape[1] != 3  # which has a kernel of its own
        and sum(way.size) > SMALL
        and _is_plain(batch, way, target)
    )


def _is_plain(batch: Tensor, way: Upsampling, target: Size) -> bool:
    return (
        way.image_size == target
        and batch.device.type == "cpu"
        and batch.dtype == torch.float32
        and bool(batch.isfinite().all())
    )


def _best_of_chunks(
    batch: Tensor, target: Size, upsampling: Upsampling | None, want_scores: bool
) -> tuple[Tensor, Tensor | None]:
    """`semantic_map`, a few classes at a time with the kernel itself."""
    best = torch.full(target, -torch.inf, dtype=batch.dtype, device=batch.device)
    winner = torch.zeros(target, dtype=torch.int32, device=batch.device)
    total = torch.zeros(target, device=batch.device) if want_scores else None
    finite = bool(batch.isfinite().all())
    form = torch.channels_last if _is_channels_last(batch) else torch.contiguous_format
    for first, last in chunks_of_classes(batch, target, upsampling):
        chunk = batch[:, first:last].contiguous(memory_format=form)[0][None]  # with the strides of one image alone
        for label, values in enumerate(at_target(chunk, target, upsampling), first):
            better = values > best  # the first of equal ones stays, as in argmax
            if not finite:  # to argmax, NaN is the largest
                better |= values.isnan() & ~best.isnan()
            winner.masked_fill_(better, label)
            new = torch.maximum(best, values)
            if total is not None:  # of exponentials, relative to the best
                total = total * (best - new).float().exp_() + (values - new).float().exp_()
            best = new
    return winner.long(), None if total is None else 1 / total


def chunks_of_classes(batch: Tensor, target: Size, upsampling: Upsampling | None) -> list[tuple[int, int]]:
    """Ranges of classes, such that each class is computed by the kernel, and at the place in its vectors, as among all.

    Three classes alone have a kernel of their own. Channels-last logits and small maps are computed in vectors of
    classes, with another rounding for what remains at the end, and in that way only from four classes on.
    """
    sizes = [target] if upsampling is None else [upsampling.size, target]
    in_vectors = _is_channels_last(batch) or min(map(sum, sizes)) <= SMALL
    unit, alone = (VECTOR, (1, 2, 3)) if in_vectors else (1, (3,))
    classes = batch.shape[1]
    if classes == 3:
        return [(0, 3)]
    fitting = WORKING_BYTES // (sum(map(math.prod, sizes)) * batch.element_size())
    size = max(unit, fitting // unit * unit)
    size -= size in alone and not in_vectors
    starts = list(range(0, classes, size))
    if len(starts) > 1 and classes - starts[-1] in alone and classes - starts[-1] < size:
        del starts[-1]
    return list(zip(starts, [*starts[1:], classes], strict=True))


def at_target(batch: Tensor, target: Size, upsampling: Upsampling | None) -> Tensor:
    """(1, k, h, w) -> (k, H, W), the naive way."""
    if upsampling is not None:
        batch = upsample(batch, upsampling)
    if tuple(batch.shape[-2:]) != target:
        batch = nn.functional.interpolate(batch, size=target, mode="bilinear", align_corners=False)
    return batch[0]


def post_process_semantic_segmentation(
    outputs: Any,
    target_sizes: Any = None,
    return_segmentation_scores: bool = False,
    upsampling: Upsampling | Sequence[Upsampling] | None = None,
    return_confidence: bool = False,
) -> list[Any]:
    """The label map (H, W) int64 of each image of a model's `outputs`.

    `target_sizes`: (height, width) for each image, such as those of the photos; without it the maps are of the size of
    the logits, or of `upsampling` (what `model.upsampling(size)` gives for coarse logits), if given.
    `return_confidence`: dicts with "segmentation" and "segmentation_confidence", the probability (H, W) of the answer.
    `return_segmentation_scores`: with "segmentation_scores" too, the logits (K, H, W): of all classes, as transformers
    has it, so the memory that is otherwise saved is spent.
    """
    logits = outputs.logits if hasattr(outputs, "logits") else outputs["logits"]
    ways = list(upsampling) if isinstance(upsampling, Sequence) else [upsampling] * len(logits)
    if len(ways) != len(logits):
        raise ConfigError(f"one upsampling for each image; got {len(ways)} for {len(logits)} images")
    if target_sizes is None:
        sizes = [(logits.shape[-2], logits.shape[-1]) if way is None else way.image_size for way in ways]
    else:
        sizes = checked_sizes(target_sizes, len(logits))
    results: list[Any] = []
    for one, size, way in zip(logits, sizes, ways, strict=True):
        classes, confidence = semantic_map(one, size, way, return_confidence)
        if not (return_segmentation_scores or return_confidence):
            results.append(classes)
            continue
        data = {"segmentation": classes}
        if return_segmentation_scores:
            data["segmentation_scores"] = at_target(one[None], size, way)
        if confidence is not None:
            data["segmentation_confidence"] = confidence
        results.append(SemanticSegmentationPostProcessorOutput(data=data))
    return results


def checked_sizes(target_sizes: Any, images: int, what: str = "target size") -> list[Size]:
    """Heights and widths as given in a list or a tensor. Raises ConfigError naming every fault."""
    sizes = target_sizes.tolist() if hasattr(target_sizes, "tolist") else list(target_sizes)
    sizes = [list(size) if isinstance(size, Iterable) else size for size in sizes]
    faults = [
        f"a {what} is (height, width) in pixels, above 0; got {size}"
        for size in sizes
        if not (isinstance(size, list) and len(size) == 2 and all(_is_side(side) for side in size))
    ]
    if len(sizes) != images:
        faults.insert(0, f"one {what} for each image; got {len(sizes)} for {images} images")
    if faults:
        raise ConfigError(faults[0] if len(faults) == 1 else numbered("fault", faults))
    return [(int(height), int(width)) for height, width in sizes]


def _is_side(side: Any) -> bool:
    try:
        return bool(int(side) == side > 0)
    except (TypeError, ValueError, OverflowError):
        return False
