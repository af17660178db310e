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
from transformers import AutoImageProcessor

import hfvision
from tests.models import main_output, pixels, tiny_model

INTERPRETER = os.environ.get("HFVISION_TRANSFORMERS4")
pytestmark = pytest.mark.skipif(not INTERPRETER, reason="HFVISION_TRANSFORMERS4 names no interpreter with 4.57")

# What AutoModel and friends of transformers 4.57 know; AutoBackbone over "vit" is hfvision's own.
SHARED = [("vit", auto) for auto in ("AutoModel", "AutoModelForImageClassification", "AutoModelForMaskedImageModeling")]


def transformers4(verb, folder):
    script = Path(__file__).with_name("transformers4_side.py")
    done = subprocess.run([INTERPRETER, script, verb, folder], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr


def test_what_is_saved_here_loads_there(tmp_path):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (45, 60, 3), dtype=np.uint8))
    wanted = {}
    for model_type, auto_class in SHARED:
        path = tmp_path / f"{model_type}-{auto_class}"
        model = tiny_model(model_type, auto_class)
        model.save_pretrained(path)
        processor = hfvision.ViTImageProcessor(size={"height": 32, "width": 32})
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
    assert len(paths) == len(SHARED)
    for path in paths:
        model = getattr(hfvision, path.name.split("-")[1]).from_pretrained(path).eval()
        with torch.no_grad():
            got = main_output(model(torch.from_numpy(np.load(path / "inputs.npy")))).numpy()
        np.testing.assert_allclose(got, np.load(path / "outputs.npy"), rtol=0, atol=1e-6)
        processor = AutoImageProcessor.from_pretrained(path)
        assert type(processor) is hfvision.ViTImageProcessor
        pixel_values = processor(Image.open(path / "image.png"), return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(pixel_values, np.load(path / "pixels.npy"), rtol=0, atol=1e-6)
        model.save_pretrained(tmp_path / "again")
        assert (tmp_path / "again" / "model.safetensors").read_bytes() == (path / "model.safetensors").read_bytes()
