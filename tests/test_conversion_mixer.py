"""Mixer checkpoints of google-research/vision_transformer and of timm become models, and come back bit for bit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import hfvision
from hfvision.checkpoints import read
from hfvision.conversion import convert, convert_back, verify
from hfvision.conversion.tables import google_mixer, recognise, timm_mixer
from hfvision.conversion.to_hub import convert_tensors
from hfvision.conversion.to_original import revert_tensors
from hfvision.conversion.verify import load_model, outputs
from hfvision.errors import ConfigError, ConversionError, ImageShapeError, UnknownNameError
from tests.models import tiny_config
from tests.test_conversion import assert_bit_for_bit, meta_tensors, run_script, saved

DATA = Path(__file__).parent / "data"
ROOT = Path(__file__).parents[1]
GOLDEN = DATA / "goldens" / "mixer" / "mixer_square"
MANIFESTS = json.loads((DATA / "manifests" / "mixer.json").read_text(encoding="utf-8"))


def mixer_checkpoint(*, depth=2, width=24, tokens=10, channels_mlp=40, patch=(6, 6), grid=(3, 3), labels=5, channels=3):
    """Random weights under the original's names; labels=None leaves the head out."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator) / (shape[0] ** 0.5 if len(shape) > 1 else 3)

    def dense(name, before, after):
        return {f"{name}/kernel": random(before, after), f"{name}/bias": random(after)}

    def norm(name):
        return {f"{name}/scale": random(width) + 1, f"{name}/bias": random(width)}

    patches = grid[0] * grid[1]
    tensors = {"stem/kernel": random(*patch, channels, width) / 6, "stem/bias": random(width)}
    for i in range(depth):
        block = f"MixerBlock_{i}"
        tensors |= norm(f"{block}/LayerNorm_0") | norm(f"{block}/LayerNorm_1")
        tensors |= dense(f"{block}/token_mixing/Dense_0", patches, tokens)
        tensors |= dense(f"{block}/token_mixing/Dense_1", tokens, patches)
        tensors |= dense(f"{block}/channel_mixing/Dense_0", width, channels_mlp)
        tensors |= dense(f"{block}/channel_mixing/Dense_1", channels_mlp, width)
    return tensors | norm("pre_head_layer_norm") | ({} if labels is None else dense("head", width, labels))


def reference(tensors, pixels):
    """What the original computes, written from its description, in float64. Shapes: B, N, D."""
    weights = {key: value.double() for key, value in tensors.items()}

    def norm(x, name):
        return nn.functional.layer_norm(x, x.shape[-1:], weights[f"{name}/scale"], weights[f"{name}/bias"], 1e-6)

    def mlp(x, name):
        for part in ("Dense_0", "Dense_1"):
            x = x @ weights[f"{name}/{part}/kernel"] + weights[f"{name}/{part}/bias"]
            x = nn.functional.gelu(x, approximate="tanh") if part == "Dense_0" else x
        return x

    kernel = weights["stem/kernel"]
    pads = []
    for side, patch in zip(reversed(pixels.shape[-2:]), reversed(kernel.shape[:2]), strict=True):
        pads += [-side % patch // 2, -side % patch - -side % patch // 2]
    x = nn.functional.pad(pixels.double(), pads)
    x = nn.functional.conv2d(x, kernel.permute(3, 2, 0, 1), stride=kernel.shape[:2]).flatten(2).mT
    x = x + weights["stem/bias"]
    result = {"embeddings": x}
    for i in range(len([key for key in weights if key.endswith("/LayerNorm_0/scale")])):
        block = f"MixerBlock_{i}"
        x = x + mlp(norm(x, f"{block}/LayerNorm_0").mT, f"{block}/token_mixing").mT
        x = result[f"block_{i}"] = x + mlp(norm(x, f"{block}/LayerNorm_1"), f"{block}/channel_mixing")
    x = result["last_hidden_state"] = norm(x, "pre_head_layer_norm")
    x = result["pooler_output"] = x.mean(dim=1)
    return result | ({"logits": x @ weights["head/kernel"] + weights["head/bias"]} if "head/bias" in weights else {})


# --- Google's files -------------------------------------------------------------------------------


def test_the_golden_checkpoint_computes_the_original_outputs_and_comes_back(tmp_path):
    convert(GOLDEN / "checkpoint.npz", tmp_path / "model")
    ours = outputs(load_model(tmp_path / "model"), torch.from_numpy(np.load(GOLDEN / "input.npy")))
    expected = np.load(GOLDEN / "output.npz")
    assert set(expected.files) == {"logits", "block_0", "block_1", "last_hidden_state"}
    for name in expected.files:
        # two float32 computations of the same sums in another order: 2e-5 of the largest value
        theirs = torch.from_numpy(expected[name])
        torch.testing.assert_close(ours[name], theirs, rtol=0, atol=2e-5 * float(theirs.abs().max()), msg=name)
    report = convert_back(tmp_path / "model", tmp_path / "again.npz")
    assert_bit_for_bit(GOLDEN / "checkpoint.npz", tmp_path / "again.npz")
    assert (report.added, report.changed, report.used, report.notes) == ({}, (), report.tensors, ())


VARIANTS = {  # sizes, settings, image size
    "square": ({}, {}, (18, 18)),
    "not square": ({"grid": (2, 3)}, {"image_size": [12, 18]}, (12, 18)),
    "patches not square": ({"patch": (4, 6)}, {}, (12, 18)),
    "partial patches, padded on both sides": ({}, {"image_size": [13, 17]}, (13, 17)),
    "one channel": ({"channels": 1}, {}, (18, 18)),
    "no head": ({"labels": None, "depth": 11}, {}, (18, 18)),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_computes_what_its_description_says_and_comes_back(variant, tmp_path):
    sizes, overrides, size = VARIANTS[variant]
    tensors = mixer_checkpoint(**sizes)
    source = saved(tmp_path, tensors)
    report = convert(source, tmp_path / "model", overrides=overrides)
    assert (report.format, report.model_type) == ("google_mixer", "mlp_mixer")
    pixels = torch.randn(2, sizes.get("channels", 3), *size, generator=torch.Generator().manual_seed(9))
    verify(tmp_path / "model", pixels, reference(tensors, pixels))
    convert_back(tmp_path / "model", tmp_path / "again.npz")
    assert_bit_for_bit(source, tmp_path / "again.npz")


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_published_file_converts_in_shape_both_ways_with_nothing_left_over(name):
    manifest = MANIFESTS[name]
    sizes = manifest["config"]
    tensors = meta_tensors(manifest)
    assert recognise(tensors) is google_mixer.FORMAT
    converted, _, config = convert_tensors(tensors, google_mixer.FORMAT, google_mixer.plan(tensors, {}, None))
    assert (converted.used, converted.dropped, converted.added) == (set(tensors), {}, {})
    assert {
        "image_size": config.image_size,
        "patch_size": [config.patch_size] * 2,
        "hidden_size": config.hidden_size,
        "depth": config.num_hidden_layers,
        "tokens_mlp_dim": config.token_mlp_size,
        "channels_mlp_dim": config.channel_mlp_size,
        "num_classes": config.num_labels,
    } == sizes
    back, _ = revert_tensors(converted.tensors, config, google_mixer.FORMAT)
    assert {key: tuple(tensor.shape) for key, tensor in back.tensors.items()} == {
        key: tuple(tensor.shape) for key, tensor in tensors.items()
    }


def test_the_processor_prepares_images_as_the_original_does(tmp_path):
    convert(GOLDEN / "checkpoint.npz", tmp_path / "model")
    processor = json.loads((tmp_path / "model" / "preprocessor_config.json").read_text())
    assert processor["size"] == {"height": 32, "width": 32}
    assert (processor["image_mean"], processor["image_std"], processor["resample"]) == ([0.5] * 3, [0.5] * 3, 2)


WRONG = {
    "another size": (
        {"image_size": 24},
        None,
        ConversionError,
        "makes 4x4 = 16 patches, and the token MLP",
    ),
    "no size": ({"image_size": "big"}, None, ConfigError, "image_size is a positive number"),
    "contradicts": ({"token_mlp_size": 9}, None, ConversionError, "was set to 9, the tensors say 10"),
    "no such field": ({"num_attention_heads": 2}, None, UnknownNameError, "Known: "),
    "position rule": ({}, "bicubic", ConfigError, "no position table"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_one_error_and_leaves_nothing(name, tmp_path):
    overrides, rule, kind, said = WRONG[name]
    source = saved(tmp_path, mixer_checkpoint())
    with pytest.raises(kind, match=said):
        convert(source, tmp_path / "model", overrides=overrides, position_rule=rule)
    assert [path.name for path in tmp_path.iterdir()] == ["original.npz"]


BROKEN = {
    "missing": (lambda t: t.pop("MixerBlock_1/LayerNorm_1/scale"), "lacks MixerBlock_1/LayerNorm_1/scale"),
    "missing stem": (lambda t: t.pop("stem/kernel"), "lacks stem/kernel"),
    "missing head bias": (lambda t: t.pop("head/bias"), "lacks head/bias"),
    "extra": (lambda t: t.update({"step": torch.zeros(())}), r"step \(\) in the checkpoint has no rule"),
    "another grid": (
        lambda t: t.update({"MixerBlock_0/token_mixing/Dense_1/bias": torch.zeros(4)}),
        r"fc2.bias is \(4,\), the model wants \(9,\)",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_checkpoint_is_one_error_and_leaves_nothing(fault, tmp_path):
    breaks, said = BROKEN[fault]
    tensors = mixer_checkpoint()
    breaks(tensors)
    source = saved(tmp_path, tensors)
    with pytest.raises(ConversionError, match=said):
        convert(source, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["original.npz"]


def test_patches_that_make_no_square_need_the_image_size(tmp_path):
    with pytest.raises(ConversionError, match=r"weights for 6 patches, which make no square.*set image_size"):
        convert(saved(tmp_path, mixer_checkpoint(grid=(2, 3))), tmp_path / "model")


def test_the_script_converts_there_and_back(tmp_path, monkeypatch, capsys):
    def script(*arguments):
        return run_script("convert_google_mixer", arguments, monkeypatch, capsys)

    source = saved(tmp_path, mixer_checkpoint(grid=(2, 3)))
    assert "30 of 30 tensors used" in script(source, tmp_path / "model", "--image-size", "12", "18")
    assert "to original" in script(tmp_path / "model", tmp_path / "again.npz")
    assert_bit_for_bit(source, tmp_path / "again.npz")
    with pytest.raises(SystemExit, match=r"^ConversionError: the token MLP has weights for 6 patches"):
        script(source, tmp_path / "other")


# --- timm's state dicts ---------------------------------------------------------------------------

TIMM_NAMES = (
    ("mixer.", ""),
    ("patch_embedding.projection", "stem.proj"),
    ("layers.", "blocks."),
    ("token_norm", "norm1"),
    ("token_mlp", "mlp_tokens"),
    ("channel_norm", "norm2"),
    ("channel_mlp", "mlp_channels"),
    ("classifier", "head"),
)


def timm_names(model):
    tensors = {}
    for name, tensor in model.state_dict().items():
        for ours, theirs in TIMM_NAMES:
            name = name.replace(ours, theirs)
        tensors[name] = tensor
    return tensors


@torch.no_grad()
@pytest.mark.parametrize("kind", [hfvision.MlpMixerForImageClassification, hfvision.MlpMixerModel])
def test_timm_names_become_a_mixer_and_come_back(kind, tmp_path):
    model = kind(tiny_config("mlp_mixer", hidden_act="gelu")).eval()
    for parameter in model.parameters():
        parameter.normal_(std=0.2)
    torch.save(timm_names(model), tmp_path / "timm.pth")
    report = convert(tmp_path / "timm.pth", tmp_path / "model")
    assert (report.format, report.model_class, report.config["hidden_act"]) == ("timm_mixer", kind.__name__, "gelu")
    again = kind.from_pretrained(tmp_path / "model").eval()
    pixels = torch.randn(2, 3, 32, 32)
    for name, value in model(pixels).items():
        torch.testing.assert_close(again(pixels)[name], value, rtol=0, atol=0)
    convert_back(tmp_path / "model", tmp_path / "again.pth")
    torch.testing.assert_close(read(tmp_path / "again.pth").tensors, timm_names(model), rtol=0, atol=0)
    processor = json.loads((tmp_path / "model" / "preprocessor_config.json").read_text())
    assert (processor["size"], processor["crop_size"]) == ({"shortest_edge": 36}, {"height": 32, "width": 32})


def test_the_two_formats_of_a_mixer_are_told_apart(tmp_path):
    convert(saved(tmp_path, mixer_checkpoint()), tmp_path / "model")
    back = convert_back(tmp_path / "model", tmp_path / "timm.pth", family="timm_mixer")
    assert back.notes == ("the original's code computes with hidden_act = 'gelu', this model with 'gelu_pytorch_tanh'",)
    assert timm_mixer.matches(read(tmp_path / "timm.pth").tensors)
    hfvision.MlpMixerModel(tiny_config("mlp_mixer")).save_pretrained(tmp_path / "never converted")
    assert convert_back(tmp_path / "never converted", tmp_path / "x.npz").format == "google_mixer"  # timm has no .npz
    with pytest.raises(ConversionError, match="several original formats have a place for model_type"):
        convert_back(tmp_path / "never converted", tmp_path / "x")
    model = load_model(tmp_path / "model")
    with pytest.raises(ImageShapeError, match="takes images of 18x18 pixels"):
        model(torch.zeros(1, 3, 24, 24))
