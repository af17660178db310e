"""Segmenter: a ViT whose patch tokens are classified, each by itself or by a transformer that also reads the classes.

Paper:  Strudel et al. 2021, "Segmenter: Transformer for Semantic Segmentation", arXiv 2105.05633 (the decoders:
        section 3.2).
Source: rstrudel/segmenter (MIT), re-expressed in PyTorch. Names of weights are ours; those of the encoder are a ViT's.

Images are padded with zeros to whole patches, and what the padding answers is cut off.

Shapes: B images, C channels, H x W pixels, h x w patches, P tokens before the patches (class, and distillation),
        N = P + h * w tokens, D width, E width of the decoder, K labels.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import TransformersKwargs, can_return_tuple
from transformers.utils.output_capturing import capture_outputs
from typing_extensions import Unpack

from hfvision.errors import ConfigError
from hfvision.layers.linear import Linear, product
from hfvision.layers.patch_embedding import pair
from hfvision.layers.position import Grid, PositionRule
from hfvision.models.deit import DeiTEmbeddings
from hfvision.models.semantic import SemanticModel, SemanticOutput
from hfvision.models.vit import ViTConfig, ViTEmbeddings, ViTEncoder, ViTLayer, ViTPreTrainedModel
from hfvision.upsampling import Size, Upsampling
from hfvision.upsampling import upsample as to_pixels

FIELDS_OF_OTHER_HEADS = ("encoder_stride", "pooler_act", "pooler_output_size", "out_features", "out_indices")


@strict
class SegmenterConfig(ViTConfig):
    """Sizes of a Segmenter; the defaults are Seg-B-Mask/16 at 512 pixels (103 M parameters with 150 classes).

    Example:
        >>> import hfvision
        >>> config = hfvision.SegmenterConfig.from_catalog("segmenter-tiny-mask-16-ade20k")
        >>> config.hidden_size, config.decoder_layers
        (192, 2)
    """

    model_type = "segmenter"
    keys_to_ignore_at_inference = ["masks", "class_embeddings"]  # by Trainer, whose predictions are logits

    layer_norm_eps: float = 1e-5  # of all norms, also over backbones that were trained with 1e-6
    image_size: int | list[int] | tuple[int, int] = 512  # pixels: one side, or [height, width]
    distilled: bool = False  # whether the backbone is a DeiT with a distillation token
    decoder_type: Literal["linear", "mask_transformer"] = "mask_transformer"
    decoder_layers: int = 2  # of the mask transformer, as all that follows
    decoder_hidden_size: int | None = None  # E; None: hidden_size
    decoder_num_attention_heads: int | None = None  # None: heads of width 64
    decoder_intermediate_size: int | None = None  # hidden width of the MLP; None: 4 E
    decoder_dropout_prob: float | int = 0.1

    def __post_init__(self, **kwargs: Any) -> None:
        width = self.decoder_hidden_size = self.decoder_hidden_size or self.hidden_size
        self.decoder_num_attention_heads = self.decoder_num_attention_heads or max(width // 64, 1)
        self.decoder_intermediate_size = self.decoder_intermediate_size or 4 * width
        super().__post_init__(**kwargs)

    def validate_heads_divide_the_decoders_width(self) -> None:
        width, heads = self.decoder_hidden_size or 0, self.decoder_num_attention_heads or 1
        if heads < 1 or width % heads:
            raise ConfigError(
                f"decoder_hidden_size {width} cannot be split among {heads} attention heads; choose "
                "decoder_num_attention_heads so that it divides decoder_hidden_size."
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields of a ViT that concern a Segmenter, and its own."""
        return {name: value for name, value in super().to_dict().items() if name not in FIELDS_OF_OTHER_HEADS}


@dataclass
class SegmenterOutput(SemanticOutput):
    """As SemanticOutput. Of the mask transformer also masks: (B, K, h, w), the cosine between each patch and each class
    embedding, before they are normalised over the classes; class_embeddings: (B, K, E), of length one.
    """

    masks: Tensor | None = None
    class_embeddings: Tensor | None = None


class SegmenterEmbeddings(ViTEmbeddings):
    """(B, C, H, W) -> (B, N, D): patches, class token and positions, for images padded to whole patches."""

    position_rule: ClassVar[PositionRule] = "bilinear"

    def _leaves_partial_patches(self, pixel_values: Tensor) -> bool:
        return False


class SegmenterDistilledEmbeddings(SegmenterEmbeddings, DeiTEmbeddings):
    """The same with a distillation token behind the class token."""


class SegmenterDecoderLayer(ViTLayer):
    """A block of the decoder: (B, N, E) -> (B, N, E)."""

    def __init__(self, config: SegmenterConfig) -> None:
        sizes = ViTConfig(
            hidden_size=config.decoder_hidden_size or 0,
            num_attention_heads=config.decoder_num_attention_heads or 1,
            intermediate_size=config.decoder_intermediate_size or 0,
            hidden_act=config.hidden_act,
            hidden_dropout_prob=config.decoder_dropout_prob,
            attention_probs_dropout_prob=config.decoder_dropout_prob,
            layer_norm_eps=config.layer_norm_eps,
        )
        super().__init__(sizes)
        self.attention.attention.config = config  # the one that says which attention function is used


class LinearDecoder(nn.Module):
    """Each patch by itself: (B, h * w, D) -> logits (B, K, h, w)."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.classifier = Linear(config.hidden_size, config.num_labels or 0)

    def forward(self, patches: Tensor, grid: Grid, **kwargs: Unpack[TransformersKwargs]) -> SegmenterOutput:
        return SegmenterOutput(logits=self.classifier(patches).mT.unflatten(2, grid))


class MaskTransformer(nn.Module):
    """Patches and one learned token for each class through a transformer; their products are the classes' masks.

    (B, h * w, D) -> logits and masks (B, K, h, w), class embeddings (B, K, E).
    """

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        width, labels = config.decoder_hidden_size or 0, config.num_labels or 0
        if labels == 1:
            raise ConfigError(
                "the mask transformer normalises over the classes, so it tells at least two apart; got num_labels 1. "
                "Make the background a class too, or choose decoder_type='linear'."
            )
        self.projection = Linear(config.hidden_size, width)
        self.class_tokens = nn.Parameter(torch.zeros(1, labels, width))
        self.layer = nn.ModuleList(SegmenterDecoderLayer(config) for _ in range(config.decoder_layers))
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.patch_projection = nn.Parameter(torch.zeros(width, width))  # multiplied from the right
        self.class_projection = nn.Parameter(torch.zeros(width, width))
        self.mask_norm = nn.LayerNorm(labels, eps=config.layer_norm_eps)

    def forward(self, patches: Tensor, grid: Grid, **kwargs: Unpack[TransformersKwargs]) -> SegmenterOutput:
        labels = self.class_tokens.shape[1]
        x = torch.cat([self.projection(patches), self.class_tokens.expand(patches.shape[0], -1, -1)], dim=1)
        for layer in self.layer:
            x = layer(x, **kwargs)
        x = self.layernorm(x)
        patches = nn.functional.normalize(product(x[:, :-labels], self.patch_projection.mT), dim=-1)
        classes = nn.functional.normalize(product(x[:, -labels:], self.class_projection.mT), dim=-1)
        masks = patches @ classes.mT  # (B, h * w, K)
        return SegmenterOutput(
            logits=self.mask_norm(masks).mT.unflatten(2, grid),
            masks=masks.mT.unflatten(2, grid),
            class_embeddings=classes,
        )


DECODERS: dict[str, type[LinearDecoder] | type[MaskTransformer]] = {
    "linear": LinearDecoder,
    "mask_transformer": MaskTransformer,
}


class SegmenterPreTrainedModel(ViTPreTrainedModel):
    config: SegmenterConfig
    config_class = SegmenterConfig
    base_model_prefix = "segmenter"
    position_rule = SegmenterEmbeddings.position_rule
    _no_split_modules = ["SegmenterEmbeddings", "SegmenterDistilledEmbeddings", "ViTLayer", "SegmenterDecoderLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SegmenterDistilledEmbeddings):
            init.trunc_normal_(module.distillation_token, std=self.config.initializer_range)
        if isinstance(module, MaskTransformer):
            init.trunc_normal_(module.class_tokens, std=self.config.initializer_range)
            for projection in (module.patch_projection, module.class_projection):
                init.normal_(projection, std=projection.shape[0] ** -0.5)


class SegmenterModel(SegmenterPreTrainedModel):
    """The encoder: pixels to N token vectors.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.SegmenterConfig(image_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
        >>> model = hfvision.SegmenterModel(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 32, 32)).last_hidden_state.shape)
        (2, 5, 32)
    """

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__(config)
        self.embeddings = (SegmenterDistilledEmbeddings if config.distilled else SegmenterEmbeddings)(config)
        self.encoder = ViTEncoder(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: Tensor, **kwargs: Unpack[TransformersKwargs]) -> BaseModelOutput:
        """pixel_values: (B, C, H, W), normalised, of any size: padded with zeros at the bottom and right to whole
        patches, the position table resampled (bilinear) where the grid is not the stored one.
        """
        tokens, _ = self.embeddings(pixel_values)
        return BaseModelOutput(last_hidden_state=self.layernorm(self.encoder(tokens, **kwargs)))


class SegmenterForSemanticSegmentation(SegmenterPreTrainedModel, SemanticModel):
    """The encoder and a decoder of its patch tokens: a class for every pixel.

    What depends on the number of classes is `decoder.classifier` (linear), or `decoder.class_tokens` and
    `decoder.mask_norm` (mask transformer).

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.SegmenterConfig(
        ...     image_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_labels=5
        ... )
        >>> model = hfvision.SegmenterForSemanticSegmentation(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 32, 32)).logits.shape)
        (2, 5, 32, 32)
    """

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.segmenter = SegmenterModel(config)
        self.decoder = DECODERS[config.decoder_type](config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        upsample: bool = True,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SegmenterOutput:
        """Images as in SegmenterModel.forward. labels: (B, H, W) class indices. Logits: (B, K, H, W), or (B, K, h, w)
        with upsample=False.
        """
        encoded = self.segmenter(pixel_values, **kwargs)
        embeddings = self.segmenter.embeddings
        outputs = self.decoder(
            encoded.last_hidden_state[:, embeddings.prefix_tokens :], embeddings.patch_grid(pixel_values), **kwargs
        )
        upsampling = self.upsampling((pixel_values.shape[-2], pixel_values.shape[-1]))
        return SegmenterOutput(
            loss=None if labels is None else self.loss_of(outputs.logits, labels, upsampling, **kwargs),
            logits=to_pixels(outputs.logits, upsampling) if upsample else outputs.logits,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            masks=outputs.masks,
            class_embeddings=outputs.class_embeddings,
        )

    def upsampling(self, size: Size) -> Upsampling:
        """The logits cover whole patches, of which those of the padding are cut off."""
        height, width = pair(self.config.patch_size)
        padded = (size[0] + height - 1) // height * height, (size[1] + width - 1) // width * width
        return Upsampling(padded, crop=size)
