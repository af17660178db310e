"""Checkpoints of rstrudel/segmenter beside their variant.yml: they compute the same here and come back, both files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import hfvision
from hfvision.conversion import convert, convert_back
from hfvision.conversion.sources import read, read_yaml
from hfvision.conversion.tables import recognise, segmenter
from hfvision.conversion.to_hub import convert_tensors, unequal
from hfvision.conversion.to_original import revert_tensors
from hfvision.conversion.verify import tolerance
from hfvision.errors import CheckpointReadError, ConversionError
from tests.manifests import meta_tensors
from tests.test_conversion import run_script

DATA = Path(__file__).parent / "data"
GOLDENS = DATA / "goldens" / "segmenter"
CASES = sorted(path.name for path in GOLDENS.iterdir())
MANIFESTS = json.loads((DATA / "manifests" / "segmenter.json").read_text(encoding="utf-8"))


def facts(case):
    return json.loads((GOLDENS / case / "case.json").read_text())


def not_in_the_files(case):
    """The decoder's number of heads, where it is not that of the original's rule."""
    config = facts(case)["config"]
    heads = config.get("decoder_num_heads")
    return {} if heads in (None, config["hidden_size"] // 64) else {"decoder_num_attention_heads": heads}


def converted(case, folder, **options):
    report = convert(GOLDENS / case / "checkpoint.pth", folder, overrides=not_in_the_files(case), **options)
    return report, hfvision.SegmenterForSemanticSegmentation.from_pretrained(folder).eval()


@torch.no_grad()
@pytest.mark.parametrize("case", [case for case in CASES if facts(case)["mode"] == "forward"])
def test_a_golden_checkpoint_computes_the_original_outputs(case, tmp_path):
    rounding = facts(case)["float64_max_abs_diff"]
    expected = {name: torch.from_numpy(value) for name, value in np.load(GOLDENS / case / "output.npz").items()}
    _, model = converted(case, tmp_path / "model")
    x, labels = (torch.from_numpy(np.load(GOLDENS / case / f"{name}.npy")) for name in ("input", "labels"))
    outputs = model(x, labels=labels.long())
    ours = {
        "encoder_tokens": model.segmenter(x).last_hidden_state[:, model.segmenter.embeddings.prefix_tokens :],
        "decoder_output": model(x, upsample=False).logits,
        "logits": outputs.logits,
        "loss": outputs.loss,
    }
    for name, values in expected.items():
        got = ours[name] if ours[name].shape == values.shape else model.segmenter(x).last_hidden_state
        torch.testing.assert_close(
            got, values, rtol=0, atol=tolerance(values, rounding[name]), msg=lambda m, n=name: n + m
        )


@pytest.mark.parametrize("case", CASES)
def test_a_golden_checkpoint_and_its_settings_come_back(case, tmp_path):
    report, _ = converted(case, tmp_path / "model")
    back = convert_back(tmp_path / "model", tmp_path / "again" / "checkpoint.pth")
    assert report.dropped.keys() == back.added.keys()
    one, other = read(GOLDENS / case / "checkpoint.pth"), read(tmp_path / "again" / "checkpoint.pth")
    assert one.tensors.keys() == other.tensors.keys() and one.entry == other.entry == "model"
    assert set(unequal(one.tensors, other.tensors)) == report.dropped.keys()
    assert (tmp_path / "again" / "variant.yml").read_text() == (GOLDENS / case / "variant.yml").read_text()
