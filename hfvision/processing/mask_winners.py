"""Which query each pixel goes to where masks compete, at photo size, without the masks of every pixel.

The naive way interpolates (n, H, W) and compares: 1.2 GB for 25 queries at 12 megapixels. Here it is done piece by
piece where the kernel's arithmetic can be repeated exactly (see `hfvision.processing.cells`), so that only queries that
can win somewhere in a piece, or that cross a threshold there, are interpolated; else a few queries at a time with the
kernel itself. The result is the naive one to the last pixel, ties included.

Shapes: n queries, h x w places of a mask, H x W pixels.
"""

import math

import torch
from torch import Tensor

from hfvision.processing.cells import best_of, corner_range, kernel_fuses_positions, rounding_of, strips
from hfvision.processing.semantic_maps import AT_ONCE, at_target, chunks_of_classes, goes_by_cells
from hfvision.upsampling import Size, Upsampling

SOFTMAX_MARGIN = 1e-5  # apart by more, two logits of order one have probabilities that are apart, too


def weighted_winners(probabilities: Tensor, scores: Tensor, target: Size, threshold: float) -> tuple[Tensor, Tensor]:
    """(n, h, w) mask probabilities and (n,) scores, n > 0 -> the query of each pixel (H, W) int32, and (n,) int64: how
    many pixels of each query reach `threshold`.

    Probabilities are brought to `target` bilinearly and weighed by the scores; the first of the largest wins.
    """
    batch = probabilities.detach().contiguous()[None]
    fused = _way(batch, target)
    if fused is not None:
        return _weighted_by_cells(batch[0], scores, target, threshold, fused)
    best = torch.full(target, -torch.inf, dtype=batch.dtype, device=batch.device)
    winners = torch.zeros(target, dtype=torch.int32, device=batch.device)
    reached = []
    for first, last in chunks_of_classes(batch, target, None):
        weighed = at_target(batch[:, first:last], target, None) * scores[first:last, None, None]
        for query, values in enumerate(weighed.to(batch.dtype), first):
            reached.append((values >= threshold).sum())
            winners.masked_fill_(values > best, query)
            torch.maximum(best, values, out=best)
    return winners, torch.stack(reached)


def _way(batch: Tensor, target: Size) -> bool | None:
    """`fused` of `kernel_fuses_positions` for photos; None where the kernel itself is to be used."""
    large = batch.shape[1] * batch.element_size() * math.prod(target) > AT_ONCE
    if not (large and goes_by_cells(batch, Upsampling(target), target)):
        return None
    return kernel_fuses_positions((batch.shape[2], batch.shape[3]), target)


def _weighted_by_cells(
    probabilities: Tensor, scores: Tensor, target: Size, threshold: float, fused: bool
) -> tuple[Tensor, Tensor]:
    winners = torch.empty(target, dtype=torch.int32)
    reached = torch.zeros(len(scores), dtype=torch.int64)
    rounding = rounding_of(probabilities)
    for pair, pieces in strips(probabilities, target, target, fused):
        low, high = (values * scores for values in corner_range(pair))
        can_win = high >= low.amax(dim=-1, keepdim=True) - rounding
        above = low >= threshold + rounding
        crosses = (high >= threshold - rounding) & ~above
        for piece in pieces:
            cells = piece.cells
            crossing = crosses[cells].any(dim=0)
            counts = torch.bincount(piece.columns.first - cells.start) * len(piece.rows.first)  # pixels of each cell
            reached += ((above[cells] & ~crossing) * counts[:, None]).sum(dim=0)
            queries = (can_win[cells].any(dim=0) | crossing).nonzero()[:, 0]
            counted = crossing[queries].nonzero()[:, 0]
            if len(queries) == 1 and not len(counted):
                winners[piece.area] = queries[0].int()
                continue
            weighed = (piece.values(queries) * scores[queries]).to(probabilities.dtype)
            winners[piece.area] = queries.int()[best_of(weighed)]
            if len(counted):
                reaching = torch.ge(weighed, threshold, out=torch.empty_like(weighed)).flatten(0, 1)  # 1 or 0
                reached[queries[counted]] += reaching.sum(dim=0)[counted].long()  # exact: a piece is small
    return winners, reached


def softmax_winners(logits: Tensor, target: Size) -> Tensor:
    """(n, h, w) mask logits, n > 0 -> the query of each pixel (H, W) int32: the first of those with the largest softmax
    over queries, of logits that are brought to `target` bilinearly.

    Near ties, more softmax probabilities are equal than logits.
    """
    batch = logits.detach().contiguous()[None]
    fused = _way(batch, target)
    if fused is None:
        return at_target(batch, target, None).movedim(0, -1).softmax(dim=-1).argmax(dim=-1).int()
    winners = torch.empty(target, dtype=torch.int32)
    margin = rounding_of(logits) + SOFTMAX_MARGIN
    everything = torch.arange(len(logits))
    for pair, pieces in strips(batch[0], target, target, fused):
        low, high = corner_range(pair)
        can_win = high >= low.amax(dim=-1, keepdim=True) - margin
        for piece in pieces:
            queries = can_win[piece.cells].any(dim=0).nonzero()[:, 0]
            if len(queries) == 1:
                winners[piece.area] = queries[0].int()
            else:
                winners[piece.area] = best_of(piece.values(everything).softmax(dim=-1)).int()
    return winners
