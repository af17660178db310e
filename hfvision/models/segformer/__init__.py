"""SegFormer: model with its config and heads, and the decoder of its heads."""

from hfvision.models.segformer.model import (
    NvlabsSegformerConfig,
    SegformerBackbone,
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
    SegformerPreTrainedModel,
)

__all__ = [
    "NvlabsSegformerConfig",
    "SegformerBackbone",
    "SegformerConfig",
    "SegformerForImageClassification",
    "SegformerForSemanticSegmentation",
    "SegformerModel",
    "SegformerPreTrainedModel",
]
