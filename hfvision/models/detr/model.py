"""DETR: a transformer turns the map of a convolutional trunk into a fixed number of objects, all at once.

Paper:  Carion et al. 2020, "End-to-End Object Detection with Transformers", arXiv 2005.12872.
Source: facebookresearch/detr (Apache-2.0), re-expressed in PyTorch. Names of weights and config fields are those of the
        Hub's "detr" files.

The trunk is a ResNet of `models.detr.resnet`, or any backbone of AutoBackbone.

Shapes: B images, C channels, H x W pixels, h x w places of the trunk's last map, N = h * w tokens, D width, Q queries,
        L decoder layers. Padding is (B, 1, H, W) or (B, 1, h, w), True outside the image, or None.
"""

import math
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.detr.modeling_detr import DetrDecoderOutput, DetrModelOutput
from transformers.utils.generic import TransformersKwargs, can_return_tuple
from transformers.utils.output_capturing import capture_outputs
from typing_extensions import Unpack

from hfvision.errors import ConfigError, ImageShapeError, MissingPartError
from hfvision.layers.attention import token_mask
from hfvision.layers.conv import PatchConv
from hfvision.layers.frozen_norm import FrozenBatchNorm
from hfvision.models.base import LayerGroup, VisionModel
from hfvision.models.detr.backbone import DetrTrunk, PaddingRule, nearest, trunk_of
from hfvision.models.detr.config import DetrConfig
from hfvision.models.detr.layers import (
    POSITIONS,
    DetrAttention,
    DetrCrossAttention,
    DetrDecoderLayer,
    DetrEncoderLayer,
    DetrLayer,
    DetrLearnedPositions,
    DetrSelfAttention,
)
from hfvision.models.detr.resnet import FeatureMap, ResNetTrunk
from hfvision.tracing import values_are_hidden

DETECTOR_PARTS = ("model", "class_labels_classifier", "bbox_predictor")  # which a segmenter has under "detr."


class DetrPreTrainedModel(VisionModel):
    """`from_pretrained` also takes `padding_rule`, see there.

    A detector's folder makes a segmenter, whose mask head then is new, and a segmenter's folder a detector; what the
    two share is loaded as it is stored.
    """

    config: DetrConfig
    config_class = DetrConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["DetrResNetTrunk", "DetrAnyTrunk", "DetrEncoderLayer", "DetrDecoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _keys_to_ignore_on_load_unexpected = [r"num_batches_tracked$"]  # which frozen batch norms do not count

    geometry_fields: ClassVar[tuple[str, ...]] = ("image_size", "patch_size", "num_channels", "window_size")

    # What the keys of the other kind's files begin with -> what they begin with here.
    other_beginnings: ClassVar[dict[str, str]] = {rf"^detr\.{part}\.": f"{part}." for part in DETECTOR_PARTS}

    @classmethod
    def input_config(cls, config: Any) -> Any:
        return config.backbone_config

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *model_args: Any,
        config: Any = None,
        padding_rule: PaddingRule = "hidden",
        **kwargs: Any,
    ) -> Self:
        trunk = getattr(config, "backbone_config", None)
        if isinstance(config, DetrConfig) and config.num_channels != getattr(trunk, "num_channels", None):
            kwargs.setdefault("num_channels", config.num_channels)  # an Auto class has put it beside the trunk's
        given = kwargs.pop("key_mapping", None) or {}
        loaded = super().from_pretrained(
            pretrained_model_name_or_path,
            *model_args,
            config=config,
            key_mapping={**cls.other_beginnings, **given},
            **kwargs,
        )
        model: Any = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info=True
        # Saving undoes what the user has asked for, and this is not among it.
        undone = getattr(model, "_weight_conversions", None) or []
        model._weight_conversions = [one for one in undone if not {*one.source_patterns} & {*cls.other_beginnings}]
        model.padding_rule = padding_rule
        model._trunk().freeze_first()  # loading lets every parameter learn
        return loaded

    @property
    def padding_rule(self) -> PaddingRule:
        """How images that are padded to the size of a batch look to the trunk. "hidden" (default): as each would look
        alone, so that its objects do not depend on the batch. "seen": with a border of zeros, which convolutions
        then carry into the image, as in the source and in transformers. Not part of the config.
        """
        return self._trunk().padding_rule

    @padding_rule.setter
    def padding_rule(self, rule: PaddingRule) -> None:
        if rule not in ("hidden", "seen"):
            raise ConfigError(f"padding_rule is 'hidden' or 'seen'; got {rule!r}.")
        self._trunk().padding_rule = rule

    def _trunk(self) -> DetrTrunk:
        """Raises MissingPartError for an encoder or a decoder by itself."""
        for module in self.modules():
            if isinstance(module, DetrTrunk):
                return module
        raise MissingPartError(
            f"{type(self).__name__} has no trunk, which is what takes images; ask the model that it is a part of."
        )

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        """As for transformers' own models: in those of others it passes over modules that have no weights but those of
        their parts, and here it is such modules that know how these begin."""
        super()._initialize_weights(module, is_custom_code=False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        xavier = self.config.init_xavier_std
        if isinstance(module, DetrAttention):
            for projection in (module.q_proj, module.k_proj, module.v_proj):
                init.xavier_uniform_(projection.weight, gain=xavier / math.sqrt(2))  # the source's three are one matrix
            init.xavier_uniform_(module.out_proj.weight, gain=xavier)
        elif isinstance(module, DetrLayer):
            init.xavier_uniform_(module.fc1.weight, gain=xavier)
            init.xavier_uniform_(module.fc2.weight, gain=xavier)
        elif isinstance(module, DetrLearnedPositions):
            init.uniform_(module.row_embeddings.weight)
            init.uniform_(module.column_embeddings.weight)
        elif isinstance(module, DetrModel):
            init.normal_(module.query_position_embeddings.weight)  # as in the source: told apart from the beginning
            init.kaiming_uniform_(module.input_projection.weight, a=5**0.5)  # torch's own
        elif isinstance(module, FrozenBatchNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
        elif isinstance(module, ResNetTrunk):
            for part in module.modules():
                if isinstance(part, nn.Conv2d):
                    init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def resize_input(self, **changes: Any) -> None:
        """As VisionModel's, for the trunk. Raises ConfigError also for a trunk of transformers' own."""
        trunk = self._trunk().model
        if not isinstance(trunk, ResNetTrunk | VisionModel):
            raise ConfigError(
                f"{type(trunk).__name__} is a trunk of transformers' own; only those of hfvision (ResNet, Swin, "
                "SegFormer, ViT, DeiT) can be resized."
            )
        super().resize_input(**changes)

    def set_drop_path_rate(self, rate: float) -> None:
        """As VisionModel's, for the trunk. Raises ConfigError for a trunk without it, such as a ResNet."""
        trunk = self._trunk().model
        if isinstance(trunk, VisionModel):
            trunk.set_drop_path_rate(rate)
        elif rate:
            raise ConfigError(
                f"stochastic depth is for trunks of hfvision's transformers; this one is a {type(trunk).__name__}. "
                "Leave drop_path_rate at 0; the layers behind the trunk have `dropout`."
            )

    def blocks(self) -> list[nn.Module]:
        """The layers of the encoder, then those of the decoder; the trunk's own are `layer_groups`' first group."""
        transformers = [module for module in self.modules() if isinstance(module, DetrEncoder | DetrDecoder)]
        return [layer for transformer in transformers for layer in transformer.layers]

    def layer_groups(self) -> list[LayerGroup]:
        """The trunk by itself ("trunk"); then the embeddings (input projection, queries), each block, "head"."""
        trunk = [p for module in self.modules() if isinstance(module, DetrTrunk) for p in module.parameters()]
        of_trunk = {id(parameter) for parameter in trunk}
        groups = [
            LayerGroup(name, [parameter for parameter in parameters if id(parameter) not in of_trunk])
            for name, parameters in super().layer_groups()
        ]
        return [LayerGroup("trunk", trunk), *groups] if trunk else groups


class DetrEncoder(DetrPreTrainedModel):
    """(B, N, D) -> (B, N, D)."""

    _can_record_outputs = {"hidden_states": DetrEncoderLayer, "attentions": DetrSelfAttention}

    layer_class: ClassVar[type[DetrEncoderLayer]] = DetrEncoderLayer

    def __init__(self, config: DetrConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(self.layer_class(config) for _ in range(config.encoder_layers))
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    @capture_outputs
    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        spatial_position_embeddings: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        """attention_mask: (B, N), 0 where there is padding. spatial_position_embeddings: (1 or B, N, D)."""
        mask = token_mask(self.config, inputs_embeds, attention_mask)
        positions = (
            torch.zeros_like(inputs_embeds[:1])
            if spatial_position_embeddings is None
            else (spatial_position_embeddings)
        )
        x = self.dropout(inputs_embeds)
        for layer in self.layers:
            x = layer(x, positions, mask, **kwargs)
        return BaseModelOutput(last_hidden_state=self.ended(x))

    def ended(self, x: Tensor) -> Tensor:
        """What the last layer gives, as the decoder reads it."""
        return x


class DetrDecoder(DetrPreTrainedModel):
    """(B, Q, D) -> (B, Q, D), and what each layer gives."""

    _can_record_outputs = {
        "hidden_states": DetrDecoderLayer,
        "attentions": DetrSelfAttention,
        "cross_attentions": DetrCrossAttention,
    }

    layer_class: ClassVar[type[DetrDecoderLayer]] = DetrDecoderLayer

    def __init__(self, config: DetrConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(self.layer_class(config) for _ in range(config.decoder_layers))
        self.layernorm = nn.LayerNorm(config.d_model)
        self.post_init()

    @capture_outputs
    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        spatial_position_embeddings: Tensor | None = None,
        object_queries_position_embeddings: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DetrDecoderOutput:
        """attention_mask: (B, Q), 0 for queries that are not to be seen. encoder_hidden_states: (B, N, D), with
        encoder_attention_mask (B, N) and spatial_position_embeddings (1 or B, N, D) as the encoder gets them.
        object_queries_position_embeddings: (1 or B, Q, D). Intermediate hidden states: (L, B, Q, D), normed.
        """
        memory: Any = encoder_hidden_states
        mask = memory_mask = None
        if attention_mask is not None:
            mask = token_mask(self.config, inputs_embeds, attention_mask)
        if encoder_attention_mask is not None:
            memory_mask = token_mask(self.config, inputs_embeds, encoder_attention_mask, memory)
        memory_keys = memory if spatial_position_embeddings is None else memory + spatial_position_embeddings
        queries = object_queries_position_embeddings
        queries = torch.zeros_like(inputs_embeds[:1]) if queries is None else queries
        x, normed = inputs_embeds, []
        for layer in self.layers:
            x = layer(x, queries, memory, memory_keys, mask, memory_mask, **kwargs)
            normed.append(self.layernorm(x))
            x = self.carried(x, normed[-1])
        return DetrDecoderOutput(last_hidden_state=self.layernorm(x), intermediate_hidden_states=torch.stack(normed))

    def carried(self, x: Tensor, normed: Tensor) -> Tensor:
        """What goes on from a layer."""
        return x


class DetrRenormingDecoder(DetrDecoder):
    """The decoder of files with `auxiliary_loss`: what goes on from a layer is what its loss is computed from, normed.

    So transformers computes them, other than the source, which norms for the losses alone; a model trained in the one
    way answers differently in the other. Losses of all layers without this: see DetrForObjectDetection.
    """

    def carried(self, x: Tensor, normed: Tensor) -> Tensor:
        return normed


class DetrFeatures(NamedTuple):
    """What the mask head reads besides the decoder's output."""

    maps: list[FeatureMap]  # of the trunk, fine to coarse
    projected: Tensor  # (B, D, h, w)
    padding: Tensor | None  # of the last map, which attention leaves out in any case


class DetrBackbone(nn.Module):
    """The trunk under the name that files give it."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.conv_encoder = trunk_of(config)


class DetrModel(DetrPreTrainedModel):
    """Trunk, encoder and decoder: pixels to Q vectors.

    Example:
        >>> import torch, hfvision
        >>> resnet = {
        ...     "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
        ...     "out_features": ["stage1", "stage2"],
        ... }
        >>> config = hfvision.DetrConfig(
        ...     backbone_config=resnet, d_model=32, encoder_layers=1, decoder_layers=1, num_queries=7, num_labels=3
        ... )
        >>> model = hfvision.DetrModel(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 64, 64)).last_hidden_state.shape)
        (2, 7, 32)
    """

    def __init__(self, config: DetrConfig) -> None:
        super().__init__(config)
        self.backbone = DetrBackbone(config)
        self.position_embedding = POSITIONS[config.position_embedding_type](config)
        self.query_position_embeddings = nn.Embedding(config.num_queries, config.d_model)
        self.input_projection = PatchConv(self._trunk().channels[-1], config.d_model, kernel_size=1)
        encoder_class, decoder_class = self.transformer_classes(config)
        self.encoder = encoder_class(config)
        self.decoder = decoder_class(config)
        self.post_init()

    @classmethod
    def transformer_classes(cls, config: Any) -> tuple[type[DetrEncoder], type[DetrDecoder]]:
        """Those of encoder and decoder for this config."""
        return DetrEncoder, DetrRenormingDecoder if config.auxiliary_loss else DetrDecoder

    def freeze_backbone(self) -> None:
        self._trunk().requires_grad_(False)

    def unfreeze_backbone(self) -> None:
        """The whole trunk learns, also what a ResNet leaves as it is: its stem and first stage."""
        self._trunk().requires_grad_(True)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DetrModelOutput:
        """pixel_values: (B, C, H, W), normalised, of any size. pixel_mask: (B, H, W), 0 where images are padded; see
        `padding_rule`. decoder_attention_mask: (B, Q), 0 for queries that are not to be seen. encoder_outputs: what
        DetrEncoder gave, to decode again. inputs_embeds: (B, N, D), tokens in the place of those of images, N a square.
        decoder_inputs_embeds: (B, Q, D), what the queries begin with, else zeros.

        Raises ImageShapeError for images or a mask of another shape.
        """
        return self.read(
            pixel_values,
            pixel_mask,
            decoder_attention_mask,
            encoder_outputs,
            inputs_embeds,
            decoder_inputs_embeds,
            **kwargs,
        )[0]

    def read(
        self,
        pixel_values: Tensor | None,
        pixel_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[DetrModelOutput, DetrFeatures]:
        """As `forward`, and what else a head may read."""
        features = self._features(pixel_values, pixel_mask, inputs_embeds)
        projected, padding = features.projected, features.padding
        grid = (projected.shape[-2], projected.shape[-1])
        tokens = projected.permute(0, 2, 3, 1).flatten(1, 2)  # (B, D, h, w) -> (B, N, D)
        positions = self.position_embedding(grid, padding, tokens)
        real = None if padding is None else ~padding.flatten(1)
        if encoder_outputs is None:
            encoder_outputs = self.encoder(tokens, real, positions, **kwargs)
        elif not isinstance(encoder_outputs, BaseModelOutput):
            encoder_outputs = BaseModelOutput(*encoder_outputs)
        queries = self.query_position_embeddings(torch.arange(self.config.num_queries, device=tokens.device))[None]
        if decoder_inputs_embeds is None:
            decoder_inputs_embeds = torch.zeros_like(queries).expand(tokens.shape[0], -1, -1)
        decoded = self.decoder(
            decoder_inputs_embeds,
            decoder_attention_mask,
            encoder_outputs.last_hidden_state,
            real,
            positions,
            queries,
            **kwargs,
        )
        outputs = DetrModelOutput(
            last_hidden_state=decoded.last_hidden_state,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
            intermediate_hidden_states=decoded.intermediate_hidden_states,
        )
        return outputs, features

    def _features(
        self, pixel_values: Tensor | None, pixel_mask: Tensor | None, inputs_embeds: Tensor | None
    ) -> DetrFeatures:
        if inputs_embeds is not None:
            side = math.isqrt(inputs_embeds.shape[1])
            if side**2 != inputs_embeds.shape[1]:
                raise ImageShapeError(
                    f"inputs_embeds are the places of a square map, so that each has a position; got "
                    f"{inputs_embeds.shape[1]} of them."
                )
            projected = inputs_embeds.mT.unflatten(2, (side, side))
            padding = None if pixel_mask is None else nearest(~pixel_mask[:, None].bool(), projected)
            return DetrFeatures([], projected, padding)
        if pixel_values is None:
            raise ImageShapeError("give pixel_values (B, C, H, W), or inputs_embeds in their place; got neither.")
        trunk: Any = self.backbone.conv_encoder
        padding = padding_of(pixel_mask, pixel_values)
        maps = trunk(pixel_values, padding)
        last, hidden = maps[-1]
        if padding is not None:
            padding = nearest(padding, last) if hidden is None else hidden
        return DetrFeatures(maps, self.input_projection(last), padding)


def padding_of(pixel_mask: Tensor | None, pixel_values: Tensor) -> Tensor | None:
    """(B, 1, H, W); None where nothing is padded. Raises ImageShapeError for a mask that does not fit the images."""
    if pixel_mask is None:
        return None
    wanted = (pixel_values.shape[0], *pixel_values.shape[2:])
    if tuple(pixel_mask.shape) != wanted:
        raise ImageShapeError(
            f"pixel_mask has an entry for each pixel, {wanted} for these images; got {tuple(pixel_mask.shape)}."
        )
    padding = ~pixel_mask[:, None].bool()
    if values_are_hidden():
        return padding
    if not padding.any():
        return None
    if bool((empty := padding.flatten(1).all(dim=1)).any()):
        raise ImageShapeError(
            f"pixel_mask is 1 on the image and 0 on its padding; it is 0 everywhere for image "
            f"{', '.join(map(str, empty.nonzero().flatten().tolist()))} of the batch."
        )
    return padding
