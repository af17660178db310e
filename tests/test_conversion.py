"""Original checkpoints become models that compute the same, and come back bit for bit; what does not fit is named."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers.models.vit import modeling_vit as plain
from typer.testing import CliRunner

from hfvision.checkpoints import read, write_npz
from hfvision.cli import build_app
from hfvision.conversion import convert, convert_back, verify
from hfvision.conversion.engine import Add, Drop, Rule, Unused, apply, reverse
from hfvision.conversion.ops import join_heads, split
from hfvision.conversion.tables import google_vit
from hfvision.conversion.to_hub import convert_tensors
from hfvision.conversion.to_original import revert_tensors
from hfvision.conversion.verify import load_model, outputs, tolerance
from hfvision.errors import CheckpointReadError, ConfigError, ConversionError, HfvisionError, UnknownNameError
from hfvision.models.google_vit import GoogleViTForImageClassification
from hfvision.models.vit import ViTConfig, ViTForImageClassification, ViTForMaskedImageModeling, ViTModel
from tests.models import last_bits

DATA = Path(__file__).parent / "data"
GOLDENS = sorted(path.name for path in (DATA / "goldens" / "vit").iterdir())
MANIFESTS = json.loads((DATA / "manifests" / "vit.json").read_text(encoding="utf-8"))
ROOT = Path(__file__).parents[1]


def golden(case):
    folder = DATA / "goldens" / "vit" / case
    expected = {name: torch.from_numpy(value) for name, value in np.load(folder / "output.npz").items()}
    return folder / "checkpoint.npz", torch.from_numpy(np.load(folder / "input.npy")), expected


def settings(case):
    return {"image_size": 48} if case == "pos_interpolation_up" else {}


def meta_tensors(manifest):
    """The tensors of a published file by their names and shapes, without storage."""
    return {
        key.replace("{i}", str(block)): torch.empty(tuple(shape), device="meta")
        for key, shape in manifest["tensors"].items()
        for block in range(manifest["config"]["depth"] if "{i}" in key else 1)
    }


def run_script(name, arguments, monkeypatch, capsys):
    """What a script of conversion_scripts prints."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(ROOT / "conversion_scripts" / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def google_checkpoint(
    *,
    depth=2,
    width=24,
    heads=3,
    mlp=40,
    patch=(6, 6),
    grid=(3, 3),
    labels=5,
    pre_logits=None,
    cls=True,
    channels=3,
    zero_head=False,
    seed=0,
):
    """Random weights under the original's names; labels=None leaves the head out."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=generator) / (shape[0] ** 0.5 if len(shape) > 1 else 3)

    tensors = {
        "embedding/kernel": random(*patch, channels, width) / 6,
        "embedding/bias": random(width),
        "Transformer/posembed_input/pos_embedding": random(1, int(cls) + grid[0] * grid[1], width),
        "Transformer/encoder_norm/scale": random(width) + 1,
        "Transformer/encoder_norm/bias": random(width),
    }
    if cls:
        tensors["cls"] = random(1, 1, width)
    for i in range(depth):
        block = f"Transformer/encoderblock_{i}"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            tensors |= {f"{block}/{norm}/scale": random(width) + 1, f"{block}/{norm}/bias": random(width)}
        for part in ("query", "key", "value"):
            attention = f"{block}/MultiHeadDotProductAttention_1/{part}"
            tensors |= {f"{attention}/kernel": random(width, heads, width // heads)}
            tensors |= {f"{attention}/bias": random(heads, width // heads)}
        out = f"{block}/MultiHeadDotProductAttention_1/out"
        tensors |= {f"{out}/kernel": random(heads, width // heads, width) / 2, f"{out}/bias": random(width)}
        tensors |= {
            f"{block}/MlpBlock_3/Dense_0/kernel": random(width, mlp),
            f"{block}/MlpBlock_3/Dense_0/bias": random(mlp),
        }
        tensors |= {
            f"{block}/MlpBlock_3/Dense_1/kernel": random(mlp, width),
            f"{block}/MlpBlock_3/Dense_1/bias": random(width),
        }
    if pre_logits:
        tensors |= {"pre_logits/kernel": random(width, pre_logits), "pre_logits/bias": random(pre_logits)}
    if labels is not None:
        head = {"head/kernel": random(pre_logits or width, labels), "head/bias": random(labels)}
        tensors |= {key: torch.zeros_like(value) if zero_head else value for key, value in head.items()}
    return tensors


def reference(tensors, pixels, classifier="token", eps=1e-6):
    """What the original computes, written from its description, in float64. Shapes: B, N, D; heads H of size d."""
    weights = {key: value.double() for key, value in tensors.items()}

    def norm(x, name):
        return nn.functional.layer_norm(x, x.shape[-1:], weights[f"{name}/scale"], weights[f"{name}/bias"], eps)

    def dense(x, name, form="bni,io->bno"):
        return torch.einsum(form, x, weights[f"{name}/kernel"]) + weights[f"{name}/bias"]

    kernel = weights["embedding/kernel"]
    x = nn.functional.conv2d(pixels.double(), kernel.permute(3, 2, 0, 1), stride=kernel.shape[:2])
    x = x.flatten(2).mT + weights["embedding/bias"]
    if "cls" in weights:
        x = torch.cat([weights["cls"].expand(len(x), -1, -1), x], dim=1)
    x = x + weights["Transformer/posembed_input/pos_embedding"]
    depth = len([key for key in weights if key.endswith("/LayerNorm_0/scale")])
    for i in range(depth):
        block, y = f"Transformer/encoderblock_{i}", None
        y = norm(x, f"{block}/LayerNorm_0")
        attention = f"{block}/MultiHeadDotProductAttention_1"
        query, key, value = (dense(y, f"{attention}/{part}", "bni,ihd->bnhd") for part in ("query", "key", "value"))
        scores = torch.einsum("bnhd,bmhd->bhnm", query, key) / query.shape[-1] ** 0.5
        mixed = torch.einsum("bhnm,bmhd->bnhd", scores.softmax(dim=-1), value)
        x = x + dense(mixed, f"{attention}/out", "bnhd,hdo->bno")
        y = dense(norm(x, f"{block}/LayerNorm_2"), f"{block}/MlpBlock_3/Dense_0")
        x = x + dense(nn.functional.gelu(y, approximate="tanh"), f"{block}/MlpBlock_3/Dense_1")
    x = norm(x, "Transformer/encoder_norm")
    result = {"last_hidden_state": x}
    x = {"token": x[:, :1], "gap": x.mean(dim=1, keepdim=True)}.get(classifier, x)
    if "pre_logits/kernel" in weights:
        x = dense(x, "pre_logits").tanh()
        result["pooler_output"] = x if "unpooled" in classifier else x[:, 0]
    if "head/kernel" in weights:
        x = dense(x, "head")
        result["logits"] = x if "unpooled" in classifier else x[:, 0]
    return result


def saved(tmp_path, tensors, name="original.npz"):
    write_npz(tmp_path / name, tensors)
    return tmp_path / name


def assert_bit_for_bit(one, other, *, but=()):
    one, other = np.load(one), np.load(other)
    assert one.files == other.files
    for key in one.files:
        assert (one[key].shape, one[key].dtype) == (other[key].shape, other[key].dtype), key
        if key not in but:
            assert one[key].tobytes() == other[key].tobytes(), key


# --- the engine -----------------------------------------------------------------------------------

QKV = Rule("h.{i}.qkv.{p}", ("layers.{i}.q.{p}", "layers.{i}.k.{p}", "layers.{i}.v.{p}"), split(3))
WANTED = {f"layers.0.{name}.weight": (2, 2) for name in "qkv"}


def test_one_fused_tensor_becomes_three_and_one_again():
    fused = {"h.0.qkv.weight": torch.arange(12.0).reshape(6, 2)}
    there = apply(fused, [QKV], WANTED)
    torch.testing.assert_close(there.tensors["layers.0.k.weight"], fused["h.0.qkv.weight"][2:4], rtol=0, atol=0)
    assert there.sources["layers.0.k.weight"] == ("h.0.qkv.weight",)
    back = apply(there.tensors, reverse([QKV]))
    torch.testing.assert_close(back.tensors, fused, rtol=0, atol=0)


def test_every_mismatch_of_a_checkpoint_is_in_one_error():
    rules = [
        QKV,
        Rule("norm", "norm.weight"),
        Rule("bias", "norm.bias"),
        Rule("old", "norm.bias"),
        Rule("absent", "extra"),
    ]
    checkpoint = {
        "h.0.qkv.weight": torch.zeros(3, 2),
        "step": torch.zeros(()),
        "bias": torch.ones(2),
        "old": torch.ones(2),
    }
    with pytest.raises(ConversionError) as caught:
        apply(checkpoint, rules, WANTED | {"norm.weight": (2,), "norm.bias": (2,), "untold": (1,)})
    for line in (
        "8 mismatches:",
        "step () in the checkpoint has no rule",
        "layers.0.q.weight is (1, 2), the model wants (2, 2) (from h.0.qkv.weight)",
        "the checkpoint lacks norm, from which norm.weight (2,) is made",
        "norm.bias is produced 2 times: from bias, from old",
        "untold (1,) in the model has no rule that produces it",
        "rule absent matched nothing",
    ):
        assert line in str(caught.value)


def test_a_tensor_that_cannot_be_reshaped_and_a_group_with_a_gap_are_named():
    merge = reverse([QKV])
    parts = {"layers.0.q.weight": torch.zeros(2, 2), "layers.0.v.weight": torch.zeros(2, 2)}
    with pytest.raises(ConversionError, match=r"lacks layers.0.k.weight, which belongs to layers.0.q.weight"):
        apply(parts, merge)
    with pytest.raises(ConversionError, match=r"kernel \(4,\) cannot go through join_heads"):
        apply({"kernel": torch.zeros(4)}, [Rule("kernel", "weight", join_heads(2))])
    with pytest.raises(ConversionError, match=r"h.0.qkv.weight \(4, 2\) cannot go through split in 3"):
        apply({"h.0.qkv.weight": torch.zeros(4, 2)}, [QKV])


def test_a_hole_is_one_path_segment():
    rules = [Rule("a.{x}.w", "b.{x}.w")]
    assert apply({"a.1.w": torch.ones(1)}, rules).tensors.keys() == {"b.1.w"}
    with pytest.raises(ConversionError, match="has no rule"):
        apply({"a.1.2.w": torch.ones(1)}, rules)
    with pytest.raises(ValueError, match="same holes"):
        Rule("a.{x}", "b.{y}")


def test_a_key_that_two_rules_claim_is_named():
    with pytest.raises(ConversionError, match="a is claimed by 2 rules"):
        apply({"a": torch.ones(1)}, [Rule("a", "b"), Drop("{any}", because="unused")])


def test_dropped_tensors_come_back_as_zeros_and_added_ones_are_dropped():
    rules = [Rule("a", "b"), Drop("index.{i}", because="recomputed"), Add("extra", "not stored", lambda: torch.ones(1))]
    there = apply({"a": torch.ones(1), "index.0": torch.ones(2, dtype=torch.int64)}, rules, {"b": (1,), "extra": (1,)})
    assert there.dropped == {"index.0": "recomputed"}
    assert there.added == {"extra": "not stored"}
    back = apply(there.tensors, reverse(rules, {"index.0": Unused((2,), torch.int64)}))
    assert back.tensors.keys() == {"a", "index.0"}
    assert back.tensors["index.0"].tolist() == [0, 0]
    assert back.dropped == {"extra": "not stored"}


# --- Google's ViT: the golden cases ---------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDENS)
def test_a_golden_checkpoint_computes_the_original_outputs(case, tmp_path):
    checkpoint, pixels, expected = golden(case)
    convert(checkpoint, tmp_path / "model", overrides=settings(case))
    model = load_model(tmp_path / "model")
    ours = outputs(model, pixels)
    trunk, tokens = model.base_model, ours["last_hidden_state"]
    ours["pooled"] = {"gap": tokens.mean(dim=1), "no_pool_token": tokens}.get(case, tokens[:, 0])
    ours["pos_embedding_interpolated"] = trunk.embeddings.position_embeddings
    if case == "no_pool_token":  # no head: the original's "logits" are its tokens
        ours["logits"] = tokens
    if "pre_logits_pre_tanh" in expected:
        ours["pre_logits_pre_tanh"] = trunk.pooler.dense(tokens[:, 0])
    for name, theirs in expected.items():
        # two float32 computations of the same sums in another order: 2e-5 of the largest value
        torch.testing.assert_close(ours[name], theirs, rtol=0, atol=2e-5 * float(theirs.abs().max()), msg=name)


@pytest.mark.parametrize("case", GOLDENS)
def test_a_golden_checkpoint_comes_back_bit_for_bit(case, tmp_path):
    checkpoint, _, _ = golden(case)
    convert(checkpoint, tmp_path / "model")
    report = convert_back(tmp_path / "model", tmp_path / "again.npz")
    assert_bit_for_bit(checkpoint, tmp_path / "again.npz")
    assert (report.added, report.changed, report.used) == ({}, (), report.tensors)


@pytest.mark.parametrize("case", ["cls_1k", "eps_sensitive", "no_pool_token", "pos_interpolation_up"])
def test_plain_transformers_computes_the_same_from_the_same_folder(case, tmp_path):
    checkpoint, pixels, _ = golden(case)
    convert(checkpoint, tmp_path / "model", overrides=settings(case))
    ours = outputs(load_model(tmp_path / "model"), pixels)
    headless = case == "no_pool_token"
    kind, options = (
        (plain.ViTModel, {"add_pooling_layer": False}) if headless else (plain.ViTForImageClassification, {})
    )
    theirs, loading = kind.from_pretrained(tmp_path / "model", output_loading_info=True, **options)
    assert not any(loading.values())
    with torch.no_grad():
        answer = theirs.eval()(pixels)
    name = "last_hidden_state" if headless else "logits"
    torch.testing.assert_close(ours[name], answer[name], rtol=0, atol=last_bits(answer[name]))


def test_a_resized_table_is_reported_there_and_back(tmp_path):
    checkpoint, _, _ = golden("pos_interpolation_up")
    report = convert(checkpoint, tmp_path / "model", overrides={"image_size": 48})
    assert report.changed == ("the position table of 4x4 patches was resampled to 6x6 (corner_aligned)",)
    back = convert_back(tmp_path / "model", tmp_path / "again.npz")
    assert back.changed == ("not undone: the position table of 4x4 patches was resampled to 6x6 (corner_aligned)",)
    one, two = np.load(checkpoint), np.load(tmp_path / "again.npz")
    assert [key for key in one.files if one[key].tobytes() != two[key].tobytes()] == [google_vit.POSITIONS]


def test_the_bicubic_rule_can_be_chosen_and_gives_another_table(tmp_path):
    checkpoint, _, expected = golden("pos_interpolation_up")
    convert(checkpoint, tmp_path / "model", overrides={"image_size": 48}, position_rule="bicubic")
    table = load_model(tmp_path / "model").base_model.embeddings.position_embeddings.detach()
    assert table.shape == expected["pos_embedding_interpolated"].shape
    assert float((table - expected["pos_embedding_interpolated"]).abs().max()) > 0.01


# --- Google's ViT: variants that the golden cases do not have -------------------------------------

VARIANTS = {
    "not square": ({"grid": (5, 7), "seed": 1}, {"image_size": [30, 42]}, "token", "vit"),
    "patches not square": ({"patch": (4, 6), "seed": 2}, {}, "token", "vit"),
    "one label": ({"labels": 1, "seed": 3}, {}, "token", "vit"),
    "one channel": ({"channels": 1, "seed": 4}, {}, "token", "vit"),
    "one head": ({"heads": 1, "depth": 11, "seed": 5}, {}, "token", "vit"),
    "trained head behind a narrow pre_logits": ({"pre_logits": 10, "seed": 6}, {}, "token", "google_vit"),
    "pre_logits without a head": ({"pre_logits": 30, "labels": None, "seed": 7}, {}, "token", "vit"),
    "mean behind pre_logits": ({"pre_logits": 9, "cls": False, "seed": 8}, {}, "gap", "google_vit"),
    "mean without a head": ({"cls": False, "labels": None, "seed": 9}, {}, "gap", "google_vit"),
    "head on every token": ({"seed": 10}, {"classifier": "token_unpooled"}, "token_unpooled", "google_vit"),
    "head on every patch": ({"cls": False, "seed": 11}, {"classifier": "unpooled"}, "unpooled", "google_vit"),
    "every token without a head": ({"labels": None}, {"classifier": "token_unpooled"}, "token_unpooled", "google_vit"),
    "zero head behind pre_logits": ({"pre_logits": 16, "zero_head": True, "seed": 12}, {}, "token", "vit"),
    "other geometry, same table": ({"grid": (4, 4), "seed": 13}, {"image_size": [12, 48]}, "token", "vit"),
    "epsilon set": ({"seed": 14}, {"layer_norm_eps": 0.5}, "token", "vit"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_computes_what_its_description_says_and_comes_back(variant, tmp_path):
    sizes, overrides, classifier, model_type = VARIANTS[variant]
    tensors = google_checkpoint(**sizes)
    source = saved(tmp_path, tensors)
    report = convert(source, tmp_path / "model", overrides=overrides)
    assert report.model_type == model_type
    rows = tensors[google_vit.POSITIONS].shape[1] - ("cls" in tensors)
    patch = sizes.get("patch", (6, 6))
    size = overrides.get("image_size", [int(rows**0.5) * side for side in patch])
    pixels = torch.randn(2, sizes.get("channels", 3), *size, generator=torch.Generator().manual_seed(99))
    expected = reference(tensors, pixels, classifier, overrides.get("layer_norm_eps", 1e-6))
    if report.dropped:
        del expected["logits"]
    verify(tmp_path / "model", pixels, expected)
    convert_back(tmp_path / "model", tmp_path / "again.npz")
    assert_bit_for_bit(source, tmp_path / "again.npz")


def test_a_zero_head_is_dropped_with_a_reason_and_restored_even_after_others_saved_the_model(tmp_path):
    source = saved(tmp_path, google_checkpoint(pre_logits=16, zero_head=True, labels=43))
    report = convert(source, tmp_path / "model")
    assert report.dropped.keys() == {"head/kernel", "head/bias"}
    assert "zeros" in report.dropped["head/kernel"]
    assert report.model_class == "ViTModel"
    plain.ViTModel.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "plain")
    for folder in ("model", "plain"):
        back = convert_back(tmp_path / folder, tmp_path / f"{folder}.npz")
        assert back.added.keys() == {"head/kernel", "head/bias"}
        assert_bit_for_bit(source, tmp_path / f"{folder}.npz")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_float_types_are_kept_both_ways(dtype, tmp_path):
    source = saved(tmp_path, {key: tensor.to(dtype) for key, tensor in google_checkpoint().items()})
    convert(source, tmp_path / "model")
    assert {tensor.dtype for tensor in read(tmp_path / "model").tensors.values()} == {dtype}
    convert_back(tmp_path / "model", tmp_path / "again.npz")
    assert_bit_for_bit(source, tmp_path / "again.npz")


def test_mixed_float_types_are_widened_said_and_restored(tmp_path):
    tensors = google_checkpoint()
    source = saved(tmp_path, tensors | {"head/kernel": tensors["head/kernel"].half(), "cls": tensors["cls"].half()})
    report = convert(source, tmp_path / "model")
    assert report.changed == ("2 tensors were widened to float32, because a model has one type for all",)
    convert_back(tmp_path / "model", tmp_path / "again.npz")
    assert_bit_for_bit(source, tmp_path / "again.npz")


def test_a_widened_tensor_that_was_trained_since_is_not_narrowed_again(tmp_path):
    tensors = google_checkpoint()
    convert(saved(tmp_path, tensors | {"head/bias": tensors["head/bias"].half()}), tmp_path / "model")
    model = ViTForImageClassification.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        model.classifier.bias += 1e-4
    model.save_pretrained(tmp_path / "tuned")
    convert_back(tmp_path / "tuned", tmp_path / "again.npz")
    torch.testing.assert_close(read(tmp_path / "again.npz").tensors["head/bias"], model.classifier.bias, rtol=0, atol=0)


# --- Google's ViT: published files, by their shapes -----------------------------------------------


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_published_file_converts_in_shape_both_ways_with_nothing_left_over(name):
    manifest = MANIFESTS[name]
    sizes = manifest["config"]
    tensors = meta_tensors(manifest)
    plan = google_vit.plan(tensors, {}, None)
    converted, _, config = convert_tensors(tensors, google_vit.FORMAT, plan)
    assert (converted.used, converted.dropped, converted.added) == (set(tensors), {}, {})
    assert {
        "image_size": config.image_size,
        "patch_size": [config.patch_size] * 2,
        "hidden_size": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "mlp_dim": config.intermediate_size,
        "representation_size": getattr(config, "representation_size", None),
        "num_classes": config.num_labels,
    } == sizes
    back, _ = revert_tensors(converted.tensors, config, google_vit.FORMAT)
    assert {key: tuple(tensor.shape) for key, tensor in back.tensors.items()} == {
        key: tuple(tensor.shape) for key, tensor in tensors.items()
    }


# --- models from elsewhere go to the original format ----------------------------------------------

TINY = {"image_size": 18, "patch_size": 6, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
TINY |= {"intermediate_size": 40, "layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"}


@pytest.mark.parametrize("module", [plain, sys.modules[ViTModel.__module__]], ids=["transformers", "hfvision"])
def test_a_model_that_was_never_converted_goes_to_the_original_format(module, tmp_path):
    model = module.ViTForImageClassification(module.ViTConfig(**TINY, num_labels=4)).eval()
    nn.init.normal_(model.vit.embeddings.cls_token)
    model.save_pretrained(tmp_path / "model")
    report = convert_back(tmp_path / "model", tmp_path / "original.npz")
    assert (report.dropped, report.added, report.notes) == ({}, {}, ())
    pixels = torch.randn(1, 3, 18, 18)
    expected = reference(read(tmp_path / "original.npz").tensors, pixels)["logits"].float()
    logits = model(pixels).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=tolerance(expected))


def test_a_fine_tuned_model_goes_back_with_its_new_head(tmp_path):
    source = saved(tmp_path, google_checkpoint(pre_logits=24, zero_head=True, labels=43))
    convert(source, tmp_path / "model")
    tuned = ViTForImageClassification.from_pretrained(tmp_path / "model", num_labels=2)
    tuned.save_pretrained(tmp_path / "tuned")
    report = convert_back(tmp_path / "tuned", tmp_path / "again.npz")
    assert report.added == {}
    again = read(tmp_path / "again.npz").tensors
    assert again["head/kernel"].shape == (24, 2)
    assert "pre_logits/kernel" not in again


def test_what_the_original_code_would_compute_differently_is_said(tmp_path):
    ViTModel(ViTConfig(**TINY | {"hidden_act": "gelu", "layer_norm_eps": 1e-12})).save_pretrained(tmp_path / "model")
    report = convert_back(tmp_path / "model", tmp_path / "original.npz")
    assert report.notes == (
        "the original's code computes with layer_norm_eps = 1e-06, this model with 1e-12",
        "the original's code computes with hidden_act = 'gelu_pytorch_tanh', this model with 'gelu'",
    )


def test_the_trunk_of_a_masked_image_model_goes_back_without_its_painter(tmp_path):
    ViTForMaskedImageModeling(ViTConfig(**TINY, encoder_stride=6)).save_pretrained(tmp_path / "model")
    report = convert_back(tmp_path / "model", tmp_path / "original.npz")
    assert report.dropped.keys() == {"vit.embeddings.mask_token", "decoder.0.weight", "decoder.0.bias"}
    assert "head/kernel" not in read(tmp_path / "original.npz").tensors


def test_a_folder_that_does_not_fit_its_config_is_refused_with_every_reason(tmp_path):
    ViTForImageClassification(ViTConfig(**TINY)).save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config |= {"num_hidden_layers": 1, "intermediate_size": 41}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConversionError) as caught:
        convert_back(tmp_path / "model", tmp_path / "original.npz")
    assert "vit.encoder.layer.1.layernorm_before.weight (24,) is not in the model" in str(caught.value)
    assert "vit.encoder.layer.0.intermediate.dense.bias is (40,), the config wants (41,)" in str(caught.value)
    assert not (tmp_path / "original.npz").exists()


@pytest.mark.parametrize("unused", [3, {"head/bias": {"shape": [2], "dtype": "load"}}, {"x": {"shape": [2**40]}}])
def test_a_damaged_record_is_one_error(unused, tmp_path):
    config = ViTConfig(**TINY, hfvision_conversion={"format": "google_vit", "unused": unused})
    ViTModel(config).save_pretrained(tmp_path / "model")
    with pytest.raises(ConversionError, match=r"'hfvision_conversion' of config.json is damaged"):
        convert_back(tmp_path / "model", tmp_path / "original.npz")


def test_a_model_type_that_no_original_has_is_refused(tmp_path):
    ViTModel(ViTConfig(**TINY)).save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(ConversionError, match="no original format has a place for model_type 'bert'"):
        convert_back(tmp_path / "model", tmp_path / "original.npz")


# --- what is written ------------------------------------------------------------------------------


def test_the_folder_answers_through_the_standard_pipeline(tmp_path):
    from PIL import Image
    from transformers import pipeline

    convert(saved(tmp_path, google_checkpoint()), tmp_path / "model", labels=["ant", "bee", "cat", "dog", "elk"])
    classify = pipeline("image-classification", model=str(tmp_path / "model"))
    answers = classify(Image.new("RGB", (50, 40), "red"), top_k=5)
    assert {answer["label"] for answer in answers} == {"ant", "bee", "cat", "dog", "elk"}
    assert sum(answer["score"] for answer in answers) == pytest.approx(1, abs=1e-5)  # a softmax in float32


def test_the_processor_prepares_images_as_the_original_does(tmp_path):
    convert(saved(tmp_path, google_checkpoint(grid=(5, 7))), tmp_path / "model", overrides={"image_size": [30, 42]})
    processor = json.loads((tmp_path / "model" / "preprocessor_config.json").read_text())
    assert (processor["image_mean"], processor["image_std"]) == ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
    assert processor["size"] == {"height": 30, "width": 42}
    assert (processor["resample"], processor["do_resize"], processor["do_rescale"]) == (2, True, True)  # 2: bilinear


def test_the_card_and_the_record_say_where_the_weights_come_from(tmp_path):
    source = saved(tmp_path, google_checkpoint())
    report = convert(source, tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    record = json.loads((tmp_path / "model" / "hfvision_conversion.json").read_text(encoding="utf-8"))
    assert report.sha256 in card
    assert record["sha256"] == report.sha256 == read(source).sha256
    assert "license: unknown" in card and report.licence.startswith("none stated")
    assert str(tmp_path) not in card + json.dumps(record)
    files = list((tmp_path / "model").iterdir())
    assert set(report.files) == {path.name for path in files}
    assert {path.stat().st_mode & 0o777 for path in files} == {source.stat().st_mode & 0o777}  # readable by others


@pytest.mark.parametrize("form", ["list", "object", "text keys", "wrapped"])
def test_labels_come_from_a_json_file(form, tmp_path):
    names = ["ant", "bee", "cat", "dog", "elk"]
    content = {
        "list": names,
        "object": dict(enumerate(names)),
        "text keys": {str(index): name for index, name in enumerate(names)},
        "wrapped": {"name": "animals", "labels": dict(enumerate(names))},
    }[form]
    (tmp_path / "labels.json").write_text(json.dumps(content))
    convert(saved(tmp_path, google_checkpoint()), tmp_path / "model", labels=tmp_path / "labels.json")
    config = ViTConfig.from_pretrained(tmp_path / "model")
    assert config.id2label == dict(enumerate(names))
    assert config.label2id["cat"] == 2


def test_overwriting_replaces_the_model_and_keeps_other_files(tmp_path):
    source, out = saved(tmp_path, google_checkpoint(labels=5)), tmp_path / "model"
    convert(source, out)
    (out / "notes.txt").write_text("mine")
    (out / "model-00001-of-00002.safetensors").write_bytes(b"of an older model")
    with pytest.raises(ConfigError, match="not empty"):
        convert(source, out)
    convert(saved(tmp_path, google_checkpoint(labels=7), "other.npz"), out, overwrite=True)
    assert ViTConfig.from_pretrained(out).num_labels == 7
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / "model-00001-of-00002.safetensors").exists()


def test_a_folder_that_is_there_and_empty_is_filled(tmp_path):
    (tmp_path / "model").mkdir()
    report = convert(saved(tmp_path, google_checkpoint()), tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == set(report.files)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "original.npz"}


def test_a_failure_while_writing_leaves_everything_as_it_was(tmp_path, monkeypatch):
    source = saved(tmp_path, google_checkpoint(labels=5))
    convert(source, tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}

    def full_disk(folder, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hfvision.conversion.to_hub.write_card", full_disk)
    for out in ("model", "new"):
        with pytest.raises(ConversionError, match=r"cannot be written: .*No space left"):
            convert(saved(tmp_path, google_checkpoint(labels=7)), tmp_path / out, overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"model", "original.npz"}


def test_a_place_that_cannot_be_written_to_is_one_error(tmp_path):
    source = saved(tmp_path, google_checkpoint())
    with pytest.raises(ConversionError, match="cannot be written"):
        convert(source, source / "model")
    convert(source, tmp_path / "model")
    with pytest.raises(ConversionError, match="cannot be written"):
        convert_back(tmp_path / "model", source / "again.npz")


OCCUPIED = {
    "a folder": ("model", "is a folder"),
    "another suffix": ("again.pth", r"should end in \.npz"),
    "a file": ("original.npz", "exists"),
}


@pytest.mark.parametrize("what", OCCUPIED)
def test_the_way_back_overwrites_nothing_by_itself(what, tmp_path):
    name, said = OCCUPIED[what]
    source = saved(tmp_path, google_checkpoint())
    convert(source, tmp_path / "model")
    before = source.read_bytes()
    with pytest.raises(ConfigError, match=said):
        convert_back(tmp_path / "model", tmp_path / name)
    assert source.read_bytes() == before
    convert_back(tmp_path / "model", source, overwrite=True)
    tensors = read(source).tensors
    torch.testing.assert_close(tensors, google_checkpoint(), rtol=0, atol=0)


def test_a_folder_or_file_in_the_wrong_place_is_refused(tmp_path):
    source = saved(tmp_path, google_checkpoint())
    with pytest.raises(ConfigError, match="is a file"):
        convert(source, source)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"x")
    with pytest.raises(ConfigError, match="other things than a model"):
        convert(source, tmp_path / "photos", overwrite=True)
    convert(source, tmp_path / "model")
    with pytest.raises(ConfigError, match="is the source itself"):
        convert(tmp_path / "model", tmp_path / "model", overwrite=True)


def test_weights_that_are_written_wrong_are_found_and_not_kept(tmp_path, monkeypatch):
    from hfvision.conversion import to_hub

    def faulty_disk(tensors, folder):
        save_torch_state_dict({key: tensor + (key == "classifier.bias") for key, tensor in tensors.items()}, folder)

    save_torch_state_dict = to_hub.save_torch_state_dict
    monkeypatch.setattr(to_hub, "save_torch_state_dict", faulty_disk)
    with pytest.raises(ConversionError, match=r"2 mismatches:\s+classifier.bias was not written as converted"):
        convert(saved(tmp_path, google_checkpoint()), tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["original.npz"]


# --- bad input ------------------------------------------------------------------------------------

BROKEN = {
    "missing": lambda t: t.pop("Transformer/encoderblock_1/LayerNorm_2/scale"),
    "missing kernel": lambda t: t.pop("embedding/kernel"),
    "missing position table": lambda t: t.pop(google_vit.POSITIONS),
    "missing class token": lambda t: t.pop("cls"),
    "missing head kernel": lambda t: t.pop("head/kernel"),
    "extra": lambda t: t.update({"optimizer/step": torch.zeros(())}),
    "misshapen": lambda t: t.update({"Transformer/encoder_norm/bias": torch.zeros(23)}),
    "other heads": lambda t: t.update(
        {"Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel": torch.zeros(24, 4, 6)}
    ),
    "wrong rank": lambda t: t.update({"Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel": torch.zeros(40)}),
    "wrong rank of the patch kernel": lambda t: t.update({"embedding/kernel": torch.zeros(6, 24)}),
    "stray block": lambda t: t.update({"Transformer/encoderblock_999999999/LayerNorm_0/bias": torch.zeros(24)}),
    "empty patch kernel": lambda t: t.update({"embedding/kernel": torch.zeros(0, 0, 3, 24)}),
    "not a float": lambda t: t.update({"cls": torch.zeros(1, 1, 24, dtype=torch.int32)}),
}
NAMED = {  # what the error must name
    "missing": "lacks Transformer/encoderblock_1/LayerNorm_2/scale",
    "missing kernel": "lacks embedding/kernel",
    "missing position table": f"lacks {google_vit.POSITIONS}",
    "missing class token": "'cls'",
    "missing head kernel": "lacks head/kernel",
    "extra": r"optimizer/step \(\) in the checkpoint has no rule",
    "misshapen": r"vit.layernorm.bias is \(23,\), the model wants \(24,\) \(from Transformer/encoder_norm/bias\)",
    "other heads": r"query/kernel \(24, 4, 6\) cannot go through join_heads: it has 4 heads, the model 3",
    "wrong rank": r"Dense_0/kernel \(40,\) cannot go through transpose",
    "wrong rank of the patch kernel": r"embedding/kernel \(6, 24\) cannot go through hwio_to_oihw",
    "stray block": "encoder.layer.999999999.layernorm_before.bias .* is not in the model",
    "empty patch kernel": r"projection.weight is \(24, 3, 0, 0\), the model wants",
    "not a float": "cls is of type int32",
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_checkpoint_is_one_error_and_leaves_nothing(fault, tmp_path):
    tensors = google_checkpoint()
    BROKEN[fault](tensors)
    source = saved(tmp_path, tensors)
    with pytest.raises(ConversionError, match=NAMED[fault]):
        convert(source, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["original.npz"]


def test_several_faults_are_one_error(tmp_path):
    tensors = google_checkpoint()
    for fault in ("missing", "missing kernel", "extra", "misshapen", "wrong rank"):
        BROKEN[fault](tensors)
    with pytest.raises(ConversionError) as caught:
        convert(saved(tmp_path, tensors), tmp_path / "model")
    assert "5 mismatches:" in str(caught.value)
    assert "read as google_vit" in str(caught.value)


WRONG_SETTINGS = {
    "contradicts the tensors": ({"num_attention_heads": 4}, ConversionError, "was set to 4, the tensors say 3"),
    "contradict the tensors": ({"hidden_size": 1, "patch_size": [6, 7]}, ConversionError, "2 mismatches"),
    "unknown field": ({"num_head": 4}, UnknownNameError, "did you mean"),
    "wrong type": ({"layer_norm_eps": "small"}, ConfigError, "layer_norm_eps"),
    "no size": ({"image_size": "big"}, ConfigError, "image_size is a positive number"),
    "size below a patch": ({"image_size": 5}, ConversionError, "smaller than one patch"),
    "no such classifier": ({"classifier": "gap"}, ConversionError, "token or token_unpooled; got 'gap'"),
    "no such activation": ({"hidden_act": "gelo"}, HfvisionError, "gelo"),
}


@pytest.mark.parametrize("name", WRONG_SETTINGS)
def test_a_wrong_setting_is_one_error_and_leaves_nothing(name, tmp_path):
    overrides, kind, said = WRONG_SETTINGS[name]
    source = saved(tmp_path, google_checkpoint())
    with pytest.raises(kind, match=said):
        convert(source, tmp_path / "model", overrides=overrides)
    assert [path.name for path in tmp_path.iterdir()] == ["original.npz"]


def test_a_table_that_is_no_square_needs_the_image_size_and_cannot_be_resampled(tmp_path):
    source = saved(tmp_path, google_checkpoint(grid=(5, 7)))
    with pytest.raises(ConversionError, match=r"rows for 35 patches, which make no square.*set image_size"):
        convert(source, tmp_path / "model")
    with pytest.raises(ConversionError, match=r"makes 4x4 = 16 patches.*rows for 35"):
        convert(source, tmp_path / "model", overrides={"image_size": 24})


@pytest.mark.parametrize("labels", [["one"], {0: "a", 1: "b", 2: "c", 3: "d", 5: "f"}])
def test_labels_that_do_not_fit_the_head_are_refused(labels, tmp_path):
    with pytest.raises(ConversionError, match="the head has 5 outputs"):
        convert(saved(tmp_path, google_checkpoint()), tmp_path / "model", labels=labels)


def test_labels_for_a_model_without_a_head_are_refused(tmp_path):
    with pytest.raises(ConversionError, match="no head"):
        convert(saved(tmp_path, google_checkpoint(labels=None)), tmp_path / "model", labels=["a"])


def test_an_unknown_format_lists_the_known_ones_and_what_was_seen(tmp_path):
    source = saved(tmp_path, {"backbone.weight": torch.ones(2)})
    with pytest.raises(ConversionError, match=r"no known format has the keys backbone.weight.*\n.*google_vit"):
        convert(source, tmp_path / "model")
    with pytest.raises(UnknownNameError, match="known: vit"):
        convert(source, tmp_path / "model", family="resnet")
    with pytest.raises(ConversionError, match=r"backbone.weight are not"):
        convert(source, tmp_path / "model", family="vit")


def test_verify_names_every_output_that_is_off(tmp_path):
    tensors = google_checkpoint()
    convert(saved(tmp_path, tensors), tmp_path / "model")
    pixels = torch.randn(1, 3, 18, 18)
    expected = reference(tensors, pixels)
    assert verify(tmp_path / "model", pixels, expected)["logits"] < 1e-5
    off = {"logits": expected["logits"] + 1, "last_hidden_state": expected["last_hidden_state"][:, 1:]}
    with pytest.raises(ConversionError, match="2 mismatches"):
        verify(tmp_path / "model", pixels, off)
    with pytest.raises(UnknownNameError, match="no output boxes"):
        verify(tmp_path / "model", pixels, {"boxes": pixels})


# --- the command and the script -------------------------------------------------------------------


def command(*arguments):
    return CliRunner().invoke(build_app(), ["convert", *map(str, arguments)])


def test_the_command_converts_there_and_back(tmp_path):
    source = saved(tmp_path, google_checkpoint(grid=(5, 7)))
    done = command(source, tmp_path / "model", "--set", "image_size=[30,42]", "--set", "hidden_act=gelu")
    assert done.exit_code == 0, done.output
    assert str(tmp_path / "model" / "config.json") in done.stdout.splitlines()
    assert "40 of 40 tensors used" in done.stderr
    assert ViTConfig.from_pretrained(tmp_path / "model").hidden_act == "gelu"
    done = command(tmp_path / "model", tmp_path / "again.npz", "--to", "original", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["files"] == ["again.npz"]
    assert done.stderr == ""
    assert_bit_for_bit(source, tmp_path / "again.npz")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "image_size"], "FIELD=VALUE"),
        (["--set", "image_size=[30,"], "no JSON value"),
        (["--to", "original", "--set", "image_size=48"], "--set cannot be used with --to original"),
    ],
)
def test_a_wrong_option_is_one_error(arguments, said, tmp_path):
    done = command(saved(tmp_path, google_checkpoint()), tmp_path / "model", *arguments)
    assert isinstance(done.exception, ConfigError)
    assert said in str(done.exception)


def test_the_script_converts_there_and_back_and_fails_without_a_traceback(tmp_path, monkeypatch, capsys):
    def script(*arguments):
        return run_script("convert_google_vit", arguments, monkeypatch, capsys)

    source = saved(tmp_path, google_checkpoint())
    assert "resampled to 4x4" in script(source, tmp_path / "larger", "--image-size", "24")
    assert "40 of 40 tensors used" in script(source, tmp_path / "model")
    assert "to original" in script(tmp_path / "model", tmp_path / "again.npz")
    assert_bit_for_bit(source, tmp_path / "again.npz")
    with pytest.raises(SystemExit, match=r"^CheckpointReadError: .*absent\.npz does not exist"):
        script(tmp_path / "absent.npz", tmp_path / "other")


def test_kinds_of_errors_are_what_callers_can_catch():
    assert issubclass(ConversionError, ValueError)
    assert issubclass(CheckpointReadError, OSError)
    assert GoogleViTForImageClassification.config_class.model_type == "google_vit"
