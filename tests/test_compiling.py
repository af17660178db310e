"""torch.compile with its default backend, once per family: one graph for all batches, at two sizes of images.

Slow, for each graph goes through a C++ compiler: models have the fewest layers, and kernels that families share are
compiled once. Other backends are tested with every row of the registry.
"""

import os
import shutil

import pytest
import torch
from torch._inductor import config

import hfvision
from hfvision.optimizing import compiling
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
OTHER_FORMATS = {"google_vit", "google_vit_hybrid", "microsoft_swin", "nvlabs_segformer", "facebook_detr"}
FAMILIES = [model_type for model_type in ARCHITECTURES if model_type not in OTHER_FORMATS]
FEWEST = {  # layers, of models that do not say it by num_hidden_layers
    "swin": {"depths": [2, 1], "num_heads": [2, 4]},
    "detr": {"encoder_layers": 1, "decoder_layers": 1, "num_queries": 8},
    "segformer": {},
    "upernet": {},
    "setr": {},
}
# Sides that differ: a square first image would be taken as a reason for a graph of its own.
SIZES = [(32, 48), (48, 64)]
# torch chooses a convolution's kernel by sizes, and makes a graph for either side of its bounds: of maps that have one
# row at the coarsest stage, and of fewer than 16 maps (here of a mask head, of all images' queries).
LARGER = {"detr": [(48, 64), (64, 80)]}
SCALAR = {"cpp.simdlen": 1}  # no vector instructions, which take the C++ compiler twice as long
HEADS = (SEMANTIC_SEGMENTATION, IMAGE_SEGMENTATION, OBJECT_DETECTION, IMAGE_CLASSIFICATION)


def smallest_model(model_type):
    """With the head that has the most parts."""
    auto_class = next(name for name in HEADS if name in ARCHITECTURES[model_type].models)
    return tiny_model(model_type, auto_class, **FEWEST.get(model_type, {"num_hidden_layers": 1}))


@pytest.fixture(scope="module", autouse=True)
def _shared_kernels(tmp_path_factory):
    """Kernels are kept for the next family, in a folder of this run's unless one is set."""
    with pytest.MonkeyPatch.context() as patch:
        if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
            patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        with config.patch(compile_threads=1, cpp_wrapper=False):
            yield


@torch.no_grad()
@pytest.mark.parametrize("model_type", FAMILIES)
def test_compiled_models_answer_as_uncompiled_ones(model_type):
    model = smallest_model(model_type)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, options=SCALAR)
    for size in LARGER.get(model_type, SIZES) if takes_any_size(model) else [None]:
        for batch in (2, 3):
            x = pixels(model.config, batch=batch, size=size)
            torch.testing.assert_close(main_output(compiled(x)), main_output(model(x)), **ROUNDING)


def test_an_optimized_swin_is_really_compiled(monkeypatch):
    """With the vector instructions that this machine has. Tiny models may be slower compiled: no clock decides."""
    monkeypatch.setattr(compiling, "run_seconds", lambda run, device: float(run.args[0]._compiled_call_impl is None))
    model = smallest_model("swin")
    sample = pixels(model.config)
    faster = hfvision.optimize(model, compile=True, sample=sample)
    assert faster.optimization.steps[-1].startswith("it is compiled by inductor with dynamic shapes")
    with torch.no_grad():
        torch.testing.assert_close(faster(sample).logits, model(sample).logits, **ROUNDING)
