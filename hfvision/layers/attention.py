"""Scaled dot-product attention, through transformers' attention interface.

Shapes: B images, N tokens, H heads, d width of a head.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


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
