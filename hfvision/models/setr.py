"""SETR: a plain ViT reads the image, and a convolutional decoder makes a class map of its patch tokens.

Paper:  Zheng et al. 2020, "Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers",
        arXiv 2012.15840; decoders: section 3.3.
Source: fudan-zvg/SETR (MIT), re-expressed in PyTorch. Names of weights are this library's own.

The source drops the class token "unless the number of tokens is a multiple of 48", which for the square images that it
takes never is; here it is always dropped.

Shapes: B images, C channels, H x W pixels, h x w patches, N = 1 + h * w tokens (class token first), D width, K labels.
"""

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers.modeling_outputs import BackboneOutput
from transformers.utils.generic import TransformersKwargs, can_return_tuple
from transformers.utils.output_capturing import capture_outputs
from typing_extensions import Unpack

from hfvision.errors import ConfigError, numbered
from hfvision.layers.conv import ConvNormRelu, of_resized, resize
from hfvision.layers.patch_embedding import pair
from hfvision.losses.segmentation import SegmentationLoss
from hfvision.models.semantic import SemanticModel, SemanticOutput
from hfvision.models.vit import ViTConfig, ViTEmbeddings, ViTEncoder, ViTPreTrainedModel
from hfvision.upsampling import Size, Upsampling
from hfvision.upsampling import upsample as to_pixels

Decoder = Literal["naive", "pup", "mla"]

MLA_LEVELS = 4
AUXILIARY_HEADS = {"naive": 3, "pup": 4, "mla": MLA_LEVELS}  # of the published models
# Blocks, from 0, that their auxiliary heads read, where these do not divide the depth evenly.
PUBLISHED_BLOCKS = {
    ("naive", 24, 3): [9, 14, 19],
    ("pup", 24, 4): [9, 14, 19, 23],
    ("pup", 12, 4): [4, 7, 9, 11],
}


def decoder_blocks(decoder: Decoder, depth: int) -> list[int]:
    """The blocks that the published decoders read: the last one, or (MLA) the end of each quarter."""
    return _ends(MLA_LEVELS, depth, MLA_LEVELS) if decoder == "mla" else [depth - 1]


def auxiliary_inputs(decoder: Decoder, depth: int, heads: int) -> list[int]:
    """What that many auxiliary heads read: blocks, evenly through the depth (naive: before its end); levels (MLA)."""
    if decoder == "mla":
        return list(range(heads))
    evenly = _ends(heads, depth, heads + 1 if decoder == "naive" else heads)
    return PUBLISHED_BLOCKS.get((decoder, depth, heads), evenly)


def _ends(count: int, depth: int, parts: int) -> list[int]:
    """The last block of each of the first `count` of `parts` equal parts."""
    return [max(round(depth * (part + 1) / parts), 1) - 1 for part in range(count)]


@strict
class SetrConfig(ViTConfig):
    """Sizes of a SETR; the defaults are SETR-PUP with ViT-L/16 at 512 pixels (318 M parameters with 150 classes).

    Example:
        >>> import hfvision
        >>> hfvision.SetrConfig(num_labels=19).num_hidden_layers
        24
    """

    model_type = "setr"
    keys_to_ignore_at_inference = ["auxiliary_logits"]  # by Trainer, whose predictions are logits

    hidden_size: int = 1024  # D
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096  # hidden width of the MLP
    layer_norm_eps: float = 1e-6
    image_size: int | list[int] | tuple[int, int] = 512  # pixels: one side, or [height, width]
    decoder_type: Decoder = "pup"  # one map upsampled at once (naive) or step by step (pup), or four maps (mla)
    decoder_channels: int = 256  # of the convolutions after the trunk; of the neck (mla)
    level_channels: int = 128  # of each level in the decoder (mla)
    naive_kernel_size: Literal[1, 3] = 1  # of the first convolution (naive)
    decoder_indices: list[int] | None = None  # blocks, from 0, that the decoder reads; None: as the published models
    auxiliary_indices: list[int] | None = None  # one per auxiliary head: its block, or (mla) level; None: as published
    decoder_input_size: int | None = None  # width of tokens that the heads are made for; None: hidden_size

    def __post_init__(self, **kwargs: Any) -> None:
        depth = self.num_hidden_layers
        if self.decoder_indices is None:
            self.decoder_indices = decoder_blocks(self.decoder_type, depth)
        if self.auxiliary_indices is None:
            self.auxiliary_indices = auxiliary_inputs(self.decoder_type, depth, AUXILIARY_HEADS[self.decoder_type])
        self.decoder_input_size = self.decoder_input_size or self.hidden_size
        super().__post_init__(**kwargs)

    def validate_indices(self) -> None:
        decoder, auxiliary = self.decoder_indices or [], self.auxiliary_indices or []
        count = MLA_LEVELS if self.decoder_type == "mla" else 1
        problems = []
        if len(decoder) != count:
            problems.append(
                f"the {self.decoder_type!r} decoder reads {count} of the blocks; decoder_indices is {decoder}"
            )
        blocks = range(self.num_hidden_layers)
        inputs, what = (range(MLA_LEVELS), "levels") if self.decoder_type == "mla" else (blocks, "blocks")
        for field, indices, known, kind in (
            ("decoder_indices", decoder, blocks, "blocks"),
            ("auxiliary_indices", auxiliary, inputs, what),
        ):
            if not set(indices) <= set(known):
                problems.append(f"{field} are {kind} from 0 to {len(known) - 1}; got {indices}")
        if problems:
            raise ConfigError(numbered("problem", problems))

    def to_dict(self) -> dict[str, Any]:
        """The fields of a ViT that concern a SETR, and its own."""
        fields = super().to_dict()
        for name in ("encoder_stride", "pooler_act", "pooler_output_size", "out_features", "out_indices"):
            fields.pop(name, None)
        return fields


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of each place: (B, D, h, w) -> (B, D, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        width = self.normalized_shape[0]
        if x.shape[1] != width:
            raise ConfigError(
                f"the heads are made for tokens {width} wide (decoder_input_size), the trunk gives {x.shape[1]} "
                "(hidden_size): a model with such a config cannot run. Make the two equal and train the heads."
            )
        return super().forward(x.movedim(1, -1)).movedim(-1, 1).contiguous()


class SetrHead(nn.Module):
    """One map to coarse logits, (B, D, h, w) -> (B, K, s * h, s * w): norm, one convolution, classifier, resize by s.

    The original resizes before its classifier, a linear map of channels, which commutes with resizing.
    """

    def __init__(self, config: SetrConfig, index: int, kernel_size: int, scale: int) -> None:
        super().__init__()
        self.index, self.scale = index, scale
        width, channels = config.decoder_input_size or config.hidden_size, config.decoder_channels
        self.norm = ChannelLayerNorm(width, eps=config.layer_norm_eps)
        self.conv = ConvNormRelu(width, channels, kernel_size, bias=True)
        self.classifier = nn.Conv2d(channels, config.num_labels or 0, kernel_size=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        logits = self.classifier(self.conv(self.norm(maps[self.index])))
        height, width = logits.shape[-2:]
        return resize(logits, (self.scale * height, self.scale * width))


class SetrPupHead(nn.Module):
    """Progressive upsampling, (B, D, h, w) -> (B, K, 8h, 8w): four convolutions, each but the first of a doubled map.

    The fourth doubling, after the classifier, is left to whoever makes pixels of the logits.
    """

    def __init__(self, config: SetrConfig, index: int) -> None:
        super().__init__()
        self.index = index
        width, channels = config.decoder_input_size or config.hidden_size, config.decoder_channels
        self.norm = ChannelLayerNorm(width, eps=config.layer_norm_eps)
        self.convs = nn.ModuleList(
            ConvNormRelu(inputs, channels, 3, bias=True) for inputs in (width, channels, channels, channels)
        )
        self.classifier = nn.Conv2d(channels, config.num_labels or 0, kernel_size=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        first, *others = cast(Sequence[ConvNormRelu], self.convs)
        x = first(self.norm(maps[self.index]))
        for conv in others:
            x = conv.of_resized(x, (2 * x.shape[-2], 2 * x.shape[-1]))
        return self.classifier(x)


class SetrNeck(nn.Module):
    """The maps after four blocks, each joined with the deeper ones: 4 x (B, D, h, w) -> 4 x (B, c, h, w)."""

    def __init__(self, config: SetrConfig) -> None:
        super().__init__()
        self.indices = config.decoder_indices or []
        width, channels = config.decoder_input_size or config.hidden_size, config.decoder_channels
        self.norms = nn.ModuleList(ChannelLayerNorm(width, eps=config.layer_norm_eps) for _ in self.indices)
        self.reductions = nn.ModuleList(ConvNormRelu(width, channels, 1) for _ in self.indices)
        self.convs = nn.ModuleList(ConvNormRelu(channels, channels, 3) for _ in self.indices)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        levels = [
            reduce(norm(maps[index]))
            for index, norm, reduce in zip(self.indices, self.norms, self.reductions, strict=True)
        ]
        for level in reversed(range(len(levels) - 1)):
            levels[level] = levels[level] + levels[level + 1]
        return [conv(level) for conv, level in zip(self.convs, levels, strict=True)]


class SetrMlaHead(nn.Module):
    """Multi-level aggregation, 4 x (B, c, h, w) -> (B, K, 4h, 4w): convolutions for each level, one classifier."""

    def __init__(self, config: SetrConfig) -> None:
        super().__init__()
        channels, level = config.decoder_channels, config.level_channels
        self.levels = nn.ModuleList(
            nn.Sequential(ConvNormRelu(channels, level, 3), ConvNormRelu(level, level, 3)) for _ in range(MLA_LEVELS)
        )
        self.classifier = nn.Conv2d(MLA_LEVELS * level, config.num_labels or 0, kernel_size=3, padding=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = torch.cat([level(map) for level, map in zip(self.levels, maps, strict=True)], dim=1)
        size = (4 * x.shape[-2], 4 * x.shape[-1])
        return of_resized(self.classifier, x, size, align_corners=True)


class SetrMlaAuxiliaryHead(nn.Module):
    """One level to coarse logits: (B, c, h, w) -> (B, K, h, w)."""

    def __init__(self, config: SetrConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.classifier = nn.Conv2d(config.decoder_channels, config.num_labels or 0, kernel_size=1, bias=False)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.classifier(maps[self.index])


class SetrPreTrainedModel(ViTPreTrainedModel):
    config: SetrConfig
    config_class = SetrConfig
    base_model_prefix = "backbone"


class SetrTrunk(SetrPreTrainedModel):
    """The patch tokens after each block as maps, each (B, D, h, w), without a norm."""

    def __init__(self, config: SetrConfig) -> None:
        super().__init__(config)
        self.embeddings = ViTEmbeddings(config)
        self.encoder = ViTEncoder(config)
        with_class_token = config.decoder_type != "mla"  # there it gets its position and is dropped before the blocks
        self.first_token = 0 if with_class_token else 1
        self.first_patch = 1 if with_class_token else 0
        self.post_init()

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: Tensor, **kwargs: Unpack[TransformersKwargs]) -> BackboneOutput:
        """Images as in SetrForSemanticSegmentation.forward."""
        tokens, grid = self.embeddings(pixel_values)
        tokens = tokens[:, self.first_token :]
        maps = []
        for layer in self.encoder.layer:
            tokens = layer(tokens, **kwargs)
            maps.append(tokens[:, self.first_patch :].mT.unflatten(2, grid))  # (B, h * w, D) -> (B, D, h, w)
        return BackboneOutput(feature_maps=tuple(maps))


class SetrForSemanticSegmentation(SetrPreTrainedModel, SemanticModel):
    """ViT, decoder and auxiliary heads: a class for every pixel.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.SetrConfig(
        ...     image_size=32, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, num_labels=5
        ... )
        >>> model = hfvision.SetrForSemanticSegmentation(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 32, 32)).logits.shape)
        (2, 5, 32, 32)
    """

    default_loss = SegmentationLoss(average="all")

    def __init__(self, config: SetrConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.backbone = SetrTrunk(config)
        (first, *_), auxiliary = config.decoder_indices or [0], config.auxiliary_indices or []
        self.neck: nn.Module = nn.Identity()
        self.decode_head: nn.Module
        if config.decoder_type == "mla":
            self.neck = SetrNeck(config)
            self.decode_head = SetrMlaHead(config)
            heads: list[nn.Module] = [SetrMlaAuxiliaryHead(config, level) for level in auxiliary]
        elif config.decoder_type == "pup":
            self.decode_head = SetrPupHead(config, first)
            heads = [SetrHead(config, block, kernel_size=3, scale=4) for block in auxiliary]
        else:
            kernel_size = config.naive_kernel_size
            self.decode_head = SetrHead(config, first, kernel_size, scale=1)
            heads = [SetrHead(config, block, kernel_size, scale=1) for block in auxiliary]
        self.auxiliary_heads = nn.ModuleList(heads)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        upsample: bool = True,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SemanticOutput:
        """pixel_values: (B, C, H, W), normalised, of any size: padded with zeros at the bottom and right to whole
        patches, the position table resampled (bicubic) where the grid is not the stored one. labels: (B, H, W) class
        indices. upsample: see SemanticModel.
        """
        outputs = self.backbone(pixel_values, **kwargs)
        maps = self.neck(outputs.feature_maps)
        upsampling = self.upsampling((pixel_values.shape[-2], pixel_values.shape[-1]))
        logits, loss, auxiliary_logits = self.decode_head(maps), None, None
        if self.training or labels is not None:
            auxiliary_logits = tuple(head(maps) for head in self.auxiliary_heads)
        if labels is not None:
            loss = self.loss_of(logits, labels, upsampling, auxiliary_logits or (), **kwargs)
        return SemanticOutput(
            loss=loss,
            logits=to_pixels(logits, upsampling) if upsample else logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            auxiliary_logits=auxiliary_logits,
        )

    def upsampling(self, size: Size) -> Upsampling:
        """The logits cover whole patches; those of an image of the checkpoint's own size, which may end in a partial
        patch that is left out, are stretched over it.
        """
        own, (height, width) = pair(self.config.image_size), pair(self.config.patch_size)
        if (own[0] % height or own[1] % width) and size == own:
            return Upsampling(size)
        padded = (size[0] + height - 1) // height * height, (size[1] + width - 1) // width * width
        return Upsampling(padded, crop=size)
