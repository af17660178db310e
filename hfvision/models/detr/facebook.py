"""DETR as facebookresearch/detr can configure it and the Hub's "detr" format cannot say it.

Paper:  Carion et al. 2020, "End-to-End Object Detection with Transformers", arXiv 2005.12872.
Source: facebookresearch/detr, options `pre_norm` and `dilation` (Apache-2.0).

All published models are `models.detr`; converted files of those use that format. Shapes: as there.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers.utils.generic import TransformersKwargs
from typing_extensions import Unpack

from hfvision.models.detr.config import DetrConfig
from hfvision.models.detr.heads import DetrForObjectDetection, DetrForSegmentation
from hfvision.models.detr.layers import DetrDecoderLayer, DetrEncoderLayer
from hfvision.models.detr.model import DetrDecoder, DetrEncoder, DetrModel


@strict
class FacebookDetrConfig(DetrConfig):
    """A DetrConfig with the further options of the source.

    Example:
        >>> import hfvision
        >>> hfvision.FacebookDetrConfig(pre_norm=True).pre_norm
        True
    """

    model_type = "facebook_detr"

    pre_norm: bool = False  # whether the input of each attention and MLP is normed, not what is added up
    dilation: bool | None = False  # of the last stage, also of a trunk with a ResNetConfig

    @property
    def dilates_any_resnet(self) -> bool:
        return True


class FacebookDetrEncoderLayer(DetrEncoderLayer):
    """A pre-norm block: (B, N, D) -> (B, N, D)."""

    def forward(
        self, x: Tensor, positions: Tensor, attention_mask: Tensor | None, **kwargs: Unpack[TransformersKwargs]
    ) -> Tensor:
        attended, _ = self.self_attn(self.self_attn_layer_norm(x), positions, attention_mask, **kwargs)
        x = x + self.dropout(attended)
        return x + self.mlp(self.final_layer_norm(x))


class FacebookDetrDecoderLayer(DetrDecoderLayer):
    """A pre-norm block: (B, Q, D) -> (B, Q, D)."""

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
        attended, _ = self.self_attn(self.self_attn_layer_norm(x), positions, attention_mask, **kwargs)
        x = x + self.dropout(attended)
        queries = self.encoder_attn_layer_norm(x)
        attended, _ = self.encoder_attn(queries, positions, memory, memory_keys, memory_mask, **kwargs)
        x = x + self.dropout(attended)
        return x + self.mlp(self.final_layer_norm(x))


class FacebookDetrEncoder(DetrEncoder):
    """Pre-norm blocks, and a norm behind the last."""

    config: FacebookDetrConfig
    config_class = FacebookDetrConfig
    layer_class = FacebookDetrEncoderLayer

    def __init__(self, config: FacebookDetrConfig) -> None:
        super().__init__(config)
        self.layernorm = nn.LayerNorm(config.d_model)
        self.post_init()

    def ended(self, x: Tensor) -> Tensor:
        return self.layernorm(x)


class FacebookDetrDecoder(DetrDecoder):
    """Pre-norm blocks."""

    config: FacebookDetrConfig
    config_class = FacebookDetrConfig
    layer_class = FacebookDetrDecoderLayer


class FacebookDetrModel(DetrModel):
    """Trunk, encoder and decoder.

    Example:
        >>> import torch, hfvision
        >>> resnet = {
        ...     "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
        ...     "out_features": ["stage1", "stage2"],
        ... }
        >>> config = hfvision.FacebookDetrConfig(
        ...     backbone_config=resnet, d_model=32, encoder_layers=1, decoder_layers=1, num_queries=7, num_labels=3
        ... )
        >>> model = hfvision.FacebookDetrModel(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 64, 64)).last_hidden_state.shape)
        (2, 7, 32)
    """

    config: FacebookDetrConfig
    config_class = FacebookDetrConfig

    @classmethod
    def transformer_classes(cls, config: Any) -> tuple[type[DetrEncoder], type[DetrDecoder]]:
        """Auxiliary losses change nothing but the loss, as in the source."""
        return (FacebookDetrEncoder, FacebookDetrDecoder) if config.pre_norm else (DetrEncoder, DetrDecoder)


class FacebookDetrForObjectDetection(DetrForObjectDetection):
    """DETR with a class and a box for each query.

    Example:
        >>> import torch, hfvision
        >>> resnet = {
        ...     "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
        ...     "out_features": ["stage1", "stage2"],
        ... }
        >>> config = hfvision.FacebookDetrConfig(
        ...     backbone_config=resnet, d_model=32, encoder_layers=1, decoder_layers=1, num_queries=7, num_labels=3
        ... )
        >>> model = hfvision.FacebookDetrForObjectDetection(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 64, 64)).logits.shape)
        (2, 7, 4)
    """

    config: FacebookDetrConfig
    config_class = FacebookDetrConfig
    model_class = FacebookDetrModel


class FacebookDetrForSegmentation(DetrForSegmentation):
    """DETR with a class, a box and a mask for each query.

    Example:
        >>> import torch, hfvision
        >>> resnet = {
        ...     "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1],
        ...     "out_features": ["stage1", "stage2", "stage3", "stage4"],
        ... }
        >>> config = hfvision.FacebookDetrConfig(
        ...     backbone_config=resnet, d_model=32, encoder_layers=1, decoder_layers=1, num_queries=7
        ... )
        >>> model = hfvision.FacebookDetrForSegmentation(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 64, 64)).pred_masks.shape)
        (2, 7, 16, 16)
    """

    config: FacebookDetrConfig
    config_class = FacebookDetrConfig
    detector_class = FacebookDetrForObjectDetection
