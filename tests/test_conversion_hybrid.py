"""Hybrid ViT checkpoints of google-research/vision_transformer and of timm become models, and come back bit for bit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import hfvision
from hfvision.checkpoints import read
from hfvision.conversion import convert, convert_back, verify
from hfvision.conversion.tables import google_hybrid, recognise, timm_hybrid
from hfvision.conversion.to_hub import convert_tensors
from hfvision.conversion.to_original import revert_tensors
from hfvision.conversion.verify import load_model, outputs, tolerance
from hfvision.errors import ConfigError, ConversionError, UnknownNameError
from tests.test_conversion import assert_bit_for_bit, google_checkpoint, meta_tensors, reference, run_script, saved

DATA = Path(__file__).parent / "data"
ROOT = Path(__file__).parents[1]
GOLDENS = sorted(path.name for path in (DATA / "goldens" / "hybrid").iterdir())
MANIFESTS = json.loads((DATA / "manifests" / "hybrid.json").read_text(encoding="utf-8"))


def golden(case):
    folder = DATA / "goldens" / "hybrid" / case
    expected = {name: torch.from_numpy(value) for name, value in np.load(folder / "output.npz").items()}
    return folder / "checkpoint.npz", torch.from_numpy(np.load(folder / "input.npy")), expected


def hybrid_checkpoint(*, depths=(1, 2), root=32, channels=3, patch=(1, 1), seed=0, **encoder):
    """Random weights under the original's names; `encoder` as in `google_checkpoint`."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=generator)

    def norm(name, width):
        return {f"{name}/scale": random(1, 1, 1, width) / 4 + 1, f"{name}/bias": random(1, 1, 1, width) / 4}

    tensors = {"conv_root/kernel": random(7, 7, channels, root)} | norm("gn_root", root)
    inputs = root
    for stage, depth in enumerate(depths):
        middle = root * 2**stage
        for number in range(depth):
            unit = f"block{stage + 1}/unit{number + 1}"
            convolutions = {
                "conv1": (1, inputs, middle),
                "conv2": (3, middle, middle),
                "conv3": (1, middle, 4 * middle),
            }
            if number == 0:
                convolutions["conv_proj"] = (1, inputs, 4 * middle)
            for name, (size, before, after) in convolutions.items():
                tensors[f"{unit}/{name}/kernel"] = random(size, size, before, after)
                tensors |= norm(f"{unit}/{name.replace('conv', 'gn')}", after)
            inputs = 4 * middle
    return tensors | google_checkpoint(channels=inputs, patch=patch, seed=seed + 1, **encoder)


def backbone_reference(tensors, pixels):
    """The feature map that the original computes, written from its description, in float64."""
    weights = {key: value.double() for key, value in tensors.items()}

    def same(x, size, stride, value=0.0):
        pads = []
        for side in reversed(x.shape[-2:]):
            total = max((-(-side // stride) - 1) * stride + size - side, 0)
            pads += [total // 2, total - total // 2]
        return nn.functional.pad(x, pads, value=value)

    def conv(x, name, stride=1):
        kernel = weights[f"{name}/kernel"].permute(3, 2, 0, 1)
        mean = kernel.mean(dim=(1, 2, 3), keepdim=True)
        deviation = (kernel - mean).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        kernel = (kernel - mean) / (deviation + 1e-5)
        return nn.functional.conv2d(same(x, kernel.shape[-1], stride), kernel, stride=stride)

    def norm(x, name):
        scale, bias = (weights[f"{name}/{part}"].flatten() for part in ("scale", "bias"))
        return nn.functional.group_norm(x, 32, scale, bias, eps=1e-6)

    x = norm(conv(pixels.double(), "conv_root", 2), "gn_root").relu()
    x = nn.functional.max_pool2d(same(x, 3, 2, -torch.inf), 3, 2)
    for key in tensors:
        if key.startswith("block") and key.endswith("/conv1/kernel"):
            unit = key.removesuffix("/conv1/kernel")
            stride = 2 if unit.endswith("unit1") and not unit.startswith("block1/") else 1
            projects = f"{unit}/conv_proj/kernel" in tensors
            shortcut = norm(conv(x, f"{unit}/conv_proj", stride), f"{unit}/gn_proj") if projects else x
            x = norm(conv(x, f"{unit}/conv1"), f"{unit}/gn1").relu()
            x = norm(conv(x, f"{unit}/conv2", stride), f"{unit}/gn2").relu()
            x = (norm(conv(x, f"{unit}/conv3"), f"{unit}/gn3") + shortcut).relu()
    return x


# --- Google's files -------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("case", GOLDENS)
def test_a_golden_checkpoint_computes_the_original_outputs(case, tmp_path):
    checkpoint, pixels, expected = golden(case)
    convert(checkpoint, tmp_path / "model")
    model = load_model(tmp_path / "model")
    ours = outputs(model, pixels)
    ours["pooled"] = ours["last_hidden_state"][:, 0]
    bit = model.base_model.embeddings.patch_embeddings.backbone.bit
    stem = bit.embedder
    ours["gn_root"] = stem.norm(stem.convolution(pixels))
    x = stem(pixels)
    for number, stage in enumerate(bit.encoder.stages):
        x = ours[f"resnet_block{number + 1}"] = stage(x)
    for name, theirs in expected.items():
        # two float32 computations of the same sums in another order: 2e-5 of the largest value
        torch.testing.assert_close(ours[name], theirs, rtol=0, atol=2e-5 * float(theirs.abs().max()), msg=name)


@pytest.mark.parametrize("case", GOLDENS)
def test_a_golden_checkpoint_comes_back_bit_for_bit(case, tmp_path):
    checkpoint, _, _ = golden(case)
    convert(checkpoint, tmp_path / "model")
    report = convert_back(tmp_path / "model", tmp_path / "again.npz")
    assert_bit_for_bit(checkpoint, tmp_path / "again.npz")
    assert (report.added, report.changed, report.used, report.notes) == ({}, (), report.tensors, ())


VARIANTS = {  # sizes, settings, classifier, image size
    "even": ({"grid": (4, 4)}, {}, "token", 32),
    "odd sizes": ({"grid": (5, 5)}, {"image_size": 37}, "token", 37),
    "not square": ({"grid": (3, 5)}, {"image_size": [24, 40]}, "token", (24, 40)),
    "patches of the stem": ({"depths": (), "patch": (2, 2), "grid": (4, 4)}, {}, "token", 32),
    "patches that are partial": ({"depths": (), "patch": (2, 2)}, {"image_size": 27}, "token", 27),
    "one channel": ({"channels": 1, "grid": (4, 4)}, {}, "token", 32),
    "trained head behind pre_logits": ({"pre_logits": 10, "grid": (4, 4)}, {}, "token", 32),
    "mean of the patches": ({"cls": False, "grid": (4, 4)}, {}, "gap", 32),
    "no head": ({"labels": None, "grid": (4, 4)}, {}, "token", 32),
    "zero head": ({"pre_logits": 9, "zero_head": True, "grid": (4, 4)}, {}, "token", 32),
    "three stages": ({"depths": (1, 1, 2), "grid": (2, 2)}, {}, "token", 32),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_computes_what_its_description_says_and_comes_back(variant, tmp_path):
    sizes, overrides, classifier, size = VARIANTS[variant]
    tensors = hybrid_checkpoint(**sizes)
    source = saved(tmp_path, tensors)
    report = convert(source, tmp_path / "model", overrides=overrides)
    assert (report.model_type, report.format) == ("google_vit_hybrid", "google_hybrid")
    size = (size, size) if isinstance(size, int) else size
    pixels = torch.randn(2, sizes.get("channels", 3), *size, generator=torch.Generator().manual_seed(9))
    expected = reference(tensors, backbone_reference(tensors, pixels), classifier)
    if report.dropped:
        assert report.dropped.keys() == {"head/kernel", "head/bias"}
        del expected["logits"]
    verify(tmp_path / "model", pixels, expected)
    convert_back(tmp_path / "model", tmp_path / "again.npz")
    assert_bit_for_bit(source, tmp_path / "again.npz")


def test_another_image_size_resamples_the_positions_as_the_original_and_says_so(tmp_path):
    source = saved(tmp_path, hybrid_checkpoint(grid=(4, 4)))
    report = convert(source, tmp_path / "model", overrides={"image_size": 45})
    assert report.changed == ("the position table of 4x4 patches was resampled to 6x6 (corner_aligned)",)
    model = load_model(tmp_path / "model")
    assert (model.config.grid, model.config.backbone_featmap_shape) == ((6, 6), [1, 256, 6, 6])
    back = convert_back(tmp_path / "model", tmp_path / "again.npz")
    assert back.changed == ("not undone: the position table of 4x4 patches was resampled to 6x6 (corner_aligned)",)


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_published_file_converts_in_shape_both_ways_with_nothing_left_over(name):
    manifest = MANIFESTS[name]
    sizes = manifest["config"]
    tensors = meta_tensors(manifest)
    assert recognise(tensors) is google_hybrid.FORMAT
    plan = google_hybrid.plan(tensors, {}, None)
    converted, _, config = convert_tensors(tensors, google_hybrid.FORMAT, plan)
    assert (converted.used, converted.dropped, converted.added) == (set(tensors), {}, {})
    assert {
        "image_size": config.image_size,
        "patch_size": [config.patch_size] * 2,
        "hidden_size": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "mlp_dim": config.intermediate_size,
        "representation_size": config.representation_size,
        "num_classes": config.num_labels,
        "depths": config.bit.depths,
    } == sizes
    back, _ = revert_tensors(converted.tensors, config, google_hybrid.FORMAT)
    assert {key: tuple(tensor.shape) for key, tensor in back.tensors.items()} == {
        key: tuple(tensor.shape) for key, tensor in tensors.items()
    }


def test_the_processor_prepares_images_as_the_original_does(tmp_path):
    convert(golden("two_stages")[0], tmp_path / "model")
    processor = json.loads((tmp_path / "model" / "preprocessor_config.json").read_text())
    assert processor["image_processor_type"] == "ViTImageProcessor"
    assert processor["size"] == {"height": 48, "width": 48}
    assert (processor["image_mean"], processor["image_std"]) == ([0.5] * 3, [0.5] * 3)
    assert (processor["resample"], processor.get("do_center_crop")) == (2, None)  # 2: bilinear


def test_what_the_hub_format_computes_otherwise_is_said_on_the_way_back(tmp_path):
    model = hfvision.ViTHybridForImageClassification(tiny(backbone={"num_groups": 32, "embedding_size": 32}))
    model.save_pretrained(tmp_path / "model")
    report = convert_back(tmp_path / "model", tmp_path / "original.npz", family="google_hybrid")
    assert [note.split(" = ")[0].rpartition(" ")[2] for note in report.notes] == [
        "layer_norm_eps",
        "hidden_act",
        "standardization",
        "group_norm_eps",
    ]
    assert "num_groups = 32, this model with 8" in plan_notes(tiny())


def plan_notes(config):
    model = hfvision.ViTHybridModel(config)
    return " ".join(google_hybrid.plan_back(config, model.state_dict()).notes)


def tiny(backbone=(), **fields):
    bit = {"depths": [1, 1], "hidden_sizes": [128, 256], "embedding_size": 32, "num_groups": 8}
    bit |= {"layer_type": "bottleneck", "global_padding": "SAME", "embedding_dynamic_padding": True}
    bit |= {"out_features": ["stage2"], **dict(backbone)}
    sizes = {"image_size": 32, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1}
    return hfvision.ViTHybridConfig(backbone_config=bit, intermediate_size=40, num_labels=4, **(sizes | fields))


REFUSED = {
    "stem as stored": (tiny(standardized_stem=False), "standardized_stem=False"),
    "middle of the backbone": (tiny(backbone={"out_features": ["stage1"]}), r"reads \['stage1'\] of 2 stages"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_original_cannot_compute_does_not_go_back(what, tmp_path):
    config, said = REFUSED[what]
    hfvision.ViTHybridForImageClassification(config).save_pretrained(tmp_path / "model")
    with pytest.raises(ConversionError, match=said):
        convert_back(tmp_path / "model", tmp_path / "original.npz", family="google_hybrid")
    assert not (tmp_path / "original.npz").exists()


BROKEN = {
    "missing unit": (lambda t: t.pop("block2/unit1/conv2/kernel"), "lacks block2/unit1/conv2/kernel"),
    "missing stem": (lambda t: t.pop("conv_root/kernel"), "lacks conv_root/kernel"),
    "flat norm": (lambda t: t.update({"gn_root/scale": torch.ones(32)}), r"gn_root/scale \(32,\) cannot go through"),
    "extra": (lambda t: t.update({"block1/unit1/conv4/kernel": torch.zeros(2)}), "conv4/kernel .* has no rule"),
    "stray stage": (lambda t: t.update({"block999999999/unit1/gn1/bias": torch.zeros(1, 1, 1, 2)}), "has no rule"),
    "misshapen": (
        lambda t: t.update({"block2/unit2/gn3/bias": torch.zeros(1, 1, 1, 3)}),
        r"norm3.bias is \(3,\), the model wants \(256,\)",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_checkpoint_is_one_error_and_leaves_nothing(fault, tmp_path):
    breaks, said = BROKEN[fault]
    tensors = hybrid_checkpoint(grid=(4, 4))
    breaks(tensors)
    source = saved(tmp_path, tensors)
    with pytest.raises(ConversionError, match=said):
        convert(source, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["original.npz"]


WRONG_SETTINGS = {
    "contradicts the tensors": ({"num_attention_heads": 4}, ConversionError, "was set to 4, the tensors say 3"),
    "a field that follows": ({"backbone_featmap_shape": [1, 2, 3, 4]}, UnknownNameError, "Known: "),
    "no size": ({"image_size": 0}, ConfigError, "image_size is a positive number"),
}


@pytest.mark.parametrize("name", WRONG_SETTINGS)
def test_a_wrong_setting_is_one_error(name, tmp_path):
    overrides, kind, said = WRONG_SETTINGS[name]
    with pytest.raises(kind, match=said):
        convert(saved(tmp_path, hybrid_checkpoint(grid=(4, 4))), tmp_path / "model", overrides=overrides)


def test_the_script_converts_there_and_back(tmp_path, monkeypatch, capsys):
    def script(*arguments):
        return run_script("convert_google_hybrid", arguments, monkeypatch, capsys)

    source = saved(tmp_path, hybrid_checkpoint(grid=(4, 4)))
    assert "resampled to 6x6" in script(source, tmp_path / "larger", "--image-size", "48")
    assert "76 of 76 tensors used" in script(source, tmp_path / "model")
    assert "to original" in script(tmp_path / "model", tmp_path / "again.npz")
    assert_bit_for_bit(source, tmp_path / "again.npz")
    with pytest.raises(SystemExit, match=r"^CheckpointReadError: .*absent\.npz does not exist"):
        script(tmp_path / "absent.npz", tmp_path / "other")


# --- timm's state dicts ---------------------------------------------------------------------------


def timm_names(model):
    """A tiny model's weights under timm's names, written from its state dicts."""
    tensors, fused = {}, {}
    staged = bool(model.config.bit.depths)
    for name, tensor in model.state_dict().items():
        name = name.removeprefix("vit.")
        for ours, theirs in (
            ("embeddings.patch_embeddings.backbone.bit.embedder.convolution", "stem.conv"),
            ("embeddings.patch_embeddings.backbone.bit.embedder.norm", "stem.norm"),
            ("embeddings.patch_embeddings.backbone.bit.encoder.", ""),
        ):
            if name.startswith(ours):
                name = (
                    "patch_embed.backbone." + (theirs if staged else theirs.removeprefix("stem.")) + name[len(ours) :]
                )
        if name.startswith("patch_embed.backbone."):
            tensors[name.replace(".layers.", ".blocks.")] = tensor
            continue
        for ours, theirs in (
            ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
            ("embeddings.position_embeddings", "pos_embed"),
            ("embeddings.", ""),
            ("encoder.layer.", "blocks."),
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
            ("attention.output.dense", "attn.proj"),
            ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
            ("layernorm", "norm"),
            ("classifier", "head"),
        ):
            name = name.replace(ours, theirs)
        if ".attention.attention." in name:
            block, part, kind = (
                name.replace(".attention.attention.", " ")
                .replace(".weight", " weight")
                .replace(".bias", " bias")
                .split()
            )
            fused.setdefault(f"{block}.attn.qkv.{kind}", {})[part] = tensor
        else:
            tensors[name] = tensor
    return tensors | {
        key: torch.cat([parts[part] for part in ("query", "key", "value")]) for key, parts in fused.items()
    }


LAYOUTS = {
    "two stages": {},
    "the stem alone": {"backbone": {"depths": [], "hidden_sizes": [], "out_features": ["stem"]}, "patch_size": 2},
    "no biases": {"qkv_bias": False},
    "one channel": {"num_channels": 1},
}


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_timm_names_become_a_vit_hybrid_and_come_back(layout, tmp_path):
    backbone = {"num_groups": 32, **LAYOUTS[layout].get("backbone", {})}
    fields = {name: value for name, value in LAYOUTS[layout].items() if name != "backbone"}
    config = tiny(backbone=backbone, layer_norm_eps=1e-6, **fields)
    model = hfvision.ViTHybridForImageClassification(config).eval()
    for parameter in model.parameters():
        parameter.normal_(std=0.2)
    tensors = timm_names(model)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / "timm.safetensors")
    report = convert(tmp_path / "timm.safetensors", tmp_path / "model")
    assert (report.format, report.model_type, report.model_class) == (
        "timm_hybrid",
        "vit-hybrid",
        "ViTHybridForImageClassification",
    )
    again = hfvision.ViTHybridForImageClassification.from_pretrained(tmp_path / "model").eval()
    pixels = torch.randn(2, config.num_channels, 32, 32)
    torch.testing.assert_close(again(pixels).logits, model(pixels).logits, rtol=0, atol=0)
    convert_back(tmp_path / "model", tmp_path / "again.safetensors")
    torch.testing.assert_close(read(tmp_path / "again.safetensors").tensors, tensors, rtol=0, atol=0)
    processor = json.loads((tmp_path / "model" / "preprocessor_config.json").read_text())
    assert (processor["size"], processor["crop_size"]) == ({"shortest_edge": 35}, {"height": 32, "width": 32})


def test_timm_files_of_other_sizes_are_resampled_and_a_model_of_google_is_told_apart(tmp_path):
    model = hfvision.ViTHybridModel(tiny(backbone={"num_groups": 32}, layer_norm_eps=1e-6), add_pooling_layer=False)
    torch.save(timm_names(model), tmp_path / "timm.pth")
    report = convert(tmp_path / "timm.pth", tmp_path / "model", overrides={"image_size": 48})
    assert report.changed == ("the position table of 4x4 patches was resampled to 6x6 (bicubic)",)
    assert report.model_class == "ViTHybridModel"
    convert(golden("two_stages")[0], tmp_path / "google")
    back = convert_back(tmp_path / "google", tmp_path / "as_timm.pth", family="timm_hybrid")
    assert "standardization = 'variance', this model with 'deviation'" in " ".join(back.notes)
    with pytest.raises(ConversionError, match="gap"):
        timm_hybrid.plan_back(tiny(classifier="gap"), [])


def test_the_tolerance_would_see_the_other_epsilons(tmp_path):
    """Converted to what the Hub's format computes, an original with small kernels would be off by far more."""
    tensors = hybrid_checkpoint(grid=(4, 4))
    tensors |= {key: value * 1e-3 for key, value in tensors.items() if key.startswith(("conv_root", "block"))}
    source = saved(tmp_path, tensors)
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = reference(tensors, backbone_reference(tensors, pixels))["logits"]
    convert(source, tmp_path / "right")
    convert(source, tmp_path / "wrong", overrides={"standardization": "variance", "group_norm_eps": 1e-5})
    off = {name: outputs(load_model(tmp_path / name), pixels)["logits"] - expected for name in ("right", "wrong")}
    assert off["right"].abs().max() < tolerance(expected) * 10 < off["wrong"].abs().max()
