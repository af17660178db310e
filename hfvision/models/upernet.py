"""UPerNet: a decoder that pools a trunk's last map over a pyramid of grids and merges it with the maps before it.

Paper:  Xiao et al. 2018, "Unified Perceptual Parsing for Scene Understanding", arXiv 1807.10221.
        Pyramid pooling: Zhao et al. 2016, "Pyramid Scene Parsing Network", arXiv 1612.01105.
Source: open-mmlab/mmsegmentation and SwinTransformer/Swin-Transformer-Semantic-Segmentation (Apache-2.0), re-expressed
        in PyTorch. Names of weights and config fields are those of the Hub's "upernet" files.

The trunk is any backbone of AutoBackbone: Swin, SegFormer, ViT and DeiT of this library, or one of transformers' own.

Shapes: B images, C channels, H x W pixels, h x w places of the trunk's first map, E the decoder's width, K labels.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoBackbone, AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.utils.generic import TransformersKwargs, can_return_tuple
from typing_extensions import Unpack

from hfvision.errors import ConfigError, ImageShapeError
from hfvision.layers.conv import ConvNormRelu, PatchConv, resize
from hfvision.losses.segmentation import SegmentationLoss
from hfvision.models.base import LayerGroup, VisionModel
from hfvision.models.catalog_config import CatalogConfig
from hfvision.models.semantic import SemanticModel, SemanticOutput
from hfvision.upsampling import upsample as to_pixels

AUXILIARY_MAP = 2  # of the trunk's maps, that the auxiliary head reads


@strict
class UperNetConfig(CatalogConfig, PreTrainedConfig):
    """Trunk and sizes of a UPerNet; the defaults are those of transformers, with a ResNet-50.

    A published example: [openmmlab/upernet-swin-tiny](https://huggingface.co/openmmlab/upernet-swin-tiny).

    Example:
        >>> import hfvision
        >>> hfvision.UperNetConfig(backbone_config={"model_type": "swin"}).backbone_config.out_features
        ['stage4']
    """

    model_type = "upernet"
    keys_to_ignore_at_inference = ["auxiliary_logits"]  # by Trainer, whose predictions are logits
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "backbone_config": SubConfigSpec(
            AutoConfig, model_type="resnet", init_kwargs={"out_features": ["stage1", "stage2", "stage3", "stage4"]}
        )
    }

    backbone_config: dict[str, Any] | PreTrainedConfig | None = None  # of any backbone; None: ResNet-50's four stages
    hidden_size: int = 512  # E
    initializer_range: float = 0.02
    pool_scales: list[int] | tuple[int, ...] = (1, 2, 3, 6)  # places per side of the pooled maps
    use_auxiliary_head: bool = True
    auxiliary_loss_weight: float = 0.4
    auxiliary_in_channels: int | None = None  # None: those of the map that the auxiliary head reads
    auxiliary_channels: int = 256
    auxiliary_num_convs: int = 1
    auxiliary_concat_input: bool = False  # whether the auxiliary head sees its input once more before it decides
    loss_ignore_index: int = 255


class UperNetHead(nn.Module):
    """The trunk's maps, fine to coarse -> (B, K, h, w)."""

    def __init__(self, config: UperNetConfig, widths: Sequence[int]) -> None:
        super().__init__()
        width, scales = config.hidden_size, config.pool_scales
        *finer, last = widths
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), ConvNormRelu(last, width, 1)) for scale in scales
        )
        self.bottleneck = ConvNormRelu(last + len(scales) * width, width, 3)
        self.lateral_convs = nn.ModuleList(ConvNormRelu(channels, width, 1) for channels in finer)
        self.fpn_convs = nn.ModuleList(ConvNormRelu(width, width, 3) for _ in finer)
        self.fpn_bottleneck = ConvNormRelu(len(widths) * width, width, 3)
        self.classifier = PatchConv(width, config.num_labels or 0, kernel_size=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        *finer, last = maps
        levels = [lateral(one) for lateral, one in zip(self.lateral_convs, finer, strict=True)]
        levels.append(self.bottleneck.of_joined([last, *(pool(last) for pool in self.psp_modules)]))
        for level in reversed(range(len(finer))):  # from coarse to fine, each takes up what lies below it
            size = (levels[level].shape[-2], levels[level].shape[-1])
            levels[level] = levels[level] + resize(levels[level + 1], size)
        merged = [conv(level) for conv, level in zip(self.fpn_convs, levels[:-1], strict=True)]
        return self.classifier(self.fpn_bottleneck.of_joined([*merged, levels[-1]]))


class UperNetAuxiliaryHead(nn.Module):
    """One of the trunk's maps, (B, D, h', w') -> (B, K, h', w'): a few convolutions."""

    def __init__(self, config: UperNetConfig, widths: Sequence[int]) -> None:
        super().__init__()
        if len(widths) <= AUXILIARY_MAP:
            raise ConfigError(
                f"the auxiliary head reads the trunk's map number {AUXILIARY_MAP + 1}, the trunk gives {len(widths)}; "
                "choose more out_features in backbone_config, or set use_auxiliary_head=False."
            )
        inputs, width = widths[AUXILIARY_MAP], config.auxiliary_channels
        if config.auxiliary_in_channels not in (None, inputs):
            raise ConfigError(
                f"the auxiliary head reads a map of {inputs} channels; got auxiliary_in_channels "
                f"{config.auxiliary_in_channels}. Leave it out and it follows the trunk."
            )
        self.convs = nn.Sequential(
            *(ConvNormRelu(width if step else inputs, width, 3) for step in range(config.auxiliary_num_convs))
        )
        self.conv_cat = ConvNormRelu(inputs + width, width, 3) if config.auxiliary_concat_input else None
        self.classifier = PatchConv(width, config.num_labels or 0, kernel_size=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = self.convs(maps[AUXILIARY_MAP])
        if self.conv_cat is not None:
            x = self.conv_cat(torch.cat([maps[AUXILIARY_MAP], x], dim=1))
        return self.classifier(x)


class UperNetForSemanticSegmentation(SemanticModel):
    """Trunk, decoder and auxiliary head: a class for every pixel.

    Example:
        >>> import torch, hfvision
        >>> trunk = {
        ...     "model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2],
        ...     "out_features": ["stage1", "stage2", "stage3", "stage4"],
        ... }
        >>> config = hfvision.UperNetConfig(backbone_config=trunk, hidden_size=16, auxiliary_channels=16, num_labels=5)
        >>> model = hfvision.UperNetForSemanticSegmentation(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 64, 64)).logits.shape)
        (2, 5, 64, 64)
    """

    config: UperNetConfig
    config_class = UperNetConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _keys_to_ignore_on_load_unexpected = [r"relative_position_index$"]  # of Swin trunks, in files of older versions
    _keys_to_ignore_on_load_missing = [r"swin\.layernorm\..*"]  # likewise: they lack a norm that is never read

    geometry_fields: ClassVar[tuple[str, ...]] = ("image_size", "patch_size", "num_channels", "window_size")

    def __init__(self, config: UperNetConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.backbone = AutoBackbone.from_config(config.backbone_config)
        widths = self.backbone.channels
        self.decode_head = UperNetHead(config, widths)
        self.auxiliary_head = UperNetAuxiliaryHead(config, widths) if config.use_auxiliary_head else None
        self.auxiliary_loss_weight = config.auxiliary_loss_weight
        self.post_init()

    @classmethod
    def input_config(cls, config: Any) -> Any:
        return config.backbone_config

    @property
    def default_loss(self) -> SegmentationLoss:
        return SegmentationLoss(ignore_index=self.config.loss_ignore_index)

    def resize_input(self, **changes: Any) -> None:
        """As VisionModel's, for the trunk. Raises ConfigError also for a trunk of transformers' own."""
        self._own_trunk()
        super().resize_input(**changes)

    def blocks(self) -> list[nn.Module]:
        return self._own_trunk().blocks()

    def layer_groups(self) -> list[LayerGroup]:
        """Those of the trunk; decoder and auxiliary head belong to "head"."""
        groups = self._own_trunk().layer_groups()
        in_trunk = {id(parameter) for parameter in self.backbone.parameters()}
        groups[-1].parameters.extend(parameter for parameter in self.parameters() if id(parameter) not in in_trunk)
        return groups

    def _own_trunk(self) -> VisionModel:
        trunk = self.backbone
        if not isinstance(trunk, VisionModel):
            raise ConfigError(
                f"{type(trunk).__name__} is a trunk of transformers' own; only those of hfvision (Swin, SegFormer, "
                "ViT, DeiT) can be resized and have blocks and layer groups."
            )
        return trunk

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        upsample: bool = True,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SemanticOutput:
        """pixel_values: (B, C, H, W), normalised, of any size that the trunk takes. labels: (B, H, W) class indices.
        upsample: see SemanticModel; the coarse logits have the size of the trunk's first map. hidden_states and
        attentions are the trunk's. Raises ImageShapeError for training on one image at a time, which batch norm over a
        map of one place cannot do.
        """
        pools: Any = self.decode_head.psp_modules
        if any(pool[0].output_size == 1 and pool[1].batch_norm.training for pool in pools) and len(pixel_values) == 1:
            raise ImageShapeError(
                "batch norm over maps pooled to one place needs two images at least to train on; got a batch of one. "
                "Take larger batches, or keep decode_head in evaluation mode."
            )
        for flag in ("output_hidden_states", "output_attentions"):
            if kwargs.get(flag) is None:
                kwargs[flag] = getattr(self.config, flag)
        outputs = self.backbone.forward_with_filtered_kwargs(pixel_values, **kwargs)
        upsampling = self.upsampling((pixel_values.shape[-2], pixel_values.shape[-1]))
        logits, loss, auxiliary_logits = self.decode_head(outputs.feature_maps), None, None
        if self.auxiliary_head is not None and (self.training or labels is not None):
            auxiliary_logits = (self.auxiliary_head(outputs.feature_maps),)
        if labels is not None:
            loss = self.loss_of(logits, labels, upsampling, auxiliary_logits or (), **kwargs)
        return SemanticOutput(
            loss=loss,
            logits=to_pixels(logits, upsampling) if upsample else logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            auxiliary_logits=auxiliary_logits,
        )
