"""The layers of DETR: positions, attention, and the blocks of encoder and decoder.

Paper:  Carion et al. 2020, "End-to-End Object Detection with Transformers", arXiv 2005.12872, appendix A.3.
Source: facebookresearch/detr (Apache-2.0), re-expressed in PyTorch.

Shapes: B images, h x w places of the trunk's last map, N = h * w tokens, D width, Q queries. Padding is (B, 1, h, w),
        True where a place lies outside the image, or None.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.generic import TransformersKwargs
from typing_extensions import Unpack

from hfvision.errors import ImageShapeError
from hfvision.layers.attention import MultiHeadAttention
from hfvision.layers.in_place import activated
from hfvision.layers.linear import Linear
from hfvision.layers.patch_embedding import by
from hfvision.layers.position import Grid
from hfvision.models.detr.config import DetrConfig
from hfvision.tracing import sizes_are_symbols, values_are_hidden

TEMPERATURE = 10_000  # of the sine positions
POSITION_EPS = 1e-6
LEARNED_PLACES = 50  # per side, that learned positions have rows for


class DetrSinePositions(nn.Module):
    """(1 or B, N, D): where each place lies in its image, as sines and cosines of the share above it and left of it."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.width = config.d_model

    def forward(self, grid: Grid, padding: Tensor | None, like: Tensor) -> Tensor:
        if padding is not None:
            real = ~padding[:, 0]
            return sine_positions(real.cumsum(1), real.cumsum(2), self.width, like.dtype)
        if values_are_hidden() or type(like) is not Tensor:  # a stand-in is not to be kept
            return _sine_table(grid, self.width, like.dtype, like.device)
        return _kept_sine_table(grid, self.width, like.dtype, like.device)


def sine_positions(rows: Tensor, columns: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """(B, h, w) rows and columns, counted from 1 to the image's last -> (B, h * w, width)."""
    wide = torch.promote_types(dtype, torch.float32)
    pairs = width // 4  # of a sine and a cosine, down and across
    periods = TEMPERATURE ** (torch.arange(pairs, dtype=wide, device=rows.device) / pairs)
    parts = []
    for count, last in ((rows, rows[:, -1:, :]), (columns, columns[:, :, -1:])):
        turns = count.to(wide) / (last.to(wide) + POSITION_EPS) * (2 * math.pi)
        angles = turns[..., None] / periods
        parts.append(torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2))  # sine, cosine, sine, ...
    return torch.cat(parts, dim=-1).flatten(1, 2).to(dtype)


def _sine_table(grid: Grid, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    rows, columns = (torch.arange(1, side + 1, device=device) for side in grid)
    return sine_positions(rows[None, :, None].expand(1, *grid), columns.expand(1, *grid), width, dtype)


@lru_cache(maxsize=16)
def _kept_sine_table(grid: Grid, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():  # whoever asks first, training may read it later
        return _sine_table(grid, width, dtype, device)


class DetrLearnedPositions(nn.Module):
    """(1, N, D): a row of each of two tables, for the place across and the place down."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.row_embeddings = nn.Embedding(LEARNED_PLACES, config.d_model // 2)
        self.column_embeddings = nn.Embedding(LEARNED_PLACES, config.d_model // 2)

    def forward(self, grid: Grid, padding: Tensor | None, like: Tensor) -> Tensor:
        """Raises ImageShapeError for maps larger than the tables."""
        if not sizes_are_symbols() and max(grid) > LEARNED_PLACES:
            raise ImageShapeError(
                f"learned positions reach over {by((LEARNED_PLACES, LEARNED_PLACES))} places of the trunk's last map; "
                f"these images have {by(grid)}. Make the images smaller, or train with position_embedding_type='sine'."
            )
        rows, columns = (torch.arange(side, device=like.device) for side in grid)
        down, across = self.row_embeddings(rows), self.column_embeddings(columns)
        places = torch.cat([across[None].expand(grid[0], -1, -1), down[:, None].expand(-1, grid[1], -1)], dim=-1)
        return places.flatten(0, 1)[None].to(like.dtype)


POSITIONS: dict[str, type[DetrSinePositions] | type[DetrLearnedPositions]] = {
    "sine": DetrSinePositions,
    "learned": DetrLearnedPositions,
}


class DetrAttention(MultiHeadAttention):
    """Multi-head attention: (B, n, D) queries, (B, m, D) keys and values -> (B, n, D), and maps or None."""

    def __init__(self, config: DetrConfig, heads: int) -> None:
        super().__init__(config, config.d_model, heads, config.attention_dropout)
        self.q_proj = Linear(config.d_model, config.d_model)
        self.k_proj = Linear(config.d_model, config.d_model)
        self.v_proj = Linear(config.d_model, config.d_model)
        self.out_proj = Linear(config.d_model, config.d_model)

    def attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[Tensor, Tensor | None]:
        mixed, maps = self.mix(self.q_proj(queries), self.k_proj(keys), self.v_proj(values), attention_mask, **kwargs)
        return self.out_proj(mixed), maps


class DetrSelfAttention(DetrAttention):
    """Positions belong to queries and keys, not to values."""

    def forward(
        self, x: Tensor, positions: Tensor, attention_mask: Tensor | None, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[Tensor, Tensor | None]:
        placed = x + positions
        return self.attend(placed, placed, x, attention_mask, **kwargs)


class DetrCrossAttention(DetrAttention):
    """The queries read the encoder's tokens, `memory`; `memory_keys` are these with their positions."""

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        memory: Tensor,
        memory_keys: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[Tensor, Tensor | None]:
        return self.attend(x + positions, memory_keys, memory, attention_mask, **kwargs)


class DetrLayer(GradientCheckpointingLayer):
    """What the layers of encoder and decoder have in common: self-attention and an MLP, normed after each is added."""

    def __init__(self, config: DetrConfig, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = DetrSelfAttention(config, heads)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = Linear(config.d_model, hidden)
        self.fc2 = Linear(hidden, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.activation = ACT2FN[config.activation_function]
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        self.dropout = nn.Dropout(config.dropout)

    def mlp(self, x: Tensor) -> Tensor:
        return self.dropout(self.fc2(self.activation_dropout(activated(self.fc1, self.activation, x))))


class DetrEncoderLayer(DetrLayer):
    """(B, N, D) -> (B, N, D)."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__(config, config.encoder_attention_heads, config.encoder_ffn_dim)

    def forward(
        self, x: Tensor, positions: Tensor, attention_mask: Tensor | None, **kwargs: Unpack[TransformersKwargs]
    ) -> Tensor:
        attended, _ = self.self_attn(x, positions, attention_mask, **kwargs)
        x = self.self_attn_layer_norm(x + self.dropout(attended))
        return self.final_layer_norm(x + self.mlp(x))


class DetrDecoderLayer(DetrLayer):
    """The queries attend to each other, then to the encoder's tokens: (B, Q, D) -> (B, Q, D)."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__(config, config.decoder_attention_heads, config.decoder_ffn_dim)
        self.encoder_attn = DetrCrossAttention(config, config.decoder_attention_heads)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        memory: Tensor,
        memory_keys: Tensor,
        attention_mask: Tensor | None,
        memory_mask: Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Tensor:
        attended, _ = self.self_attn(x, positions, attention_mask, **kwargs)
        x = self.self_attn_layer_norm(x + self.dropout(attended))
        attended, _ = self.encoder_attn(x, positions, memory, memory_keys, memory_mask, **kwargs)
        x = self.encoder_attn_layer_norm(x + self.dropout(attended))
        return self.final_layer_norm(x + self.mlp(x))
