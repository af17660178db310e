"""transformers' own models of the shared families, as tiny oracles."""

import inspect
from contextlib import contextmanager

import torch
import transformers

import hfvision
from hfvision.registry import ARCHITECTURES
from tests.models import pixels_per_patch, with_visible_weights

# Classes whose files plain transformers 5 reads and writes: class -> model_type.
SHARED = {
    "ViTModel": "vit",
    "ViTForImageClassification": "vit",
    "ViTForMaskedImageModeling": "vit",
    "DeiTModel": "deit",
    "DeiTForImageClassification": "deit",
    "DeiTForImageClassificationWithTeacher": "deit",
    "DeiTForMaskedImageModeling": "deit",
    "SwinModel": "swin",
    "SwinForImageClassification": "swin",
    "SwinForMaskedImageModeling": "swin",
    "SwinBackbone": "swin",
    "SegformerModel": "segformer",
    "SegformerForImageClassification": "segformer",
    "SegformerForSemanticSegmentation": "segformer",
    "UperNetForSemanticSegmentation": "upernet",
}
SAME_ARITHMETIC = {"rtol": 0, "atol": 1e-6}  # outputs of order one; the products are the same, their order may not be


@contextmanager
def plain_transformers():
    """transformers as it is without hfvision, for models that are made of other models."""
    hfvision.unregister()
    try:
        yield
    finally:
        hfvision.register()


def peer_model(name, **fields):
    """transformers' own class with weights that show in the outputs."""
    model_class = getattr(transformers, name)
    sizes = {**ARCHITECTURES[SHARED[name]].tiny, "num_labels": 5, **fields}
    with plain_transformers():
        return with_visible_weights(model_class(model_class.config_class(**sizes)))


def call(model, x, **kwargs):
    if "Masked" in type(model).__name__:
        patches = (x.shape[-2] // pixels_per_patch(model.config)) * (x.shape[-1] // pixels_per_patch(model.config))
        kwargs["bool_masked_pos"] = torch.rand(2, patches, generator=torch.Generator().manual_seed(3)) > 0.5
    with torch.no_grad():
        return model(x, **kwargs)


def on_request(model):
    """What transformers' models of one image size want to be told before they take another."""
    takes = inspect.signature(model.forward).parameters
    return {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}


def assert_same_outputs(got, wanted):
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], **SAME_ARITHMETIC, msg=lambda m, name=name: f"{name}: {m}")
