"""Checkpoints of facebookresearch/detr: they compute the same here and come back."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hfvision.conversion.sources import read
from hfvision.conversion.tables import detr, recognise
from hfvision.conversion.to_hub import convert_tensors, unequal
from hfvision.conversion.to_original import revert_tensors
from hfvision.conversion.verify import tolerance
from hfvision.errors import ConversionError
from hfvision.models.detr_config import DetrConfig
from hfvision.models.detr_heads import DetrForObjectDetection
from hfvision.registry import ARCHITECTURES, load
from tests.manifests import meta_tensors
from tests.models import tiny_config

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
    made, _, config = convert_tensors(stored, detr.FORMAT, plan, plan.labels)
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
