"""Token merging in the blocks of a ViT, whatever model it is the trunk of: ViT, DeiT, hybrid, Segmenter, SETR, UPerNet.

A block computes on the tokens that are left and gives every token the row of the one that stands for it, so all that
comes after it (heads, feature maps, recorded hidden states) finds the tokens that it would find without merging.

Shapes: see layers.token_merging.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from hfvision.errors import ConfigError
from hfvision.layers.in_place import in_strips
from hfvision.layers.token_merging import TokenMerging
from hfvision.models.setr import SetrTrunk
from hfvision.models.vit import ViTEmbeddings, ViTEncoder, ViTLayer, ViTSelfAttention

STATE = "token_merging"  # the argument that carries the state of a pass from the trunk to its blocks
ATTENTIONS = ("sdpa", "eager")  # those that add a bias to the scores


class MergingSelfAttention(ViTSelfAttention):
    """Looks at merged tokens in proportion to their sizes, and keeps its keys for comparing them."""

    def attend(self, x: Tensor, seen: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        merging: TokenMerging | None = kwargs.pop(STATE, None)
        if merging is None:
            return super().attend(x, seen, attention_mask, **kwargs)
        key = self.key(seen)
        merging.keys = key.unflatten(2, (-1, self.head_size)).mean(2)  # of the heads: (B, n, D) -> (B, n, d)
        return self.mix(self.query(x), key, self.value(seen), merging.attention_bias(key.dtype), **kwargs)


class MergingLayer(ViTLayer):
    """A block that merges tokens between attention and MLP: (B, N, D) -> (B, N, D)."""

    def forward(self, x: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        merging: TokenMerging | None = kwargs.get(STATE)
        if merging is None:
            return super().forward(x, attention_mask, **kwargs)
        if attention_mask is not None:
            raise ConfigError(
                "token merging takes no attention_mask: a merged token would be seen and hidden at once. Leave the "
                "mask out, or use the model without token merging."
            )
        x = merging.reduce(x)
        x = x + self.drop_path(self.attention(self.layernorm_before(x), None, **kwargs))
        x = merging.merge(x)
        x = x + self.drop_path(in_strips(self.layernorm_after(x), self.intermediate, self.output))
        return merging.expand(x)


class BeginMerging:
    """Forward pre-hook of a trunk: every pass has a state of its own, so threads may share the model."""

    def __init__(self, merged_per_block: int, protected: int) -> None:
        self.merged_per_block = merged_per_block
        self.protected = protected

    def __call__(self, trunk: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if trunk.training:
            raise ConfigError("token merging is for inference; call model.eval(), or train the model it was made from.")
        return args, {**kwargs, STATE: TokenMerging(self.merged_per_block, self.protected)}


def trunks(model: nn.Module) -> Iterator[Any]:
    """The ViTs in a model."""
    for module in model.modules():
        embeddings, encoder = getattr(module, "embeddings", None), getattr(module, "encoder", None)
        if isinstance(embeddings, ViTEmbeddings) and isinstance(encoder, ViTEncoder):
            yield module


def check_merging(model: Any, merged_per_block: Any) -> None:
    """Raises ConfigError where the model is not made of ViT blocks or has fewer patches than would be merged."""
    found = list(trunks(model))
    if not found:
        raise ConfigError(
            f"token merging is for hfvision's models with a ViT inside (ViT, DeiT, hybrid ViT, Segmenter, SETR, and "
            f"UPerNet over one of them); got {type(model).__module__}.{type(model).__name__}. Leave token_merging out."
        )
    if isinstance(merged_per_block, bool) or not isinstance(merged_per_block, int) or merged_per_block < 1:
        raise ConfigError(f"token_merging is the number of tokens to merge in each block; got {merged_per_block!r}.")
    for trunk in found:
        blocks, (height, width) = len(trunk.encoder.layer), trunk.embeddings.grid
        if merged_per_block * blocks > height * width:
            raise ConfigError(
                f"token_merging={merged_per_block} in {blocks} blocks would merge {merged_per_block * blocks} patches; "
                f"{type(trunk).__name__} has {height * width} of them. Choose at most {height * width // blocks}."
            )
        used = trunk.config._attn_implementation
        if used not in ATTENTIONS:
            raise ConfigError(
                f"token merging needs attention that takes a bias ({' or '.join(ATTENTIONS)}); got {used!r}. Call "
                "model.set_attn_implementation('sdpa') first."
            )


def merge_tokens(model: nn.Module, merged_per_block: int) -> list[str]:
    """Make the blocks of the model's ViTs merge; returns what was done."""
    said = []
    for trunk in trunks(model):
        protected = trunk.first_patch if isinstance(trunk, SetrTrunk) else trunk.embeddings.prefix_tokens
        for layer in trunk.encoder.layer:
            layer.__class__ = MergingLayer
            layer.attention.attention.__class__ = MergingSelfAttention
        trunk.register_forward_pre_hook(BeginMerging(merged_per_block, protected), with_kwargs=True)
        patches = trunk.embeddings.grid[0] * trunk.embeddings.grid[1]
        left = patches
        for _ in trunk.encoder.layer:
            left -= min(merged_per_block, left // 2)
        said.append(
            f"{merged_per_block} tokens are merged in each of {len(trunk.encoder.layer)} blocks: "
            f"{patches} patches become {left}"
        )
    return said
