"""Every test runs without a network, on one thread (tiny models only lose by sharing work), from a fixed seed."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
import transformers

import hfvision  # noqa: F401 - registers its classes with transformers

transformers.utils.logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
