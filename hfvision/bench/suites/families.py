"""The sizes of the models that the suites compare, and the small ones in their places for a tiny run."""

from typing import Any

from hfvision.bench.case import Setting
from hfvision.registry import ARCHITECTURES

Fields = dict[str, Any]

VIT = "vit.modeling_vit:ViTForImageClassification"
SWIN = "swin.modeling_swin:SwinForImageClassification"
SEGFORMER = "segformer.modeling_segformer:SegformerForSemanticSegmentation"
UPERNET = "upernet.modeling_upernet:UperNetForSemanticSegmentation"
DETR = "detr.modeling_detr:DetrForObjectDetection"

CLASSES, PIXEL_CLASSES, OBJECT_CLASSES = 1000, 150, 91

VIT_TINY: Fields = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
VIT_SMALL: Fields = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
VIT_BASE: Fields = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
SWIN_TINY: Fields = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "drop_path_rate": 0.0}
SWIN_BASE: Fields = {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "drop_path_rate": 0.0}
NO_DROPOUT: Fields = {"drop_path_rate": 0.0, "classifier_dropout_prob": 0.0}
MIT_B0: Fields = {
    "hidden_sizes": [32, 64, 160, 256],
    "depths": [2, 2, 2, 2],
    "decoder_hidden_size": 256,
    **NO_DROPOUT,
}
MIT_B2: Fields = {
    "hidden_sizes": [64, 128, 320, 512],
    "depths": [3, 4, 6, 3],
    "decoder_hidden_size": 768,
    **NO_DROPOUT,
}
MIT_B5: Fields = {**MIT_B2, "depths": [3, 6, 40, 3]}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
RESNET_50: Fields = {"model_type": "resnet", "out_features": STAGES}  # the defaults of its config

# Which row of the registry gives the sizes of a tiny run.
_MODEL_TYPES = {VIT: "vit", SWIN: "swin", SEGFORMER: "segformer", UPERNET: "upernet", DETR: "detr"}
_LABELS = {VIT: CLASSES, SWIN: CLASSES, SEGFORMER: PIXEL_CLASSES, UPERNET: PIXEL_CLASSES, DETR: OBJECT_CLASSES}


def sizes(reference: str, setting: Setting, fields: Fields) -> Fields:
    """Config fields of a case in this setting; in a tiny run those of the registry's smallest model."""
    if not setting.tiny:
        return {"num_labels": _LABELS[reference], **fields}
    deterministic = {SWIN: {"drop_path_rate": 0.0}, DETR: {"dropout": 0.0}}.get(reference, {})
    return {**ARCHITECTURES[_MODEL_TYPES[reference]].tiny, "num_labels": 7, **deterministic}


def size_of(setting: Setting, *size: int) -> tuple[int, int]:
    """(height, width) of images whose size is one number, or both; an eighth in a tiny run, in steps of 32 pixels."""
    height, width = (max(32, side // 8 // 32 * 32) if setting.tiny else side for side in (size[0], size[-1]))
    return height, width
