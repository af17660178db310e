"""transformers' own models of the shared families, as tiny oracles."""

import torch
import transformers

from hfvision.registry import ARCHITECTURES
from tests.models import with_visible_weights

# Classes whose files plain transformers 5 reads and writes: class -> model_type.
SHARED = {
    "ViTModel": "vit",
    "ViTForImageClassification": "vit",
    "ViTForMaskedImageModeling": "vit",
    "DeiTModel": "deit",
    "DeiTForImageClassification": "deit",
    "DeiTForImageClassificationWithTeacher": "deit",
    "DeiTForMaskedImageModeling": "deit",
}
SAME_ARITHMETIC = {"rtol": 0, "atol": 1e-6}  # outputs of order one; the products are the same, their order may not be


def peer_model(name, **fields):
    """transformers' own class, imported past the Auto classes, with weights that show in the outputs."""
    model_class = getattr(transformers, name)
    sizes = {**ARCHITECTURES[SHARED[name]].tiny, "num_labels": 5, **fields}
    return with_visible_weights(model_class(model_class.config_class(**sizes)))


def call(model, x, **kwargs):
    if "Masked" in type(model).__name__:
        kwargs["bool_masked_pos"] = torch.rand(2, 16, generator=torch.Generator().manual_seed(3)) > 0.5
    with torch.no_grad():
        return model(x, **kwargs)


def assert_same_outputs(got, wanted):
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], **SAME_ARITHMETIC, msg=lambda m, name=name: f"{name}: {m}")
