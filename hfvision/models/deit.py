"""DeiT: a ViT with a second learned token that is trained to repeat a teacher's answer.

Paper:  Touvron et al. 2020, "Training data-efficient image transformers & distillation through attention",
        arXiv 2012.12877 (the distillation token: section 4).
        Masked-image head: Xie et al. 2021, "SimMIM", arXiv 2111.09886.
Source: facebookresearch/deit (Apache-2.0), re-expressed in PyTorch. Names of weights and config fields are those of
        the Hub's "deit" files. The plain models of that repository have no distillation token: they are `models.vit`.

Shapes: B images, C channels, H x W pixels, h x w patches, N = 2 + h * w tokens (class, distillation, patches), D width,
        K labels.
"""

from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils.generic import ModelOutput, TransformersKwargs, can_return_tuple
from typing_extensions import Unpack

from hfvision.layers.linear import Linear
from hfvision.layers.masked_image import PixelDecoder
from hfvision.layers.position import Grid
from hfvision.models.base import InputPart
from hfvision.models.vit import (
    ViTBackbone,
    ViTConfig,
    ViTEmbeddings,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTModel,
    ViTPreTrainedModel,
)


@strict
class DeiTConfig(ViTConfig):
    """Sizes of a DeiT; the defaults are DeiT-B/16 at 224 pixels (87 M parameters).

    A published example:
    [facebook/deit-base-distilled-patch16-224](https://huggingface.co/facebook/deit-base-distilled-patch16-224).

    Example:
        >>> import hfvision
        >>> config = hfvision.DeiTConfig.from_catalog("deit-tiny-distilled-patch16-224", num_labels=7)
        >>> config.hidden_size, config.num_labels
        (192, 7)
    """

    model_type = "deit"
    keys_to_ignore_at_inference = ["cls_logits", "distillation_logits"]  # by Trainer, whose predictions are logits

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        # Which classifier AutoModelForImageClassification gives depends on the names listed here; it takes no None.
        self.architectures = self.architectures or []


class DeiTEmbeddings(ViTEmbeddings):
    """(B, C, H, W) -> (B, N, D): patches, class token, distillation token and positions."""

    prefix_tokens = 2

    def __init__(self, config: ViTConfig, use_mask_token: bool = False) -> None:
        super().__init__(config, use_mask_token)
        self.distillation_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))

    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
    ) -> tuple[Tensor, Grid]:
        tokens, grid = super().forward(pixel_values, bool_masked_pos, interpolate_pos_encoding)
        distillation = self.distillation_token + self.position_embeddings[:, 1:2]
        distillation = self.dropout(distillation.expand(tokens.shape[0], -1, -1))
        return torch.cat([tokens[:, :1], distillation, tokens[:, 1:]], dim=1), grid

    def positions(self, grid: Grid) -> Tensor:
        """(1, N - 1, D): as a ViT's, without the row of the distillation token, which `forward` inserts."""
        table = super().positions(grid)
        return torch.cat([table[:, :1], table[:, 2:]], dim=1)


class DeiTPreTrainedModel(ViTPreTrainedModel):
    config: DeiTConfig
    config_class = DeiTConfig
    base_model_prefix = "deit"
    _no_split_modules = ["DeiTEmbeddings", "ViTLayer"]

    @classmethod
    def embeddings_class(cls, config: Any) -> type[ViTEmbeddings]:
        return DeiTEmbeddings

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, DeiTEmbeddings):
            init.trunc_normal_(module.distillation_token, std=self.config.initializer_range)


class DeiTModel(DeiTPreTrainedModel, ViTModel):
    """The trunk: pixels to N token vectors, and optionally the class token through a dense tanh layer.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.DeiTConfig(image_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
        >>> model = hfvision.DeiTModel(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 32, 32)).last_hidden_state.shape)
        (2, 6, 32)
    """


class DeiTForImageClassification(DeiTPreTrainedModel):
    """The trunk plus one linear layer over the class token; the distillation token is not read.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.DeiTConfig(
        ...     image_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_labels=3
        ... )
        >>> model = hfvision.DeiTForImageClassification(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 32, 32)).logits.shape)
        (2, 3)
    """

    def __init__(self, config: DeiTConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.deit = DeiTModel(config, add_pooling_layer=False)
        self.classifier = Linear(config.hidden_size, config.num_labels) if config.num_labels else nn.Identity()
        self.post_init()

    forward = ViTForImageClassification.forward


@dataclass
class DeiTForImageClassificationWithTeacherOutput(ModelOutput):
    """logits: (B, K), the mean of cls_logits and distillation_logits, (B, K) each. loss: of `logits`, given labels."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    cls_logits: Tensor | None = None
    distillation_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class DeiTForImageClassificationWithTeacher(DeiTPreTrainedModel):
    """The trunk plus a linear layer over the class token and another over the distillation token.

    The answer is the mean of both. To train the second against a teacher, see `training.distillation`.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.DeiTConfig(
        ...     image_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_labels=3
        ... )
        >>> model = hfvision.DeiTForImageClassificationWithTeacher(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 32, 32)).distillation_logits.shape)
        (2, 3)
    """

    def __init__(self, config: DeiTConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.deit = DeiTModel(config, add_pooling_layer=False)
        width, labels = config.hidden_size, config.num_labels
        self.cls_classifier = Linear(width, labels) if labels else nn.Identity()
        self.distillation_classifier = Linear(width, labels) if labels else nn.Identity()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DeiTForImageClassificationWithTeacherOutput:
        """As ViTForImageClassification.forward; the loss is that of the mean, so that labels alone train both heads."""
        outputs = self.deit(
            pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            attention_mask=attention_mask,
            **kwargs,
        )
        cls_logits = self.cls_classifier(outputs.last_hidden_state[:, 0])
        distillation_logits = self.distillation_classifier(outputs.last_hidden_state[:, 1])
        logits = (cls_logits + distillation_logits) / 2
        return DeiTForImageClassificationWithTeacherOutput(
            loss=None if labels is None else self.loss_function(labels, logits, self.config, **kwargs),
            logits=logits,
            cls_logits=cls_logits,
            distillation_logits=distillation_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class DeiTForMaskedImageModeling(DeiTPreTrainedModel, InputPart):
    """The trunk with a mask token, plus a linear decoder by which every token paints its patch.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.DeiTConfig(image_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
        >>> model = hfvision.DeiTForMaskedImageModeling(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 32, 32), bool_masked_pos=torch.ones(2, 4)).reconstruction.shape)
        (2, 3, 32, 32)
    """

    def __init__(self, config: DeiTConfig) -> None:
        super().__init__(config)
        self.deit = DeiTModel(config, add_pooling_layer=False, use_mask_token=True)
        self.decoder = PixelDecoder(config.hidden_size, config.encoder_stride, config.num_channels)
        self.post_init()

    forward = ViTForMaskedImageModeling.forward
    step_counts = ViTForMaskedImageModeling.step_counts
    resize_input_part = ViTForMaskedImageModeling.resize_input_part


class DeiTBackbone(DeiTPreTrainedModel, ViTBackbone):
    """The trunk as a source of feature maps, as ViTBackbone: of the patches alone.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.DeiTConfig(
        ...     image_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, out_indices=[1, 2]
        ... )
        >>> maps = hfvision.DeiTBackbone(config)(torch.zeros(1, 3, 32, 32)).feature_maps
        >>> [tuple(one.shape) for one in maps]
        [(1, 32, 2, 2), (1, 32, 2, 2)]
    """
