"""Tiny models of every architecture, for tests."""

import torch
from transformers import PreTrainedModel

from hfvision.registry import (
    ARCHITECTURES,
    IMAGE_CLASSIFICATION,
    IMAGE_SEGMENTATION,
    OBJECT_DETECTION,
    SEMANTIC_SEGMENTATION,
    load,
)

ROWS = [(model_type, auto_class) for model_type, row in ARCHITECTURES.items() for auto_class in row.models]
CLASSIFIERS = [model_type for model_type, row in ARCHITECTURES.items() if IMAGE_CLASSIFICATION in row.models]
DENSE = [model_type for model_type, row in ARCHITECTURES.items() if SEMANTIC_SEGMENTATION in row.models]
# Rows whose forward pass no other row holds whole: not the trunks that are inside models with heads, nor the second row
# of one class, nor classes that add a config alone. What costs much by row and goes through the whole model (graphs,
# hooks on every module) is tested on these; saving, loading, shapes and messages on all.
HELD_BY_OTHERS = {
    *((model_type, "AutoModel") for model_type, row in ARCHITECTURES.items() if model_type != "vit"),
    *((model_type, "AutoBackbone") for model_type in ("deit", "microsoft_swin", "nvlabs_segformer")),
    *((model_type, "AutoModelForUniversalSegmentation") for model_type in ("detr", "facebook_detr")),
    ("nvlabs_segformer", IMAGE_CLASSIFICATION),
    ("facebook_detr", OBJECT_DETECTION),
}
WHOLE = [row for row in ROWS if row not in HELD_BY_OTHERS]
DETECTORS = [(model_type, name) for model_type, name in ROWS if name in (OBJECT_DETECTION, IMAGE_SEGMENTATION)]


def tiny_config(model_type, **fields):
    row = ARCHITECTURES[model_type]
    return load(row.config)(**{**row.tiny, "num_labels": 5, **fields})


def tiny_model(model_type, auto_class=IMAGE_CLASSIFICATION, **fields):
    model_class = load(ARCHITECTURES[model_type].models[auto_class])
    return with_visible_weights(model_class(tiny_config(model_type, **fields)))


def with_visible_weights(model):
    """In evaluation mode, with weights large enough that every part of the model shows in the outputs."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model.eval()


def with_varied_queries(model, pixel_values):
    """A DETR model in evaluation mode whose queries find different classes, boxes and masks in these images."""
    torch.manual_seed(0)
    detector = getattr(model, "detr", model)
    heads = [detector.class_labels_classifier, detector.bbox_predictor.layers[0]]
    heads += [] if detector is model else [model.bbox_attention.q_linear]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "conv_encoder" not in name:
                parameter.normal_(std=1.5 / parameter[0].numel() ** 0.5)
        queries = detector.model.eval()(pixel_values).last_hidden_state.flatten(0, 1)
        for head in heads:
            head.weight.normal_(std=0.4 / queries.std(0).mean().item())
            head.bias.copy_(-head.weight @ queries.mean(0))
        if detector is not model:
            model.mask_head.lay1.weight[:, model.mask_head.width :] *= 40  # where each query looks
    return model.eval()


def input_config(config):
    """The config that says what images the model takes: its own, or that of the trunk inside."""
    return config if hasattr(config, "num_channels") else config.backbone_config


def own_size(config):
    """(height, width) of the images that a model was made for; any, where it was made for none."""
    size = getattr(input_config(config), "image_size", 32)
    return (size, size) if isinstance(size, int) else tuple(size)


def pixels(config, batch=2, size=None, channels=None):
    height, width = size or own_size(config)
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels or input_config(config).num_channels, height, width, generator=generator)


def pixels_per_patch(config):
    """Per side; the patches of a hybrid are cut from a feature map, whose places are several pixels wide."""
    config = input_config(config)
    return config.image_size // config.grid[0] if hasattr(config, "grid") else config.patch_size


def pads_to_patches(model):
    """Whether images are padded to whole patches and all else follows from those."""
    config = input_config(model.config)
    return isinstance(getattr(config, "patch_size", None), int) and pixels_per_patch(config) == config.patch_size


def takes_any_size(model):
    return getattr(model, "takes_any_size", True)


def has_attention(model):
    """Of its own or of a trunk inside."""
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    return any("attentions" in (part._can_record_outputs or {}) for part in parts)


def last_bits(values):
    """How far two kernels that sum in another order may be apart: 1e-6, or that share of the largest where it is more
    than one."""
    return 1e-6 * max(1.0, float(values.abs().max()))


def main_output(outputs):
    """The tensor that a model is for, whatever its kind."""
    for name in ("logits", "reconstruction", "last_hidden_state"):
        if outputs.get(name) is not None:
            return outputs[name]
    return outputs["feature_maps"][-1]
