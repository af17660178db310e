"""What a checkpoint may come as: wrapped by a training, in shards, in mixed dtypes, in transformers' own format; and
what is compared with the original's outputs before it is kept.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from hfvision.checkpoints import read
from hfvision.cli import build_app
from hfvision.conversion import convert, convert_back
from hfvision.conversion.verify import outputs
from hfvision.errors import ConfigError, ConversionError, UnknownNameError
from hfvision.registry import (
    ARCHITECTURES,
    IMAGE_CLASSIFICATION,
    IMAGE_SEGMENTATION,
    OBJECT_DETECTION,
    SEMANTIC_SEGMENTATION,
    load,
)

HEADED = (SEMANTIC_SEGMENTATION, IMAGE_SEGMENTATION, OBJECT_DETECTION, IMAGE_CLASSIFICATION)

# --- users' own training files ------------------------------------------------------------------------------

HEADS = {"num_attention_heads": 4}  # of the golden case, which no tensor shows
DEIT = Path(__file__).parent / "data" / "goldens" / "deit" / "plain"


def weights():
    return read(DEIT / "checkpoint.pth").tensors


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"state_dict": {f"model.{k}": t for k, t in w.items()}, "pytorch-lightning_version": "2"},
        lambda w: {"state_dict": {f"net.{k}": t for k, t in w.items()} | {"criterion.weight": torch.ones(3)}},
        lambda w: {"model_state_dict": w, "optimizer_state_dict": {"state": {}}, "best": torch.tensor(0.5)},
        lambda w: {"module": {f"module.{key}": tensor for key, tensor in w.items()}, "global_step": 3},
        lambda w: {"model": {"state_dict": w, "name": "vit"}},
        lambda w: {"ema": {"module": w, "n_averaged": torch.tensor(3)}},
        lambda w: {f"module.{key}": tensor for key, tensor in w.items()} | {"n_averaged": torch.tensor(3)},
        lambda w: {f"_orig_mod.module.{key}": tensor for key, tensor in w.items()},
    ],
    ids=["lightning", "with a loss", "tutorial", "deepspeed", "nested", "ema", "averaged", "compiled parallel"],
)
def test_what_a_training_puts_around_the_weights_is_unwrapped(wrap, tmp_path):
    torch.save(wrap(weights()), tmp_path / "w.pth")
    report = convert(tmp_path / "w.pth", tmp_path / "model", overrides=HEADS)
    assert report.format == "timm_vit" and report.used == report.tensors == len(weights())
    guessed = report.entry is not None and report.entry != "state_dict"
    assert any("timm_vit and not deit" in line for line in report.assumed) == guessed
    reference = convert(DEIT / "checkpoint.pth", tmp_path / "reference", family="timm_vit", overrides=HEADS)
    assert report.parameters == reference.parameters
    again, theirs = read(tmp_path / "model").tensors, read(tmp_path / "reference").tensors
    torch.testing.assert_close(again, theirs, rtol=0, atol=0)


def test_what_lies_outside_of_the_model_is_listed(tmp_path):
    wrapped = {f"net.{key}": tensor for key, tensor in weights().items()} | {"criterion.weight": torch.ones(3)}
    torch.save({"state_dict": wrapped}, tmp_path / "w.pth")
    left = " ".join(convert(tmp_path / "w.pth", tmp_path / "model", overrides=HEADS).left_out)
    assert f"'net.' at the beginning of {len(weights())} keys" in left
    assert "1 tensors outside of 'net.': criterion.weight" in left


@pytest.mark.parametrize("form", ["index and safetensors", "index and bin", "shards alone", "one file"])
def test_shards_of_an_originals_keys_are_read_together(form, tmp_path):
    folder, tensors = tmp_path / "shards", weights()
    folder.mkdir()
    if form == "one file":
        torch.save({"model": tensors}, folder / "checkpoint.pth")
    else:
        kind = "bin" if "bin" in form else "safetensors"
        keys, where = sorted(tensors), {}
        for number, part in enumerate((keys[::2], keys[1::2]), 1):
            name = f"model-0000{number}-of-00002.{kind}"
            content = {key: tensors[key].contiguous() for key in part}
            torch.save(content, folder / name) if kind == "bin" else save_file(content, folder / name)
            where |= dict.fromkeys(part, name)
        if form != "shards alone":
            (folder / f"model.{kind}.index.json").write_text(json.dumps({"weight_map": where}))
    family = "deit" if form == "one file" else "timm_vit"
    report = convert(folder, tmp_path / "model", family=family, overrides=HEADS)
    assert report.used == len(tensors)


def test_half_precisions_that_no_half_holds_together_become_one_dtype(tmp_path):
    mixed = {key: tensor.half() if "norm" in key else tensor.bfloat16() for key, tensor in weights().items()}
    torch.save({"model": mixed}, tmp_path / "w.pth")
    report = convert(tmp_path / "w.pth", tmp_path / "model", overrides=HEADS)
    assert report.dtype == "float32"
    assert any("widened to float32" in line for line in report.changed)
    convert_back(tmp_path / "model", tmp_path / "again.pth")
    assert {key: t.dtype for key, t in read(tmp_path / "again.pth").tensors.items()} == {
        key: t.dtype for key, t in mixed.items()
    }


def test_tied_tensors_are_written_apart_and_said(tmp_path):
    tensors = weights()
    tensors["blocks.0.norm2.weight"] = tensors["blocks.0.norm1.weight"]
    whole = torch.randn(4, *tensors["norm.bias"].shape)
    tensors["norm.bias"] = whole[1]  # a part of a larger memory
    torch.save({"model": tensors}, tmp_path / "w.pth")
    report = convert(tmp_path / "w.pth", tmp_path / "model", overrides=HEADS)
    assert any("blocks.0.norm1.weight = blocks.0.norm2.weight" in line for line in report.changed)
    written = read(tmp_path / "model").tensors
    torch.testing.assert_close(written["vit.layernorm.bias"], whole[1], rtol=0, atol=0)


def test_an_unknown_model_is_answered_with_the_nearest_two_and_what_they_lack(tmp_path):
    tensors = {key: tensor for key, tensor in weights().items() if ".attn.qkv" not in key}
    torch.save(tensors | {"mask_token": torch.ones(1, 1, 4)}, tmp_path / "w.pth")
    with pytest.raises(ConversionError) as caught:
        convert(tmp_path / "w.pth", tmp_path / "model")
    said = str(caught.value).partition("The nearest are:")[2]
    assert said.count("\n") == 2 and "timm_vit" in said
    assert "blocks.{i}.attn.qkv.weight" in said and "without a place: mask_token" in said
    assert not (tmp_path / "model").exists()
    torch.save({"encoder.rnn.weight": torch.ones(2)}, tmp_path / "rnn.pth")
    with pytest.raises(ConversionError, match="No format has a place for even one of these keys"):
        convert(tmp_path / "rnn.pth", tmp_path / "model")


# --- compared with the original's outputs ---------------------------------------------------------------------


def test_outputs_of_the_original_are_compared_and_a_difference_keeps_nothing(tmp_path):
    source, pixels = DEIT / "checkpoint.pth", DEIT / "input.npy"
    command = ["convert", str(source), str(tmp_path / "model"), "--family", "deit", "--input", str(pixels), "--json"]
    command += ["--set", "num_attention_heads=4"]
    done = CliRunner().invoke(build_app(), [*command, "--expected", str(DEIT / "output.npz")])
    assert done.exit_code == 0, done.output
    checked = json.loads(done.stdout)["checked"]
    assert any("outputs on" in line and "logits differ" in line for line in checked)
    wrong = {"logits": np.load(DEIT / "output.npz")["logits"] + 1e-2}
    with pytest.raises(ConversionError, match="does not compute what the original does"):
        convert(source, tmp_path / "other", family="deit", overrides=HEADS, inputs=pixels, expected=wrong)
    assert not (tmp_path / "other").exists()
    with pytest.raises(UnknownNameError, match="none of the expected outputs, scores"):
        convert(
            source,
            tmp_path / "other",
            family="deit",
            overrides=HEADS,
            inputs=pixels,
            expected={"scores": wrong["logits"]},
        )
    with pytest.raises(ConfigError, match="belong together"):
        convert(source, tmp_path / "other", family="deit", overrides=HEADS, inputs=pixels)


# --- models in transformers' format -----------------------------------------------------------------------------


def test_a_folder_of_transformers_is_saved_anew_with_processor_card_and_checks(tmp_path):
    from transformers import AutoImageProcessor, AutoModelForImageClassification
    from transformers.models.vit import modeling_vit as plain

    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = plain.ViTForImageClassification(plain.ViTConfig(**sizes, intermediate_size=48, num_labels=3)).eval()
    model.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "README.md").write_text("---\nlicense: mit\n---\n\n# Mine\n\n## Why\n\nWords of mine.\n")
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = {"logits": model(pixels).logits}
    given = {"inputs": {"pixel_values": pixels}, "expected": expected}
    report = convert(tmp_path / "theirs", tmp_path / "ours", labels=["ant", "bee", "cat"], **given)
    assert any("the original's outputs on 2 images are reproduced" in line for line in report.checked)
    assert any("had no image processor" in line for line in report.changed)
    assert report.recognised.startswith("a variant of vit-") and report.used == report.tensors
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "ours").eval()
    assert loaded.config.id2label == {0: "ant", 1: "bee", 2: "cat"}
    AutoImageProcessor.from_pretrained(tmp_path / "ours")
    torch.testing.assert_close(outputs(loaded, pixels)["logits"], expected["logits"], rtol=0, atol=1e-6)
    card = (tmp_path / "ours" / "README.md").read_text()
    assert "license: mit" in card and "Words of mine." in card


@pytest.mark.parametrize("model_type", ARCHITECTURES)
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_every_architecture_in_transformers_format_is_saved_anew_bit_for_bit(model_type, form, tmp_path):
    known = ARCHITECTURES[model_type]
    auto_class = next(one for one in (*HEADED, "AutoModel") if one in known.models)
    torch.manual_seed(0)
    model = load(known.model(auto_class))(load(known.config)(**known.tiny))
    model.save_pretrained(tmp_path / "theirs")
    tensors = read(tmp_path / "theirs").tensors
    if form == "bin":  # as before 2023
        torch.save(tensors, tmp_path / "theirs" / "pytorch_model.bin")
        (tmp_path / "theirs" / "model.safetensors").unlink()
    report = convert(tmp_path / "theirs", tmp_path / "ours", license="mit")
    torch.testing.assert_close(read(tmp_path / "ours").tensors, tensors, rtol=0, atol=0)
    assert (report.model_class, report.used, report.dropped) == (type(model).__name__, len(tensors), {})
    assert any("are in safetensors now" in line for line in report.changed) == (form == "bin")
    assert not [line for line in report.changed if line.startswith("config.json")], report.changed
    assert "license: mit" in (tmp_path / "ours" / "README.md").read_text()


def test_what_a_conversion_found_out_survives_a_second_one(tmp_path):
    first = convert(DEIT / "checkpoint.pth", tmp_path / "one", overrides=HEADS, family="deit")
    record = tmp_path / "one" / "hfvision_conversion.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"catalog_row": "deit-base-patch16-224"}))
    second = convert(tmp_path / "one", tmp_path / "two")
    assert (second.catalog_row, second.recognised) == ("deit-base-patch16-224", first.recognised)
    convert_back(tmp_path / "two", tmp_path / "again.pth")
    again = read(tmp_path / "again.pth")
    torch.testing.assert_close(again.tensors, weights(), rtol=0, atol=0)


def test_a_folder_with_another_librarys_config_is_read_by_its_keys(tmp_path):
    (tmp_path / "timm").mkdir()
    save_file({key: tensor.contiguous() for key, tensor in weights().items()}, tmp_path / "timm" / "model.safetensors")
    (tmp_path / "timm" / "config.json").write_text('{"architecture": "vit_tiny", "num_classes": 5}')
    report = convert(tmp_path / "timm", tmp_path / "model", overrides=HEADS)
    assert report.format == "timm_vit" and any("not of transformers" in line for line in report.left_out)


def test_a_folder_whose_weights_are_incomplete_is_refused(tmp_path):
    from hfvision.models.vit import ViTConfig, ViTForImageClassification

    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    ViTForImageClassification(ViTConfig(**sizes, intermediate_size=48, num_labels=3)).save_pretrained(tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    (tmp_path / "a" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.raises(ConversionError, match=r"vit\.encoder\.layer\.1\..* is missing"):
        convert(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a" / "config.json").write_text(json.dumps(config | {"architectures": ["ViTForNothing"]}))
    with pytest.raises(ConversionError, match="names ViTForNothing under architectures"):
        convert(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ConfigError, match="family cannot be set"):
        convert(tmp_path / "a", tmp_path / "b", family="vit")
    assert not (tmp_path / "b").exists()
