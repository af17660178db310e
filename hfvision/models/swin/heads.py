"""Swin's heads: image classification, masked images, and the backbone of dense models.

Paper, source and shapes: see `swin`. Masked-image head: Xie et al. 2021, "SimMIM", arXiv 2111.09886.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.backbone_utils import BackboneMixin, filter_output_hidden_states
from transformers.modeling_outputs import BackboneOutput, ImageClassifierOutput, MaskedImageModelingOutput
from transformers.utils.generic import TransformersKwargs, can_return_tuple
from transformers.utils.output_capturing import capture_outputs
from typing_extensions import Unpack

from hfvision.errors import ConfigError
from hfvision.layers.linear import Linear
from hfvision.layers.masked_image import PixelDecoder, hidden_patches, masked_image_loss
from hfvision.layers.patch_embedding import by, pair
from hfvision.losses.counts import StepCounts
from hfvision.models.base import InputGeometry, InputPart
from hfvision.models.swin.model import (
    SwinConfig,
    SwinEmbeddings,
    SwinEncoder,
    SwinLastSelfAttention,
    SwinModel,
    SwinPreTrainedModel,
    as_map,
)
from hfvision.models.swin.windows import halved


@dataclass
class SwinImageClassifierOutput(ImageClassifierOutput):
    """reshaped_hidden_states: the hidden states as maps, each (B, D, h, w)."""

    reshaped_hidden_states: tuple[Tensor | None, ...] | None = None


@dataclass
class SwinMaskedImageModelingOutput(MaskedImageModelingOutput):
    """reshaped_hidden_states: the hidden states as maps, each (B, D, h, w)."""

    reshaped_hidden_states: tuple[Tensor | None, ...] | None = None


class SwinForImageClassification(SwinPreTrainedModel):
    """The trunk plus one linear layer over the mean of the last map.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.SwinConfig(
        ...     image_size=32, patch_size=2, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=4, num_labels=3
        ... )
        >>> model = hfvision.SwinForImageClassification(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 32, 32)).logits.shape)
        (2, 3)
    """

    trunk_class: ClassVar[type[SwinModel]] = SwinModel

    def __init__(self, config: SwinConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.swin = self.trunk_class(config)
        self.classifier = Linear(config.hidden_size, config.num_labels) if config.num_labels else nn.Identity()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SwinImageClassifierOutput:
        """labels: (B,) class indices; (B, K) floats for multi-label; (B,) or (B, K) floats for regression. Images and
        further outputs as in SwinModel.forward. Logits: (B, K).
        """
        outputs = self.swin(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs)
        logits = self.classifier(outputs.pooler_output)
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return SwinImageClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            reshaped_hidden_states=outputs.reshaped_hidden_states,
        )


class SwinForMaskedImageModeling(SwinPreTrainedModel, InputPart):
    """The trunk with a mask token, plus a linear decoder by which every place of the last map paints its pixels.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.SwinConfig(
        ...     image_size=32, patch_size=2, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=4,
        ...     encoder_stride=4
        ... )
        >>> model = hfvision.SwinForMaskedImageModeling(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 32, 32), bool_masked_pos=torch.ones(2, 256)).reconstruction.shape)
        (2, 3, 32, 32)
    """

    def __init__(self, config: SwinConfig) -> None:
        super().__init__(config)
        self.swin = SwinModel(config, add_pooling_layer=False, use_mask_token=True)
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
        **kwargs: Unpack[TransformersKwargs],
    ) -> SwinMaskedImageModelingOutput:
        """bool_masked_pos: (B, h * w), True where a patch is hidden; with it the loss is the mean absolute error over
        the hidden pixels (SimMIM, section 3.4). Images as in SwinModel.forward. Reconstruction: (B, C, H, W) where
        encoder_stride is what a place of the last map stands for. Raises ConfigError for a loss with another one.
        """
        patch_size = pair(self.config.patch_size)
        stride = self.config.encoder_stride
        if bool_masked_pos is not None and self._pixels_per_place(patch_size) != (stride, stride):
            raise ConfigError(
                f"a loss needs encoder_stride {by(self._pixels_per_place(patch_size))}, what a place of the last map "
                f"stands for, so that the reconstruction has the size of the image; got encoder_stride {stride}."
            )
        outputs = self.swin(
            pixel_values,
            bool_masked_pos=bool_masked_pos,
            interpolate_pos_encoding=interpolate_pos_encoding,
            **kwargs,
        )
        height, width = pixel_values.shape[-2:]
        patches = (height + patch_size[0] - 1) // patch_size[0], (width + patch_size[1] - 1) // patch_size[1]
        grid = patches
        for _ in self.config.depths[1:]:
            grid = halved(grid)
        reconstruction = self.decoder(outputs.last_hidden_state.mT.unflatten(2, grid))
        loss = None
        if bool_masked_pos is not None:
            whole = reconstruction[..., : patches[0] * patch_size[0], : patches[1] * patch_size[1]]
            loss = masked_image_loss(pixel_values, whole, bool_masked_pos, patches, **kwargs)
            reconstruction = reconstruction[..., :height, :width]  # without the padding
        return SwinMaskedImageModelingOutput(
            loss=loss,
            reconstruction=reconstruction,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            reshaped_hidden_states=outputs.reshaped_hidden_states,
        )

    def _pixels_per_place(self, patch_size: tuple[int, int]) -> tuple[int, int]:
        merged = 2 ** (len(self.config.depths) - 1)
        return patch_size[0] * merged, patch_size[1] * merged

    @torch.no_grad()
    def resize_input_part(self, geometry: InputGeometry) -> list[str]:
        """The decoder paints the new channels, and patches of the new size where it painted whole places before."""
        config, (height, width) = self.config, self._pixels_per_place(pair(geometry.patch_size))
        paints_all = self._pixels_per_place(pair(config.patch_size)) == (config.encoder_stride, config.encoder_stride)
        stride = height if paints_all else config.encoder_stride
        if (stride, geometry.num_channels) == (self.decoder.stride, self.decoder.num_channels):
            return []
        if paints_all and height != width:
            raise ConfigError(
                f"the masked-image decoder paints square patches; got patch_size {by(pair(geometry.patch_size))}."
            )
        self.decoder = self.decoder.resized(stride, geometry.num_channels, geometry.channel_init)
        config.encoder_stride = stride
        return [f"the decoder paints {geometry.num_channels} channels of {stride}x{stride} pixels"]


class SwinBackbone(BackboneMixin, SwinPreTrainedModel):
    """The trunk as a source of feature maps for dense prediction, each (B, D, h, w), as the segmentation models of the
    source have it: windows never shrink.

    `out_features` or `out_indices` of the config choose among "stem" (the embeddings) and "stage1" to "stageL" (before
    the merging layer). Each map has a norm of its own.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.SwinConfig(
        ...     image_size=32, patch_size=2, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=4,
        ...     out_features=["stage1", "stage2"]
        ... )
        >>> maps = hfvision.SwinBackbone(config)(torch.zeros(1, 3, 32, 32)).feature_maps
        >>> [tuple(one.shape) for one in maps]
        [(1, 8, 16, 16), (1, 16, 8, 8)]
    """

    _can_record_outputs = {"attentions": SwinLastSelfAttention}
    _keys_to_ignore_on_load_missing = [r"swin\.layernorm\..*"]

    def __init__(self, config: SwinConfig) -> None:
        super().__init__(config)
        self.num_features = [config.embed_dim, *config.widths]
        self.embeddings = SwinEmbeddings(config)
        self.encoder = SwinEncoder(config, shrinks=False)
        widths = dict(zip(self.stage_names, self.num_features, strict=True))
        self.hidden_states_norms = nn.ModuleDict({stage: nn.LayerNorm(widths[stage]) for stage in self.out_features})
        # Unused, but in every file that transformers 5 writes: the norm behind the last stage.
        norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps).requires_grad_(False)
        self.swin = nn.ModuleDict({"layernorm": norm})
        self.post_init()

    @property
    def base_model(self) -> nn.Module:
        """The same weights as a SwinModel: with the norm behind the last stage, without those of the maps."""
        with torch.device("meta"):
            trunk = SwinModel(copy.copy(self.config), add_pooling_layer=False)  # a model may change its config
        norm: Any = self.swin["layernorm"]
        trunk.config, trunk.layernorm = self.config, norm
        trunk.embeddings, trunk.encoder = self.embeddings, self.encoder
        return trunk

    @capture_outputs(tie_last_hidden_states=False)
    @filter_output_hidden_states
    def forward(self, pixel_values: Tensor, **kwargs: Unpack[TransformersKwargs]) -> BackboneOutput:
        """Images as in SwinModel.forward. hidden_states: the embeddings and each stage before its merging layer, as
        maps without norms.
        """
        tokens, grid = self.embeddings(pixel_values)
        states: list[Any] = [as_map(tokens, grid)]
        maps: list[Any] = []
        if "stem" in self.hidden_states_norms:
            maps.append(as_map(self.hidden_states_norms["stem"](tokens), grid).contiguous())
        for name, stage in zip(self.stage_names[1:], self.encoder.layers, strict=True):
            tokens, before = stage(tokens, grid, **kwargs)
            states.append(as_map(before, grid))
            if name in self.hidden_states_norms:
                maps.append(as_map(self.hidden_states_norms[name](before), grid).contiguous())
            grid = halved(grid)
        return BackboneOutput(feature_maps=tuple(maps), hidden_states=tuple(states))
