"""Token merging: between attention and MLP, the patches of a block that look most alike become one.

Paper:  Bolya et al. 2023, "Token Merging: Your ViT But Faster", arXiv 2210.09461: bipartite soft matching of keys and
        averages weighted by size, attention in proportion to size (section 3).

Shapes: B images, N tokens of the image, n tokens left, P of them protected (first; never merged), r merged in one step,
        D width, d width of the keys that are compared.
"""

import torch
from torch import Tensor


class TokenMerging:
    """What has been merged so far in one pass over a batch: made when the pass begins, handed from block to block."""

    keys: Tensor  # (B, n, d): those of the attention before the next merging

    def __init__(self, merged_per_step: int, protected: int) -> None:
        self.merged_per_step = merged_per_step
        self.protected = protected
        self.sizes: Tensor | None = None  # (B, n, 1) float32: how many tokens each one stands for; None: one each
        self.members: Tensor | None = None  # (B, n): the place in 0..N-1 of one token that each stands for
        self.groups: Tensor | None = None  # (B, N): which of the n stands for each token

    def reduce(self, tokens: Tensor) -> Tensor:
        """(B, N, D), equal within each group -> (B, n, D)."""
        return tokens if self.members is None else _rows(tokens, self.members)

    def expand(self, tokens: Tensor) -> Tensor:
        """(B, n, D) -> (B, N, D): every token gets the row of the one that stands for it."""
        return tokens if self.groups is None else _rows(tokens, self.groups)

    def attention_bias(self, dtype: torch.dtype) -> Tensor | None:
        """log(size), (B, 1, 1, n), to add to the scores of attention: a token counts for all that it stands for."""
        return None if self.sizes is None else self.sizes.log().mT[:, None].to(dtype)

    def merge(self, tokens: Tensor) -> Tensor:
        """(B, n, D) -> (B, n - r, D): the r pairs of the most similar keys are averaged.

        Every second patch may join the one most like it among the others. r is `merged_per_step`, or half of the
        patches where that is less.
        """
        batch, count, _ = tokens.shape
        first = self.protected
        merged = min(self.merged_per_step, (count - first) // 2)
        if merged < 1:
            return tokens
        places = torch.arange(count, device=tokens.device).expand(batch, -1)  # (B, n)
        sources, targets = places[:, first::2], places[:, first + 1 :: 2]
        keys = torch.nn.functional.normalize(self.keys.float(), dim=-1)
        likeness, nearest = (keys[:, first::2] @ keys[:, first + 1 :: 2].mT).max(dim=-1)  # (B, sources)
        order = likeness.argsort(dim=-1, descending=True, stable=True)
        joins, stays = order[:, :merged], order[:, merged:].sort(dim=-1).values
        joined = nearest.gather(1, joins)  # (B, r): which target each joins
        kept = torch.cat([places[:, :first], sources.gather(1, stays), targets], dim=1)  # (B, n - r), target rows last

        sizes = tokens.new_ones(batch, count, 1, dtype=torch.float32) if self.sizes is None else self.sizes
        rows, leaving = kept.shape[1] - targets.shape[1] + joined, sources.gather(1, joins)
        weighted = tokens * sizes  # float32
        sums = _add_rows(_rows(weighted, kept), rows, _rows(weighted, leaving))
        self.sizes = _add_rows(_rows(sizes, kept), rows, _rows(sizes, leaving))

        new_places = torch.empty_like(places).scatter(1, kept, places[:, : kept.shape[1]]).scatter(1, leaving, rows)
        self.groups = new_places if self.groups is None else new_places.gather(1, self.groups)
        self.members = kept if self.members is None else self.members.gather(1, kept)
        return (sums / self.sizes).to(tokens.dtype)


def _rows(tokens: Tensor, places: Tensor) -> Tensor:
    """(B, n, D) at places (B, m) -> (B, m, D)."""
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[2]))


def _add_rows(tokens: Tensor, places: Tensor, more: Tensor) -> Tensor:
    """(B, n, D) plus `more` (B, m, D), each row at its place (B, m)."""
    return tokens.scatter_add(1, places[..., None].expand_as(more), more)
