"""Files are interchangeable with plain transformers 4.57, both ways, for every family whose format is shared.

Needs an interpreter that has transformers 4.57: its path is in HFVISION_TRANSFORMERS4 (`.ci/run` makes one).
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor

import hfvision
from tests.models import main_output, pixels, tiny_config

INTERPRETER = os.environ.get("HFVISION_TRANSFORMERS4")
pytestmark = pytest.mark.skipif(not INTERPRETER, reason="HFVISION_TRANSFORMERS4 names no interpreter with 4.57")

# What transformers 4.57 knows; AutoBackbone over "vit" and "deit" is hfvision's own.
SHARED = {
    "vit": ["ViTModel", "ViTForImageClassification", "ViTForMaskedImageModeling"],
    # Not DeiTForMaskedImageModeling: 4.57 paints from the distillation token and not from the last patch, a mistake
    # that version 5 mended. The files are the same.
    "deit": ["DeiTModel", "DeiTForImageClassification", "DeiTForImageClassificationWithTeacher"],
    "vit-hybrid": ["ViTHybridModel", "ViTHybridForImageClassification"],
    # Not SwinBackbone by itself: version 5 added a norm that it does not read, and 4.57 then looks for all weights
    # under that one's prefix, in transformers' own files as well. Inside a UPerNet it does no harm.
    "swin": ["SwinModel", "SwinForImageClassification", "SwinForMaskedImageModeling"],
    "segformer": ["SegformerModel", "SegformerForImageClassification", "SegformerForSemanticSegmentation"],
    "upernet": ["UperNetForSemanticSegmentation"],
    "detr": ["DetrModel", "DetrForObjectDetection", "DetrForSegmentation"],
}
SQUARE = {"size": {"height": 32, "width": 32}}
PROCESSORS = {
    "vit": (hfvision.ViTImageProcessor, SQUARE),
    "deit": (
        hfvision.DeiTImageProcessor,
        {"size": {"height": 37, "width": 37}, "crop_size": {"height": 32, "width": 32}},
    ),
    "vit-hybrid": (
        hfvision.ViTHybridImageProcessor,
        {"size": {"shortest_edge": 37}, "crop_size": {"height": 32, "width": 32}},
    ),
    "swin": (hfvision.ViTImageProcessor, SQUARE),
    "segformer": (hfvision.SegformerImageProcessor, SQUARE),
    "upernet": (hfvision.SegformerImageProcessor, SQUARE),
    "detr": (hfvision.DetrImageProcessor, {"size": {"shortest_edge": 32, "longest_edge": 40}}),
}
CASES = [(model_type, name) for model_type, names in SHARED.items() for name in names]


def transformers4(verb, folder):
    script = Path(__file__).with_name("transformers4_side.py")
    done = subprocess.run([INTERPRETER, script, verb, folder], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr


def test_what_is_saved_here_loads_there(tmp_path):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (45, 60, 3), dtype=np.uint8))
    wanted = {}
    for model_type, name in CASES:
        path = tmp_path / f"{model_type}-{name}"
        model = getattr(hfvision, name)(tiny_config(model_type)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.2)
        model.save_pretrained(path)
        processor_class, options = PROCESSORS[model_type]
        processor = processor_class(**options)
        processor.save_pretrained(path)
        image.save(path / "image.png")
        x = pixels(model.config)
        np.save(path / "inputs.npy", x.numpy())
        with torch.no_grad():
            wanted[path] = main_output(model(x)).numpy(), processor(image, return_tensors="np")["pixel_values"]
    transformers4("load", tmp_path)
    for path, (outputs, pixel_values) in wanted.items():
        # Both run torch's kernels on equal weights; 1e-6 allows for another order of summation.
        np.testing.assert_allclose(np.load(path / "outputs_4.npy"), outputs, rtol=0, atol=1e-6)
        np.testing.assert_allclose(np.load(path / "pixels_4.npy"), pixel_values, rtol=0, atol=1e-6)


def test_what_is_saved_there_loads_here_and_is_written_back_unchanged(tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    transformers4("save", folder)
    paths = sorted(folder.iterdir())
    assert len(paths) == len(CASES)
    for path in paths:
        model_type, name = path.name.rsplit("-", 1)
        model = getattr(hfvision, name).from_pretrained(path).eval()
        with torch.no_grad():
            got = main_output(model(torch.from_numpy(np.load(path / "inputs.npy")))).numpy()
        np.testing.assert_allclose(got, np.load(path / "outputs.npy"), rtol=0, atol=1e-6)
        processor = AutoImageProcessor.from_pretrained(path)
        assert type(processor) is PROCESSORS[model_type][0]
        pixel_values = processor(Image.open(path / "image.png"), return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(pixel_values, np.load(path / "pixels.npy"), rtol=0, atol=1e-6)
        model.save_pretrained(tmp_path / "again")
        old, new = (load_file(folder / "model.safetensors") for folder in (path, tmp_path / "again"))
        old = {key: value for key, value in old.items() if not key.endswith("relative_position_index")}  # 4.57's buffer
        ours_alone = {"backbone.swin.layernorm.weight", "backbone.swin.layernorm.bias"}  # and version 5's, never read
        assert set(new) - ours_alone == set(old)
        assert all(torch.equal(new[key], value) for key, value in old.items())
