"""Files of NVlabs/SegFormer: they compute the same here and come back bit for bit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import hfvision
from hfvision.conversion import convert, convert_back
from hfvision.conversion.sources import read
from hfvision.conversion.tables import recognise, segformer
from hfvision.conversion.to_hub import convert_tensors, unequal
from hfvision.conversion.to_original import revert_tensors
from hfvision.conversion.verify import tolerance
from hfvision.errors import ConversionError
from hfvision.losses.segmentation import SegmentationLoss
from tests.manifests import meta_tensors
from tests.test_conversion import run_script

DATA = Path(__file__).parent / "data"
GOLDENS = DATA / "goldens" / "segformer"
CASES = sorted(path.name for path in GOLDENS.iterdir())
SEGMENTERS = [case for case in CASES if case != "backbone_features"]
MANIFESTS = json.loads((DATA / "manifests" / "segformer.json").read_text(encoding="utf-8"))


def golden(case, name):
    return torch.from_numpy(np.load(GOLDENS / case / f"{name}.npy"))


def converted(case, folder, **options):
    report = convert(GOLDENS / case / "checkpoint.pth", folder, **options)
    return report, getattr(hfvision, report.model_class).from_pretrained(folder).eval()


def assert_bit_for_bit(one, other):
    one, other = read(one), read(other)
    assert one.tensors.keys() == other.tensors.keys()
    assert unequal(one.tensors, other.tensors) == []
    assert one.entry == other.entry


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_a_golden_checkpoint_computes_the_original_outputs(case, tmp_path):
    rounding = json.loads((GOLDENS / case / "case.json").read_text())["float64_max_abs_diff"]
    expected = {name: torch.from_numpy(value) for name, value in np.load(GOLDENS / case / "output.npz").items()}
    report, model = converted(case, tmp_path / "model")
    assert (report.format, report.model_type) == ("segformer", "nvlabs_segformer")
    x = golden(case, "input")
    outputs = model(x, output_hidden_states=True)
    ours = {f"stage{stage}": state for stage, state in enumerate(outputs.hidden_states, start=1)}
    if case in SEGMENTERS:
        model.pixel_loss = SegmentationLoss(average="all")
        ours |= {"head_logits": outputs.logits, "logits": model(x, upsample=True).logits}
        ours["loss_seg"] = model(x, labels=golden(case, "labels").view(len(x), *x.shape[-2:])).loss
    compared = expected.keys() & ours.keys()
    assert len(compared) == {"backbone_features": 4, "slide_inference": 5}.get(case, 7)
    for name in compared:
        allowed = tolerance(expected[name], rounding[name])
        torch.testing.assert_close(ours[name], expected[name], rtol=0, atol=allowed, msg=lambda m, name=name: name + m)


@pytest.mark.parametrize("case", CASES)
def test_a_golden_checkpoint_comes_back_bit_for_bit_but_for_what_nothing_reads(case, tmp_path):
    original = GOLDENS / case / "checkpoint.pth"
    report, _ = converted(case, tmp_path / "model")
    back = convert_back(tmp_path / "model", tmp_path / "again.pth")
    unused = {f"decode_head.conv_seg.{p}" for p in ("weight", "bias")} if case in SEGMENTERS else set()
    assert report.dropped.keys() == back.added.keys() == unused
    one, other = read(original), read(tmp_path / "again.pth")
    assert one.tensors.keys() == other.tensors.keys() and one.entry == other.entry
    assert set(unequal(one.tensors, other.tensors)) == unused
    assert {tensor.dtype for tensor in other.tensors.values()} == {tensor.dtype for tensor in one.tensors.values()}
