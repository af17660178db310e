"""Adapters trained with plain transformers 5 work on hfvision's models, and the other way round."""

import json

import pytest
import torch
import transformers
from peft import LoHaConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

import hfvision
from hfvision.cli import build_app
from hfvision.conversion.adapters import renaming
from hfvision.errors import CheckpointReadError, ConfigError, ConversionError
from tests.models import pixels, with_visible_weights
from tests.peers import SHARED, peer_model, plain_transformers
from tests.test_modules_are_called import PEFT, answers, assert_equal

DETR = ("DetrForObjectDetection", "DetrForSegmentation")
MODELS = [*(name for name in SHARED if "Masked" not in name), *DETR]


def detr():
    """A tiny config both of whose sides build the same trunk."""
    from hfvision.registry import ARCHITECTURES

    return {**ARCHITECTURES["detr"].tiny, "num_labels": 5}


def plain_model(name):
    if name not in DETR:
        return peer_model(name)
    with plain_transformers():
        return with_visible_weights(getattr(transformers, name)(transformers.DetrConfig(**detr())))


def pair(name, folder):
    """The same weights in transformers' own class and in ours."""
    plain = plain_model(name)
    plain.save_pretrained(folder)
    return plain, getattr(hfvision, name).from_pretrained(folder).eval()


def adapted(model, **options):
    """With adapters on every linear map and convolution, and a head that is trained whole."""
    kernels = [
        name
        for name, one in model.named_modules()
        if isinstance(one, nn.Linear | nn.Conv2d)
        and getattr(one, "groups", 1) == 1
        and name != "decode_head.classifier"
    ]
    heads = [name for name in ("classifier", "class_labels_classifier") if hasattr(model, name)]
    if hasattr(model, "decode_head"):
        heads = ["decode_head.classifier"]
    targets = [name for name in kernels if name not in heads]
    settings = {"r": 2, "init_lora_weights": False, "target_modules": targets, "modules_to_save": heads or None}
    whole = get_peft_model(model, LoraConfig(**{**settings, **options}))
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_(std=0.2)
    return whole.eval()


def outputs(model):
    x = pixels(model.get_base_model().config)
    with torch.no_grad():
        return [one for one in answers(model, x) if isinstance(one, torch.Tensor)]


@PEFT
@pytest.mark.parametrize("name", MODELS)
def test_an_adapter_of_plain_transformers_5_answers_here_as_there(name, tmp_path):
    plain, ours = pair(name, tmp_path / "model")
    with plain_transformers():
        theirs = adapted(plain)
        theirs.save_pretrained(tmp_path / "theirs")
        wanted = outputs(theirs)
    report = hfvision.convert_adapter(tmp_path / "theirs", tmp_path / "ours")
    assert report.renamed and all("q_proj" not in key for key in report.renamed.values() if "Detr" not in name)
    assert_equal(outputs(PeftModel.from_pretrained(ours, tmp_path / "ours").eval()), wanted)


@PEFT
@pytest.mark.parametrize("name", MODELS)
def test_an_adapter_trained_here_answers_the_same_in_plain_transformers_5(name, tmp_path):
    plain, ours = pair(name, tmp_path / "model")
    here = adapted(ours)
    here.save_pretrained(tmp_path / "ours")
    wanted = outputs(here)
    hfvision.convert_adapter(tmp_path / "ours", tmp_path / "theirs", to="transformers5")
    with plain_transformers():
        assert_equal(outputs(PeftModel.from_pretrained(plain, tmp_path / "theirs").eval()), wanted)
    hfvision.convert_adapter(tmp_path / "theirs", tmp_path / "again")
    before, after = (load_file(tmp_path / side / "adapter_model.safetensors") for side in ("ours", "again"))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    configs = [json.loads((tmp_path / side / "adapter_config.json").read_text()) for side in ("ours", "again")]
    for config in configs:
        config.pop("target_modules")  # PEFT shortens the list
    assert configs[0] == configs[1]


@PEFT
@pytest.mark.parametrize("name", [name for name in MODELS if "Detr" not in name])
def test_an_adapter_with_the_names_of_transformers_4_loads_as_it_is(name, tmp_path):
    _, ours = pair(name, tmp_path / "model")
    here = adapted(ours, target_modules=["query", "value"])
    here.save_pretrained(tmp_path / "four")
    wanted = outputs(here)
    keys = load_file(tmp_path / "four" / "adapter_model.safetensors")
    assert any(".query.lora_A.weight" in key for key in keys)
    again = getattr(hfvision, name).from_pretrained(tmp_path / "model").eval()
    assert_equal(outputs(PeftModel.from_pretrained(again, tmp_path / "four").eval()), wanted)
    report = hfvision.convert_adapter(tmp_path / "four", tmp_path / "same")
    assert report.renamed == {}
    again = getattr(hfvision, name).from_pretrained(tmp_path / "model").eval()
    assert_equal(outputs(PeftModel.from_pretrained(again, tmp_path / "same").eval()), wanted)


@PEFT
def test_ranks_scales_and_other_kinds_of_adapters_come_along(tmp_path):
    plain, ours = pair("ViTForImageClassification", tmp_path / "model")
    with plain_transformers():
        theirs = adapted(
            plain,
            target_modules=["q_proj", "fc2"],
            layers_to_transform=[0, 2],
            layers_pattern="layers",
            rank_pattern={"layers.2.attention.q_proj": 3},
            alpha_pattern={"fc2": 5},
        )
        theirs.save_pretrained(tmp_path / "lora")
        wanted = outputs(theirs)
    hfvision.convert_adapter(tmp_path / "lora", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["rank_pattern"] == {"vit.encoder.layer.2.attention.attention.query": 3}
    assert config["alpha_pattern"] == {f"vit.encoder.layer.{index}.output.dense": 5 for index in (0, 2)}
    assert config["auto_mapping"]["parent_library"] == "hfvision.models.vit"
    assert_equal(outputs(PeftModel.from_pretrained(ours, tmp_path / "out").eval()), wanted)

    plain, ours = pair("ViTForImageClassification", tmp_path / "model")
    with plain_transformers():
        theirs = get_peft_model(plain, LoHaConfig(r=2, target_modules=["k_proj"], init_weights=False)).eval()
        theirs.save_pretrained(tmp_path / "loha")
        wanted = outputs(theirs)
    hfvision.convert_adapter(tmp_path / "loha", tmp_path / "out", overwrite=True)
    assert_equal(outputs(PeftModel.from_pretrained(ours, tmp_path / "out").eval()), wanted)


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("vit.encoder.layer.11.output.dense", "vit.layers.11.mlp.fc2"),
        ("swin.encoder.layers.0.blocks.1.attention.self.key", "swin.encoder.layers.0.blocks.1.attention.k_proj"),
        (
            "segformer.encoder.block.0.1.attention.self.sr",
            "segformer.stages.0.blocks.1.attention." + 2 * "sequence_reduction.",
        ),
        ("decode_head.linear_c.3.proj", "decode_head.linear_projections.3.proj"),
        ("model.decoder.layers.0.encoder_attn.out_proj", "model.decoder.layers.0.encoder_attn.o_proj"),
        ("backbone.encoder.layers.0.blocks.0.output.dense", "backbone.swin.encoder.layers.0.blocks.0.mlp.fc2"),
        ("classifier", "classifier"),
    ],
)
def test_names_go_over_and_back(here, there):
    there = there.rstrip(".")
    assert renaming("transformers5")(here) == there and renaming("hfvision")(there) == here


def command(*words):
    return CliRunner().invoke(build_app(), ["convert", *map(str, words)])


@PEFT
def test_the_command_converts_both_ways(tmp_path):
    _, ours = pair("ViTForImageClassification", tmp_path / "model")
    adapted(ours).save_pretrained(tmp_path / "ours")
    words = (tmp_path / "ours", tmp_path / "theirs", "--to", "transformers5")
    done = command(*words)
    assert (
        "renamed for transformers5" in done.stderr and f"{tmp_path / 'theirs' / 'adapter_config.json'}" in done.stdout
    )
    assert "is not empty" in str(command(*words).exception)
    assert json.loads(command(*words, "--overwrite", "--json").stdout)["to"] == "transformers5"
    done = command(tmp_path / "ours", tmp_path / "x", "--family", "vit")
    assert "--family cannot be used with an adapter" in str(done.exception)
    done = command(tmp_path / "model", tmp_path / "x", "--to", "transformers5")
    assert "is for adapters of PEFT" in str(done.exception)


def test_faults_are_told(tmp_path):
    with pytest.raises(CheckpointReadError, match=r"has no adapter_config\.json"):
        hfvision.convert_adapter(tmp_path, tmp_path / "out")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "NEW", "target_modules": ["query"]}')
    with pytest.raises(CheckpointReadError, match="and no weights"):
        hfvision.convert_adapter(tmp_path, tmp_path / "out")
    with pytest.raises(ConfigError, match="got 'v5'"):
        hfvision.convert_adapter(tmp_path, tmp_path / "out", to="v5")
    from safetensors.torch import save_file

    save_file({"base_model.model.vit.new_thing": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ConversionError, match="of kind NEW do not name the modules"):
        hfvision.convert_adapter(tmp_path, tmp_path / "out")
    both = ["vit.layers.0.attention.q_proj.lora_A", "vit.encoder.layer.0.attention.attention.query.lora_A"]
    save_file({f"base_model.model.{key}": torch.zeros(1) for key in both}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ConversionError, match="both kinds of names"):
        hfvision.convert_adapter(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
