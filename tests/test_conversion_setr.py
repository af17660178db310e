"""Files of fudan-zvg/SETR: they compute the same here, their losses too, and come back bit for bit."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import hfvision
from hfvision.checkpoints import read
from hfvision.conversion import convert, convert_back
from hfvision.conversion.tables import recognise, setr
from hfvision.conversion.to_hub import convert_tensors, unequal
from hfvision.conversion.to_original import revert_tensors
from hfvision.conversion.verify import tolerance
from hfvision.errors import ConversionError
from hfvision.models.setr import SetrForSemanticSegmentation
from hfvision.upsampling import upsample
from tests.manifests import meta_tensors

DATA = Path(__file__).parent / "data"
GOLDENS = DATA / "goldens" / "setr"
CASES = ("naive", "pup", "mla")
MANIFESTS = json.loads((DATA / "manifests" / "setr.json").read_text(encoding="utf-8"))
HEADS = {"num_attention_heads": 4}


def loaded(case, name):
    return torch.from_numpy(np.load(GOLDENS / case / f"{name}.npy"))


def outputs(model, pixels, labels):
    """What the original computes at each step, and its losses, by the goldens' names."""
    levels = []
    model.neck.register_forward_hook(lambda module, inputs, output: levels.extend(output))
    with torch.no_grad():
        answer = model(pixels, labels=labels, output_hidden_states=True)
    upsampling = model.upsampling(tuple(pixels.shape[-2:]))
    found = {"logits": answer.logits, "loss/decode.loss_seg": model.pixel_loss(answer.logits, labels, upsampling)}
    found |= {f"block_{number}": state for number, state in enumerate(answer.hidden_states[1:])}
    found |= {f"mla_p{number}": level for number, level in enumerate(levels)}
    for number, coarse in enumerate(answer.auxiliary_logits):
        found[f"aux_{number}_logits"] = upsample(coarse, upsampling)
        loss = model.auxiliary_loss_weight * model.pixel_loss(coarse, labels, upsampling)
        found[f"loss/aux_{number}.loss_seg"] = loss
    parts = [value for name, value in found.items() if name.startswith("loss/")]
    torch.testing.assert_close(answer.loss, sum(parts))
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_golden_checkpoint_computes_the_original_outputs_and_losses(case, tmp_path):
    facts = json.loads((GOLDENS / case / "case.json").read_text())
    report = convert(GOLDENS / case / "checkpoint.pth", tmp_path / "model", overrides=HEADS)
    assert report.format == "setr"
    model = SetrForSemanticSegmentation.from_pretrained(tmp_path / "model").eval()
    assert model.config.auxiliary_indices == facts["config"]["aux_index"]
    found = outputs(model, loaded(case, "input"), loaded(case, "labels"))
    expected = np.load(GOLDENS / case / "output.npz")
    compared = [name for name in expected.files if not re.match(r".*acc_seg|slide_", name)]
    for name in compared:
        theirs = torch.from_numpy(expected[name])
        allowed = tolerance(theirs, facts["float64_max_abs_diff"][name])
        torch.testing.assert_close(found[name], theirs, rtol=0, atol=allowed, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_a_golden_checkpoint_comes_back_bit_for_bit_but_for_unused_classifiers(case, tmp_path):
    original = read(GOLDENS / case / "checkpoint.pth")
    there = convert(GOLDENS / case / "checkpoint.pth", tmp_path / "model", overrides=HEADS)
    back = convert_back(tmp_path / "model", tmp_path / "again.pth")
    again = read(tmp_path / "again.pth")
    unused = {key for key in original.tensors if ".conv_seg." in key}
    assert set(there.dropped) == set(back.added) == unused
    assert again.tensors.keys() == original.tensors.keys() and again.entry == "state_dict"
    assert {*unequal(original.tensors, again.tensors)} == unused
    assert all(again.tensors[key].shape == original.tensors[key].shape for key in unused)


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_published_file_converts_in_shape_and_back(name):
    manifest, tensors = MANIFESTS[name], meta_tensors(MANIFESTS[name])
    assert recognise(tensors) is setr.FORMAT
    plan = setr.plan(tensors, {}, None)
    converted, _, config = convert_tensors(tensors, setr.FORMAT, plan)
    facts = manifest["config"]
    assert (config.decoder_type, config.num_attention_heads) == (facts["variant"], facts["num_heads"])
    assert config.decoder_indices == (facts["mla_index"] or [facts["head"]["in_index"]])
    assert config.auxiliary_indices == [head["in_index"] for head in facts["auxiliary_heads"]]
    assert config.decoder_input_size == facts["head"].get("embed_dim", facts["hidden_size"])
    windows = {name: plan.preprocessing[f"window_{name}"] for name in ("size", "stride")}
    assert windows == {"size": facts["test_cfg"]["crop_size"], "stride": facts["test_cfg"]["stride"]}
    short, long = (plan.preprocessing["size"][name] for name in ("shortest_edge", "longest_edge"))
    assert manifest["preprocessing"]["resize"] == f"keep ratio inside ({long}, {short})"
    back, _ = revert_tensors(converted.tensors, config, setr.FORMAT)
    assert {key: (t.shape, t.dtype) for key, t in back.tensors.items()} == {
        key: (t.shape, t.dtype) for key, t in tensors.items()
    }


def test_heads_made_for_another_trunk_convert_with_a_note_and_cannot_run():
    tensors = meta_tensors(MANIFESTS["SETR_PUP_DeiT_512x512_160k_ade20k_bs_16"])
    plan = setr.plan(tensors, {}, None)
    assert "1024 wide, the trunk gives 768: neither this model nor the original can run" in plan.notes[1]
    sizes = {"image_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = hfvision.SetrConfig(**sizes, intermediate_size=16, auxiliary_indices=[], decoder_input_size=24)
    with pytest.raises(hfvision.HfvisionError, match=r"tokens 24 wide \(decoder_input_size\), the trunk gives 16"):
        SetrForSemanticSegmentation(config)(torch.zeros(1, 3, 32, 32))


def test_the_folder_knows_the_windows_and_how_images_are_prepared(tmp_path):
    convert(GOLDENS / "naive" / "checkpoint.pth", tmp_path / "model", overrides=HEADS)
    processor = json.loads((tmp_path / "model" / "preprocessor_config.json").read_text())
    assert processor["image_processor_type"] == "SetrImageProcessor"
    assert (processor["window_size"], processor["window_stride"]) == ([48, 48], [32, 32])


def test_what_the_file_says_of_its_evaluation_and_classes_comes_before_what_is_usual(tmp_path):
    weights = read(GOLDENS / "pup" / "checkpoint.pth").tensors
    config = """
test_pipeline = [dict(type='MultiScaleFlipAug', img_scale=(99, 77), flip=False)]
model = dict(test_cfg=dict(mode='slide', crop_size=(64, 64), stride=(50, 40)))
"""
    meta = {"CLASSES": ("sky", "road", "tree", "car", "sign", "wall"), "config": config}
    torch.save({"meta": meta, "state_dict": weights}, tmp_path / "file.pth")
    report = convert(tmp_path / "file.pth", tmp_path / "model", overrides=HEADS)
    assert report.config["id2label"][1] == "road"
    processor = json.loads((tmp_path / "model" / "preprocessor_config.json").read_text())
    assert processor["size"] == {"shortest_edge": 77, "longest_edge": 99}
    assert (processor["window_size"], processor["window_stride"]) == ([64, 64], [50, 40])
    assert not any("images prepared" in line or "windows" in line for line in report.assumed)


def test_what_the_tensors_do_not_show_can_be_set(tmp_path):
    settings = {**HEADS, "auxiliary_indices": [1, 2], "layer_norm_eps": 1e-5}
    report = convert(GOLDENS / "naive" / "checkpoint.pth", tmp_path / "model", overrides=settings)
    assert (report.config["auxiliary_indices"], report.config["layer_norm_eps"]) == ([1, 2], 1e-5)
    assert not any("auxiliary_indices" in line for line in report.assumed)
    back = convert_back(tmp_path / "model", tmp_path / "again.pth")
    assert back.notes == ("the original's code computes with layer_norm_eps = 1e-06, this model with 1e-05",)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({}, {"auxiliary_indices": [0]}, "the checkpoint has 2 auxiliary heads; auxiliary_indices says"),
        ({}, {"decoder_type": "mla"}, "decoder_type was set to 'mla', the tensors say 'naive'"),
        ({"decode_head.norm.weight": None}, {}, "the checkpoint lacks decode_head.norm.weight, from which"),
        ({"decode_head.extra": torch.zeros(3)}, {}, r"decode_head.extra \(3,\) in the checkpoint has no rule"),
        ({"backbone.blocks.1.norm1.bias": torch.zeros(5)}, {}, r"layernorm_before.bias is \(5,\), the model wants"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_nothing_written(change, settings, message, tmp_path):
    weights = read(GOLDENS / "naive" / "checkpoint.pth").tensors | change
    weights = {key: tensor for key, tensor in weights.items() if tensor is not None}
    torch.save({"meta": {}, "state_dict": weights}, tmp_path / "file.pth")
    with pytest.raises(ConversionError, match=message):
        convert(tmp_path / "file.pth", tmp_path / "model", family="setr", overrides={**HEADS, **settings})
    assert [path.name for path in tmp_path.iterdir()] == ["file.pth"]
