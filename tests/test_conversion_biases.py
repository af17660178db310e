"""Files of every family that were trained without biases of queries, keys and values: they convert, compute what zeros
compute, and come back without them.
"""

import json
import re

import pytest
import torch
import transformers

import hfvision
from hfvision.checkpoints import read
from hfvision.conversion import convert, convert_back
from hfvision.conversion.tables import FORMATS
from hfvision.conversion.tensors import unequal
from hfvision.errors import ConversionError
from tests.models import main_output, pixels
from tests.originals import settings_of, tensors_of, with_attention, write

BIAS = re.compile(
    r"(\.attn\.(qkv|q|kv)\.bias|\.in_proj_bias|_attn\.out_proj\.bias|Attention_1/(query|key|value)/bias)$"
)
ATTENTIVE = [format.name for format in FORMATS if with_attention(format.name)]


def without_biases(name):
    return {key: tensor for key, tensor in tensors_of(name).items() if not BIAS.search(key)}


def with_zeros(name):
    return {key: torch.zeros_like(t) if BIAS.search(key) else t for key, t in tensors_of(name).items()}


def loaded(report):
    model_class = getattr(hfvision, report.model_class, None) or getattr(transformers, report.model_class)
    return model_class.from_pretrained(report.out).eval()


def test_all_formats_but_those_of_mixers_have_attention():
    assert {format.name for format in FORMATS} - set(ATTENTIVE) == {"google_mixer", "timm_mixer"}


@torch.no_grad()
@pytest.mark.parametrize("name", ATTENTIVE)
def test_a_file_without_biases_computes_what_zeros_compute_and_comes_back_as_it_was(name, tmp_path):
    tensors = without_biases(name)
    assert len(tensors) < len(tensors_of(name))
    source = write(name, tensors, tmp_path)
    report = convert(source, tmp_path / "model", family=name, overrides=settings_of(name))
    (tmp_path / "zeros").mkdir()
    zeros = convert(
        write(name, with_zeros(name), tmp_path / "zeros"),
        tmp_path / "with_zeros",
        family=name,
        overrides=settings_of(name),
    )
    assert report.used + len(report.dropped) == report.tensors == len(tensors)
    model, reference = loaded(report), loaded(zeros)
    x = pixels(model.config)
    torch.testing.assert_close(main_output(model(x)), main_output(reference(x)), rtol=0, atol=0)

    back = convert_back(tmp_path / "model", tmp_path / f"again{source.suffix}")
    assert (tmp_path / f"again{source.suffix}").read_bytes() == source.read_bytes()
    assert back.used == back.tensors - len(back.dropped.keys() & read(tmp_path / "model").tensors.keys())


@pytest.mark.parametrize("name", ["segformer", "detr", "segmenter"])
def test_what_was_filled_in_is_said_and_the_record_survives_others_who_save_the_model(name, tmp_path):
    source = write(name, without_biases(name), tmp_path)
    report = convert(source, tmp_path / "model", overrides=settings_of(name))
    filled = [key for key, why in report.added.items() if "trained without this bias" in why]
    assert filled and all(not read(tmp_path / "model").tensors[key].any() for key in filled)
    assert "zeros: the checkpoint was trained without this bias" in report.text()
    loaded(report).save_pretrained(tmp_path / "saved")
    back = convert_back(tmp_path / "saved", tmp_path / "again.pth")
    assert not unequal(without_biases(name), read(tmp_path / "again.pth").tensors)
    assert any("came without such biases" in why for why in back.dropped.values())


def test_plain_transformers_loads_a_segformer_without_biases_and_its_folder_still_knows(tmp_path):
    source = write("segformer", without_biases("segformer"), tmp_path)
    settings = settings_of("segformer") | {"layer_norm_eps": 1e-5}
    report = convert(source, tmp_path / "model", overrides=settings)
    plain = transformers.models.segformer.modeling_segformer.SegformerForSemanticSegmentation
    config = transformers.models.segformer.configuration_segformer.SegformerConfig.from_pretrained(tmp_path / "model")
    theirs, info = plain.from_pretrained(tmp_path / "model", config=config, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    x = pixels(loaded(report).config)
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(x).logits, loaded(report)(x).logits, rtol=1e-4, atol=1e-4)
    theirs.save_pretrained(tmp_path / "theirs")
    convert_back(tmp_path / "theirs", tmp_path / "again.pth", family="segformer")
    assert not unequal(without_biases("segformer"), read(tmp_path / "again.pth").tensors)
    assert read(tmp_path / "again.pth").tensors.keys() == without_biases("segformer").keys()


@pytest.mark.parametrize("name", ["segformer", "detr", "segmenter", "google_vit"])
def test_biases_that_were_trained_since_are_not_lost(name, tmp_path):
    source = write(name, without_biases(name), tmp_path)
    report = convert(source, tmp_path / "model", family=name, overrides=settings_of(name))
    if not report.added:
        return  # the model has no such parameters either
    model = loaded(report)
    key = next(iter(report.added))
    with torch.no_grad():
        model.get_parameter(key).fill_(0.5)
    model.save_pretrained(tmp_path / "trained")
    back = convert_back(tmp_path / "trained", tmp_path / f"again{source.suffix}", family=name)
    written = read(tmp_path / f"again{source.suffix}").tensors
    assert {source for source in written if source not in without_biases(name)} and key in report.added
    assert len(written) == len(without_biases(name)) + int(back.notes[-1].split()[0])
    assert any("trained since, and are kept" in line for line in back.notes)


@pytest.mark.parametrize("name", ATTENTIVE)
def test_a_file_that_lacks_one_bias_of_many_is_damaged(name, tmp_path):
    tensors = tensors_of(name)
    lost = max(key for key in tensors if BIAS.search(key))
    source = write(name, {key: tensor for key, tensor in tensors.items() if key != lost}, tmp_path)
    with pytest.raises(ConversionError, match=re.escape(lost)):
        convert(source, tmp_path / "model", family=name, overrides=settings_of(name))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(("name", "other"), [("timm_vit", "google_vit"), ("timm_hybrid", "google_hybrid")])
def test_a_model_without_biases_goes_to_a_format_that_always_has_them_as_zeros(name, other, tmp_path):
    source = write(name, {k: t.half() for k, t in without_biases(name).items()}, tmp_path)
    convert(source, tmp_path / "model", family=name, overrides=settings_of(name))
    back = convert_back(tmp_path / "model", tmp_path / "again.npz", family=other)
    added = {key for key in back.added if BIAS.search(key)}
    written = read(tmp_path / "again.npz").tensors
    assert added == {key for key in written if BIAS.search(key)} and added
    assert all(not written[key].any() and written[key].dtype == torch.float16 for key in added)
    assert all("zeros" in back.added[key] for key in added)
    again = convert(tmp_path / "again.npz", tmp_path / "forth", family=other)
    assert json.loads((tmp_path / "forth" / "config.json").read_text())["qkv_bias"] is True
    assert again.used == len(written)
