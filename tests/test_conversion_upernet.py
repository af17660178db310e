"""Files of Swin-Transformer-Semantic-Segmentation: the same numbers here, their losses too, and back bit for bit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import hfvision
from hfvision.checkpoints import read
from hfvision.conversion import convert, convert_back
from hfvision.conversion.tables import recognise, upernet
from hfvision.conversion.to_hub import convert_tensors, unequal
from hfvision.conversion.to_original import revert_tensors
from hfvision.conversion.verify import tolerance
from hfvision.errors import ConversionError
from hfvision.losses.segmentation import SegmentationLoss
from hfvision.models.upernet import UperNetForSemanticSegmentation
from tests.manifests import meta_tensors

DATA = Path(__file__).parent / "data"
GOLDENS = DATA / "goldens" / "upernet"
CASES = sorted(path.name for path in GOLDENS.iterdir())
MANIFESTS = json.loads((DATA / "manifests" / "upernet.json").read_text(encoding="utf-8"))


def loaded(case, name):
    return torch.from_numpy(np.load(GOLDENS / case / f"{name}.npy"))


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_golden_checkpoint_computes_the_original_outputs_and_losses(case, tmp_path):
    rounding = json.loads((GOLDENS / case / "case.json").read_text())["float64_max_abs_diff"]
    assert convert(GOLDENS / case / "checkpoint.pth", tmp_path / "model").format == "swin_upernet"
    model = UperNetForSemanticSegmentation.from_pretrained(tmp_path / "model").eval()
    model.pixel_loss = SegmentationLoss(average="all")
    pixels, labels = loaded(case, "input"), loaded(case, "labels")
    answer, upsampling = model(pixels, labels=labels), model.upsampling(tuple(pixels.shape[-2:]))
    (auxiliary,) = answer.auxiliary_logits
    found = {f"stage{number + 1}": one for number, one in enumerate(model.backbone(pixels).feature_maps)} | {
        "logits": answer.logits,
        "head_logits": model(pixels, upsample=False).logits,
        "aux_logits": auxiliary,
        "loss/decode.loss_seg": model.pixel_loss(answer.logits, labels, upsampling),
        "loss/aux.loss_seg": model.auxiliary_loss_weight * model.pixel_loss(auxiliary, labels, upsampling),
    }
    torch.testing.assert_close(answer.loss, found["loss/decode.loss_seg"] + found["loss/aux.loss_seg"])
    expected = np.load(GOLDENS / case / "output.npz")
    for name in (name for name in expected.files if not name.endswith("acc_seg") and name != "seg_map"):
        theirs = torch.from_numpy(expected[name])
        torch.testing.assert_close(found[name], theirs, rtol=0, atol=tolerance(theirs, rounding[name]), msg=name)


@pytest.mark.parametrize("case", CASES)
def test_a_golden_checkpoint_comes_back_bit_for_bit_window_indices_included(case, tmp_path):
    there = convert(GOLDENS / case / "checkpoint.pth", tmp_path / "model")
    convert_back(tmp_path / "model", tmp_path / "again.pth")
    original, again = read(GOLDENS / case / "checkpoint.pth"), read(tmp_path / "again.pth")
    assert all(key.endswith("relative_position_index") for key in there.dropped) and there.dropped
    assert again.tensors.keys() == original.tensors.keys() and again.entry == "state_dict"
    assert unequal(original.tensors, again.tensors) == []


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_published_file_converts_in_shape_and_back(name):
    tensors, facts = meta_tensors(MANIFESTS[name]), MANIFESTS[name]["config"]
    assert recognise(tensors) is upernet.FORMAT
    plan = upernet.plan(tensors, {}, None)
    converted, _, config = convert_tensors(tensors, upernet.FORMAT, plan)
    trunk = config.backbone_config
    for field in ("embed_dim", "depths", "num_heads", "window_size", "mlp_ratio", "qkv_bias", "patch_size"):
        assert getattr(trunk, field) == facts[field], field
    assert (config.hidden_size, config.auxiliary_channels) == (facts["decoder_channels"], facts["aux_channels"])
    assert (config.num_labels, config.pool_scales) == (facts["num_classes"], facts["pool_scales"])
    assert plan.preprocessing["size"] == {"shortest_edge": 512, "longest_edge": 2048}
    back, _ = revert_tensors(converted.tensors, config, upernet.FORMAT)
    assert {key: (t.shape, t.dtype) for key, t in back.tensors.items()} == {
        key: (t.shape, t.dtype) for key, t in tensors.items()
    }


@torch.no_grad()
def test_plain_transformers_computes_the_same_from_the_same_folder(tmp_path):
    convert(GOLDENS / "swin_upernet_odd" / "checkpoint.pth", tmp_path / "model")
    ours = UperNetForSemanticSegmentation.from_pretrained(tmp_path / "model").eval()
    hfvision.unregister()
    try:
        peer, loading = transformers.UperNetForSemanticSegmentation.from_pretrained(
            tmp_path / "model", output_loading_info=True
        )
    finally:
        hfvision.register()
    assert not any(loading.values())
    pixels = loaded("swin_upernet_odd", "input")
    theirs = peer.eval()(pixels).logits
    torch.testing.assert_close(ours(pixels).logits, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


@torch.no_grad()
def test_a_position_table_and_an_auxiliary_head_that_sees_its_input_twice_convert_both_ways(tmp_path):
    weights = dict(read(GOLDENS / "swin_upernet_odd" / "checkpoint.pth").tensors)
    generator = torch.Generator().manual_seed(0)
    weights["backbone.absolute_pos_embed"] = torch.randn(1, 8, 4, 6, generator=generator)
    weights |= {
        key.replace("convs.0", "conv_cat"): tensor.repeat(1, 2, 1, 1)[:, :42] if tensor.ndim == 4 else tensor.clone()
        for key, tensor in weights.items()
        if key.startswith("auxiliary_head.convs.0.")
    }
    torch.save({"state_dict": weights}, tmp_path / "file.pth")
    report = convert(tmp_path / "file.pth", tmp_path / "model")
    trunk = report.config["backbone_config"]
    assert (trunk["use_absolute_embeddings"], trunk["image_size"]) == (True, [16, 24])
    assert report.config["auxiliary_concat_input"]
    table = UperNetForSemanticSegmentation.from_pretrained(tmp_path / "model").backbone.embeddings.position_embeddings
    assert torch.equal(table[0, 7], weights["backbone.absolute_pos_embed"][0, :, 1, 1])
    convert_back(tmp_path / "model", tmp_path / "again.pth")
    assert unequal(weights, read(tmp_path / "again.pth").tensors) == []


def test_a_trunk_without_a_norm_of_patches_converts_both_ways(tmp_path):
    weights = dict(read(GOLDENS / "swin_upernet_odd" / "checkpoint.pth").tensors)
    weights = {key: tensor for key, tensor in weights.items() if ".patch_embed.norm." not in key}
    torch.save({"state_dict": weights}, tmp_path / "file.pth")
    report = convert(tmp_path / "file.pth", tmp_path / "model")
    assert report.config["backbone_config"]["model_type"] == "microsoft_swin"
    convert_back(tmp_path / "model", tmp_path / "again.pth")
    assert unequal(weights, read(tmp_path / "again.pth").tensors) == []


def test_a_window_index_that_is_not_the_originals_is_not_dropped(tmp_path):
    weights = dict(read(GOLDENS / "swin_upernet_odd" / "checkpoint.pth").tensors)
    weights["backbone.layers.1.blocks.1.attn.relative_position_index"] += 1
    torch.save({"state_dict": weights}, tmp_path / "file.pth")
    message = r"layers\.1\.blocks\.1\.attn\.relative_position_index does not follow from"
    with pytest.raises(ConversionError, match=message):
        convert(tmp_path / "file.pth", tmp_path / "model")


def test_what_the_tensors_do_not_show_can_be_set(tmp_path):
    settings = {"pool_scales": [1, 2, 4, 8], "image_size": 64}
    report = convert(GOLDENS / "swin_upernet_odd" / "checkpoint.pth", tmp_path / "model", overrides=settings)
    assert (report.config["pool_scales"], report.config["backbone_config"]["image_size"]) == ([1, 2, 4, 8], 64)
    assert not any(line.startswith(("pool_scales", "image_size")) for line in report.assumed)
    back = convert_back(tmp_path / "model", tmp_path / "again.pth")
    assert back.notes == ("the original's code computes with pool_scales = [1, 2, 3, 6], this model with [1, 2, 4, 8]",)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({}, {"pool_scales": [1, 2]}, "the checkpoint pools 4 maps; pool_scales says"),
        ({"decode_head.bottleneck.bn.weight": None}, {}, "the checkpoint lacks decode_head.bottleneck.bn.weight"),
        ({"backbone.layers.0.extra": torch.zeros(3)}, {}, r"backbone.layers.0.extra \(3,\) in the checkpoint has no"),
        ({"auxiliary_head.convs.0.conv.weight": torch.zeros(10, 16, 3, 3)}, {}, "reads a map of 16 channels; in"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_nothing_written(change, settings, message, tmp_path):
    weights = read(GOLDENS / "swin_upernet_odd" / "checkpoint.pth").tensors | change
    weights = {key: tensor for key, tensor in weights.items() if tensor is not None}
    torch.save({"meta": {}, "state_dict": weights}, tmp_path / "file.pth")
    with pytest.raises(ConversionError, match=message):
        convert(tmp_path / "file.pth", tmp_path / "model", overrides=settings)
    assert [path.name for path in tmp_path.iterdir()] == ["file.pth"]


def test_another_trunk_does_not_go_into_the_original_format(tmp_path):
    trunk = hfvision.ViTConfig(
        hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8, out_indices=[1, 2, 3]
    )
    config = hfvision.UperNetConfig(backbone_config=trunk, hidden_size=8, auxiliary_channels=4)
    UperNetForSemanticSegmentation(config).save_pretrained(tmp_path / "model")
    with pytest.raises(ConversionError, match="model_type 'vit' and gives stage1, stage2, stage3"):
        convert_back(tmp_path / "model", tmp_path / "again.pth")
