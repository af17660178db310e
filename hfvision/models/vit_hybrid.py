"""Hybrid ViT: the transformer encoder of ViT over the feature map of a ResNet (BiT) instead of image patches.

Paper:  Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words", arXiv 2010.11929, section 3.1.
        Steiner et al. 2021, "How to train your ViT?", arXiv 2106.10270 (the small hybrids).
Source: google-research/vision_transformer (Apache-2.0), re-expressed in PyTorch. Names of weights and config fields
        are those of the Hub's "vit-hybrid" files, which transformers reads up to version 4.57.

What those files cannot say is stored as `google_vit_hybrid`: the epsilons of the source, its `classifier` and
`representation_size`, and a stem for other channels, whose kernel is applied as stored. (Standardising a kernel removes
its scale, so a standardised one cannot keep the response of the channels that it was made from.)

Shapes: B images, C channels, H x W pixels, F channels of the feature map, h x w patches of it, N = 1 + h * w tokens
        (class token first; N = h * w without one), D width, K labels.
"""

from typing import Any, Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import BitConfig, PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.utils.generic import TransformersKwargs, can_return_tuple
from typing_extensions import Unpack

from hfvision.errors import ConfigError, numbered
from hfvision.layers.linear import Linear
from hfvision.layers.patch_embedding import (
    PatchEmbedding,
    by,
    called,
    check_images,
    kernel_of,
    pair,
    with_channels,
    with_patch_size,
)
from hfvision.layers.plain import dtype_of
from hfvision.layers.position import Grid, resample_position_table
from hfvision.models.base import InputGeometry
from hfvision.models.bit import BitTrunk, Standardization, feature_channels, feature_size, feature_stride
from hfvision.models.google_vit import CLASSIFIERS, check_has_loss
from hfvision.models.vit import ViTConfig, ViTEmbeddings, ViTModel, ViTPreTrainedModel
from hfvision.reporting import report_once
from hfvision.tracing import sizes_are_symbols

OWN_FORMAT = "google_vit_hybrid"
# Options that the "vit-hybrid" format does not have, with the values that it means.
SHARED_VALUES: dict[str, Any] = {
    "standardization": "variance",
    "standardized_stem": True,
    "group_norm_eps": 1e-5,
    "classifier": "token",
    "representation_size": None,
}

# What a backbone_config says about the backbone; old files have transformers' general fields in it, too.
BIT_FIELDS = (*(name for name in BitConfig.__annotations__ if not name.startswith("_")), "out_features", "out_indices")


@strict
class ViTHybridConfig(ViTConfig):
    """Sizes of a hybrid ViT; the defaults are R50+ViT-B/16: three stages of a ResNet-50, then ViT-B (98 M parameters).

    A published example: [google/vit-hybrid-base-bit-384](https://huggingface.co/google/vit-hybrid-base-bit-384).

    Example:
        >>> import hfvision
        >>> config = hfvision.ViTHybridConfig(num_labels=7)
        >>> config.backbone_config.model_type, config.hidden_size
        ('bit', 768)
    """

    model_type = "vit-hybrid"
    sub_configs = {"backbone_config": BitConfig}

    patch_size: int | list[int] | tuple[int, int] = 1  # places of the feature map per side, or [height, width]
    backbone_config: dict[str, Any] | PreTrainedConfig | None = None  # of model_type "bit"; None: ResNet-50's 3 stages
    backbone_featmap_shape: list[int] | tuple[int, ...] | None = None  # [1, F, h, w]; None: that of image_size
    backbone: str | None = None  # this and the next three: fields of the format, which only ever hold these values
    backbone_kwargs: dict[str, Any] | None = None
    use_pretrained_backbone: bool = False
    use_timm_backbone: bool = False
    standardization: Literal["variance", "deviation"] = "variance"  # of kernels, see models.bit
    standardized_stem: bool = True  # False: the first kernel is applied as it is stored
    group_norm_eps: float = 1e-5
    classifier: Literal["token", "gap", "token_unpooled", "unpooled"] = "token"  # gap: mean of the patch tokens
    representation_size: int | None = None  # width of a dense tanh layer before the head; None: no such layer

    def __post_init__(self, **kwargs: Any) -> None:
        contents: dict[str, Any] = {
            "layer_type": "bottleneck",
            "global_padding": "SAME",
            "embedding_dynamic_padding": True,
            "depths": [3, 4, 9],
            "out_features": ["stage3"],
        }
        if isinstance(self.backbone_config, dict):
            contents = {key: value for key, value in self.backbone_config.items() if key in BIT_FIELDS}
            if (kind := self.backbone_config.get("model_type", "bit")) != "bit":
                raise ConfigError(f"the backbone of a hybrid ViT is of model_type 'bit'; got {kind!r}.")
        if not isinstance(self.backbone_config, PreTrainedConfig):
            self.backbone_config = BitConfig(**contents)
        if self.backbone_featmap_shape is None:
            size = feature_size(self.bit, self.image_size)
            self.backbone_featmap_shape = [1, feature_channels(self.bit), *size]
        self.backbone_featmap_shape = list(self.backbone_featmap_shape)
        self.pooler_output_size = self.representation_size or self.hidden_size
        super().__post_init__(**kwargs)

    def validate_backbone(self) -> None:
        bit, problems = self.bit, []
        if self.backbone or self.backbone_kwargs or self.use_pretrained_backbone or self.use_timm_backbone:
            problems.append(
                "the backbone is described by backbone_config; leave out backbone, backbone_kwargs and use_*"
            )
        if not isinstance(bit, BitConfig):
            raise ConfigError(
                f"backbone_config is a BitConfig or a dictionary of its fields; got {type(bit).__name__}."
            )
        wanted = {"layer_type": "bottleneck", "global_padding": "SAME", "embedding_dynamic_padding": True}
        problems += [
            f"backbone_config.{name} is {value!r} in a hybrid ViT; got {getattr(bit, name)!r}"
            for name, value in wanted.items()
            if getattr(bit, name) != value
        ]
        if len(self.backbone_featmap_shape or ()) != 4:
            problems.append(
                f"backbone_featmap_shape is [1, channels, height, width]; got {self.backbone_featmap_shape}"
            )
        if problems:
            raise ConfigError(numbered("problem", problems))

    @property
    def bit(self) -> BitConfig:
        """The backbone's config."""
        found: Any = self.backbone_config
        return found

    @property
    def grid(self) -> Grid:
        """(h, w): the patches that the position table has rows for."""
        shape: Any = self.backbone_featmap_shape
        (height, width), (patch_height, patch_width) = shape[-2:], pair(self.patch_size)
        return height // patch_height, width // patch_width

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """As transformers' own; both formats are described by the fields of this class."""
        contents, rest = super().get_config_dict(*args, **kwargs)
        if contents.get("model_type") in (ViTHybridConfig.model_type, OWN_FORMAT):
            contents["model_type"] = cls.model_type
        return contents, rest

    def to_dict(self) -> dict[str, Any]:
        """The fields of the "vit-hybrid" format; where they do not suffice, those of google_vit_hybrid."""
        fields = super().to_dict()
        for name in ("encoder_stride", "pooler_act", "pooler_output_size", "out_features", "out_indices"):
            fields.pop(name, None)
        if any(fields[name] != value for name, value in SHARED_VALUES.items()):
            fields["model_type"] = OWN_FORMAT
        elif self.model_type != OWN_FORMAT:
            for name in SHARED_VALUES:
                del fields[name]
        return fields

    def to_diff_dict(self) -> dict[str, Any]:
        """What goes into config.json: of the backbone, what describes it."""
        fields = super().to_diff_dict()
        backbone = self.bit.to_diff_dict()
        described = (*BIT_FIELDS, "model_type", "stage_names")
        fields["backbone_config"] = {key: backbone[key] for key in described if key in backbone}
        fields["backbone_config"]["num_channels"] = self.num_channels
        return fields


@strict
class GoogleViTHybridConfig(ViTHybridConfig):
    """A ViTHybridConfig with all options of the source; the defaults are its code's.

    Example:
        >>> import hfvision
        >>> config = hfvision.GoogleViTHybridConfig.from_catalog("vit-hybrid-r50-base-16-384")
        >>> config.backbone_config.depths, config.hidden_size
        ([3, 4, 9], 768)
    """

    model_type = OWN_FORMAT

    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    standardization: Literal["variance", "deviation"] = "deviation"
    group_norm_eps: float = 1e-6


class ViTHybridBackbone(nn.Module):
    """(B, C, H, W) -> (B, F, h, w): BiT under the name that it has in the files."""

    def __init__(self, config: ViTHybridConfig) -> None:
        super().__init__()
        rule: Standardization = config.standardization
        stem_rule: Standardization = rule if config.standardized_stem else "none"
        self.bit = BitTrunk(config.bit, config.num_channels, stem_rule, rule, config.group_norm_eps)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.bit(pixel_values)


class ViTHybridPatchEmbeddings(PatchEmbedding):
    """(B, C, H, W) -> (B, D, h, w): one linear map per patch of the feature map."""

    def __init__(self, config: ViTHybridConfig) -> None:
        shape: Any = config.backbone_featmap_shape
        super().__init__(shape[1], config.hidden_size, config.patch_size)
        self.image_channels = config.num_channels
        self.backbone = ViTHybridBackbone(config)

    @property
    def stem(self) -> Any:
        return self.backbone.bit.embedder.convolution

    def forward(self, pixel_values: Tensor, pad: bool = True) -> Tensor:
        """Raises ImageShapeError unless the images have the stem's channel count, ConfigError for another F."""
        check_images(pixel_values, self.image_channels)
        features = self.backbone(pixel_values.to(dtype_of(self.stem, pixel_values.dtype)))
        if features.shape[1] != self.num_channels:
            raise ConfigError(
                f"the config says that the feature map has {self.num_channels} channels "
                f"(backbone_featmap_shape[1]); the backbone gives {features.shape[1]}. Make the two agree."
            )
        return super().forward(features, pad)


class ViTHybridEmbeddings(ViTEmbeddings):
    """(B, C, H, W) -> (B, N, D): feature map, class token and positions.

    Images of any size: the backbone's SAME padding takes them, and the feature map is padded to whole patches.
    """

    patch_embeddings: ViTHybridPatchEmbeddings

    def __init__(self, config: ViTHybridConfig, use_mask_token: bool = False) -> None:
        super().__init__(config, use_mask_token)
        self.config = config

    def patch_embedding(self, config: ViTHybridConfig) -> ViTHybridPatchEmbeddings:
        """The module that cuts feature maps into patches."""
        return ViTHybridPatchEmbeddings(config)

    def patch_grid(self, pixel_values: Tensor) -> Grid:
        """(h, w) of the patches that `forward` makes of these images."""
        if self._leaves_partial_patches(pixel_values):
            return self.grid
        (height, width), patch = (
            feature_size(self.config.bit, pixel_values.shape[-2:]),
            self.patch_embeddings.patch_size,
        )
        return -(-height // patch[0]), -(-width // patch[1])

    @property
    def pixels_per_patch(self) -> tuple[int, int]:
        """(height, width) of a patch in pixels of the image."""
        stride, (height, width) = feature_stride(self.config.bit), self.patch_embeddings.patch_size
        return stride * height, stride * width

    def _leaves_partial_patches(self, pixel_values: Tensor) -> bool:
        """Images of the checkpoint's own size lose a partial patch, as in the original: its table has no row for it."""
        size, patch = feature_size(self.config.bit, self.image_size), self.patch_embeddings.patch_size
        whole = size[0] % patch[0] == 0 and size[1] % patch[1] == 0
        fits = self.grid == (size[0] // patch[0], size[1] // patch[1])
        return fits and not whole and tuple(pixel_values.shape[-2:]) == self.image_size

    def _report_size(self, size: tuple[int, ...], grid: Grid) -> None:
        if not sizes_are_symbols() and grid != self.grid:
            report_once(f"the position table of {by(self.grid)} patches is resampled (bicubic) to {by(grid)}.")

    @torch.no_grad()
    def resize_input_part(self, geometry: InputGeometry) -> list[str]:
        """As ViT's; the stem's kernel for other channels is made of the standardised one and is then applied as it is,
        which only the google_vit_hybrid format can say.
        """
        changes = []
        stem, patches = self.patch_embeddings.stem, self.patch_embeddings
        kernel, patch_kernel, table = None, None, None
        if (channels := patches.image_channels) != geometry.num_channels:
            stored = kernel_of(stem)
            kernel = with_channels(stem.standardize(stored), geometry.num_channels, geometry.channel_init)
            rule = called(geometry.channel_init)
            said = ", and its kernel is applied as stored from now on" if self.config.standardized_stem else ""
            changes.append(f"the stem's {channels} channels became {geometry.num_channels} ({rule}){said}")
        patch_size = pair(geometry.patch_size)
        if patch_size != patches.patch_size:
            patch_kernel = with_patch_size(kernel_of(patches.projection), patch_size)
            changes.append(f"the patch kernel of {by(patches.patch_size)} became {by(patch_size)}")
        size = self._feature_size(geometry)
        grid = (size[0] // patch_size[0], size[1] // patch_size[1])
        if 0 in grid:
            raise ConfigError(
                f"image_size {geometry.image_size} gives a feature map of {by(size)}, less than one patch of "
                f"{by(patch_size)}. Choose a larger image_size or a smaller patch_size."
            )
        if grid != self.grid:
            old = self.position_embeddings
            new = resample_position_table(old, self.grid, grid, self.prefix_tokens, geometry.position_rule)
            table = nn.Parameter(new, requires_grad=old.requires_grad)
            changes.append(
                f"the position table of {by(self.grid)} patches became {by(grid)} ({geometry.position_rule})"
            )
        if kernel is not None:
            stem.set_kernel(kernel)
            patches.image_channels = geometry.num_channels
            self.config.standardized_stem = False
        if patch_kernel is not None:
            patches.set_kernel(patch_kernel)
        if table is not None:
            self.position_embeddings = table
        shape: Any = self.config.backbone_featmap_shape
        self.config.backbone_featmap_shape = [*shape[:2], *size]
        self.grid, self.image_size = grid, pair(geometry.image_size)
        return changes

    def _feature_size(self, geometry: InputGeometry) -> tuple[int, int]:
        """Of the size wanted; where that is the old one, what the config says, which need not be the image's."""
        if pair(geometry.image_size) == self.image_size:
            shape: Any = self.config.backbone_featmap_shape
            return shape[-2], shape[-1]
        return feature_size(self.config.bit, geometry.image_size)


class PatchOnlyHybridEmbeddings(ViTHybridEmbeddings):
    """Feature map and positions, without a class token: (B, C, H, W) -> (B, h * w, D)."""

    prefix_tokens = 0


class ViTHybridPreTrainedModel(ViTPreTrainedModel):
    config: ViTHybridConfig
    config_class = ViTHybridConfig
    _no_split_modules = ["ViTHybridEmbeddings", "PatchOnlyHybridEmbeddings", "ViTLayer"]

    @classmethod
    def embeddings_class(cls, config: Any) -> type[ViTEmbeddings]:
        has_class_token, _ = CLASSIFIERS[config.classifier]
        return ViTHybridEmbeddings if has_class_token else PatchOnlyHybridEmbeddings


class ViTHybridModel(ViTHybridPreTrainedModel, ViTModel):
    """The trunk: pixels to N token vectors, and optionally what the head reads through a dense tanh layer.

    Example:
        >>> import torch, hfvision
        >>> bit = {
        ...     "model_type": "bit", "layer_type": "bottleneck", "global_padding": "SAME",
        ...     "embedding_dynamic_padding": True,
        ...     "embedding_size": 16, "num_groups": 8, "depths": [1], "hidden_sizes": [32], "out_features": ["stage1"],
        ... }
        >>> config = hfvision.ViTHybridConfig(
        ...     image_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, backbone_config=bit
        ... )
        >>> model = hfvision.ViTHybridModel(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 32, 32)).last_hidden_state.shape)
        (2, 65, 32)
    """

    def __init__(self, config: ViTHybridConfig, add_pooling_layer: bool = True, use_mask_token: bool = False) -> None:
        super().__init__(config, add_pooling_layer, use_mask_token)
        _, self.pool = CLASSIFIERS[config.classifier]

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        interpolate_pos_encoding: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """pixel_values: (B, C, H, W), normalised, of any size. The position table is resampled (bicubic) where the grid
        is not the stored one; with interpolate_pos_encoding=False another size raises ImageShapeError instead.
        By name it also takes ViTModel's attention_mask and, with use_mask_token, bool_masked_pos.
        """
        outputs = super().forward(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs)
        if self.pooler is not None:
            outputs.pooler_output = self.pooler(self.pool(outputs.last_hidden_state))
        return outputs


class ViTHybridForImageClassification(ViTHybridPreTrainedModel):
    """The trunk plus one linear layer over the class token, or what `classifier` says.

    Example:
        >>> import torch, hfvision
        >>> bit = {
        ...     "model_type": "bit", "layer_type": "bottleneck", "global_padding": "SAME",
        ...     "embedding_dynamic_padding": True,
        ...     "embedding_size": 16, "num_groups": 8, "depths": [1], "hidden_sizes": [32], "out_features": ["stage1"],
        ... }
        >>> config = hfvision.ViTHybridConfig(
        ...     image_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, backbone_config=bit,
        ...     num_labels=3
        ... )
        >>> model = hfvision.ViTHybridForImageClassification(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 32, 32)).logits.shape)
        (2, 3)
    """

    def __init__(self, config: ViTHybridConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.vit = ViTHybridModel(config, add_pooling_layer=config.representation_size is not None)
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
        """labels: (B,) class indices; (B, K) floats for multi-label; (B,) or (B, K) floats for regression. Images as in
        ViTHybridModel.forward. Logits: (B, K), or (B, N, K) for the unpooled classifiers, which have no loss: labels
        raise ConfigError there.
        """
        if labels is not None:
            check_has_loss(self.config.classifier)
        outputs = self.vit(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs)
        pooled = outputs.pooler_output if self.vit.pooler is not None else self.vit.pool(outputs.last_hidden_state)
        logits = self.classifier(pooled)
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
