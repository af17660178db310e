"""ViT: an image is cut into patches, and a transformer encoder reads them as a sequence.

Paper:  Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words", arXiv 2010.11929.
        Masked-image head: Xie et al. 2021, "SimMIM", arXiv 2111.09886.
Source: google-research/vision_transformer (Apache-2.0), re-expressed in PyTorch. Names of weights and config fields
        are those of the Hub's "vit" files.

Shapes: B images, C channels, H x W pixels, h x w patches, N = 1 + h * w tokens (class token first), D width, K labels.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BackboneOutput,
    BaseModelOutputWithPooling,
    ImageClassifierOutput,
    MaskedImageModelingOutput,
)
from transformers.utils.generic import TransformersKwargs, can_return_tuple
from transformers.utils.output_capturing import capture_outputs
from typing_extensions import Unpack

from hfvision.errors import ConfigError, ImageShapeError
from hfvision.layers.attention import SelfAttention, token_mask
from hfvision.layers.dense import Dense
from hfvision.layers.drop_path import DropPath, linear_rates
from hfvision.layers.in_place import in_strips
from hfvision.layers.linear import Linear
from hfvision.layers.masked_image import PixelDecoder, hidden_patches, hide_patches, masked_image_loss
from hfvision.layers.patch_embedding import PatchEmbedding, by, grid_of, pair
from hfvision.layers.position import Grid, PositionRule, resample_position_table
from hfvision.losses.counts import StepCounts
from hfvision.models.base import InputGeometry, InputPart, VisionModel
from hfvision.models.catalog_config import CatalogConfig
from hfvision.reporting import report_once
from hfvision.tracing import sizes_are_symbols


@strict
class ViTConfig(CatalogConfig, BackboneConfigMixin, PreTrainedConfig):
    """Sizes of a ViT; the defaults are ViT-B/16 at 224 pixels (86 M parameters).

    A published example: [google/vit-base-patch16-224](https://huggingface.co/google/vit-base-patch16-224).

    Example:
        >>> import hfvision
        >>> config = hfvision.ViTConfig.from_catalog("vit-base-patch16-224", num_labels=7)
        >>> config.hidden_size, config.num_labels
        (768, 7)
    """

    model_type = "vit"

    hidden_size: int = 768  # D
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072  # hidden width of the MLP
    hidden_act: str = "gelu"  # exact GELU; Google's own files use "gelu_pytorch_tanh"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.0  # of the last block, in training; never saved, see to_dict
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12  # Google's own files use 1e-6
    image_size: int | list[int] | tuple[int, int] = 224  # pixels: one side, or [height, width]
    patch_size: int | list[int] | tuple[int, int] = 16  # pixels, likewise
    num_channels: int = 3
    qkv_bias: bool = True
    encoder_stride: int = 16  # pixels per side that the masked-image head paints for each patch
    pooler_output_size: int | None = None  # None: hidden_size
    pooler_act: str = "tanh"
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.pooler_output_size = self.pooler_output_size or self.hidden_size
        self.stage_names = ["stem", *(f"stage{block}" for block in range(1, self.num_hidden_layers + 1))]
        self.set_output_features_output_indices(
            out_features=kwargs.pop("out_features", None), out_indices=kwargs.pop("out_indices", None)
        )
        kwargs.pop("stage_names", None)
        super().__post_init__(**kwargs)

    def validate_heads_divide_the_width(self) -> None:
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} cannot be split among {self.num_attention_heads} attention heads; "
                "choose num_attention_heads so that it divides hidden_size."
            )

    @property
    def grid(self) -> Grid:
        """(h, w): the patches that the position table has rows for."""
        return grid_of(self.image_size, self.patch_size)

    def to_dict(self) -> dict[str, Any]:
        """The Hub's "vit" fields: stage names follow from the depth, and drop_path_rate only concerns training."""
        fields = super().to_dict()
        fields.pop("stage_names", None)
        fields.pop("drop_path_rate", None)
        if fields["out_indices"] == [self.num_hidden_layers]:
            del fields["out_features"], fields["out_indices"]
        return fields


class ViTEmbeddings(nn.Module, InputPart):
    """(B, C, H, W) -> (B, N, D): patches, class token and positions."""

    prefix_tokens = 1
    position_rule: ClassVar[PositionRule] = "bicubic"  # for images of another size than the table's

    def __init__(self, config: ViTConfig, use_mask_token: bool = False) -> None:
        super().__init__()
        height, width = config.grid
        self.grid: Grid = (height, width)
        self.image_size = pair(config.image_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if self.prefix_tokens else None
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if use_mask_token else None
        self.patch_embeddings = self.patch_embedding(config)
        self.position_embeddings = nn.Parameter(torch.zeros(1, self.prefix_tokens + height * width, config.hidden_size))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def patch_embedding(self, config: Any) -> PatchEmbedding:
        """The module that cuts images into patches."""
        return PatchEmbedding(config.num_channels, config.hidden_size, config.patch_size)

    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
    ) -> tuple[Tensor, Grid]:
        """Returns the tokens and the patch grid of these images. See ViTModel.forward."""
        if interpolate_pos_encoding is False and tuple(pixel_values.shape[-2:]) != self.image_size:
            raise ImageShapeError(
                f"with interpolate_pos_encoding=False images have the checkpoint's size {by(self.image_size)}; got "
                f"{by(pixel_values.shape[-2:])}. Leave the argument out and the position table is resampled."
            )
        patches = self.patch_embeddings(pixel_values, pad=not self._leaves_partial_patches(pixel_values))
        height, width = patches.shape[-2:]
        tokens = patches.flatten(2).mT  # (B, D, h, w) -> (B, h * w, D)
        if bool_masked_pos is not None:
            tokens = hide_patches(tokens, self.mask_token, bool_masked_pos)
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        self._report_size(tuple(pixel_values.shape[-2:]), (height, width))
        return self.dropout(tokens + self.positions((height, width))), (height, width)

    def patch_grid(self, pixel_values: Tensor) -> Grid:
        """(h, w) of the patches that `forward` makes of these images."""
        if self._leaves_partial_patches(pixel_values):
            return self.grid
        (height, width), (patch_height, patch_width) = pixel_values.shape[-2:], self.patch_embeddings.patch_size
        return -(-height // patch_height), -(-width // patch_width)

    def positions(self, grid: Grid) -> Tensor:
        """(1, N, D): the position table for this patch grid, resampled unless it is the stored one."""
        if not sizes_are_symbols() and grid == self.grid:
            return self.position_embeddings
        return resample_position_table(
            self.position_embeddings, self.grid, grid, self.prefix_tokens, self.position_rule
        )

    def _leaves_partial_patches(self, pixel_values: Tensor) -> bool:
        """Images of the checkpoint's own size lose a partial patch, as in the original: its table has no row for it."""
        patch_size = self.patch_embeddings.patch_size
        whole = tuple(n * side for n, side in zip(self.grid, patch_size, strict=True)) == self.image_size
        return not whole and tuple(pixel_values.shape[-2:]) == self.image_size

    def _report_size(self, size: tuple[int, ...], grid: Grid) -> None:
        if sizes_are_symbols() or size == self.image_size:
            return
        self.patch_embeddings.report_padding(size, grid)
        if grid != self.grid:
            report_once(
                f"the position table of {by(self.grid)} patches is resampled ({self.position_rule}) to {by(grid)}."
            )

    @torch.no_grad()
    def resize_input_part(self, geometry: InputGeometry) -> list[str]:
        patch_size = pair(geometry.patch_size)
        kernel, changes = self.patch_embeddings.kernel_for(geometry.num_channels, patch_size, geometry.channel_init)
        grid = grid_of(geometry.image_size, patch_size)
        if grid != self.grid:
            changes.append(
                f"the position table of {by(self.grid)} patches became {by(grid)} ({geometry.position_rule})"
            )
            table = self.position_embeddings
            new = resample_position_table(table, self.grid, grid, self.prefix_tokens, geometry.position_rule)
            self.position_embeddings = nn.Parameter(new, requires_grad=table.requires_grad)
        self.patch_embeddings.set_kernel(kernel)
        self.grid, self.image_size = grid, pair(geometry.image_size)
        return changes


class ViTSelfAttention(SelfAttention):
    """Of all tokens: (B, N, D) -> (B, N, D) and maps or None."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config, config.hidden_size, config.num_attention_heads, config.qkv_bias)


class ViTAttention(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.attention = ViTSelfAttention(config)
        self.output = Dense(config.hidden_size, config.hidden_size, nn.Dropout(config.hidden_dropout_prob))

    def forward(self, x: Tensor, attention_mask: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]) -> Tensor:
        mixed, _ = self.attention(x, attention_mask, **kwargs)
        return self.output(mixed)


class ViTLayer(GradientCheckpointingLayer):
    """A pre-norm block: attention, then MLP, each added to its input. (B, N, D) -> (B, N, D)."""

    def __init__(self, config: ViTConfig, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = ViTAttention(config)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = Dense(config.hidden_size, config.intermediate_size, ACT2FN[config.hidden_act])
        self.output = Dense(config.intermediate_size, config.hidden_size, nn.Dropout(config.hidden_dropout_prob))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]) -> Tensor:
        x = x + self.drop_path(self.attention(self.layernorm_before(x), attention_mask, **kwargs))
        return x + self.drop_path(in_strips(self.layernorm_after(x), self.intermediate, self.output))


class ViTEncoder(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        rates = linear_rates(config.drop_path_rate, config.num_hidden_layers)
        self.layer = nn.ModuleList(ViTLayer(config, rate) for rate in rates)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]) -> Tensor:
        for layer in self.layer:
            x = layer(x, attention_mask, **kwargs)
        return x


class ViTPreTrainedModel(VisionModel):
    config: ViTConfig
    config_class = ViTConfig
    base_model_prefix = "vit"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["ViTEmbeddings", "ViTLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": ViTLayer, "attentions": ViTSelfAttention}
    _input_embed_layer = "patch_embeddings"

    @classmethod
    def embeddings_class(cls, config: Any) -> type[ViTEmbeddings]:
        """That of the trunk for this config."""
        return ViTEmbeddings

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ViTEmbeddings):
            init.trunc_normal_(module.position_embeddings, std=self.config.initializer_range)
            if module.cls_token is not None:
                init.trunc_normal_(module.cls_token, std=self.config.initializer_range)
            if module.mask_token is not None:
                init.zeros_(module.mask_token)

    def blocks(self) -> list[nn.Module]:
        trunk: Any = self.base_model
        return list(trunk.encoder.layer)


class ViTModel(ViTPreTrainedModel):
    """The trunk: pixels to N token vectors, and optionally the class token through a dense tanh layer.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.ViTConfig(image_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
        >>> model = hfvision.ViTModel(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 32, 32)).last_hidden_state.shape)
        (2, 5, 32)
    """

    def __init__(self, config: ViTConfig, add_pooling_layer: bool = True, use_mask_token: bool = False) -> None:
        super().__init__(config)
        self.embeddings = self.embeddings_class(config)(config, use_mask_token)
        self.encoder = ViTEncoder(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        width = config.pooler_output_size or config.hidden_size
        self.pooler = Dense(config.hidden_size, width, ACT2FN[config.pooler_act]) if add_pooling_layer else None
        self.post_init()

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """pixel_values: (B, C, H, W), normalised, of any size: padded with zeros at the bottom and right to whole
        patches, the position table resampled (bicubic) where the grid is not the stored one; with
        interpolate_pos_encoding=False another size raises ImageShapeError instead. bool_masked_pos: (B, h * w), True
        where a patch is hidden. attention_mask: (B, N), 0 where a token is not to be seen.
        """
        tokens, _ = self.embeddings(pixel_values, bool_masked_pos, interpolate_pos_encoding)
        mask = token_mask(self.config, tokens, attention_mask)
        tokens = self.layernorm(self.encoder(tokens, mask, **kwargs))
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens, pooler_output=None if self.pooler is None else self.pooler(tokens[:, 0])
        )


class ViTForImageClassification(ViTPreTrainedModel):
    """The trunk plus one linear layer over the class token.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.ViTConfig(
        ...     image_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_labels=3
        ... )
        >>> model = hfvision.ViTForImageClassification(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 32, 32)).logits.shape)
        (2, 3)
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.vit = ViTModel(config, add_pooling_layer=False)
        self.classifier = Linear(config.hidden_size, config.num_labels) if config.num_labels else nn.Identity()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageClassifierOutput:
        """labels: (B,) class indices; (B, K) floats for multi-label; (B,) or (B, K) floats for regression. Images as in
        ViTModel.forward. Logits: (B, K).
        """
        outputs = self.base_model(
            pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            attention_mask=attention_mask,
            **kwargs,
        )
        logits = self.classifier(outputs.last_hidden_state[:, 0])
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class ViTForMaskedImageModeling(ViTPreTrainedModel, InputPart):
    """The trunk with a mask token, plus a linear decoder by which every token paints its patch.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.ViTConfig(image_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
        >>> model = hfvision.ViTForMaskedImageModeling(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 32, 32), bool_masked_pos=torch.ones(2, 4)).reconstruction.shape)
        (2, 3, 32, 32)
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        self.vit = ViTModel(config, add_pooling_layer=False, use_mask_token=True)
        self.decoder = PixelDecoder(config.hidden_size, config.encoder_stride, config.num_channels)
        self.post_init()

    def step_counts(self, batch: Mapping[str, Any]) -> StepCounts | None:
        return hidden_patches(batch)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedImageModelingOutput:
        """bool_masked_pos: (B, h * w), True where a patch is hidden; with it the loss is the mean absolute error over
        the hidden pixels (SimMIM, section 3.4). Images as in ViTModel.forward. Reconstruction: (B, C, H, W) where
        encoder_stride is the patch size. Raises ConfigError for a loss with another encoder_stride.
        """
        patch_size, stride = pair(self.config.patch_size), self.config.encoder_stride
        if bool_masked_pos is not None and patch_size != (stride, stride):
            raise ConfigError(
                f"a loss needs encoder_stride equal to patch_size {by(patch_size)}, so that the reconstruction has "
                f"the size of the image; got encoder_stride {stride}."
            )
        trunk: Any = self.base_model
        outputs = trunk(
            pixel_values,
            bool_masked_pos=bool_masked_pos,
            interpolate_pos_encoding=interpolate_pos_encoding,
            attention_mask=attention_mask,
            **kwargs,
        )
        grid, first_patch = trunk.embeddings.patch_grid(pixel_values), trunk.embeddings.prefix_tokens
        patches = outputs.last_hidden_state[:, first_patch:].mT.unflatten(2, grid)  # (B, h * w, D) -> (B, D, h, w)
        reconstruction = self.decoder(patches)
        loss = None
        if bool_masked_pos is not None:
            loss = masked_image_loss(pixel_values, reconstruction, bool_masked_pos, grid, **kwargs)
            height, width = pixel_values.shape[-2:]
            reconstruction = reconstruction[..., :height, :width]  # without the padding
        return MaskedImageModelingOutput(
            loss=loss,
            reconstruction=reconstruction,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    @torch.no_grad()
    def resize_input_part(self, geometry: InputGeometry) -> list[str]:
        """The decoder paints the new channels, and patches of the new size where it painted whole patches before."""
        config, (height, width) = self.config, pair(geometry.patch_size)
        paints_patches = pair(config.patch_size) == (config.encoder_stride, config.encoder_stride)
        stride = height if paints_patches else config.encoder_stride
        if (stride, geometry.num_channels) == (self.decoder.stride, self.decoder.num_channels):
            return []
        if paints_patches and height != width:
            raise ConfigError(f"the masked-image decoder paints square patches; got patch_size {height}x{width}.")
        self.decoder = self.decoder.resized(stride, geometry.num_channels, geometry.channel_init)
        config.encoder_stride = stride
        return [f"the decoder paints {geometry.num_channels} channels of {stride}x{stride} pixels"]


class ViTBackbone(BackboneMixin, ViTPreTrainedModel):
    """The trunk as a source of feature maps for dense prediction: after any blocks, each (B, D, h, w).

    `out_features` or `out_indices` of the config choose among "stem" (the embeddings) and "stage1" to "stageL" (the
    blocks). The final layer norm is applied to each map.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.ViTConfig(
        ...     image_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, out_indices=[1, 2]
        ... )
        >>> maps = hfvision.ViTBackbone(config)(torch.zeros(1, 3, 32, 32)).feature_maps
        >>> [tuple(one.shape) for one in maps]
        [(1, 32, 2, 2), (1, 32, 2, 2)]
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        self.embeddings = self.embeddings_class(config)(config)
        self.encoder = ViTEncoder(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.num_features = [config.hidden_size] * (config.num_hidden_layers + 1)
        self.post_init()

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, pixel_values: Tensor, attention_mask: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> BackboneOutput:
        """Images and attention_mask as in ViTModel.forward."""
        tokens, grid = self.embeddings(pixel_values)
        mask = token_mask(self.config, tokens, attention_mask)
        states = [tokens]
        for layer in self.encoder.layer:
            states.append(layer(states[-1], mask, **kwargs))
        first_patch = self.embeddings.prefix_tokens
        maps = [
            self.layernorm(state)[:, first_patch:].mT.unflatten(2, grid).contiguous()  # (B, h * w, D) -> (B, D, h, w)
            for stage, state in zip(self.stage_names, states, strict=True)
            if stage in self.out_features
        ]
        return BackboneOutput(feature_maps=tuple(maps))
