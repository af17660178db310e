"""Scaled dot-product attention, through transformers' attention interface.

Shapes: B images, N tokens, M tokens that are looked at, D width, H heads, d width of a head.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import TransformersKwargs
from typing_extensions import Unpack

from hfvision.layers.linear import Linear, compiles_to_onednn, product, takes_onednn
from hfvision.layers.operators import operator, takes_operators
from hfvision.tracing import is_transformed, sizes_are_symbols

FEWEST_QUERIES = 500  # below, torch's fused attention is the faster one throughout
NOT_IN_STRIPS = ("is_causal", "position_bias", "softcap", "cache")  # options of transformers' "sdpa" beyond equation 1


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


def sdpa_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """torch's fused attention, or the same in products where those are faster.

    Takes and returns what the interface's "sdpa" does, for which it stands in; that has no maps.
    """
    if attention_mask is None and not dropout and all(kwargs.get(name) is None for name in NOT_IN_STRIPS):
        if not sizes_are_symbols():
            if _products_are_faster(query, key, value):
                return _attention_in_strips(query, key, value, scaling), None
        elif not torch.is_grad_enabled() and takes_operators(query, key, value) and compiles_to_onednn():
            return attention_of_graphs(query, key, value, scaling), None
    mixed, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )
    return mixed, None


def _products_are_faster(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Long sequences of which no gradients are wanted, where torch's fused attention has the slower of two kernels."""
    if query.shape[2] < FEWEST_QUERIES or not query.numel() or key.dtype is not value.dtype:
        return False
    if torch.is_grad_enabled() and any(tokens.requires_grad for tokens in (query, key, value)):
        return False  # the maps of all strips would have to be kept: together they are quadratic
    return takes_onednn(query[0, 0, : _rows_of_strip(key)], key[0, 0])


def _rows_of_strip(key: Tensor) -> int:
    """As many queries as have scores of 1 MB, which stay in the cache; products of fewer than 256 rows are slow."""
    return min(max(2**18 // max(key.shape[2], 1), 256), 1024)


def _attention_in_strips(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """softmax(Q K^T * scaling) V, head by head, in strips of queries: (B, H, N, d) -> (B, N, H, d)."""
    images, heads, queries, size = query.shape
    rows = _rows_of_strip(key)
    out = query.new_empty(images, queries, heads, size)
    for image in range(images):
        for head in range(heads):
            keys, values = key[image, head] * scaling, value[image, head].T.contiguous()  # (M, d), (d, M)
            for start in range(0, queries, rows):
                strip = slice(start, start + rows)
                maps = product(query[image, head, strip], keys).softmax(dim=-1)
                out[image, strip, head] = product(maps, values)
    return out


def _empty_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3])


@operator("attention(Tensor query, Tensor key, Tensor value, float scaling) -> Tensor", _empty_attention)
def attention_of_graphs(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """`sdpa_attention` without a mask in a compiled graph, where no gradients are wanted: (B, H, N, d) ->
    (B, N, H, d)."""
    if _products_are_faster(query, key, value):
        return _attention_in_strips(query, key, value, scaling)
    return nn.functional.scaled_dot_product_attention(query, key, value, scale=scaling).transpose(1, 2).contiguous()


def token_mask(config: Any, x: Tensor, attention_mask: Tensor | None, seen: Tensor | None = None) -> Any:
    """A mask (B, M), 0 where a token is not to be seen, in the form that the config's attention function takes.

    x: (B, N, D), the tokens that look; seen: (B, M, D), those that are looked at, x itself if there are none.
    """
    if attention_mask is not None and attention_mask.ndim == 2 and is_transformed():
        # transformers asks whether a mask hides anything, which nobody can tell there; four axes it takes as they are.
        attention_mask = attention_mask.bool()[:, None, None].expand(-1, 1, x.shape[1], -1)
    return create_bidirectional_mask(
        config=config, inputs_embeds=x, attention_mask=attention_mask, encoder_hidden_states=seen
    )


def attention_function(config: Any, want_maps: bool) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The attention that the config asks for; the eager one when maps are wanted, because only it computes them."""
    if want_maps:
        return eager_attention
    function = ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager_attention)
    return sdpa_attention if function is sdpa_attention_forward else function


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
            tokens.view(*tokens.shape[:2], -1, self.head_size).transpose(1, 2)  # (B, H, N or M, d)
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
        self.query = Linear(width, width, bias=bias)
        self.key = Linear(width, width, bias=bias)
        self.value = Linear(width, width, bias=bias)

    def forward(
        self, x: Tensor, attention_mask: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[Tensor, Tensor | None]:
        return self.attend(x, x, attention_mask, **kwargs)

    def attend(
        self, x: Tensor, seen: Tensor, attention_mask: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[Tensor, Tensor | None]:
        """x (B, N, D) looks at `seen` (B, M, D)."""
        return self.mix(self.query(x), self.key(seen), self.value(seen), attention_mask, **kwargs)
