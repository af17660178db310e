"""ViT as google-research/vision_transformer can configure it and the Hub's "vit" format cannot say it.

Paper:  Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words", arXiv 2010.11929.
Source: google-research/vision_transformer, option `classifier` and `representation_size` of its ViT (Apache-2.0).

The plain variants (class token, no layer before the head) are `models.vit`; converted files of those use that format.
Shapes: as in `models.vit`; N = h * w tokens where there is no class token.
"""

from collections.abc import Callable
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.utils.generic import TransformersKwargs, can_return_tuple
from typing_extensions import Unpack

from hfvision.errors import ConfigError
from hfvision.layers.dense import Dense
from hfvision.layers.linear import Linear
from hfvision.models.vit import ViTConfig, ViTEmbeddings, ViTModel, ViTPreTrainedModel


def first_token(tokens: Tensor) -> Tensor:  # (B, N, D) -> (B, D)
    return tokens[:, 0]


def mean_token(tokens: Tensor) -> Tensor:  # (B, N, D) -> (B, D)
    return tokens.mean(dim=1)


def all_tokens(tokens: Tensor) -> Tensor:  # (B, N, D) -> (B, N, D)
    return tokens


# classifier: (has a class token, what the head reads)
CLASSIFIERS: dict[str, tuple[bool, Callable[[Tensor], Tensor]]] = {
    "token": (True, first_token),
    "gap": (False, mean_token),
    "token_unpooled": (True, all_tokens),
    "unpooled": (False, all_tokens),
}


def check_has_loss(classifier: str) -> None:
    """Raises ConfigError for the unpooled classifiers."""
    if CLASSIFIERS[classifier][1] is all_tokens:
        raise ConfigError(f"classifier {classifier!r} gives logits per token, for which no loss is defined.")


@strict
class GoogleViTConfig(ViTConfig):
    """A ViTConfig with the two further options of the source.

    Example:
        >>> import hfvision
        >>> hfvision.GoogleViTConfig(classifier="gap", representation_size=48).representation_size
        48
    """

    model_type = "google_vit"

    classifier: Literal["token", "gap", "token_unpooled", "unpooled"] = "token"  # gap: mean of the patch tokens
    representation_size: int | None = None  # width of a dense tanh layer before the head; None: no such layer


class PatchOnlyEmbeddings(ViTEmbeddings):
    """Patches and positions, without a class token: (B, C, H, W) -> (B, h * w, D)."""

    prefix_tokens = 0


class GoogleViTModel(ViTModel):
    """The trunk; `pooler_output` is what the head reads: (B, R), or (B, N, R) for the unpooled classifiers.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.GoogleViTConfig(
        ...     image_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, classifier="gap"
        ... )
        >>> model = hfvision.GoogleViTModel(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 32, 32)).last_hidden_state.shape)
        (2, 4, 32)
    """

    config: GoogleViTConfig
    config_class = GoogleViTConfig

    @classmethod
    def embeddings_class(cls, config: Any) -> type[ViTEmbeddings]:
        has_class_token, _ = CLASSIFIERS[config.classifier]
        return ViTEmbeddings if has_class_token else PatchOnlyEmbeddings

    def __init__(self, config: GoogleViTConfig) -> None:
        super().__init__(config, add_pooling_layer=False)
        _, self.pool = CLASSIFIERS[config.classifier]
        if config.representation_size is not None:
            self.pooler = Dense(config.hidden_size, config.representation_size, nn.Tanh())
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        interpolate_pos_encoding: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Images as in ViTModel.forward."""
        outputs = super().forward(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs)
        pooled = self.pool(outputs.last_hidden_state)
        outputs.pooler_output = pooled if self.pooler is None else self.pooler(pooled)
        return outputs


class GoogleViTForImageClassification(ViTPreTrainedModel):
    """The trunk plus one linear layer.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.GoogleViTConfig(
        ...     image_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_labels=3
        ... )
        >>> model = hfvision.GoogleViTForImageClassification(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 32, 32)).logits.shape)
        (2, 3)
    """

    config: GoogleViTConfig
    config_class = GoogleViTConfig

    def __init__(self, config: GoogleViTConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.vit = GoogleViTModel(config)
        width = config.representation_size or config.hidden_size
        self.classifier = Linear(width, config.num_labels) if config.num_labels else nn.Identity()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageClassifierOutput:
        """As ViTForImageClassification.forward. Logits: (B, K), or (B, N, K) for the unpooled classifiers, which have
        no loss: labels raise ConfigError there.
        """
        if labels is not None:
            check_has_loss(self.config.classifier)
        outputs = self.vit(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs)
        logits = self.classifier(outputs.pooler_output)
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
