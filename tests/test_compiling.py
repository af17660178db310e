"""torch.compile with its default backend, once per family: one graph for all batches, at two sizes of images.

Slow, for each graph goes through a C++ compiler; models have the fewest layers, and what is compiled is kept in
torch's cache for the next run. Other backends are tested with every row of the registry.
"""

import os
import shutil

import pytest
import torch

import hfvision
from hfvision.registry import (
    ARCHITECTURES,
    IMAGE_CLASSIFICATION,
    IMAGE_SEGMENTATION,
    OBJECT_DETECTION,
    SEMANTIC_SEGMENTATION,
)
from tests.models import main_output, pixels, takes_any_size, tiny_model

COMPILERS = (os.environ.get("CXX", "g++"), "g++", "clang++", "cl")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="inductor needs a C++ compiler on the CPU"),
    pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="Swin's graphs need torch 2.7"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's, of its own parts
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

ROUNDING = {"rtol": 0, "atol": 1e-5}  # outputs are of order one; generated code sums in another order
FEWEST = {  # layers
    "swin": {"depths": [2, 1], "num_heads": [2, 4]},
    "microsoft_swin": {"depths": [2, 1], "num_heads": [2, 4]},
    "detr": {"encoder_layers": 1, "decoder_layers": 1},
    "facebook_detr": {"encoder_layers": 1, "decoder_layers": 1},
}
HEADS = (SEMANTIC_SEGMENTATION, IMAGE_SEGMENTATION, OBJECT_DETECTION, IMAGE_CLASSIFICATION)


def smallest_model(model_type):
    """With the head that has the most parts."""
    auto_class = next(name for name in HEADS if name in ARCHITECTURES[model_type].models)
    one_layer = {} if model_type in ("segformer", "nvlabs_segformer", "upernet", "setr") else {"num_hidden_layers": 1}
    return tiny_model(model_type, auto_class, **FEWEST.get(model_type, one_layer))


@pytest.fixture(autouse=True)
def _kept_graphs(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")


@torch.no_grad()
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_compiled_models_answer_as_uncompiled_ones(model_type):
    model = smallest_model(model_type)
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    sizes = [(32, 32), (48, 64)] if takes_any_size(model) else [None]
    for size in sizes:
        for batch in (2, 3):
            x = pixels(model.config, batch=batch, size=size)
            torch.testing.assert_close(main_output(compiled(x)), main_output(model(x)), **ROUNDING)


def test_an_optimized_swin_is_really_compiled():
    model = smallest_model("swin")
    sample = pixels(model.config)
    faster = hfvision.optimize(model, compile=True, sample=sample)
    assert faster.optimization.steps[-1] == "it is compiled by inductor with dynamic shapes"
    with torch.no_grad():
        torch.testing.assert_close(faster(sample).logits, model(sample).logits, **ROUNDING)
