"""Checkpoints of rstrudel/segmenter beside their variant.yml: they compute the same here and come back, both files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import hfvision
from hfvision.checkpoints import read, read_yaml
from hfvision.conversion import convert, convert_back
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
        "encoder_tokens": model.segmenter(x).last_hidden_state,
        "decoder_output": model(x, upsample=False).logits,
        "logits": outputs.logits,
        "loss": outputs.loss,
    }
    assert expected.keys() == ours.keys()
    for name, values in expected.items():
        allowed = tolerance(values, rounding[name])
        torch.testing.assert_close(ours[name], values, rtol=0, atol=allowed, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("case", CASES)
def test_a_golden_checkpoint_and_its_settings_come_back(case, tmp_path):
    report, _ = converted(case, tmp_path / "model")
    back = convert_back(tmp_path / "model", tmp_path / "again" / "checkpoint.pth")
    assert report.dropped.keys() == back.added.keys()
    one, other = read(GOLDENS / case / "checkpoint.pth"), read(tmp_path / "again" / "checkpoint.pth")
    assert one.tensors.keys() == other.tensors.keys() and one.entry == other.entry == "model"
    assert set(unequal(one.tensors, other.tensors)) == report.dropped.keys()
    assert (tmp_path / "again" / "variant.yml").read_text() == (GOLDENS / case / "variant.yml").read_text()


def test_what_the_settings_say_is_used_and_what_they_lack_is_assumed(tmp_path):
    report, model = converted("sliding_window", tmp_path / "told")
    assert (model.config.num_attention_heads, report.assumed) == (
        4,
        ("layer_norm_eps = 1e-05", "hidden_act = 'gelu'"),
    )
    processor = hfvision.SegmenterImageProcessor.from_pretrained(tmp_path / "told")
    assert (processor.window_size, processor.window_stride) == (32, 24)
    assert (processor.size["shortest_edge"], processor.size["longest_edge"]) == (32, 128)
    shutil.copy(GOLDENS / "sliding_window" / "checkpoint.pth", tmp_path / "alone.pth")
    with pytest.raises(ConversionError, match="width of 32 is none of a published model; set num_attention_heads"):
        convert(tmp_path / "alone.pth", tmp_path / "model", overrides={"decoder_num_attention_heads": 2})
    with pytest.raises(
        ConversionError, match=r"nor variant.yml show the decoder's .*; set decoder_num_attention_heads"
    ):
        convert(tmp_path / "alone.pth", tmp_path / "model", overrides={"num_attention_heads": 4})
    heads = {"num_attention_heads": 4, "decoder_num_attention_heads": 2}
    report = convert(tmp_path / "alone.pth", tmp_path / "model", overrides=heads)
    assert {"image_size = 32", "images normalised as for 'vit'", "window_stride = 32"} <= {*report.assumed}
    convert_back(tmp_path / "model", tmp_path / "checkpoint.pth")
    again = read_yaml(tmp_path / "variant.yml")
    assert again["net_kwargs"]["image_size"] == (32, 32) and again["net_kwargs"]["n_heads"] == 4


def test_the_statistics_are_those_of_the_backbone(tmp_path):
    converted("mask_distilled", tmp_path / "deit")
    converted("linear", tmp_path / "vit")
    means = [hfvision.SegmenterImageProcessor.from_pretrained(tmp_path / name).image_mean for name in ("deit", "vit")]
    assert [list(mean) for mean in means] == [[0.485, 0.456, 0.406], [0.5, 0.5, 0.5]]


def test_settings_of_another_checkpoint_are_refused_with_every_difference(tmp_path):
    shutil.copy(GOLDENS / "linear" / "checkpoint.pth", tmp_path)
    shutil.copy(GOLDENS / "mask_released_layout" / "variant.yml", tmp_path)
    with pytest.raises(ConversionError) as caught:
        convert(tmp_path / "checkpoint.pth", tmp_path / "model")
    assert "d_model is 64 in variant.yml, the tensors say 32" in str(caught.value)
    assert "decoder.name is 'mask_transformer' in variant.yml, the tensors say 'linear'" in str(caught.value)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("net_kwargs: !!python/object/apply:os.system ['touch hacked']", "could not determine a constructor"),
        ("net_kwargs: [", "cannot be read as YAML settings"),
        ("- a list", "a mapping is wanted, got list"),
        ("x: " + "y" * 2**20, "bytes, where settings take at most"),
    ],
)
def test_settings_that_are_none_end_in_one_error_and_run_nothing(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(GOLDENS / "linear" / "checkpoint.pth", tmp_path)
    (tmp_path / "variant.yml").write_text(text)
    with pytest.raises(CheckpointReadError, match=message):
        convert(tmp_path / "checkpoint.pth", tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pth", "variant.yml"]


def test_a_model_that_was_never_converted_gets_settings_of_its_own(tmp_path):
    sizes = {"hidden_size": 192, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 768}
    config = hfvision.SegmenterConfig(**sizes, image_size=32, decoder_layers=1, num_labels=4)
    hfvision.SegmenterForSemanticSegmentation(config).save_pretrained(tmp_path / "model")
    report = convert_back(tmp_path / "model", tmp_path / "checkpoint.pth")
    assert (report.notes, report.files) == ((), ("checkpoint.pth", "variant.yml"))
    net = read_yaml(tmp_path / "variant.yml")["net_kwargs"]
    assert (net["backbone"], net["image_size"]) == ("vit_tiny_patch16_384", (32, 32))
    assert (net["n_cls"], net["decoder"]["n_layers"], net["normalization"]) == (4, 1, "vit")
    with pytest.raises(hfvision.HfvisionError, match=r"variant\.yml exists"):
        convert_back(tmp_path / "model", tmp_path / "other.pth")
    assert not (tmp_path / "other.pth").exists()
    hfvision.SegmenterModel(config).save_pretrained(tmp_path / "encoder")
    with pytest.raises(ConversionError, match="no file of an encoder without a decoder"):
        convert_back(tmp_path / "encoder", tmp_path / "encoder.pth")


def test_another_image_size_resamples_bilinearly_and_says_so(tmp_path):
    overrides = {"image_size": 48, **not_in_the_files("linear")}
    report = convert(GOLDENS / "linear" / "checkpoint.pth", tmp_path / "model", overrides=overrides)
    assert report.changed == ("the position table of 4x4 patches was resampled to 6x6 (bilinear)",)


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_published_file_converts_in_shape_both_ways(name):
    manifest = MANIFESTS[name]
    tensors, sizes = meta_tensors(manifest), manifest["config"]
    assert recognise(tensors, entry="model") is segmenter.FORMAT
    plan = segmenter.plan(tensors, {}, None, manifest["variant_yml"])
    assert plan.assumed == ("layer_norm_eps = 1e-05", "hidden_act = 'gelu'") + (
        () if sizes["decoder"] == "linear" else (f"decoder_num_attention_heads = {sizes['decoder_num_heads']}",)
    )
    assert len(plan.labels) == sizes["n_cls"]
    got, _, config = convert_tensors(tensors, segmenter.FORMAT, plan)
    assert {key.rpartition(".")[0] for key in got.dropped} <= {"encoder.head", "encoder.head_dist"}
    assert (config.hidden_size, config.num_attention_heads) == (sizes["hidden_size"], sizes["num_heads"])
    assert (config.image_size, config.num_labels, config.distilled) == (
        sizes["image_size"][0],
        sizes["n_cls"],
        sizes["distilled"],
    )
    assert segmenter.plan(tensors, {}, None).config == plan.config  # variant.yml says nothing new of published sizes
    back, _ = revert_tensors(got.tensors, config, segmenter.FORMAT)
    assert {key: tensor.shape for key, tensor in back.tensors.items()} == {k: t.shape for k, t in tensors.items()}


def test_the_script_converts_there_and_back(tmp_path, monkeypatch, capsys):
    source = GOLDENS / "mask_released_layout" / "checkpoint.pth"
    printed = run_script("convert_segmenter", (source, tmp_path / "model"), monkeypatch, capsys)
    assert "segmenter" in printed
    run_script("convert_segmenter", (tmp_path / "model", tmp_path / "checkpoint.pth"), monkeypatch, capsys)
    assert (tmp_path / "variant.yml").read_text() == (source.parent / "variant.yml").read_text()
