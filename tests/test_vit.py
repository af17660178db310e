"""ViT: what is its own beside the suites over the registry and over shared file formats."""

import json
from pathlib import Path

import pytest
import torch

import hfvision
from hfvision.errors import ConfigError, ImageShapeError
from tests.models import pixels, tiny_config, tiny_model
from tests.peers import assert_same_outputs, call, peer_model

DATA = Path(__file__).parent / "data"


def test_the_own_size_with_a_partial_patch_drops_it_as_the_original(tmp_path):
    peer = peer_model("ViTForImageClassification", image_size=36)
    peer.save_pretrained(tmp_path)
    ours = hfvision.ViTForImageClassification.from_pretrained(tmp_path).eval()
    x = pixels(ours.config, size=(36, 36))
    assert_same_outputs(call(ours, x), call(peer, x))


def test_interpolation_can_be_forbidden():
    model = tiny_model("vit")
    with pytest.raises(ImageShapeError, match="have the checkpoint's size 32x32; got 40x32"):
        model(pixels(model.config, size=(40, 32)), interpolate_pos_encoding=False)
    model(pixels(model.config), interpolate_pos_encoding=False)


@pytest.mark.parametrize("name", ["vit_Model", "vit_ForImageClassification", "vit_ForMaskedImageModeling"])
def test_names_and_shapes_are_those_of_the_hubs_files(name):
    wanted = json.loads((DATA / "hub_format" / f"{name}.json").read_text())
    model = getattr(hfvision, wanted["class"])(hfvision.ViTConfig(**wanted["config"]))
    assert {key: list(tensor.shape) for key, tensor in model.state_dict().items()} == wanted["tensors"]


def test_a_trunk_loads_from_a_classifiers_file_and_the_other_way_round(tmp_path):
    classifier = tiny_model("vit")
    classifier.save_pretrained(tmp_path / "classifier")
    trunk = hfvision.ViTModel.from_pretrained(tmp_path / "classifier", add_pooling_layer=False).eval()
    x = pixels(trunk.config)
    with torch.no_grad():
        tokens = trunk(x).last_hidden_state
        torch.testing.assert_close(classifier.classifier(tokens[:, 0]), classifier(x).logits, rtol=0, atol=0)
    trunk.save_pretrained(tmp_path / "trunk")
    head = hfvision.ViTForImageClassification.from_pretrained(tmp_path / "trunk", num_labels=9)
    assert torch.equal(head.vit.layernorm.weight, classifier.vit.layernorm.weight)


def test_training_options_never_reach_the_file(tmp_path):
    model = hfvision.ViTForImageClassification(tiny_config("vit", drop_path_rate=0.3))
    assert model.vit.encoder.layer[-1].drop_path.rate == 0.3
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert not {"drop_path_rate", "stage_names", "out_features", "out_indices"} & set(written)


def test_a_backbone_gives_maps_of_the_chosen_blocks(tmp_path):
    config = tiny_config("vit", out_features=["stage1", "stage3"])
    backbone = hfvision.ViTBackbone(config).eval()
    x = pixels(config, size=(48, 33))
    with torch.no_grad():
        outputs = backbone(x, output_hidden_states=True)
    assert [tuple(m.shape) for m in outputs.feature_maps] == [(2, 32, 6, 5)] * 2
    tokens = backbone.layernorm(outputs.hidden_states[1])[:, 1:]
    torch.testing.assert_close(outputs.feature_maps[0].flatten(2).mT, tokens, rtol=0, atol=0)
    backbone.save_pretrained(tmp_path)
    assert hfvision.ViTBackbone.from_pretrained(tmp_path).out_features == ["stage1", "stage3"]


def test_the_masked_image_loss_counts_hidden_pixels_alone():
    model = tiny_model("vit", "AutoModelForMaskedImageModeling")
    x = pixels(model.config, size=(36, 40))  # padded to 40 x 40: 5 x 5 patches
    hidden = torch.zeros(2, 25, dtype=torch.bool)
    hidden[:, 0] = True
    with torch.no_grad():
        outputs = model(x, bool_masked_pos=hidden)
    assert outputs.reconstruction.shape == x.shape
    error = (outputs.reconstruction - x)[..., :8, :8].abs().mean()
    torch.testing.assert_close(outputs.loss, error, rtol=1e-5, atol=0)  # the 1e-5 in the loss's divisor
    with pytest.raises(ImageShapeError, match=r"\(2, 16\) for these images; got \(2, 25\)"):
        model(pixels(model.config), bool_masked_pos=hidden)
    model.config.encoder_stride = 16
    with pytest.raises(ConfigError, match="encoder_stride equal to patch_size 8x8"):
        model(x, bool_masked_pos=hidden)
    with pytest.raises(ConfigError, match="use_mask_token=True"):
        tiny_model("vit", "AutoModel")(pixels(model.config), bool_masked_pos=torch.zeros(2, 16))


@torch.no_grad()
def test_a_token_that_is_masked_from_attention_changes_nothing():
    model = tiny_model("vit", "AutoModel")
    x = pixels(model.config)
    other = x.clone()
    other[..., -8:, -8:] = 3.0  # the last patch
    seen = torch.ones(2, 17)
    seen[:, -1] = 0
    for options in ({}, {"output_attentions": True}):  # sdpa, then eager for that call
        got = model(other, attention_mask=seen, **options).last_hidden_state[:, :-1]
        wanted = model(x, attention_mask=seen, **options).last_hidden_state[:, :-1]
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_larger_patch_paints_and_reads_the_same_picture():
    """The decoder follows patch_size, so that a masked-image model stays trainable after the change."""
    model = tiny_model("vit", "AutoModelForMaskedImageModeling")
    model.resize_input(patch_size=16, num_channels=1)
    assert model.config.encoder_stride == 16
    outputs = model(pixels(model.config), bool_masked_pos=torch.ones(2, 4))
    assert outputs.reconstruction.shape == (2, 1, 32, 32) and outputs.loss.isfinite()
    with pytest.raises(ConfigError, match="paints square patches; got patch_size 8x16"):
        model.resize_input(patch_size=[8, 16])
