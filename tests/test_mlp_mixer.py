"""MLP-Mixer: it has the patch grid that it was trained with, and says so."""

import json

import pytest
import torch
from torch import nn

import hfvision
from hfvision.errors import ConfigError, ImageShapeError
from tests.models import pixels, tiny_config, tiny_model

EXACT = {"rtol": 0, "atol": 0}
ROUNDING = {"rtol": 0, "atol": 2e-5}  # outputs are of order one; another order of summation moves the last bits


@torch.no_grad()
def test_a_layer_mixes_tokens_then_channels():
    model = tiny_model("mlp_mixer", "AutoModel")
    x, layer = torch.randn(2, 16, 32), model.layers[0]

    def mlp(x, part):
        hidden = nn.functional.gelu(nn.functional.linear(x, part.fc1.weight, part.fc1.bias), approximate="tanh")
        return nn.functional.linear(hidden, part.fc2.weight, part.fc2.bias)

    def norm(x, part):
        return nn.functional.layer_norm(x, (32,), part.weight, part.bias, 1e-6)

    mixed = x + mlp(norm(x, layer.token_norm).transpose(1, 2), layer.token_mlp).transpose(1, 2)
    wanted = mixed + mlp(norm(mixed, layer.channel_norm), layer.channel_mlp)
    torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-4)  # activations of order 10


@torch.no_grad()
def test_the_head_reads_the_mean_of_the_patches():
    model = tiny_model("mlp_mixer")
    trunk = model.mixer(pixels(model.config), output_hidden_states=True)
    assert trunk.last_hidden_state.shape == (2, 16, 32)
    assert [tuple(state.shape) for state in trunk.hidden_states] == [(2, 16, 32)] * 3
    torch.testing.assert_close(trunk.pooler_output, trunk.last_hidden_state.mean(dim=1), **EXACT)
    torch.testing.assert_close(model(pixels(model.config)).logits, model.classifier(trunk.pooler_output), **EXACT)


@pytest.mark.parametrize("size", [(40, 32), (32, 40), (16, 64), (31, 32), (1, 1)])
def test_images_of_another_size_are_refused_with_the_reason_and_the_remedy(size):
    model = tiny_model("mlp_mixer")
    said = rf"takes images of 32x32 pixels, .* each of 4x4 = 16 patches; got {size[0]}x{size[1]}\. Resize the images"
    with pytest.raises(ImageShapeError, match=said):
        model(pixels(model.config, size=size))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"image_size": 48},
            "with patch_size 8x8 makes 6x6 patches, and this Mixer has a weight for each of 4x4",
        ),
        ({"patch_size": 4}, "32x32 with patch_size 4x4 makes 8x8 patches"),
        ({"image_size": 48, "patch_size": 16}, "makes 3x3 patches"),
        ({"image_size": [64, 16], "num_channels": 4}, "64x16 with patch_size 8x8 makes 8x2 patches"),  # 16, elsewhere
    ],
)
def test_another_grid_is_refused_and_nothing_has_changed(change, said, tmp_path):
    model = tiny_model("mlp_mixer")
    model.save_pretrained(tmp_path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for attempt in (model.resize_input, lambda **kw: type(model).from_pretrained(tmp_path, **kw)):
        with pytest.raises(ConfigError, match=said):
            attempt(**change)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert (model.config.image_size, model.config.patch_size, model.config.num_channels) == (32, 8, 3)


@torch.no_grad()
def test_image_and_patch_size_change_together(tmp_path):
    model = tiny_model("mlp_mixer")
    x = pixels(model.config)
    model.save_pretrained(tmp_path)
    larger = hfvision.MlpMixerForImageClassification.from_pretrained(tmp_path, image_size=64, patch_size=16).eval()
    assert (larger.config.image_size, larger.config.patch_size, larger.config.grid) == (64, 16, (4, 4))
    patches = x.unfold(2, 8, 8).unfold(3, 8, 8)  # each patch enlarged by itself, as the kernel was
    enlarged = nn.functional.interpolate(patches.reshape(-1, 1, 8, 8), size=(16, 16), mode="bilinear", antialias=True)
    enlarged = enlarged.reshape(2, 3, 4, 4, 16, 16).transpose(3, 4).reshape(2, 3, 64, 64)
    # the pseudo-inverse is exact up to float32 rounding of the kernel
    torch.testing.assert_close(larger(enlarged).logits, model(x).logits, rtol=0, atol=1e-3)
    larger.save_pretrained(tmp_path / "larger")
    again = hfvision.MlpMixerForImageClassification.from_pretrained(tmp_path / "larger").eval()
    torch.testing.assert_close(again(enlarged).logits, larger(enlarged).logits, **EXACT)


@torch.no_grad()
def test_channels_are_inflated_at_load_and_said(tmp_path, caplog):
    model = tiny_model("mlp_mixer")
    model.save_pretrained(tmp_path)
    x = pixels(model.config)
    wider = hfvision.MlpMixerForImageClassification.from_pretrained(tmp_path, num_channels=6, channel_init="repeat")
    assert "channels became 6 (repeat)" in caplog.text
    torch.testing.assert_close(wider(torch.cat([x, x], dim=1)).logits, model(x).logits, **ROUNDING)


@torch.no_grad()
def test_a_partial_patch_is_padded_on_both_sides():
    model = tiny_model("mlp_mixer", "AutoModel", image_size=[29, 30])
    assert model.config.grid == (4, 4)
    x = pixels(model.config, size=(29, 30))
    padded = nn.functional.pad(x, (1, 1, 1, 2))  # the odd pixel at the end
    tokens = nn.functional.conv2d(padded, model.patch_embedding.projection.weight, stride=8)
    tokens = tokens.flatten(2).mT + model.patch_embedding.projection.bias
    torch.testing.assert_close(model.patch_embedding(x), tokens, **ROUNDING)


def test_names_of_weights_say_what_they_are():
    names = {name for name in tiny_model("mlp_mixer").state_dict() if ".layers." not in name or ".layers.0." in name}
    kinds = [f"mixer.layers.0.{part}" for part in ("token_norm", "channel_norm")]
    kinds += [f"mixer.layers.0.{part}_mlp.{map}" for part in ("token", "channel") for map in ("fc1", "fc2")]
    kinds += ["mixer.patch_embedding.projection", "mixer.norm", "classifier"]
    assert names == {f"{kind}.{part}" for kind in kinds for part in ("weight", "bias")}


def test_the_default_is_mixer_b16(tmp_path):
    with torch.device("meta"):
        model = hfvision.MlpMixerForImageClassification(hfvision.MlpMixerConfig(num_labels=1000))
    assert sum(p.numel() for p in model.parameters()) == 59_880_472  # of the published file
    model.config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "mlp_mixer"


def test_dropout_only_acts_in_training():
    model = tiny_model("mlp_mixer", hidden_dropout_prob=0.5)
    x = pixels(model.config)
    with torch.no_grad():
        assert torch.equal(model(x).logits, model(x).logits)
        model.train()
        assert not torch.equal(model(x).logits, model(x).logits)
    assert tiny_config("mlp_mixer").hidden_dropout_prob == 0.0
