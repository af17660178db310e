"""Every test runs without a network, on one thread (tiny models only lose by sharing work), from a fixed seed."""

import gc
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


# Modules of arithmetic and of rules, without trainings or servers: `pytest -m fast`.
FAST = {
    "test_bands", "test_catalog", "test_config_fields", "test_functional", "test_geometry",
    "test_label_maps", "test_label_names", "test_labels", "test_layers", "test_losses_detection",
    "test_losses_segmentation", "test_metrics", "test_metrics_detection", "test_metrics_panoptic",
    "test_metrics_segmentation", "test_objects", "test_object_formats", "test_panoptic_maps", "test_detections",
    "test_plain", "test_resizing", "test_tiles", "test_vit", "test_globs", "test_gitobjects",
}  # fmt: skip
# Modules whose tests take seconds each. They come first, so that a run on several cores does not end with one of them
# on one core while the others wait.
LONG = (
    "test_train_detection", "test_training", "test_training_segmentation", "test_training_lengthened", "test_bench",
    "test_registration", "test_push", "test_story", "test_clients", "test_seed_and_mirror", "test_browser",
    "test_try_it", "test_recognition", "test_predict_command", "test_cli", "test_cli_mistakes", "test_detr",
    "test_demo_detection", "test_transformers4", "test_operation", "test_crash", "test_models_common", "test_tracing",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in FAST and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.fast)
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


def pytest_collection_finish():
    """What imports and collection made stays to the end, so no collection of garbage needs to look at it again: Trainer
    asks for several in every run, each of which took half a second over these million objects."""
    gc.collect()
    gc.freeze()
