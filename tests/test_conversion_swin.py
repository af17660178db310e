"""Files of microsoft/Swin-Transformer and of timm's Swin: they compute the same here and come back bit for bit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import hfvision
from hfvision.checkpoints import read
from hfvision.conversion import convert, convert_back, verify
from hfvision.conversion.tables import recognise, swin, timm_swin
from hfvision.conversion.to_hub import convert_tensors, unequal
from hfvision.conversion.to_original import revert_tensors
from hfvision.conversion.verify import load_model, tolerance
from hfvision.errors import ConversionError
from hfvision.models.swin.model import SwinStage
from tests.manifests import meta_tensors
from tests.models import last_bits
from tests.test_conversion import run_script
from tests.test_conversion_deit import assert_bit_for_bit, saved

DATA = Path(__file__).parent / "data"
GOLDENS = DATA / "goldens" / "swin"
CASES = sorted(path.name for path in GOLDENS.iterdir())
MANIFESTS = json.loads((DATA / "manifests" / "swin.json").read_text(encoding="utf-8"))


def golden(case):
    facts = json.loads((GOLDENS / case / "case.json").read_text())
    expected = {name: torch.from_numpy(value) for name, value in np.load(GOLDENS / case / "output.npz").items()}
    pixels = torch.from_numpy(np.load(GOLDENS / case / "input.npy"))
    sizes = facts["config"]
    settings = {name: sizes[name] for name in ("image_size", "window_size")} if facts.get("resized_load") else {}
    return GOLDENS / case / "checkpoint.pth", settings, pixels, expected, facts


@torch.no_grad()
def features(model, pixels):
    """Every output that the goldens name."""
    found = {}
    stages = [module for module in model.modules() if isinstance(module, SwinStage)]
    hooks = [
        stage.register_forward_hook(lambda _, __, out, i=i: found.update({f"stage{i}_before_merge": out[1]}))
        for i, stage in enumerate(stages, start=1)
    ]
    trunk = model.base_model(pixels, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    found |= {"embeddings": trunk.hidden_states[0], "last_hidden_state": trunk.last_hidden_state}
    found |= {"pooled": trunk.pooler_output, "logits": model(pixels).logits}
    found["bias_table_layer0"] = stages[0].blocks[0].attention.self.relative_position_bias_table
    return found


def swin_checkpoint(*, timm=False, depths=(2, 2), width=8, window=3, image=48, labels=5, bias=True, buffers=True):
    """Random weights under the original's names, or under timm's; labels=None leaves the head out."""
    generator = torch.Generator().manual_seed(0)

    def linear(name, outputs, inputs, with_bias=True):
        weight = {f"{name}.weight": torch.randn(outputs, inputs, generator=generator) / inputs**0.5}
        return weight | ({f"{name}.bias": torch.randn(outputs, generator=generator) / 3} if with_bias else {})

    def norm(name, width):
        values = torch.randn(2, width, generator=generator) / 3
        return {f"{name}.weight": values[0] + 1, f"{name}.bias": values[1].clone()}

    kernel = linear("patch_embed.proj", width, 3 * 16)
    tensors = kernel | {"patch_embed.proj.weight": kernel["patch_embed.proj.weight"].reshape(width, 3, 4, 4)}
    tensors |= norm("patch_embed.norm", width)
    for stage, depth in enumerate(depths):
        side = min(window, image // 4 // 2**stage)
        for i in range(depth):
            block, heads = f"layers.{stage}.blocks.{i}", 2 ** (stage + 1)
            tensors |= norm(f"{block}.norm1", width) | linear(f"{block}.attn.qkv", 3 * width, width, bias)
            table = torch.randn((2 * side - 1) ** 2, heads, generator=generator)
            tensors |= {f"{block}.attn.relative_position_bias_table": table}
            tensors |= linear(f"{block}.attn.proj", width, width) | norm(f"{block}.norm2", width)
            tensors |= linear(f"{block}.mlp.fc1", 2 * width, width) | linear(f"{block}.mlp.fc2", width, 2 * width)
        if stage + 1 < len(depths):
            merging = f"layers.{stage + timm}.downsample"
            tensors |= norm(f"{merging}.norm", 4 * width) | linear(f"{merging}.reduction", 2 * width, 4 * width, False)
            width *= 2
    tensors |= norm("norm", width)
    if labels is not None:
        tensors |= linear("head.fc" if timm else "head", labels, width)
    if buffers and not timm:
        sizes = {"image_size": image, "patch_size": 4, "window_size": window, "depths": depths}
        tensors |= {key: make() for key, make in swin.buffers(sizes).items()}
    return tensors


def reference(tensors, pixels, depths=(2, 2), window=3, merges_last=True):
    """What a model of these names computes, place by place from its description, in float64."""
    weights = {key: value.double() for key, value in tensors.items() if value.is_floating_point()}

    def linear(x, name):
        return nn.functional.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(x, name):
        return nn.functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)

    def attention(x, name, side, shift):
        height, width = x.shape[1:3]
        table = weights[f"{name}.relative_position_bias_table"]
        heads, reach = table.shape[1], 2 * side - 1
        rows, columns = (torch.arange(n).roll(-shift) for n in (height, width))
        result = torch.empty_like(x)
        for top in range(0, height, side):
            for left in range(0, width, side):
                places = [(a, b) for a in range(top, top + side) for b in range(left, left + side)]
                at = [(rows[a], columns[b]) for a, b in places]
                window = torch.stack([x[:, a, b] for a, b in at], dim=1)
                query, key, value = linear(window, f"{name}.qkv").unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
                scores = query @ key.mT / query.shape[-1] ** 0.5
                for i, (a, b) in enumerate(places):
                    for j, (c, d) in enumerate(places):
                        scores[:, :, i, j] += table[(a - c + side - 1) * reach + b - d + side - 1]
                        wrapped = [(n >= height - shift, m >= width - shift) for n, m in ((a, b), (c, d))]
                        if shift and wrapped[0] != wrapped[1]:
                            scores[:, :, i, j] -= 100
                mixed = linear((scores.softmax(-1) @ value).transpose(1, 2).flatten(2), f"{name}.proj")
                for index, (a, b) in enumerate(at):
                    result[:, a, b] = mixed[:, index]
        return result

    kernel = weights["patch_embed.proj.weight"]
    x = nn.functional.conv2d(pixels.double(), kernel, weights["patch_embed.proj.bias"], stride=kernel.shape[2:])
    x = norm(x.permute(0, 2, 3, 1), "patch_embed.norm")
    for stage, depth in enumerate(depths):
        if stage:
            merging = f"layers.{stage - merges_last}.downsample"
            four = [x[:, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
            x = linear(norm(torch.cat(four, dim=-1), f"{merging}.norm"), f"{merging}.reduction")
        side = min(window, *x.shape[1:3])
        for i in range(depth):
            block = f"layers.{stage}.blocks.{i}"
            shift = window // 2 if i % 2 and min(x.shape[1:3]) > window else 0
            x = x + attention(norm(x, f"{block}.norm1"), f"{block}.attn", side, shift)
            inner = nn.functional.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
            x = x + linear(inner, f"{block}.mlp.fc2")
    x = norm(x.flatten(1, 2), "norm")
    head = "head" if "head.weight" in weights else "head.fc"
    return {"last_hidden_state": x, "logits": linear(x.mean(dim=1), head)}


# --- the golden cases -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_golden_checkpoint_computes_the_original_outputs(case, tmp_path):
    checkpoint, settings, pixels, expected, facts = golden(case)
    report = convert(checkpoint, tmp_path / "model", overrides=settings)
    assert report.format == "swin"
    assert report.model_type == ("swin" if facts["config"]["patch_norm"] else "microsoft_swin")
    image = facts["config"]["image_size"]
    assert report.config["image_size"] in (image, image[0])
    ours = features(load_model(tmp_path / "model"), pixels)
    for name, theirs in expected.items():
        allowed = tolerance(theirs, facts["float64_max_abs_diff"][name])
        torch.testing.assert_close(ours[name], theirs, rtol=0, atol=allowed, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_a_golden_checkpoint_comes_back_bit_for_bit_with_its_buffers(case, tmp_path):
    checkpoint = golden(case)[0]
    convert(checkpoint, tmp_path / "model")
    report = convert_back(tmp_path / "model", tmp_path / "again.pth")
    assert_bit_for_bit(checkpoint, tmp_path / "again.pth")
    assert read(tmp_path / "again.pth").entry == "model"
    assert report.changed == () and all(key.endswith(("_index", "attn_mask")) for key in report.added)


def test_loading_for_another_window_resamples_as_the_original_does(tmp_path):
    checkpoint, settings, pixels, expected, facts = golden("window_resize_on_load")
    convert(checkpoint, tmp_path / "model")
    model = hfvision.SwinForImageClassification.from_pretrained(tmp_path / "model", **settings).eval()
    ours = features(model, pixels)
    for name, theirs in expected.items():
        allowed = tolerance(theirs, facts["float64_max_abs_diff"][name])
        torch.testing.assert_close(ours[name], theirs, rtol=0, atol=allowed, msg=name)
    report = convert(checkpoint, tmp_path / "larger", overrides=settings)
    assert [line for line in report.changed if "stage" in line] == [
        f"the bias tables of stage {stage} were resampled from windows of 4x4 to 6x6 (bicubic)" for stage in (1, 2)
    ]
    convert_back(tmp_path / "larger", tmp_path / "again.pth")
    back = read(tmp_path / "again.pth").tensors
    assert back["layers.0.blocks.1.attn_mask"].shape == (4, 36, 36)  # for 48 pixels: 12 x 12 places


def test_plain_transformers_computes_the_same_from_the_same_folder(tmp_path):
    checkpoint, settings, pixels, _, _ = golden("absolute_pos_embed")
    convert(checkpoint, tmp_path / "model", overrides=settings)
    theirs, loading = transformers.SwinForImageClassification.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not any(loading.values())
    with torch.no_grad():
        logits = theirs.eval()(pixels).logits
    torch.testing.assert_close(load_model(tmp_path / "model")(pixels).logits, logits, rtol=0, atol=last_bits(logits))


# --- buffers ----------------------------------------------------------------------------------------------


def test_buffers_of_another_computation_are_not_dropped_silently(tmp_path):
    tensors = swin_checkpoint()
    tensors["layers.0.blocks.1.attn_mask"][0, 0, 1] = -7
    tensors["layers.1.blocks.0.attn.relative_position_index"] += 1
    with pytest.raises(
        ConversionError, match=r"(?s)2 mismatches.*0.blocks.1.attn_mask .*0.attn.relative_position_index"
    ):
        convert(saved(tmp_path / "original.pth", tensors), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_model_that_was_never_converted_gets_all_buffers(tmp_path):
    config = hfvision.SwinConfig(
        image_size=48, embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=3, num_labels=5
    )
    model = hfvision.SwinForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "model")
    convert_back(tmp_path / "model", tmp_path / "again.pth", family="swin")
    wanted, got = swin_checkpoint(), read(tmp_path / "again.pth").tensors
    assert {key: t.shape for key, t in wanted.items() if "mlp" not in key} == {
        key: t.shape for key, t in got.items() if "mlp" not in key
    }
    made = {key: tensor for key, tensor in wanted.items() if key.endswith(("_index", "_mask"))}
    assert len(made) == 6 and unequal(made, got) == []


def test_a_file_without_buffers_comes_back_without_them(tmp_path):
    source = saved(tmp_path / "original.pth", {"model": swin_checkpoint(buffers=False)})
    report = convert(source, tmp_path / "model")
    assert "image_size = 24" in report.assumed  # the last map would be one window
    convert_back(tmp_path / "model", tmp_path / "again.pth")
    assert_bit_for_bit(source, tmp_path / "again.pth")


def test_values_that_the_original_has_no_row_for_are_not_lost_silently(tmp_path):
    convert(golden("four_stages_small_map")[0], tmp_path / "model")
    model = load_model(tmp_path / "model")
    with torch.no_grad():
        model.blocks()[-1].attention.self.relative_position_bias_table += 1
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ConversionError, match="it has values for offsets that windows of 2x2 places have not"):
        convert_back(tmp_path / "model", tmp_path / "again.pth")
    assert not (tmp_path / "again.pth").exists()


# --- variants of both formats -----------------------------------------------------------------------------

VARIANTS = {
    "two stages": {},
    "no bias in qkv": {"bias": False},
    "three stages, a window that shrinks": {"depths": (2, 2, 2), "window": 4, "image": 32},
    "one stage": {"depths": (3,), "image": 24},
}


@pytest.mark.parametrize("timm", [False, True], ids=["original", "timm"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_computes_what_its_description_says_and_comes_back(variant, timm, tmp_path):
    sizes = VARIANTS[variant]
    tensors = swin_checkpoint(timm=timm, **sizes)
    source = saved(tmp_path / "original.pth", tensors if timm else {"model": tensors})
    side = sizes.get("image", 48)
    report = convert(source, tmp_path / "model", overrides={"image_size": side} if timm else {})
    assert report.format == ("timm_swin" if timm else "swin")
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(9))
    computed = reference(tensors, pixels, sizes.get("depths", (2, 2)), sizes.get("window", 3), merges_last=not timm)
    verify(tmp_path / "model", pixels, computed)
    convert_back(tmp_path / "model", tmp_path / "again.pth")
    assert_bit_for_bit(source, tmp_path / "again.pth")
    assert read(tmp_path / "again.pth").entry == (None if timm else "model")


@pytest.mark.parametrize("timm", [False, True], ids=["original", "timm"])
def test_a_trunk_without_head_converts_and_comes_back(timm, tmp_path):
    source = saved(tmp_path / "original.pth", swin_checkpoint(timm=timm, labels=None))
    report = convert(source, tmp_path / "model")
    assert (report.model_class, report.format) == ("SwinModel", "timm_swin" if timm else "swin")
    convert_back(tmp_path / "model", tmp_path / "again.pth")
    assert_bit_for_bit(source, tmp_path / "again.pth")


FOREIGN = {
    "layers.0.blocks.0.attn.logit_scale": "it is a Swin V2",
    "layers.0.blocks.0.mlp._moe_layer.experts.w": "a mixture of experts",
    "mask_token": "trained on masked images",
    "extra": "extra .* has no rule",
}


@pytest.mark.parametrize("key", FOREIGN)
def test_a_part_without_a_place_is_refused_with_the_reason(key, tmp_path):
    source = saved(tmp_path / "original.pth", swin_checkpoint() | {key: torch.ones(2)})
    with pytest.raises(ConversionError, match=FOREIGN[key]):
        convert(source, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["original.pth"]


def test_windows_that_are_not_square_are_refused(tmp_path):
    tensors = swin_checkpoint(timm=True)
    for i in range(2):
        tensors[f"layers.1.blocks.{i}.attn.relative_position_bias_table"] = torch.ones(15, 4)
    with pytest.raises(ConversionError, match=r"stage 2 have 15 rows; those of windows of M x M"):
        convert(saved(tmp_path / "original.pth", tensors), tmp_path / "model")
    source = saved(tmp_path / "other.pth", swin_checkpoint(timm=True))
    with pytest.raises(ConversionError, match="come to a map of 3x12 places, not larger than windows of 3; there timm"):
        convert(source, tmp_path / "model", overrides={"image_size": [12, 48]})


def test_the_place_of_the_merging_layers_tells_the_formats_apart():
    assert recognise(swin_checkpoint()).name == "swin"
    assert recognise(swin_checkpoint(labels=None)).name == "swin"
    assert recognise(swin_checkpoint(timm=True, labels=None)).name == "timm_swin"
    assert recognise(swin_checkpoint(timm=True, depths=(2,))).name == "timm_swin"


def test_a_backbone_is_not_a_classifier(tmp_path):
    config = hfvision.SwinConfig(image_size=48, embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=3)
    hfvision.SwinBackbone(config).save_pretrained(tmp_path / "backbone")
    with pytest.raises(ConversionError, match="no place for the norms of a backbone's maps"):
        convert_back(tmp_path / "backbone", tmp_path / "again.pth", family="swin")


def test_a_painter_is_left_behind_with_the_reason(tmp_path):
    config = hfvision.SwinConfig(image_size=48, embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=3)
    hfvision.SwinForMaskedImageModeling(config).save_pretrained(tmp_path / "painter")
    report = convert_back(tmp_path / "painter", tmp_path / "again.safetensors", family="timm")
    assert report.dropped.keys() == {"swin.embeddings.mask_token", "decoder.0.weight", "decoder.0.bias"}


# --- published files, by their shapes ---------------------------------------------------------------------


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_published_file_converts_in_shape_both_ways_with_nothing_left_over(name):
    manifest = MANIFESTS[name]
    sizes = manifest["config"]
    tensors = meta_tensors(manifest)
    assert recognise(tensors, entry="model").name == "swin"
    plan = swin.plan(tensors, {}, None)
    converted, _, config = convert_tensors(tensors, swin.FORMAT, plan)
    buffers = {key for key in tensors if key.endswith(("relative_position_index", "attn_mask"))}
    assert converted.dropped.keys() == buffers and converted.used == set(tensors) - buffers
    assert (config.image_size, config.patch_size) == (sizes["image_size"][0], sizes["patch_size"])
    assert (config.embed_dim, config.depths, config.num_heads) == tuple(
        sizes[key] for key in ("embed_dim", "depths", "num_heads")
    )
    assert (config.window_size, config.num_labels, config.mlp_ratio) == (
        sizes["window_size"],
        sizes["num_classes"],
        sizes["mlp_ratio"],
    )
    short, crop = {224: (256, True), 256: (292, True), 384: (None, False)}[config.image_size]
    assert (plan.preprocessing["size"].get("shortest_edge"), plan.preprocessing["do_center_crop"]) == (short, crop)
    back, _ = revert_tensors(converted.tensors, config, swin.FORMAT)
    assert {key: (tuple(t.shape), t.dtype) for key, t in back.tensors.items()} == {
        key: (tuple(t.shape), t.dtype) for key, t in tensors.items()
    }


def test_timms_names_for_a_published_model_convert_in_shape_both_ways():
    theirs = {}
    for key, tensor in meta_tensors(MANIFESTS["swin_base_patch4_window12_384"]).items():
        if key.endswith(("relative_position_index", "attn_mask")):
            continue
        stage = key.split(".")[1]
        key = (
            key.replace(f"layers.{stage}.downsample", f"layers.{int(stage) + 1}.downsample") if ".down" in key else key
        )
        theirs[key.replace("head.", "head.fc.")] = tensor
    assert recognise(theirs).name == "timm_swin"
    plan = timm_swin.plan(theirs, {}, None)
    assert plan.config["image_size"] == 384 and plan.preprocessing["size"] == {"shortest_edge": 384}
    converted, _, config = convert_tensors(theirs, timm_swin.FORMAT, plan)
    back, _ = revert_tensors(converted.tensors, config, timm_swin.FORMAT)
    assert {key: t.shape for key, t in back.tensors.items()} == {key: t.shape for key, t in theirs.items()}


def test_the_script_converts_there_and_back(tmp_path, monkeypatch, capsys):
    source = saved(tmp_path / "original.pth", {"model": swin_checkpoint()})
    there = run_script("convert_swin", (source, tmp_path / "model"), monkeypatch, capsys)
    assert "relative_position_index" in there and "follows from the sizes of map and window" in there
    run_script("convert_swin", (tmp_path / "model", tmp_path / "again.pth"), monkeypatch, capsys)
    assert_bit_for_bit(source, tmp_path / "again.pth")
