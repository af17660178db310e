"""Tiny models of every architecture, for tests."""

import torch

from hfvision.registry import ARCHITECTURES, IMAGE_CLASSIFICATION, load

ROWS = [(model_type, auto_class) for model_type, row in ARCHITECTURES.items() for auto_class in row.models]
CLASSIFIERS = [model_type for model_type, row in ARCHITECTURES.items() if IMAGE_CLASSIFICATION in row.models]


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


def pixels(config, batch=2, size=None, channels=None):
    height, width = size or (config.image_size, config.image_size)
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels or config.num_channels, height, width, generator=generator)


def pixels_per_patch(config):
    """Per side; the patches of a hybrid are cut from a feature map, whose places are several pixels wide."""
    return config.image_size // config.grid[0]


def takes_any_size(model):
    return getattr(model, "takes_any_size", True)


def has_attention(model):
    return "attentions" in model._can_record_outputs


def main_output(outputs):
    """The tensor that a model is for, whatever its kind."""
    for name in ("logits", "reconstruction", "last_hidden_state"):
        if outputs.get(name) is not None:
            return outputs[name]
    return outputs["feature_maps"][-1]
