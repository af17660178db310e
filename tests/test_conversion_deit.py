"""Files of facebookresearch/deit, and of timm's ViT and DeiT: they compute the same here and come back bit for bit."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

import hfvision
from hfvision.checkpoints import read
from hfvision.cli import build_app
from hfvision.conversion import convert, convert_back, verify
from hfvision.conversion.tables import deit, recognise, timm_vit
from hfvision.conversion.to_hub import convert_tensors, unequal
from hfvision.conversion.to_original import revert_tensors
from hfvision.conversion.verify import load_model, outputs, tolerance
from hfvision.errors import CheckpointReadError, ConfigError, ConversionError
from hfvision.losses.classification import classification_loss, distillation_loss
from hfvision.models.deit import DeiTConfig, DeiTModel
from hfvision.models.vit import ViTConfig, ViTForImageClassification
from tests.models import last_bits
from tests.test_conversion import meta_tensors, run_script

ROOT = Path(__file__).parents[1]
DATA = Path(__file__).parent / "data"
GOLDENS = DATA / "goldens" / "deit"
CASES = sorted(path.name for path in GOLDENS.iterdir())
MANIFESTS = json.loads((DATA / "manifests" / "deit.json").read_text(encoding="utf-8"))
NAMES = {"logits_cls": "cls_logits", "logits_distillation": "distillation_logits"}  # the goldens' -> ours


def golden(case):
    facts = json.loads((GOLDENS / case / "case.json").read_text())
    expected = {name: torch.from_numpy(value) for name, value in np.load(GOLDENS / case / "output.npz").items()}
    sizes = facts["config"]
    settings = {"num_attention_heads": sizes["num_heads"], "image_size": sizes["image_size"][0]}
    pixels = torch.from_numpy(np.load(GOLDENS / case / "input.npy"))
    return GOLDENS / case / "checkpoint.pth", settings, pixels, expected, facts["float64_max_abs_diff"]


def timm_checkpoint(
    *,
    depth=2,
    width=24,
    mlp=40,
    patch=(6, 6),
    grid=(3, 3),
    labels=5,
    cls=True,
    dist=False,
    two_heads=True,
    bias=True,
    channels=3,
    seed=0,
):
    """Random weights under timm's names; labels=None leaves the heads out."""
    generator = torch.Generator().manual_seed(seed)

    def linear(name, outputs, inputs, with_bias=True):
        weight = {f"{name}.weight": torch.randn(outputs, inputs, generator=generator) / inputs**0.5}
        return weight | ({f"{name}.bias": torch.randn(outputs, generator=generator) / 3} if with_bias else {})

    def norm(name):
        values = torch.randn(2, width, generator=generator) / 3
        return {f"{name}.weight": values[0] + 1, f"{name}.bias": values[1].clone()}

    tokens = {name: torch.randn(1, 1, width, generator=generator) for name in ("cls_token", "dist_token")}
    tensors = {name: tokens[name] for name, there in (("cls_token", cls), ("dist_token", dist)) if there}
    rows = int(cls) + int(dist) + grid[0] * grid[1]
    tensors["pos_embed"] = torch.randn(1, rows, width, generator=generator) / 3
    kernel = linear("patch_embed.proj", width, channels * patch[0] * patch[1])
    tensors |= kernel | {"patch_embed.proj.weight": kernel["patch_embed.proj.weight"].reshape(width, channels, *patch)}
    for i in range(depth):
        tensors |= norm(f"blocks.{i}.norm1") | linear(f"blocks.{i}.attn.qkv", 3 * width, width, bias)
        tensors |= linear(f"blocks.{i}.attn.proj", width, width) | norm(f"blocks.{i}.norm2")
        tensors |= linear(f"blocks.{i}.mlp.fc1", mlp, width) | linear(f"blocks.{i}.mlp.fc2", width, mlp)
    tensors |= norm("norm")
    if labels is not None:
        tensors |= linear("head", labels, width)
        tensors |= linear("head_dist", labels, width) if dist and two_heads else {}
    return tensors


def reference(tensors, pixels, heads=3):
    """What a model of these names computes, written from its description, in float64."""
    weights = {key: value.double() for key, value in tensors.items()}

    def linear(x, name):
        return nn.functional.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(x, name):
        return nn.functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    kernel = weights["patch_embed.proj.weight"]
    x = nn.functional.conv2d(pixels.double(), kernel, weights["patch_embed.proj.bias"], stride=kernel.shape[2:])
    x = x.flatten(2).mT
    before = [weights[name].expand(len(x), -1, -1) for name in ("cls_token", "dist_token") if name in weights]
    x = torch.cat([*before, x], dim=1) + weights["pos_embed"]
    for i in range(len([key for key in weights if key.endswith("norm1.weight")])):
        fused = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv")
        query, key, value = fused.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        scores = (query @ key.mT / query.shape[-1] ** 0.5).softmax(dim=-1)
        x = x + linear((scores @ value).transpose(1, 2).flatten(2), f"blocks.{i}.attn.proj")
        inner = nn.functional.gelu(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1"))
        x = x + linear(inner, f"blocks.{i}.mlp.fc2")
    x = norm(x, "norm")
    result = {"last_hidden_state": x}
    if "head.weight" in weights:
        result["logits"] = linear(x[:, 0] if "cls_token" in weights else x.mean(dim=1), "head")
    if "head_dist.weight" in weights:
        result["cls_logits"], result["distillation_logits"] = result["logits"], linear(x[:, 1], "head_dist")
        result["logits"] = (result["cls_logits"] + result["distillation_logits"]) / 2
    return result


def saved(path, tensors):
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    return path


def assert_bit_for_bit(one, other):
    one, other = read(one).tensors, read(other).tensors
    assert one.keys() == other.keys()
    assert unequal(one, other) == []


# --- the golden cases -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_golden_checkpoint_computes_the_original_outputs(case, tmp_path):
    checkpoint, settings, pixels, expected, rounding = golden(case)
    report = convert(checkpoint, tmp_path / "model", overrides=settings)
    assert report.format == "deit"
    model = load_model(tmp_path / "model")
    ours = outputs(model, pixels)
    ours["pos_embed_interpolated"] = model.base_model.embeddings.position_embeddings
    if any(name.startswith("loss/") for name in expected):
        inputs = {name: torch.from_numpy(value) for name, value in np.load(GOLDENS / case / "loss_inputs.npz").items()}
    for name, theirs in expected.items():
        if name.startswith("loss/"):
            base, kind, alpha, tau = name.removeprefix("loss/").split("_")
            smoothing = {"ce": 0.0, "smooth": 0.1}[base]
            heads = ours["cls_logits"], ours["distillation_logits"]
            got = (
                classification_loss(heads[0], inputs["labels"], smoothing)
                if kind == "none"
                else distillation_loss(
                    *heads,
                    *(inputs[key] for key in ("labels", "teacher_logits")),
                    kind,
                    alpha=float(alpha.removeprefix("alpha")),
                    tau=float(tau.removeprefix("tau")),
                    label_smoothing=smoothing,
                )
            )
        else:
            got = ours[NAMES.get(name, name)]
        torch.testing.assert_close(got, theirs, rtol=0, atol=tolerance(theirs, rounding[name]), msg=name)


@pytest.mark.parametrize("case", CASES)
def test_a_golden_checkpoint_comes_back_bit_for_bit(case, tmp_path):
    checkpoint, settings, _, _, _ = golden(case)
    settings.pop("image_size")  # as it is stored
    convert(checkpoint, tmp_path / "model", overrides=settings)
    report = convert_back(tmp_path / "model", tmp_path / "again.pth")
    assert_bit_for_bit(checkpoint, tmp_path / "again.pth")
    assert read(tmp_path / "again.pth").entry == "model"
    assert (report.added, report.changed, report.used) == ({}, (), report.tensors)


def test_fine_tuning_at_another_size_resamples_bicubically_and_says_so(tmp_path):
    checkpoint, settings, _, _, _ = golden("position_resize")
    report = convert(checkpoint, tmp_path / "model", overrides=settings)
    assert report.changed == ("the position table of 4x4 patches was resampled to 6x6 (bicubic)",)
    back = convert_back(tmp_path / "model", tmp_path / "again.pth")
    assert back.changed == ("not undone: the position table of 4x4 patches was resampled to 6x6 (bicubic)",)
    assert unequal(read(checkpoint).tensors, read(tmp_path / "again.pth").tensors) == ["pos_embed"]


@pytest.mark.parametrize("case", CASES)
def test_plain_transformers_computes_the_same_from_the_same_folder(case, tmp_path):
    checkpoint, settings, pixels, _, _ = golden(case)
    report = convert(checkpoint, tmp_path / "model", overrides=settings)
    theirs, loading = getattr(transformers, report.model_class).from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not any(loading.values())
    with torch.no_grad():
        logits = theirs.eval()(pixels).logits
    torch.testing.assert_close(load_model(tmp_path / "model")(pixels).logits, logits, rtol=0, atol=last_bits(logits))


def test_the_folder_of_a_distilled_model_answers_with_both_heads_through_the_pipeline(tmp_path):
    checkpoint, settings, _, _, _ = golden("distilled")
    convert(checkpoint, tmp_path / "model", overrides=settings, labels=[f"class {i}" for i in range(10)])
    classify = transformers.pipeline("image-classification", model=str(tmp_path / "model"))
    assert type(classify.model) is hfvision.DeiTForImageClassificationWithTeacher
    image = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    answer = classify(image, top_k=1)[0]
    processor = classify.image_processor
    assert type(processor) is hfvision.BitImageProcessor
    assert (processor.size["shortest_edge"], processor.crop_size["height"]) == (36, 32)
    logits = classify.model(processor(image, return_tensors="pt")["pixel_values"]).logits[0]
    assert answer["label"] == f"class {int(logits.argmax())}"


def test_transformers_prepares_images_alike_from_the_same_folder(tmp_path):
    checkpoint, settings, _, _, _ = golden("plain")
    convert(checkpoint, tmp_path / "model", overrides=settings)
    image = np.random.default_rng(0).integers(0, 256, (50, 41, 3), dtype=np.uint8)
    ours = transformers.AutoImageProcessor.from_pretrained(tmp_path / "model")
    theirs = transformers.BitImageProcessorPil.from_pretrained(tmp_path / "model")
    got, wanted = (processor(image, return_tensors="np")["pixel_values"] for processor in (ours, theirs))
    np.testing.assert_array_equal(got, wanted)
    # the original's own crop, but for its place where the margin is odd: 4 rows left of 36, 4 and a half columns
    exact = hfvision.DeiTImageProcessor.from_protocol("deit", 32, crop_rounding="down")(image, return_tensors="np")
    np.testing.assert_array_equal(got, exact["pixel_values"])


# --- training files ---------------------------------------------------------------------------------------


def training_file(path, **entries):
    weights = timm_checkpoint(dist=True)
    content = {"model": weights, "optimizer": {"state": {}}, "epoch": 3, "args": Namespace(lr=1.0), **entries}
    torch.save(content, path)
    return weights


def test_the_weights_are_found_in_a_training_file_and_what_is_left_is_said(tmp_path):
    weights = training_file(tmp_path / "checkpoint.pth", model_ema=timm_checkpoint(dist=True, seed=1))
    report = convert(tmp_path / "checkpoint.pth", tmp_path / "model", overrides={"num_attention_heads": 3})
    assert report.format == "deit"
    assert {f"entry {name!r} of the file" for name in ("optimizer", "epoch", "args", "model_ema")} < {*report.left_out}
    convert_back(tmp_path / "model", tmp_path / "again.pth")
    assert unequal(weights, read(tmp_path / "again.pth").tensors) == []


def test_averaged_weights_can_be_chosen_and_are_taken_where_there_are_no_others(tmp_path):
    averaged = timm_checkpoint(dist=True, seed=1)
    training_file(tmp_path / "checkpoint.pth", model_ema=averaged)
    torch.save({"model_ema": averaged, "epoch": 3}, tmp_path / "only.pth")
    chosen = read(tmp_path / "checkpoint.pth", "model_ema")
    assert (chosen.entry, unequal(averaged, chosen.tensors)) == ("model_ema", [])
    assert unequal(averaged, read(tmp_path / "only.pth").tensors) == []
    with pytest.raises(CheckpointReadError, match="has no entry ema with weights; it has model, optimizer, epoch"):
        read(tmp_path / "checkpoint.pth", "ema")
    with pytest.raises(CheckpointReadError, match="no entry model_ema with weights; it has the weights themselves"):
        read(saved(tmp_path / "bare.pth", averaged), "model_ema")
    with pytest.raises(CheckpointReadError, match="is a safetensors file, which has no entry 'model_ema'"):
        read(saved(tmp_path / "bare.safetensors", averaged), "model_ema")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_the_prefix_of_a_wrapped_model_is_taken_off_and_said(prefix, tmp_path):
    weights = timm_checkpoint()
    torch.save({"model": {f"{prefix}{key}": tensor for key, tensor in weights.items()}}, tmp_path / "w.pth")
    checkpoint = read(tmp_path / "w.pth")
    assert unequal(weights, checkpoint.tensors) == [] and checkpoint.tensors.keys() == weights.keys()
    assert any("at the beginning of every key" in line for line in checkpoint.left_out)


# --- whose names they are ---------------------------------------------------------------------------------


def test_the_entry_tells_files_of_equal_names_apart():
    keys = list(timm_checkpoint())
    found = {entry: recognise(keys, entry=entry).name for entry in ("model", "model_ema", None, "state_dict")}
    assert found == {"model": "deit", "model_ema": "deit", None: "timm_vit", "state_dict": "timm_vit"}
    assert recognise(keys, "deit").name == "deit" and recognise(keys, "timm", "model").name == "timm_vit"
    assert recognise(timm_checkpoint(cls=False), entry="model").name == "timm_vit"
    with pytest.raises(ConversionError, match=r"several formats have the keys .*\n    deit: .*\n    timm_vit: "):
        recognise(keys, entry="model_state")


def test_a_folder_without_a_record_needs_the_family(tmp_path):
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=18, patch_size=6, layer_norm_eps=1e-6))
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ConversionError, match="several original formats have a place for model_type 'vit'"):
        convert_back(tmp_path / "model", tmp_path / "again.pth")
    report = convert_back(tmp_path / "model", tmp_path / "again.pth", family="timm")
    assert (report.notes, report.dropped) == ((), {})
    x = torch.randn(1, 3, 18, 18)
    expected = reference(read(tmp_path / "again.pth").tensors, x)["logits"].float()
    torch.testing.assert_close(model.eval()(x).logits, expected, rtol=0, atol=tolerance(expected))


# --- timm -------------------------------------------------------------------------------------------------

VARIANTS = {  # name: sizes, settings, model_type, class
    "class token": ({}, {}, "vit", "ViTForImageClassification"),
    "distilled": ({"dist": True}, {}, "deit", "DeiTForImageClassificationWithTeacher"),
    "distilled, one head": ({"dist": True, "two_heads": False}, {}, "deit", "DeiTForImageClassification"),
    "distilled, no head": ({"dist": True, "labels": None}, {}, "deit", "DeiTModel"),
    "no head": ({"labels": None}, {}, "vit", "ViTModel"),
    "mean of tokens": ({"cls": False}, {}, "google_vit", "GoogleViTForImageClassification"),
    "mean of tokens, no head": ({"cls": False, "labels": None}, {}, "google_vit", "GoogleViTModel"),
    "no bias in qkv": ({"bias": False}, {}, "vit", "ViTForImageClassification"),
    "not square": ({"grid": (2, 5)}, {"image_size": [12, 30]}, "vit", "ViTForImageClassification"),
    "patches not square": ({"patch": (4, 6)}, {}, "vit", "ViTForImageClassification"),
    "one channel, eleven blocks": ({"channels": 1, "depth": 11}, {}, "vit", "ViTForImageClassification"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_computes_what_its_description_says_and_comes_back(variant, suffix, tmp_path):
    sizes, settings, model_type, model_class = VARIANTS[variant]
    tensors = timm_checkpoint(**sizes)
    source = saved(tmp_path / f"original{suffix}", tensors)
    report = convert(source, tmp_path / "model", overrides={"num_attention_heads": 3, **settings})
    assert (report.format, report.model_type, report.model_class) == ("timm_vit", model_type, model_class)
    patch = sizes.get("patch", (6, 6))
    size = settings.get("image_size", [3 * side for side in patch])
    pixels = torch.randn(2, sizes.get("channels", 3), *size, generator=torch.Generator().manual_seed(99))
    verify(tmp_path / "model", pixels, reference(tensors, pixels))
    back = convert_back(tmp_path / "model", tmp_path / f"again{suffix}")
    assert_bit_for_bit(source, tmp_path / f"again{suffix}")
    assert read(tmp_path / f"again{suffix}").entry is None
    assert bool(back.notes) == (variant == "distilled, one head")


FOREIGN = {
    "fc_norm.weight": "no format here has the norm after the mean",
    "reg_token": "register tokens",
    "blocks.0.ls1.gamma": r"blocks.0.ls1.gamma \(24,\): layer scale",
    "blocks.0.attn.q_norm.weight": "norms of queries and keys",
    "attn_pool.latent": "pooling by attention",
    "norm_pre.bias": "a norm before the blocks",
}


@pytest.mark.parametrize("key", FOREIGN)
def test_a_part_without_a_place_is_refused_with_the_reason(key, tmp_path):
    source = saved(tmp_path / "original.pth", timm_checkpoint() | {key: torch.ones(24)})
    with pytest.raises(ConversionError, match=FOREIGN[key]):
        convert(source, tmp_path / "model", overrides={"num_attention_heads": 3})
    assert [path.name for path in tmp_path.iterdir()] == ["original.pth"]


def test_a_table_without_a_row_for_the_class_token_is_refused(tmp_path):
    """timm's no_embed_class."""
    tensors = timm_checkpoint()
    source = saved(tmp_path / "original.pth", tensors | {"pos_embed": tensors["pos_embed"][:, 1:].clone()})
    with pytest.raises(ConversionError, match="rows for 8 patches, which make no square"):
        convert(source, tmp_path / "model", overrides={"num_attention_heads": 3})


@pytest.mark.parametrize(("width", "heads"), [(192, 3), (384, 6), (768, 12), (1024, 16), (1280, 16), (1408, 16)])
def test_the_number_of_heads_is_that_of_the_published_models(width, heads):
    tensors = {key: tensor.to("meta") for key, tensor in timm_checkpoint(width=width, depth=1).items()}
    plan = timm_vit.plan(tensors, {}, None)
    assert plan.config["num_attention_heads"] == heads
    assert f"num_attention_heads = {heads}" in plan.assumed


def test_an_unpublished_width_needs_the_number_of_heads(tmp_path):
    with pytest.raises(ConversionError, match="a width of 24 is none of a published model; set num_attention_heads"):
        convert(saved(tmp_path / "original.pth", timm_checkpoint()), tmp_path / "model")
    with pytest.raises(ConfigError, match="cannot be split among 5 attention heads"):
        convert(tmp_path / "original.pth", tmp_path / "model", overrides={"num_attention_heads": 5})


def test_every_mismatch_is_in_one_error(tmp_path):
    tensors = timm_checkpoint(dist=True)
    tensors["extra"] = torch.ones(1)
    tensors["blocks.0.attn.qkv.weight"] = torch.ones(71, 24)
    del tensors["head_dist.bias"], tensors["blocks.1.norm2.weight"]
    with pytest.raises(ConversionError) as caught:
        convert(saved(tmp_path / "original.pth", tensors), tmp_path / "model", overrides={"num_attention_heads": 3})
    for line in (
        "extra (1,) in the checkpoint has no rule",
        "blocks.0.attn.qkv.weight (71, 24) cannot go through split in 3",
        "the checkpoint lacks head_dist.bias",
        "the checkpoint lacks blocks.1.norm2.weight",
        "read as timm_vit",
    ):
        assert line in str(caught.value)


def test_a_pooler_and_a_painter_are_left_behind_with_the_reason(tmp_path):
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40}
    config = DeiTConfig(**sizes, image_size=18, patch_size=6, encoder_stride=6)
    DeiTModel(config).save_pretrained(tmp_path / "trunk")
    report = convert_back(tmp_path / "trunk", tmp_path / "trunk.pth", family="deit")
    assert report.dropped == dict.fromkeys(["pooler.dense.weight", "pooler.dense.bias"], "the original has no pooler")
    assert report.notes == ("the original's code computes with layer_norm_eps = 1e-06, this model with 1e-12",)
    hfvision.DeiTForMaskedImageModeling(config).save_pretrained(tmp_path / "painter")
    report = convert_back(tmp_path / "painter", tmp_path / "painter.safetensors", family="timm")
    assert report.dropped.keys() == {"deit.embeddings.mask_token", "decoder.0.weight", "decoder.0.bias"}
    assert "dist_token" in load_file(tmp_path / "painter.safetensors")


# --- published files, by their shapes ---------------------------------------------------------------------


@pytest.mark.parametrize("table", [deit, timm_vit], ids=["deit", "timm"])
@pytest.mark.parametrize("name", MANIFESTS)
def test_a_published_file_converts_in_shape_both_ways_with_nothing_left_over(name, table):
    manifest = MANIFESTS[name]
    sizes = manifest["config"]
    tensors = meta_tensors(manifest)
    assert table.matches(tensors)
    plan = table.plan(tensors, {}, None)
    converted, _, config = convert_tensors(tensors, table.FORMAT, plan)
    assert (converted.used, converted.dropped, converted.added) == (set(tensors), {}, {})
    distilled = sizes["distilled"]
    assert config.architectures == [
        "DeiTForImageClassificationWithTeacher" if distilled else "ViTForImageClassification"
    ]
    assert (config.image_size, config.patch_size) == (sizes["image_size"][0], sizes["patch_size"])
    assert (config.hidden_size, config.num_hidden_layers) == (sizes["hidden_size"], sizes["depth"])
    assert (config.num_attention_heads, config.intermediate_size) == (sizes["num_heads"], sizes["mlp_dim"])
    assert (config.num_labels, config.layer_norm_eps, config.hidden_act) == (1000, 1e-6, "gelu")
    if table is deit:
        assert plan.preprocessing["size"] == {"shortest_edge": {224: 256, 384: 438}[config.image_size]}
    back, _ = revert_tensors(converted.tensors, config, table.FORMAT)
    assert {key: tuple(tensor.shape) for key, tensor in back.tensors.items()} == {
        key: tuple(tensor.shape) for key, tensor in tensors.items()
    }


# --- the command and the scripts --------------------------------------------------------------------------


def test_the_command_converts_there_and_back(tmp_path):
    training_file(tmp_path / "checkpoint.pth", model_ema=timm_checkpoint(dist=True, seed=1))
    arguments = ["convert", tmp_path / "checkpoint.pth", tmp_path / "model", "--set", "num_attention_heads=3"]
    done = CliRunner().invoke(build_app(), [*map(str, arguments), "--entry", "model_ema"])
    assert done.exit_code == 0, done.output
    arguments = ["convert", tmp_path / "model", tmp_path / "again.pth", "--to", "original"]
    done = CliRunner().invoke(build_app(), list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    assert unequal(timm_checkpoint(dist=True, seed=1), read(tmp_path / "again.pth").tensors) == []
    done = CliRunner().invoke(build_app(), [*map(str, arguments[:2]), str(tmp_path / "again.npz"), *arguments[3:]])
    assert isinstance(done.exception, ConfigError) and "should end in .pth" in str(done.exception)


@pytest.mark.parametrize("name", ["convert_deit", "convert_timm"])
def test_a_script_converts_there_and_back_and_fails_without_a_traceback(name, tmp_path, monkeypatch, capsys):
    def script(*arguments):
        return run_script(name, arguments, monkeypatch, capsys)

    source = saved(tmp_path / "original.pth", timm_checkpoint())
    assert "resampled to 4x4" in script(source, tmp_path / "larger", "--image-size", "24", "--heads", "3")
    assert "32 of 32 tensors used" in script(source, tmp_path / "model", "--heads", "3")
    assert "to original" in script(tmp_path / "model", tmp_path / "again.pth")
    assert_bit_for_bit(source, tmp_path / "again.pth")
    with pytest.raises(SystemExit, match=r"^CheckpointReadError: .*absent\.pth does not exist"):
        script(tmp_path / "absent.pth", tmp_path / "other")
