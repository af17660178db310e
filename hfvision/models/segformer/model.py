"""SegFormer: a transformer of four stages whose maps get coarser, and a decoder of linear layers that joins them.

Paper:  Xie et al. 2021, "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
        arXiv 2105.15203.
Source: the paper; the original repository, NVlabs/SegFormer, has a licence of its own (non-commercial) and was not
        used. Names of weights and config fields are those of the Hub's "segformer" files.

Inside, maps are (B, h, w, D): linear layers and norms read them as they lie, and convolutions see them as images in
channels-last order. What leaves the encoder is the usual view of them, (B, D, h, w).

Shapes: B images, C channels, H x W pixels, h x w places of a map, D width of a stage (E that of the decoder),
        n = h * w, m = (h // r) * (w // r) keys of a stage with reduction ratio r, K labels.
"""

from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BackboneOutput, BaseModelOutput, ImageClassifierOutput
from transformers.utils.generic import TransformersKwargs, can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs
from typing_extensions import Unpack

from hfvision.errors import ConfigError, numbered
from hfvision.layers.attention import SelfAttention
from hfvision.layers.conv import PatchConv, channels_last
from hfvision.layers.dense import Dense
from hfvision.layers.drop_path import DropPath, linear_rates
from hfvision.layers.in_place import activated
from hfvision.layers.linear import Linear
from hfvision.layers.norm import LayerNorm
from hfvision.layers.patch_embedding import called, check_images, kernel_of, replace_kernel, with_channels
from hfvision.layers.plain import dtype_of
from hfvision.losses.segmentation import PixelAverage, SegmentationLoss
from hfvision.models.base import InputGeometry, InputPart, LayerGroup, VisionModel
from hfvision.models.catalog_config import CatalogConfig
from hfvision.models.segformer.decoder import SegformerDecodeHead
from hfvision.models.semantic import SemanticModel, SemanticOutput
from hfvision.tracing import greater, may_guard_sizes, sizes_are_symbols
from hfvision.upsampling import Size, Upsampling
from hfvision.upsampling import upsample as upsampled

PER_STAGE = (
    "depths",
    "sr_ratios",
    "hidden_sizes",
    "patch_sizes",
    "strides",
    "num_attention_heads",
    "mlp_ratios",
)


@strict
class SegformerConfig(CatalogConfig, BackboneConfigMixin, PreTrainedConfig):
    """Sizes of a SegFormer; the defaults are MiT-b0 (3.8 M parameters with the decoder for 150 classes).

    A published example:
    [nvidia/segformer-b0-finetuned-ade-512-512](https://huggingface.co/nvidia/segformer-b0-finetuned-ade-512-512).

    Example:
        >>> import hfvision
        >>> hfvision.SegformerConfig(num_labels=7).hidden_sizes
        (32, 64, 160, 256)
    """

    model_type = "segformer"
    attribute_map = {"num_hidden_layers": "num_encoder_blocks"}

    num_channels: int = 3
    num_encoder_blocks: int = 4  # stages; each list below has an entry for each
    depths: list[int] | tuple[int, ...] = (2, 2, 2, 2)  # blocks
    sr_ratios: list[int] | tuple[int, ...] = (8, 4, 2, 1)  # r: places per side that share a key
    hidden_sizes: list[int] | tuple[int, ...] = (32, 64, 160, 256)  # D
    patch_sizes: list[int] | tuple[int, ...] = (7, 3, 3, 3)  # places per side that a patch covers; patches overlap
    strides: list[int] | tuple[int, ...] = (4, 2, 2, 2)  # places per side from patch to patch
    num_attention_heads: list[int] | tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: list[int] | tuple[int, ...] = (4, 4, 4, 4)  # hidden width of the MLP, in D
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    classifier_dropout_prob: float | int = 0.1  # before the decoder's classifier
    initializer_range: float = 0.02
    drop_path_rate: float | int = 0.1  # of the last block, in training
    layer_norm_eps: float = 1e-6  # not what is computed with: see block_norm_eps
    decoder_hidden_size: int = 256  # E
    semantic_loss_ignore_index: int = 255
    reshape_last_stage: bool = True  # False: the trunk's last stage leaves as (B, n, D)
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.stage_names = [f"stage{stage}" for stage in range(1, self.num_encoder_blocks + 1)]
        self.set_output_features_output_indices(
            out_features=kwargs.pop("out_features", None), out_indices=kwargs.pop("out_indices", None)
        )
        kwargs.pop("stage_names", None)
        super().__post_init__(**kwargs)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> "SegformerConfig":
        """As transformers' own; an NvlabsSegformerConfig where one is stored."""
        stored, _ = cls.get_config_dict(*args, **kwargs)
        own = stored.get("model_type") == NvlabsSegformerConfig.model_type
        return super(SegformerConfig, NvlabsSegformerConfig if own else cls).from_pretrained(*args, **kwargs)

    def validate_every_stage_has_its_sizes(self) -> None:
        stages = self.num_encoder_blocks
        problems = [
            f"{field} has {len(getattr(self, field))} entries, {list(getattr(self, field))}"
            for field in PER_STAGE
            if len(getattr(self, field)) != stages
        ]
        if problems:
            raise ConfigError(
                f"num_encoder_blocks is {stages}, so every list has {stages}; {numbered('mismatch', problems)}"
            )

    def validate_heads_divide_the_width(self) -> None:
        for size, heads in zip(self.hidden_sizes, self.num_attention_heads, strict=False):
            if heads < 1 or size % heads:
                raise ConfigError(
                    f"a stage of width {size} cannot be split among {heads} attention heads; choose "
                    "num_attention_heads so that each divides its entry of hidden_sizes."
                )

    @property
    def block_norm_eps(self) -> float:
        """Of the norms in blocks and behind stages: 1e-5 as in transformers, which never reads layer_norm_eps."""
        return 1e-5

    def to_dict(self) -> dict[str, Any]:
        """The Hub's "segformer" fields; stage names follow from the number of stages."""
        fields = super().to_dict()
        fields.pop("stage_names", None)
        if fields["out_indices"] == [self.num_encoder_blocks - 1]:
            del fields["out_features"], fields["out_indices"]
        return fields


@strict
class NvlabsSegformerConfig(SegformerConfig):
    """A SegformerConfig whose layer_norm_eps counts, as in the original: for its files, converted.

    Example:
        >>> import hfvision
        >>> config = hfvision.NvlabsSegformerConfig.from_catalog("mit-b0", num_labels=7)
        >>> config.hidden_sizes, config.block_norm_eps
        ([32, 64, 160, 256], 1e-06)
    """

    model_type = "nvlabs_segformer"

    @property
    def block_norm_eps(self) -> float:
        """Of the norms in blocks and behind stages."""
        return self.layer_norm_eps


class SegformerPatchEmbedding(nn.Module):
    """(B, D, h, w) -> (B, h', w', D'): overlapping patches, by a convolution with a stride, then a norm."""

    def __init__(self, patch_size: int, stride: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.patch_size, self.stride = patch_size, stride
        self.proj = nn.Conv2d(inputs, outputs, kernel_size=patch_size, stride=stride, padding=patch_size // 2)
        self.layer_norm = LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        if may_guard_sizes():
            x = self._to_whole_steps(x)
        return self.layer_norm(self.proj(x).permute(0, 2, 3, 1))

    def _to_whole_steps(self, x: Tensor) -> Tensor:
        """The zeros that a convolution with an odd kernel reads behind the last of its steps, ceil(h / stride) of them.

        They change no answer. But a map's size then is that quotient and not (h - 1) // stride + 1, whose powers among
        the strides of symbolic sizes inductor cannot divide by each other: it would not compile a second image size.
        """
        if self.patch_size % 2 == 0:
            return x
        down, across = ((side + self.stride - 1) // self.stride * self.stride - side for side in x.shape[-2:])
        return nn.functional.pad(x, (0, across, 0, down))


class SegformerStem(SegformerPatchEmbedding, InputPart):
    """(B, C, H, W) -> (B, h, w, D): the first stage's patches."""

    def __init__(self, patch_size: int, stride: int, inputs: int, outputs: int) -> None:
        super().__init__(patch_size, stride, inputs, outputs)
        self.num_channels = inputs

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Raises ImageShapeError unless the images have the kernel's channel count."""
        check_images(pixel_values, self.num_channels)
        dtype = dtype_of(self.proj, pixel_values.dtype)
        return super().forward(channels_last(pixel_values.to(dtype)))

    @torch.no_grad()
    def resize_input_part(self, geometry: InputGeometry) -> list[str]:
        old, new = self.num_channels, geometry.num_channels
        if new == old:
            return []
        replace_kernel(self.proj, with_channels(kernel_of(self.proj), new, geometry.channel_init))
        self.num_channels = new
        return [f"the patch kernel's {old} channels became {new} ({called(geometry.channel_init)})"]


class SegformerSelfAttention(SelfAttention):
    """Of places: (B, h, w, D) -> (B, h, w, D) and maps or None."""

    def __init__(self, config: SegformerConfig, stage: int) -> None:
        super().__init__(config, config.hidden_sizes[stage], config.num_attention_heads[stage])

    def forward(self, x: Tensor, **kwargs: Unpack[TransformersKwargs]) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        mixed, maps = self.attend(x.flatten(1, 2), self.reduced(x).flatten(1, 2), **kwargs)
        return mixed.view(x.shape), maps

    def reduced(self, x: Tensor) -> Tensor:
        """The places that are looked at."""
        return x


class SegformerReducedSelfAttention(SegformerSelfAttention):
    """Self-attention in which r x r places are looked at as one."""

    def __init__(self, config: SegformerConfig, stage: int) -> None:
        super().__init__(config, stage)
        width, self.ratio = config.hidden_sizes[stage], config.sr_ratios[stage]
        self.sr = PatchConv(width, width, kernel_size=self.ratio, stride=self.ratio)
        self.layer_norm = LayerNorm(width)

    def reduced(self, x: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, h // r, w // r, D); a map smaller than r is filled up with zeros."""
        # Written so that torch.export can bound the padded size: whole groups, at least one, less what is there.
        lacking: Any = [greater(side // self.ratio, 1) * self.ratio - side for side in x.shape[1:3]]
        below, right = lacking
        if sizes_are_symbols() or below > 0 or right > 0:
            x = nn.functional.pad(x, (0, 0, 0, right, 0, below))
        return self.layer_norm(self.sr(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class SegformerAttention(nn.Module):
    def __init__(self, config: SegformerConfig, stage: int) -> None:
        super().__init__()
        kind = SegformerReducedSelfAttention if config.sr_ratios[stage] > 1 else SegformerSelfAttention
        self.self = kind(config, stage)
        width = config.hidden_sizes[stage]
        self.output = Dense(width, width, nn.Dropout(config.hidden_dropout_prob))

    def forward(self, x: Tensor, **kwargs: Unpack[TransformersKwargs]) -> Tensor:
        mixed, _ = self.self(x, **kwargs)
        return self.output(mixed)


class SegformerDepthwise(nn.Module):
    """A 3 x 3 convolution of each channel by itself, which lets places know where they are, and an activation.

    (B, h, w, D) -> (B, h, w, D).
    """

    def __init__(self, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return activated(self.dwconv, self.activation, x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class SegformerMlp(nn.Module):
    """(B, h, w, D) -> (B, h, w, D)."""

    def __init__(self, config: SegformerConfig, stage: int) -> None:
        super().__init__()
        width = config.hidden_sizes[stage]
        inner = int(width * config.mlp_ratios[stage])
        self.dense1 = Linear(width, inner)
        self.dwconv = SegformerDepthwise(inner, ACT2FN[config.hidden_act])
        self.dense2 = Linear(inner, width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.dropout(self.dwconv(self.dense1(x)))
        return self.dropout(self.dense2(inner))


class SegformerLayer(GradientCheckpointingLayer):
    """A pre-norm block: attention, then MLP, each added to its input. (B, h, w, D) -> (B, h, w, D)."""

    def __init__(self, config: SegformerConfig, stage: int, drop_path_rate: float) -> None:
        super().__init__()
        width = config.hidden_sizes[stage]
        self.layer_norm_1 = LayerNorm(width, eps=config.block_norm_eps)
        self.attention = SegformerAttention(config, stage)
        self.layer_norm_2 = LayerNorm(width, eps=config.block_norm_eps)
        self.mlp = SegformerMlp(config, stage)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor, **kwargs: Unpack[TransformersKwargs]) -> Tensor:
        x = x + self.drop_path(self.attention(self.layer_norm_1(x), **kwargs))
        return x + self.drop_path(self.mlp(self.layer_norm_2(x)))


class SegformerMapLayerNorm(LayerNorm):
    """The norm behind a stage, whose output is a hidden state: (B, h, w, D) -> (B, D, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).permute(0, 3, 1, 2)


class SegformerTokenLayerNorm(SegformerMapLayerNorm):
    """(B, h, w, D) -> (B, n, D)."""

    def forward(self, x: Tensor) -> Tensor:
        return LayerNorm.forward(self, x).flatten(1, 2)


class SegformerEncoder(nn.Module):
    def __init__(self, config: SegformerConfig, last_as_tokens: bool) -> None:
        super().__init__()
        rates = iter(linear_rates(config.drop_path_rate, sum(config.depths)))
        stages = range(config.num_encoder_blocks)
        widths = (config.num_channels, *config.hidden_sizes)
        self.patch_embeddings = nn.ModuleList(
            (SegformerPatchEmbedding if stage else SegformerStem)(
                config.patch_sizes[stage], config.strides[stage], widths[stage], widths[stage + 1]
            )
            for stage in stages
        )
        self.block = nn.ModuleList(
            nn.ModuleList(SegformerLayer(config, stage, next(rates)) for _ in range(config.depths[stage]))
            for stage in stages
        )
        self.layer_norm = nn.ModuleList(
            (SegformerTokenLayerNorm if last_as_tokens and stage == stages[-1] else SegformerMapLayerNorm)(
                config.hidden_sizes[stage], eps=config.block_norm_eps
            )
            for stage in stages
        )

    def forward(self, pixel_values: Tensor, **kwargs: Unpack[TransformersKwargs]) -> list[Tensor]:
        """(B, C, H, W) -> for each stage (B, D, h, w), for the last one (B, n, D) with `last_as_tokens`."""
        stages: Any = zip(self.patch_embeddings, self.block, self.layer_norm, strict=True)
        outputs = [pixel_values]
        for embed, blocks, norm in stages:
            x = embed(outputs[-1])
            for block in blocks:
                x = block(x, **kwargs)
            outputs.append(norm(x))
        return outputs[1:]


class SegformerPreTrainedModel(VisionModel):
    config: SegformerConfig
    config_class = SegformerConfig
    base_model_prefix = "segformer"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    geometry_fields = ("num_channels",)
    _no_split_modules = ["SegformerLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": OutputRecorder(SegformerMapLayerNorm, capture_initial_hidden_state=False),
        "attentions": SegformerSelfAttention,
    }
    _input_embed_layer = "patch_embeddings"

    def blocks(self) -> list[nn.Module]:
        trunk: Any = self.base_model
        return [block for stage in trunk.encoder.block for block in stage]

    def layer_groups(self) -> list[LayerGroup]:
        """As for any model; a later stage's patches go with its first block, the norm behind a stage with its last."""
        trunk: Any = self.base_model
        encoder, depths = trunk.encoder, self.config.depths
        groups = super().layer_groups()
        for stage in range(len(depths) - 1):
            last = sum(depths[: stage + 1])  # block of the stage, counted from 1 as in the groups
            for part, group in ((encoder.layer_norm[stage], last), (encoder.patch_embeddings[stage + 1], last + 1)):
                moved = set(part.parameters())
                for other in groups:
                    other.parameters[:] = [p for p in other.parameters if p not in moved]
                groups[group].parameters.extend(part.parameters())
        return groups


@dataclass
class SegformerOutput(BaseModelOutput):
    """feature_maps: (B, D, h, w) of each stage, where they were asked for."""

    feature_maps: tuple[Tensor, ...] | None = None


class SegformerModel(SegformerPreTrainedModel):
    """The trunk: pixels to one map for each stage; `hidden_states` are all of them, (B, D, h, w) each.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.SegformerConfig(
        ...     hidden_sizes=(8, 8, 8, 8), depths=(1, 1, 1, 1), num_attention_heads=(1, 1, 1, 1)
        ... )
        >>> model = hfvision.SegformerModel(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 64, 64)).last_hidden_state.shape)
        (2, 8, 2, 2)
    """

    def __init__(self, config: SegformerConfig, last_as_map: bool = False) -> None:
        """last_as_map: also where the config has reshape_last_stage=False."""
        super().__init__(config)
        self.encoder = SegformerEncoder(config, last_as_tokens=not (config.reshape_last_stage or last_as_map))
        self.post_init()

    @capture_outputs
    def forward(
        self, pixel_values: Tensor, want_maps: bool = False, **kwargs: Unpack[TransformersKwargs]
    ) -> SegformerOutput:
        """pixel_values: (B, C, H, W), normalised, of any size; a stage makes ceil(h / stride) rows of h.
        last_hidden_state: the map of the last stage, or (B, n, D) if the config has reshape_last_stage=False.
        want_maps: give `feature_maps` too.
        """
        maps = self.encoder(pixel_values, **kwargs)
        return SegformerOutput(last_hidden_state=maps[-1], feature_maps=tuple(maps) if want_maps else None)


class SegformerForImageClassification(SegformerPreTrainedModel):
    """The trunk plus one linear layer over the mean of the last stage's places.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.SegformerConfig(
        ...     hidden_sizes=(8, 8, 8, 8), depths=(1, 1, 1, 1), num_attention_heads=(1, 1, 1, 1), num_labels=3
        ... )
        >>> model = hfvision.SegformerForImageClassification(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 64, 64)).logits.shape)
        (2, 3)
    """

    def __init__(self, config: SegformerConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.segformer = SegformerModel(config)
        self.places = (2, 3) if config.reshape_last_stage else (1,)
        width = config.hidden_sizes[-1]
        self.classifier = Linear(width, config.num_labels) if config.num_labels else nn.Identity()
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> ImageClassifierOutput:
        """labels: (B,) class indices; (B, K) floats for multi-label; (B,) or (B, K) floats for regression. Images as in
        SegformerModel.forward. Logits: (B, K).
        """
        outputs = self.segformer(pixel_values, **kwargs)
        logits = self.classifier(outputs.last_hidden_state.mean(dim=self.places))
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class SegformerForSemanticSegmentation(SegformerPreTrainedModel, SemanticModel):
    """The trunk plus the decoder: a class for each place of the first stage's map, a quarter of the image per side.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.SegformerConfig(
        ...     hidden_sizes=(8, 8, 8, 8), depths=(1, 1, 1, 1), num_attention_heads=(1, 1, 1, 1), num_labels=5
        ... )
        >>> model = hfvision.SegformerForSemanticSegmentation(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 64, 96)).logits.shape)
        (2, 5, 16, 24)
    """

    def __init__(self, config: SegformerConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.segformer = SegformerModel(config, last_as_map=True)
        self.decode_head = SegformerDecodeHead(
            config.hidden_sizes, config.decoder_hidden_size, config.classifier_dropout_prob, config.num_labels or 0
        )
        self.post_init()

    @property
    def default_loss(self) -> SegmentationLoss:
        """As in transformers: one class is averaged over all pixels, several over those that are not ignored."""
        average: PixelAverage = "all" if self.num_labels == 1 else "valid"
        return SegmentationLoss(ignore_index=self.config.semantic_loss_ignore_index, average=average)

    def map_upsampling(self, size: Size) -> Upsampling | None:
        """None, as in transformers, whose post-processing resizes the coarse logits to the photo's size."""
        return None

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        upsample: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SemanticOutput:
        """Logits: (B, K, ceil(H / 4), ceil(W / 4)), or (B, K, H, W) with `upsample`. labels: (B, H', W') class indices
        at any size, to which the logits are upsampled for the loss. Images as in SegformerModel.forward.
        """
        outputs = self.segformer(pixel_values, want_maps=True, **kwargs)
        logits = self.decode_head(outputs.feature_maps)
        loss = None
        if labels is not None:
            loss = self.loss_of(logits, labels, Upsampling((labels.shape[-2], labels.shape[-1])), **kwargs)
        if upsample:
            logits = upsampled(logits, self.upsampling((pixel_values.shape[-2], pixel_values.shape[-1])))
        return SemanticOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class SegformerBackbone(BackboneMixin, SegformerPreTrainedModel):
    """The trunk as a source of feature maps for dense prediction: "stage1" to "stage4", each (B, D, h, w).

    `out_features` or `out_indices` of the config choose among them.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.SegformerConfig(
        ...     hidden_sizes=(8, 8, 8, 8), depths=(1, 1, 1, 1), num_attention_heads=(1, 1, 1, 1),
        ...     out_features=["stage1", "stage4"]
        ... )
        >>> maps = hfvision.SegformerBackbone(config)(torch.zeros(1, 3, 64, 64)).feature_maps
        >>> [tuple(one.shape) for one in maps]
        [(1, 8, 16, 16), (1, 8, 2, 2)]
    """

    def __init__(self, config: SegformerConfig) -> None:
        super().__init__(config)
        self.encoder = SegformerEncoder(config, last_as_tokens=False)
        self.num_features = list(config.hidden_sizes)
        self.post_init()

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: Tensor, **kwargs: Unpack[TransformersKwargs]) -> BackboneOutput:
        """Images as in SegformerModel.forward."""
        maps = self.encoder(pixel_values, **kwargs)
        chosen = [one for stage, one in zip(self.stage_names, maps, strict=True) if stage in self.out_features]
        return BackboneOutput(feature_maps=tuple(chosen))
