"""Segmenter, which transformers does not have: its encoder is, and the decoder is written down naively.

Shapes: B images, H x W pixels, h x w patches, D width, K classes.
"""

from typing import Any

import torch
from torch import Tensor, nn

from hfvision.bench.case import Pair, Setting
from hfvision.bench.suites import families as f
from hfvision.bench.twins import images, placed, randomised, their_class, with_weights
from hfvision.layers.patch_embedding import pair
from hfvision.models.segmenter import MaskTransformer, SegmenterConfig, SegmenterForSemanticSegmentation
from hfvision.processing.segmentation import SegmenterImageProcessor
from hfvision.registry import ARCHITECTURES


def segmenter(setting: Setting) -> Pair:
    """Pixels to label maps (B, H, W): Segmenter-S-Mask/16 at 512 pixels."""
    fields: f.Fields = {**f.VIT_SMALL, "image_size": 512, "patch_size": 16, "num_labels": f.PIXEL_CLASSES}
    if setting.tiny:
        fields = {**ARCHITECTURES["segmenter"].tiny, "num_labels": 7}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ours = randomised(SegmenterForSemanticSegmentation(SegmenterConfig(**fields)))
    theirs = NaiveSegmenter(ours)
    ours, theirs = placed(ours, setting), placed(theirs, setting)
    size = pair(ours.config.image_size)
    pixels = images(setting, 1, size)
    processor = SegmenterImageProcessor()

    def label_map() -> Tensor:
        with torch.inference_mode():
            outputs = ours(pixels, upsample=False)
        maps: list[Tensor] = processor.post_process_semantic_segmentation(outputs, target_sizes=[size])
        return maps[0]

    def naive_map() -> Tensor:
        with torch.inference_mode():
            return theirs(pixels)[0]

    return Pair(naive_map, label_map)


class NaiveSegmenter(nn.Module):
    """transformers' ViT layers with a Segmenter's weights, and logits of every pixel before the best is taken."""

    encoder: Any  # transformers' models
    decoder: Any
    class_tokens: Tensor

    def __init__(self, ours: SegmenterForSemanticSegmentation) -> None:
        super().__init__()
        config, decoder = ours.config, ours.decoder
        assert isinstance(decoder, MaskTransformer)
        self.encoder = _their_vit(
            config, ours.segmenter, "", config.hidden_size, config.num_hidden_layers, config.num_attention_heads
        )
        width, heads = config.decoder_hidden_size or 0, config.decoder_num_attention_heads or 1
        self.decoder = _their_vit(config, decoder, "encoder.", width, config.decoder_layers, heads)
        self.projection = nn.Linear(config.hidden_size, width)
        self.projection.load_state_dict(decoder.projection.state_dict())
        self.mask_norm = nn.LayerNorm(decoder.mask_norm.normalized_shape, eps=config.layer_norm_eps)
        self.mask_norm.load_state_dict(decoder.mask_norm.state_dict())
        for name in ("class_tokens", "patch_projection", "class_projection"):
            self.register_parameter(name, nn.Parameter(getattr(decoder, name).detach().clone()))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, C, H, W), H and W whole patches -> classes (B, H, W)."""
        labels, size = self.class_tokens.shape[1], pixel_values.shape[-2:]
        patch = self.encoder.config.patch_size
        patches = self.projection(self.encoder(pixel_values).last_hidden_state[:, 1:])
        x = torch.cat([patches, self.class_tokens.expand(len(patches), -1, -1)], dim=1)
        for layer in self.decoder.layers:
            x = layer(x)
        x = self.decoder.layernorm(x)
        patches = nn.functional.normalize(x[:, :-labels] @ self.patch_projection, dim=-1)
        classes = nn.functional.normalize(x[:, -labels:] @ self.class_projection, dim=-1)
        masks = self.mask_norm(patches @ classes.mT).mT.unflatten(2, (size[0] // patch, size[1] // patch))
        return nn.functional.interpolate(masks, size=size, mode="bilinear", align_corners=False).argmax(dim=1)


def _their_vit(config: SegmenterConfig, part: nn.Module, prefix: str, width: int, layers: int, heads: int) -> Any:
    """transformers' ViT with a part's weights; `prefix` stands before the names of layers in files of a ViT. What the
    part has not got (a decoder has no patches) is random and is not used.
    """
    model_class = their_class("vit.modeling_vit:ViTModel")
    inner = config.decoder_intermediate_size if prefix else config.intermediate_size
    its_config = model_class.config_class(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        image_size=config.image_size,
        patch_size=config.patch_size,
        layer_norm_eps=config.layer_norm_eps,
    )
    tensors = {
        f"{prefix if name.startswith('layer.') else ''}{name}": tensor
        for name, tensor in part.state_dict().items()
        if name.startswith(("embeddings.", "encoder.", "layer.", "layernorm."))
    }
    return with_weights(model_class, its_config, tensors, add_pooling_layer=False)
