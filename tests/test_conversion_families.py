"""`--family` with every family's file: what does not fit is said in words, and whose file it is."""

import re

import pytest
import torch
from typer.testing import CliRunner

from hfvision.checkpoints import Checkpoint
from hfvision.cli import build_app
from hfvision.conversion import convert
from hfvision.conversion.tables import FORMATS
from hfvision.conversion.tensors import convert_tensors
from hfvision.conversion.to_hub import recognised_plan
from hfvision.conversion.unwrapping import PARTS, unwrap
from hfvision.errors import ConversionError, HfvisionError
from hfvision.registry import ARCHITECTURES
from tests.models import tiny_model
from tests.originals import BY_NAME, HEADS, settings_of, tensors_of, write

FAMILIES = sorted({format.family for format in FORMATS} | set(BY_NAME))
SAME_KEYS = {frozenset({"deit", "timm_vit"})}
CODE = re.compile(r"\[\]|max\(\)|None|Traceback|KeyError|stages 1 to 0")  # what no message for people holds


def fits(name, family):
    """Whether the family has the file's format, or one of the same keys."""
    formats = {format.name for format in FORMATS if family in (format.name, format.family)}
    return any(one == name or frozenset({one, name}) in SAME_KEYS for one in formats)


def as_read(name, tensors):
    return Checkpoint(tensors, "w.pth", "torch", "", entry=BY_NAME[name].entries[0])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", BY_NAME)
def test_the_file_of_another_family_is_refused_with_whose_it_is_and_what_is_missing(name, family):
    checkpoint = as_read(name, tensors_of(name))
    if fits(name, family):
        _, format, _ = unwrap(checkpoint, family)
        assert family in (format.name, format.family)
        return
    with pytest.raises(ConversionError) as caught:
        unwrap(checkpoint, family)
    said = str(caught.value)
    assert said.startswith(f"w.pth is no {next(f.family for f in FORMATS if family in (f.name, f.family))} checkpoint")
    assert f"Its tensors are named as in {name}" in said and f"--family {name}, or none." in said
    assert not CODE.search(said)
    lacking = re.search(r"It has nothing that could be (.*)\.\n", said)
    assert lacking is None or set(lacking[1].split(", ")) <= set(PARTS.values())
    assert lacking is not None or "are not." in said  # else what it has beside is named


@pytest.mark.parametrize("prefix", ["model.", "module.net."])
@pytest.mark.parametrize("name", ["timm_vit", "segformer", "detr"])
def test_a_wrapped_file_of_another_family_is_known_as_well(name, prefix):
    checkpoint = as_read(name, {f"{prefix}{key}": tensor for key, tensor in tensors_of(name).items()})
    with pytest.raises(ConversionError, match=f"Its tensors are named as in {name}: --family {name}, or none"):
        unwrap(checkpoint, "swin")


def parts_of(name):
    """Beginnings and endings of keys, each of a part of the model."""
    keys = [re.sub(r"\d+", "*", key) for key in tensors_of(name)]
    cuts = [re.split(r"[./]", key) for key in keys]
    return sorted({cut[0] for cut in cuts} | {".".join(cut[-2:]) for cut in cuts})


@pytest.mark.parametrize("name", BY_NAME)
def test_a_file_that_lacks_any_part_is_refused_in_words(name):
    for part in parts_of(name):
        kept = {
            key: tensor
            for key, tensor in tensors_of(name).items()
            if part not in ".".join(re.split(r"[./]", re.sub(r"\d+", "*", key)))
        }
        if not kept:
            continue
        try:
            checkpoint, format, _ = unwrap(as_read(name, kept), name)
            plan, _ = recognised_plan(checkpoint, format, settings_of(name))
            convert_tensors(checkpoint.tensors, format, plan)
        except HfvisionError as error:
            assert not CODE.search(str(error)), (part, str(error))


def test_the_command_says_it_in_one_error(tmp_path):
    source = write("timm_vit", tensors_of("timm_vit"), tmp_path)
    done = CliRunner().invoke(build_app(), ["convert", str(source), str(tmp_path / "model"), "--family", "detr"])
    assert done.exit_code == 1 and isinstance(done.exception, ConversionError)
    assert "It has nothing that could be the trunk" in str(done.exception)
    assert "gaps" not in str(done.exception)


@pytest.mark.parametrize("name", ["detr", "swin", "timm_swin", "swin_upernet"])
def test_stages_that_are_not_there_are_named(name, tmp_path):
    stage = re.compile(r"(body\.layer2\.|layers\.0\.blocks\.)")
    tensors = {key: tensor for key, tensor in tensors_of(name).items() if not stage.search(key)}
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(
        ConversionError, match=r"gaps: stage [12] of . has none|pools|no swin|no blocks|no upernet|no timm"
    ):
        convert(tmp_path / "w.pth", tmp_path / "model", family=name, overrides=settings_of(name))


@pytest.mark.parametrize("family", [None, "vit", "timm"])
@pytest.mark.parametrize("model_type", ["vit", "segformer", "swin", "detr", "segmenter", "mlp_mixer"])
def test_weights_of_transformers_without_their_config_are_known_as_that(model_type, family):
    row = ARCHITECTURES[model_type]
    auto_class = next(head for head in HEADS if head in row.models)
    weights = tiny_model(model_type, auto_class).state_dict()
    with pytest.raises(
        ConversionError, match=f"transformers' own names, of a model such as .*{model_type}.*config.json"
    ):
        unwrap(as_read("deit", weights), family)
