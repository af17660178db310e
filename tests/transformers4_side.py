"""Run by an interpreter with plain transformers 4.57, without hfvision: transformers4_side.py load|save FOLDER

load: compute the outputs of every model folder in FOLDER, saved by hfvision, with transformers' own classes.
save: save transformers' own models, with inputs and outputs, into FOLDER.
Each model folder holds inputs.npy, outputs.npy (the main output), image.png and pixels.npy (image.png, processed).
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from transformers.modeling_utils import no_init_weights

SIZES = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}


def hybrid_config():
    stages = {"depths": [1, 2, 1], "hidden_sizes": [32, 64, 96], "embedding_size": 16, "num_groups": 8}
    form = {"layer_type": "bottleneck", "global_padding": "same", "embedding_dynamic_padding": True}
    return transformers.ViTHybridConfig(
        **{**SIZES, "patch_size": 1},
        backbone_config=transformers.BitConfig(**stages, **form, out_features=["stage2"]),
        backbone_featmap_shape=[1, 64, 4, 4],
        intermediate_size=48,
        num_labels=5,
    )


SWIN = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 1],
    "num_heads": [2, 4],
    "window_size": 4,
    "encoder_stride": 8,
}
SEGFORMER = {
    "depths": [1, 2],
    "num_encoder_blocks": 2,
    "sr_ratios": [4, 1],
    "hidden_sizes": [16, 32],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "num_attention_heads": [1, 2],
    "mlp_ratios": [2, 2],
    "decoder_hidden_size": 24,
}


def upernet_config():
    trunk = transformers.SwinConfig(**SWIN, out_features=["stem", "stage1", "stage2"])
    return transformers.UperNetConfig(
        backbone_config=trunk, hidden_size=16, pool_scales=[1, 2], auxiliary_in_channels=32, num_labels=5
    )


RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 2, 1], "layer_type": "bottleneck"}


def detr_config():
    return transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone_config=transformers.ResNetConfig(**RESNET, out_features=["stage1", "stage2", "stage3", "stage4"]),
        d_model=32,
        num_queries=6,
        encoder_layers=2,
        encoder_ffn_dim=48,
        encoder_attention_heads=8,
        decoder_layers=2,
        decoder_ffn_dim=48,
        decoder_attention_heads=8,
        num_labels=5,
    )


CASES = {
    "vit": [
        (name, transformers.ViTConfig(**SIZES, intermediate_size=48, encoder_stride=8, num_labels=5))
        for name in ("ViTModel", "ViTForImageClassification", "ViTForMaskedImageModeling")
    ],
    "deit": [
        (name, transformers.DeiTConfig(**SIZES, intermediate_size=48, encoder_stride=8, num_labels=5))
        for name in ("DeiTModel", "DeiTForImageClassification", "DeiTForImageClassificationWithTeacher")
    ],
    "vit-hybrid": [(name, hybrid_config()) for name in ("ViTHybridModel", "ViTHybridForImageClassification")],
    "swin": [
        (name, transformers.SwinConfig(**SWIN, num_labels=5))
        for name in ("SwinModel", "SwinForImageClassification", "SwinForMaskedImageModeling")
    ],
    "segformer": [
        (name, transformers.SegformerConfig(**SEGFORMER, num_labels=5))
        for name in ("SegformerModel", "SegformerForImageClassification", "SegformerForSemanticSegmentation")
    ],
    "upernet": [("UperNetForSemanticSegmentation", upernet_config())],
    "detr": [(name, detr_config()) for name in ("DetrModel", "DetrForObjectDetection", "DetrForSegmentation")],
}
SQUARE = {"size": {"height": 32, "width": 32}}
PROCESSORS = {  # model_type: class, options
    "vit": ("ViTImageProcessor", SQUARE),
    "deit": ("DeiTImageProcessor", {"size": {"height": 37, "width": 37}, "crop_size": {"height": 32, "width": 32}}),
    "vit-hybrid": (
        "ViTHybridImageProcessor",
        {"size": {"shortest_edge": 37}, "crop_size": {"height": 32, "width": 32}},
    ),
    "swin": ("ViTImageProcessor", SQUARE),
    "segformer": ("SegformerImageProcessor", SQUARE),
    "upernet": ("SegformerImageProcessor", SQUARE),
    "detr": ("DetrImageProcessor", {"size": {"shortest_edge": 32, "longest_edge": 40}}),
}


def outputs(model, x):
    with torch.no_grad():
        out = model.eval()(torch.from_numpy(x))
    name = next(n for n in ("logits", "reconstruction", "last_hidden_state") if n in out)
    return out[name].numpy()


def load(folder):
    for path in sorted(folder.iterdir()):
        config = json.loads((path / "config.json").read_text())
        model = getattr(transformers, config["architectures"][0]).from_pretrained(path)
        np.save(path / "outputs_4.npy", outputs(model, np.load(path / "inputs.npy")))
        processor = transformers.AutoImageProcessor.from_pretrained(path, use_fast=False)
        pixels = processor(Image.open(path / "image.png"), return_tensors="np")["pixel_values"]
        np.save(path / "pixels_4.npy", pixels)


def save(folder):
    for model_type, cases in CASES.items():
        for name, config in cases:
            path = folder / f"{model_type}-{name}"
            torch.manual_seed(0)
            with no_init_weights():  # 4.57's hybrid cannot initialise a model without a mask token
                model = getattr(transformers, name)(config)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.normal_(std=0.2)
            model.save_pretrained(path)
            x = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
            np.save(path / "inputs.npy", x)
            np.save(path / "outputs.npy", outputs(model, x))
            processor_name, options = PROCESSORS[model_type]
            processor = getattr(transformers, processor_name)(**options)
            processor.save_pretrained(path)
            image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (45, 60, 3), dtype=np.uint8))
            image.save(path / "image.png")
            np.save(path / "pixels.npy", processor(image, return_tensors="np")["pixel_values"])


if __name__ == "__main__":
    assert transformers.__version__.startswith("4.57."), transformers.__version__
    {"load": load, "save": save}[sys.argv[1]](Path(sys.argv[2]))
