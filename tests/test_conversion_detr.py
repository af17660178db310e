"""Checkpoints of facebookresearch/detr: they compute the same here and come back."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageSegmentation, AutoModelForObjectDetection
from typer.testing import CliRunner

import hfvision
from hfvision.checkpoints import read
from hfvision.cli import build_app
from hfvision.conversion import convert, convert_back, verify
from hfvision.conversion.tables import detr, recognise
from hfvision.conversion.to_hub import convert_tensors, unequal
from hfvision.conversion.to_original import revert_tensors
from hfvision.conversion.verify import tolerance
from hfvision.errors import ConversionError, UnknownNameError
from hfvision.models.detr.config import DetrConfig
from hfvision.models.detr.heads import DetrForObjectDetection
from hfvision.registry import ARCHITECTURES, load
from tests.manifests import meta_tensors
from tests.models import tiny_config

ROOT = Path(__file__).parents[1]
DATA = Path(__file__).parent / "data"
GOLDENS = DATA / "goldens" / "detr"
CASES = sorted(path.name for path in GOLDENS.iterdir())
MANIFESTS = json.loads((DATA / "manifests" / "detr.json").read_text(encoding="utf-8"))


def facts(case):
    return json.loads((GOLDENS / case / "case.json").read_text(encoding="utf-8"))


def not_in_the_file(case):
    """What the tensors do not show."""
    config = facts(case)["config"]
    settings = {"decoder_attention_heads": config["num_heads"], "dilation": config["dilation"]}
    return settings if config["masks"] else {**settings, "encoder_attention_heads": config["num_heads"]}


def converted(tensors, **settings):
    """The model's tensors, its config and its class."""
    plan = detr.plan(tensors, settings, None)
    made, _, config = convert_tensors(tensors, detr.FORMAT, plan)
    return made.tensors, config, load(ARCHITECTURES[plan.model_type].model(plan.auto_class, plan.model_name))


def model_of(tensors, **settings):
    made, config, model_class = converted(tensors, **settings)
    model = model_class(config).eval()
    model.load_state_dict(made)
    model.padding_rule = "seen"  # as in the original
    return model


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_a_golden_checkpoint_computes_the_original_outputs(case):
    model = model_of(read(GOLDENS / case / "checkpoint.pth").tensors, **not_in_the_file(case))
    expected = {name: torch.from_numpy(value) for name, value in np.load(GOLDENS / case / "output.npz").items()}
    x, padding = (torch.from_numpy(np.load(GOLDENS / case / f"{name}.npy")) for name in ("input", "padding_mask"))
    outputs = model(x, pixel_mask=~padding)
    detector = getattr(model, "detr", model)
    inside, features = detector.model.read(x, ~padding)
    grid = features.projected.shape[-2:]
    auxiliary_logits, auxiliary_boxes = detector.predictions(inside.intermediate_hidden_states[:-1])
    ours = {
        "position_embedding": detector.model.position_embedding(grid, features.padding, x).mT.unflatten(2, grid),
        "encoder_memory": inside.encoder_last_hidden_state.mT.unflatten(2, grid),
        "decoder_hidden_states": inside.intermediate_hidden_states,
        "pred_logits": outputs.logits,
        "pred_boxes": outputs.pred_boxes,
        "aux_pred_logits": auxiliary_logits,
        "aux_pred_boxes": auxiliary_boxes,
    }
    stored = sum(name.startswith("backbone_feature_") for name in expected)
    ours |= {f"backbone_feature_{index}": one.values for index, one in enumerate(features.maps[-stored:])}
    if "pred_masks" in expected:
        ours["pred_masks"] = outputs.pred_masks
    rounding = facts(case)["float64_max_abs_diff"]
    for name, values in ours.items():
        wanted = expected.pop(name)
        torch.testing.assert_close(
            values.expand(wanted.shape),
            wanted,
            rtol=0,
            atol=tolerance(wanted, rounding[name]),
            msg=lambda m, n=name: f"{n}: {m}",
        )
    ours_padding = torch.zeros(()) if features.padding is None else features.padding[:, 0]
    assert torch.equal(ours_padding.expand(expected["feature_mask"].shape).bool(), expected.pop("feature_mask").bool())
    # What is left belongs to the loss and to the processor.
    assert {name.split("_")[0] for name in expected} <= {
        "post",
        "panoptic",
        "loss/loss",
        "loss/class",
        "loss",
        "match",
    } | {"loss/cardinality"}


@pytest.mark.parametrize("case", CASES)
def test_a_golden_checkpoint_comes_back_bit_for_bit(case):
    checkpoint = read(GOLDENS / case / "checkpoint.pth")
    assert recognise(checkpoint.tensors, entry=checkpoint.entry) is detr.FORMAT
    tensors, config, _ = converted(checkpoint.tensors, **not_in_the_file(case))
    back, _ = revert_tensors(tensors, config, detr.FORMAT)
    assert back.tensors.keys() == checkpoint.tensors.keys() and unequal(checkpoint.tensors, back.tensors) == []


@pytest.mark.parametrize("by_timm", [True, False])
@pytest.mark.parametrize("name", MANIFESTS)
def test_every_published_file_converts_in_shape_and_back(name, by_timm):
    manifest = MANIFESTS[name]
    stored, told = meta_tensors(manifest), manifest["config"]
    said = {"dilation": "dc5" in manifest["file"]}
    plan = detr.plan(stored, {"use_timm_backbone": by_timm}, None, said)
    made, _, config = convert_tensors(stored, detr.FORMAT, plan)
    assert config.model_type == ("facebook_detr" if told["dilation"] and not by_timm else "detr")
    assert (config.dilation, config.d_model, config.num_queries) == (
        told["dilation"],
        told["d_model"],
        told["num_queries"],
    )
    assert (config.num_labels, config.encoder_layers) == (told["num_classes"], told["encoder_layers"])
    assert (config.id2label[1], config.id2label[12], config.id2label[90]) == ("person", "N/A", "toothbrush")
    if by_timm:
        assert config.backbone_config.backbone == told["backbone"]
    assert any("dilation" in line for line in plan.assumed)
    back, _ = revert_tensors(made.tensors, config, detr.FORMAT)
    assert {key: tensor.shape for key, tensor in back.tensors.items()} == {
        key: tensor.shape for key, tensor in stored.items()
    }


@torch.no_grad()
@pytest.mark.parametrize("dilation", [False, True])
def test_both_layouts_of_the_trunk_compute_the_same(dilation):
    config = DetrConfig(
        backbone="resnet18", **{"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 3}
    )
    torch.manual_seed(0)
    model = DetrForObjectDetection(config)
    for name, buffer in model.named_buffers():
        buffer.uniform_(0.5, 1.5) if name.endswith(("running_var", "weight")) else buffer.normal_(std=0.1)
    original = revert_tensors(model.state_dict(), model.config, detr.FORMAT)[0].tensors
    settings = {"encoder_attention_heads": 8, "decoder_attention_heads": 8, "dilation": dilation}
    timm, hub = (model_of(original, use_timm_backbone=by_timm, **settings) for by_timm in (True, False))
    assert "detr" in (timm.config.model_type, hub.config.model_type)
    x = torch.randn(2, 3, 70, 64, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 70, 64)
    mask[1, 40:] = 0
    for one, other in zip(timm.model.read(x, mask)[1].maps, hub.model.read(x, mask)[1].maps, strict=True):
        torch.testing.assert_close(one.values, other.values)
    places = timm.model.read(x, mask)[1].projected.shape[-2:]
    assert places == ((5, 4) if dilation else (3, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_queries": 3}, "num_queries was set to 3, the tensors say 9"),
        ({"use_timm_backbone": True}, r"trunks that timm has by a name, resnet18, .* stages of \[1, 1, 1, 2\] blocks"),
    ],
)
def test_settings_that_the_tensors_contradict_are_refused(settings, message):
    with pytest.raises(ConversionError, match=message):
        converted(read(GOLDENS / "padded_batch" / "checkpoint.pth").tensors, **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_embed.bias": None}, "the checkpoint lacks class_embed.bias"),
        ({"backbone.0.body.layer2.0.conv1.weight": torch.zeros(3)}, "layer.0.convolution.weight is"),
        ({"transformer.level_embed": torch.zeros(4, 32)}, "transformer.level_embed .* has no rule"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_the_names_of_its_tensors(change, message):
    tensors = {**read(GOLDENS / "padded_batch" / "checkpoint.pth").tensors, **change}
    with pytest.raises(ConversionError, match=message):
        converted({key: tensor for key, tensor in tensors.items() if tensor is not None})


def test_models_that_the_original_cannot_say_are_refused():
    swin = {**ARCHITECTURES["swin"].tiny, "model_type": "swin", "out_features": ["stage1", "stage2"]}
    moved = {**ARCHITECTURES["detr"].tiny["backbone_config"], "downsample_in_bottleneck": True}
    for trunk, message in ((swin, "model_type 'swin'"), (moved, "another placing of strides")):
        config = tiny_config("detr", backbone_config=trunk)
        with pytest.raises(ConversionError, match=message):
            detr.plan_back(config, ["class_labels_classifier.weight"])
    with pytest.raises(ConversionError, match="this model has no heads"):
        detr.plan_back(tiny_config("detr"), ["input_projection.weight"])


def test_the_way_back_says_what_the_original_computes_otherwise():
    keys = ["class_labels_classifier.weight"]
    assert detr.plan_back(tiny_config("detr"), keys).notes == ()
    (note,) = detr.plan_back(tiny_config("detr", auxiliary_loss=True), keys).notes
    assert "a norm between the decoder's layers" in note


# --- folders --------------------------------------------------------------------------------------


def assert_bit_for_bit(wanted, path):
    got = read(path)
    assert got.entry == "model" and got.tensors.keys() == wanted.keys() and unequal(wanted, got.tensors) == []


def golden_outputs(case):
    """Expected values by the names of `verify`, their rounding, and the inputs."""
    names = {"pred_logits": "logits", "pred_boxes": "pred_boxes", "pred_masks": "pred_masks"}
    stored = np.load(GOLDENS / case / "output.npz")
    expected = {ours: stored[theirs] for theirs, ours in names.items() if theirs in stored}
    rounding = {ours: facts(case)["float64_max_abs_diff"][theirs] for theirs, ours in names.items() if theirs in stored}
    x, padding = (torch.from_numpy(np.load(GOLDENS / case / f"{name}.npy")) for name in ("input", "padding_mask"))
    return expected, rounding, x, ~padding


@pytest.mark.parametrize("case", CASES)
def test_a_golden_file_becomes_a_folder_that_computes_the_same_and_a_file_again(case, tmp_path):
    source, folder = GOLDENS / case / "checkpoint.pth", tmp_path / "model"
    report = convert(source, folder, overrides=not_in_the_file(case))
    masks, ours = facts(case)["config"]["masks"], facts(case)["config"]["pre_norm"] or not_in_the_file(case)["dilation"]
    assert set(report.files) >= {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
    assert (report.used, report.dropped) == (report.tensors, {})
    auto_class = AutoModelForImageSegmentation if masks else AutoModelForObjectDetection
    model, loading = auto_class.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()) and type(model).__name__ == report.model_class
    assert model.config.model_type == ("facebook_detr" if ours else "detr")
    expected, rounding, x, mask = golden_outputs(case)
    assert set(verify(folder, x, expected, rounding, pixel_mask=mask)) == set(expected)
    processor = AutoImageProcessor.from_pretrained(folder)
    assert type(processor) is hfvision.DetrImageProcessor
    assert dict(processor.size) == {"shortest_edge": 800, "longest_edge": 1333}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"pipeline_tag: {'image-segmentation' if masks else 'object-detection'}" in card
    assert "short side 800, long side at most 1333" in card
    convert_back(folder, tmp_path / "again.pth")
    assert_bit_for_bit(read(source).tensors, tmp_path / "again.pth")


def test_a_folder_that_computes_something_else_does_not_verify(tmp_path):
    case = "padded_batch"
    convert(GOLDENS / case / "checkpoint.pth", tmp_path / "model", overrides={"encoder_attention_heads": 8})
    expected, rounding, x, mask = golden_outputs(case)
    with pytest.raises(UnknownNameError, match="no output pred_logits; it has logits, pred_boxes"):
        verify(tmp_path / "model", x, {"pred_logits": expected["logits"]}, rounding, pixel_mask=mask)
    with pytest.raises(ConversionError, match=r"logits differs by .*, allowed is"):
        verify(tmp_path / "model", x, expected, rounding)  # without the mask of the padding


@pytest.mark.parametrize("count", sorted(detr.LABELS))
def test_published_class_counts_get_their_names_in_config_and_card(count, tmp_path):
    tensors = read(GOLDENS / "padded_batch" / "checkpoint.pth").tensors
    width = tensors["class_embed.weight"].shape[1]
    tensors |= {"class_embed.weight": torch.randn(count + 1, width), "class_embed.bias": torch.randn(count + 1)}
    torch.save({"model": tensors}, tmp_path / "detr.pth")
    convert(tmp_path / "detr.pth", tmp_path / "model")
    config = AutoConfig.from_pretrained(tmp_path / "model")
    assert (config.num_labels, config.id2label[1], config.id2label[12]) == (count, "person", "N/A")
    assert config.label2id["toothbrush"] == 90
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert f"{count} labels" in card and "person, bicycle, car" in card


def test_the_command_and_the_script_convert_there_and_back(tmp_path, monkeypatch, capsys):
    source = GOLDENS / "dc5" / "checkpoint.pth"
    heads = facts("dc5")["config"]["num_heads"]
    options = [f"--set={part}_attention_heads={heads}" for part in ("encoder", "decoder")]
    runner = CliRunner()
    done = runner.invoke(build_app(), ["convert", str(source), str(tmp_path / "one"), "--set=dilation=true", *options])
    assert done.exit_code == 0, done.output
    assert "FacebookDetrForObjectDetection" in done.stderr
    done = runner.invoke(build_app(), ["convert", str(tmp_path / "one"), str(tmp_path / "one.pth"), "--to", "original"])
    assert done.exit_code == 0, done.output

    def script(*arguments):
        monkeypatch.setattr(sys, "argv", ["convert_detr", *map(str, arguments)])
        runpy.run_path(str(ROOT / "conversion_scripts" / "convert_detr.py"), run_name="__main__")
        return capsys.readouterr().out

    named = tmp_path / "detr-dc5.pth"  # the name says that the last stage is dilated
    named.write_bytes(source.read_bytes())
    assert "dilation = True" in script(named, tmp_path / "other", "--heads", heads)
    assert "to original" in script(tmp_path / "other", tmp_path / "other.pth")
    for path in (tmp_path / "one.pth", tmp_path / "other.pth"):
        assert_bit_for_bit(read(source).tensors, path)
    configs = [json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("one", "other")]
    assert configs[0] == configs[1] and configs[0]["encoder_attention_heads"] == heads
    with pytest.raises(SystemExit, match=r"no config field .*image_size"):
        script(named, tmp_path / "third", "--image-size", "64")
