"""Every test runs without a network, on one thread (tiny models only lose by sharing work), from a fixed seed."""

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
import transformers

import hfvision  # noqa: F401 - registers its classes with transformers
from hfvision.layers import linear

transformers.utils.logging.disable_progress_bar()

# HFVISION_LINEAR_BACKEND=onednn puts the whole suite through that kernel: the tests' models are too small for the rule.
if os.environ.get(linear.VARIABLE) == "onednn":
    linear.SMALLEST_PRODUCT, linear.SMALLEST_SIDE, linear.LONGEST_SUM = 1, 1, 10**9


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _compiled_anew():
    """Code that models share (transformers' wrappers) is compiled once for each of them, up to a limit of eight, which
    the models of other tests in the same process must not use up."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
