"""Scaled dot-product attention, through transformers' attention interface.

Shapes: B images, N tokens, M tokens that are looked at, D width, H heads, d width of a head.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import TransformersKwargs
from typing_extensions import Unpack


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """softmax(Q K^T * scaling) V in plain products (Vaswani et al. 2017, equation 1), with its attention maps.

    query, key, value: (B, H, N, d). attention_mask: added to the scores, or boolean with True where a token is seen.
    Returns (B, N, H, d) and the maps (B, H, N, N), whose rows sum to one before dropout.
    """
    scores = query @ key.mT * scaling
    if attention_mask is not None and attention_mask.dtype.is_floating_point:
        scores = scores + attention_mask
    elif attention_mask is not None:
        scores = scores.masked_fill(~attention_mask.bool(), float("-inf"))
    maps = scores.float().softmax(dim=-1).to(query.dtype)
    maps = nn.functional.dropout(maps, p=dropout, training=module.training)
    return (maps @ value).transpose(1, 2).contiguous(), maps


def attention_function(config: Any, want_maps: bool) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The attention that the config asks for; the eager one when maps are wanted, because only it computes them."""
    if want_maps:
        return eager_attention
    return ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager_attention)


class MultiHeadAttention(nn.Module):
    """Attention without the linear maps around it, which have other names in other models.

    `config` is the model's: which attention function is used is read from it in every call.
    """

    def __init__(self, config: Any, width: int, heads: int, dropout_prob: float) -> None:
        super().__init__()
        self.config = config
        self.head_size = width // heads
        self.num_key_value_groups = 1  # read by some attention functions of the interface
        self.is_causal = False
        self.dropout_prob = dropout_prob

    def mix(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[Tensor, Tensor | None]:
        """query (B, N, D), key and value (B, M, D) -> (B, N, D), and maps or None."""
        query, key, value = (
            tokens.unflatten(2, (-1, self.head_size)).transpose(1, 2)  # (B, H, N or M, d)
            for tokens in (query, key, value)
        )
        attend = attention_function(self.config, want_maps=bool(kwargs.get("output_attentions")))
        mixed, maps = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.head_size**-0.5,
            dropout=self.dropout_prob if self.training else 0.0,
            **kwargs,
        )
        return mixed.flatten(2).contiguous(), maps


class SelfAttention(MultiHeadAttention):
    """Multi-head self-attention without its output map: (B, N, D) -> (B, N, D) and maps or None."""

    def __init__(self, config: Any, width: int, heads: int, bias: bool = True) -> None:
        super().__init__(config, width, heads, config.attention_probs_dropout_prob)
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(width, width, bias=bias)
        self.value = nn.Linear(width, width, bias=bias)

    def forward(
        self, x: Tensor, attention_mask: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[Tensor, Tensor | None]:
        return self.attend(x, x, attention_mask, **kwargs)

    def attend(
        self, x: Tensor, seen: Tensor, attention_mask: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[Tensor, Tensor | None]:
        """x (B, N, D) looks at `seen` (B, M, D)."""
        return self.mix(self.query(x), self.key(seen), self.value(seen), attention_mask, **kwargs)
