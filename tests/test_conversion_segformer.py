"""Files of NVlabs/SegFormer: they compute the same here and come back bit for bit."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import hfvision
from hfvision.checkpoints import read
from hfvision.conversion import convert, convert_back
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


@torch.no_grad()
def test_with_the_hubs_epsilon_it_is_a_folder_that_plain_transformers_computes_alike(tmp_path):
    report, ours = converted("seg_64", tmp_path / "model", overrides={"layer_norm_eps": 1e-5})
    assert report.model_type == "segformer"
    theirs, loading = transformers.SegformerForSemanticSegmentation.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not any(loading.values())
    x = golden("seg_64", "input")
    torch.testing.assert_close(ours(x).logits, theirs.eval()(x).logits, rtol=0, atol=5e-6)  # another order of sums
    assert convert_back(tmp_path / "model", tmp_path / "again.pth").notes == (
        "the original's code computes with epsilon in the blocks = 1e-06, this model with 1e-05",
    )


def training_file(path, config, classes):
    content = torch.load(GOLDENS / "seg_64" / "checkpoint.pth", weights_only=True)
    content["meta"] = {"CLASSES": classes, "config": config, "PALETTE": np.zeros((6, 3))}
    torch.save(content, path)


MMSEG_CONFIG = """
model = dict(type='EncoderDecoder', test_cfg=dict(mode='slide', crop_size=(1024, 512), stride=(768, 384)))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(2048, 640), transforms=[{'type': 'AlignedResize', 'keep_ratio': True}]),
]
"""


def test_names_and_evaluation_are_read_from_the_training_file(tmp_path):
    names = ["wall", "floor", "door", "lamp", "sky", "sea"]
    training_file(tmp_path / "w.pth", MMSEG_CONFIG, tuple(names))
    report = convert(tmp_path / "w.pth", tmp_path / "model")
    assert report.config["id2label"] == dict(enumerate(names))
    assert not any("images" in line or "windows" in line for line in report.assumed)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "model")
    assert type(processor) is hfvision.SegmentationImageProcessor
    assert (processor.size["longest_edge"], processor.size["shortest_edge"]) == (2048, 640)
    assert (list(processor.window_size), list(processor.window_stride)) == ([1024, 512], [768, 384])
    assert processor.size_divisor == 32


@pytest.mark.parametrize("config", [None, "model = dict(", "(" * 500, "test_cfg = dict(mode=open('x'))"])
def test_what_the_training_file_does_not_say_is_assumed(config, tmp_path):
    training_file(tmp_path / "w.pth", config, ("too", "few"))
    report = convert(tmp_path / "w.pth", tmp_path / "model")
    assert report.config["id2label"][0] == "LABEL_0"
    assert "images prepared by protocol 'mmseg' (hfvision.processing.protocols) inside 2048x512" in report.assumed


def test_stages_that_are_not_published_need_their_heads_and_strides(tmp_path):
    content = torch.load(GOLDENS / "backbone_features" / "checkpoint.pth", weights_only=True)
    two = {key: tensor for key, tensor in content.items() if re.match("(patch_embed|block|norm)[12]", key)}
    torch.save(two, tmp_path / "two.pth")
    with pytest.raises(ConversionError, match=r"do not show num_attention_heads and strides, .* none of a published"):
        convert(tmp_path / "two.pth", tmp_path / "model")
    overrides = {"num_attention_heads": [1, 2], "strides": [4, 2]}
    report = convert(tmp_path / "two.pth", tmp_path / "model", overrides=overrides)
    assert (report.model_class, report.dropped) == ("SegformerModel", {})
    convert_back(tmp_path / "model", tmp_path / "again.pth")
    assert unequal(read(tmp_path / "two.pth").tensors, read(tmp_path / "again.pth").tensors) == []


def test_every_mismatch_is_in_one_error(tmp_path):
    content = torch.load(GOLDENS / "seg_64" / "checkpoint.pth", weights_only=True)
    weights = content["state_dict"]
    weights["extra"] = torch.ones(1)
    weights["backbone.block1.0.attn.kv.weight"] = torch.ones(15, 8)
    del weights["backbone.norm2.bias"], weights["decode_head.linear_fuse.bn.running_var"]
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ConversionError) as caught:
        convert(tmp_path / "w.pth", tmp_path / "model")
    for line in (
        "extra (1,) in the checkpoint has no rule",
        "backbone.block1.0.attn.kv.weight (15, 8) cannot go through split in 2",
        "the checkpoint lacks backbone.norm2.bias",
        "the checkpoint lacks decode_head.linear_fuse.bn.running_var",
        "read as segformer",
    ):
        assert line in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_published_file_converts_in_shape_both_ways(name):
    manifest = MANIFESTS[name]
    tensors, sizes = meta_tensors(manifest), manifest["config"]
    assert recognise(tensors) is segformer.FORMAT
    plan = segformer.plan(tensors, {}, None)
    got, _, config = convert_tensors(tensors, segformer.FORMAT, plan)
    backbone_only = sizes.get("backbone_only", False)
    assert len(got.dropped) == (0 if backbone_only else 2)
    assert config.architectures == [f"SegformerFor{'ImageClassification' if backbone_only else 'SemanticSegmentation'}"]
    for field, key in (("depths", "depths"), ("hidden_sizes", "hidden_sizes"), ("num_attention_heads", "num_heads"),
                       ("sr_ratios", "sr_ratios"), ("mlp_ratios", "mlp_ratios"), ("patch_sizes", "patch_sizes"),
                       ("strides", "strides")):  # fmt: skip
        assert list(getattr(config, field)) == sizes[key], field
    if not backbone_only:
        assert (config.decoder_hidden_size, config.num_labels) == (sizes["decoder_hidden_size"], sizes["num_classes"])
    back, _ = revert_tensors(got.tensors, config, segformer.FORMAT)
    assert {key: (t.shape, t.dtype) for key, t in back.tensors.items()} == {
        key: (t.shape, t.dtype) for key, t in tensors.items()
    }


def test_the_script_converts_there_and_back(tmp_path, monkeypatch, capsys):
    source = GOLDENS / "backbone_features" / "checkpoint.pth"
    assert "nvlabs_segformer" in run_script("convert_segformer", (source, tmp_path / "model"), monkeypatch, capsys)
    run_script("convert_segformer", (tmp_path / "model", tmp_path / "again.pth"), monkeypatch, capsys)
    one, other = read(source), read(tmp_path / "again.pth")
    assert one.tensors.keys() == other.tensors.keys() and unequal(one.tensors, other.tensors) == []
    assert one.entry is other.entry is None
