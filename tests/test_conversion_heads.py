"""Numbers of attention heads: said with where they come from, and compared with what published models have."""

import pytest
import torch
from typer.testing import CliRunner

from hfvision.catalog import row
from hfvision.checkpoints import Checkpoint
from hfvision.cli import build_app
from hfvision.conversion import convert, convert_back
from hfvision.conversion.tables import FORMATS
from hfvision.conversion.to_hub import recognised_plan
from hfvision.conversion.unwrapping import unwrap
from hfvision.errors import ConversionError
from hfvision.registry import IMAGE_CLASSIFICATION, OBJECT_DETECTION, SEMANTIC_SEGMENTATION
from tests.models import tiny_model
from tests.originals import BY_NAME, COUNTS, fields_of, settings_of, tensors_of, with_attention, write
from tests.test_recognition import FAMILIES, as_file, manifests, stored

HEAD_OF = {"setr": SEMANTIC_SEGMENTATION, "segformer": SEMANTIC_SEGMENTATION, "detr": OBJECT_DETECTION}
SHOWN_BY_TENSORS = {"google_vit", "google_hybrid", "swin", "timm_swin", "swin_upernet"}
ATTENTIVE = [format.name for format in FORMATS if with_attention(format.name)]


@pytest.mark.parametrize("name", ATTENTIVE)
def test_a_number_of_heads_that_was_set_is_confirmed_by_tensors_or_said_not_to_be(name, tmp_path):
    source, settings = write(name, tensors_of(name), tmp_path), settings_of(name)
    counts = {field: value for field, value in settings.items() if field in COUNTS}
    halved = {k: [max(1, n // 2) for n in v] if isinstance(v, list) else v // 2 for k, v in counts.items()}
    if name in SHOWN_BY_TENSORS:
        field = "num_heads" if "num_heads" in BY_NAME[name].fields() else "num_attention_heads"
        if field in BY_NAME[name].fields():
            with pytest.raises(ConversionError, match=f"{field} was set to .*, the tensors say"):
                convert(source, tmp_path / "model", family=name, overrides={**settings, field: 1})
        return
    assert counts
    report = convert(source, tmp_path / "model", family=name, overrides=settings | halved)
    card = (tmp_path / "model" / "README.md").read_text()
    for field, value in halved.items():
        assert f"{field} = {value!r}" in report.given
        said = f"No tensor shows {field}: {value} was set, and nothing in the file can confirm it"
        assert said in report.text() and said in card
    assert "set, and the tensors cannot confirm it: " in report.text()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_published_file_under_another_name_says_that_heads_are_those_of_published_models(family):
    name, manifest = next(iter(manifests(family).items()))
    checkpoint, format, _ = unwrap(as_file(stored(manifest), "w.pth"))
    plan, _ = recognised_plan(checkpoint, format, {})
    said = [note for note in plan.notes if note.startswith("No tensor shows")]
    shown = format.name in SHOWN_BY_TENSORS or family == "mixer"
    assert bool(said) != shown, (name, said)
    assert all("was assumed, as published models of this width have (" in note for note in said)


WRONG = [
    ("deit", "num_attention_heads", 12, "have 6 (deit-small"),
    ("segmenter", "num_attention_heads", 6, "have 3 ("),
    ("setr", "num_attention_heads", 8, "have 16 (setr-"),
    ("segformer", "num_attention_heads", [1, 2, 4, 8], "have [1, 2, 5, 8] (mit-b0"),
    ("detr", "decoder_attention_heads", 4, "have 8 (detr-"),
]
FILES = {"deit": "deit_small_patch16_224", "segformer": "mit_b0", "segmenter": "Ti16_mask_ade20k"}


def planned(family, field, value, name="w.pth", sha256=""):
    found = manifests(family)
    manifest = found[next((one for one in found if one == FILES.get(family)), next(iter(found)))]
    checkpoint, format, _ = unwrap(Checkpoint(stored(manifest), name, "torch", sha256, entry="model"))
    return recognised_plan(checkpoint, format, {field: value})


@pytest.mark.parametrize(("family", "field", "value", "said"), WRONG)
def test_another_number_than_published_models_of_the_width_is_named(family, field, value, said):
    plan, recognition = planned(family, field, value)
    assert not recognition.published
    (note,) = [note for note in plan.notes if f"No tensor shows {field}" in note]
    assert said in note and "compute something else" in note


def test_a_published_file_with_other_heads_is_refused_by_its_hash_and_another_one_by_its_name():
    small = row("deit-small-patch16-224")
    with pytest.raises(ConversionError, match=r"set to 12, and deit-small-patch16-224 has 6.*Leave it out"):
        planned("deit", "num_attention_heads", 12, sha256=small.sha256_prefix + "0" * 56)
    _, recognition = planned("segformer", "num_attention_heads", [1, 2, 4, 8], name="mit_b0.pth")
    assert not recognition.published and "was set to [1, 2, 4, 8], and mit-b0 has" in recognition.line()
    plan, recognition = planned("segformer", "num_attention_heads", [1, 2, 5, 8], name="mit_b0.pth")
    assert recognition.published
    assert any("[1, 2, 5, 8] was set, as mit-b0 has it" in note for note in plan.notes)


def test_the_command_says_it_on_stderr_and_in_its_json(tmp_path):
    source = write("deit", tensors_of("deit"), tmp_path)
    command = ["convert", str(source), str(tmp_path / "model"), "--family", "deit", "--set", "num_attention_heads=2"]
    done = CliRunner().invoke(build_app(), command)
    assert done.exit_code == 0
    assert "set, and the tensors cannot confirm it: num_attention_heads = 2" in done.stderr
    assert "note: No tensor shows num_attention_heads: 2 was set" in done.stderr
    done = CliRunner().invoke(build_app(), [*command, "--overwrite", "--json"])
    assert '"given": ["num_attention_heads = 2"]' in " ".join(done.stdout.split()).replace("[ ", "[").replace(" ]", "]")


def test_settings_beside_a_segmenter_that_say_other_heads_are_quoted(tmp_path):
    source = write("segmenter", tensors_of("segmenter"), tmp_path)
    (tmp_path / "variant.yml").write_text("net_kwargs:\n  n_heads: 4\n")
    report = convert(source, tmp_path / "model", overrides=settings_of("segmenter") | {"num_attention_heads": 2})
    assert "variant.yml beside the file says 4 attention heads." in report.notes
    assert torch.load(source, weights_only=True)["model"].keys() == tensors_of("segmenter").keys()


NARROW = {  # tiny models of a published width with other heads
    "timm_vit": ("vit", {"hidden_size": 192, "num_attention_heads": 6}, "num_attention_heads = 6", "have 3 ("),
    "timm_hybrid": (
        "vit-hybrid",
        {"hidden_size": 192, "num_attention_heads": 6},
        "num_attention_heads = 6",
        "have 3 (",
    ),
    "setr": ("setr", {"hidden_size": 768, "num_attention_heads": 8}, "num_attention_heads = 8", "have 12 ("),
    "detr": ("detr", {"d_model": 256, "encoder_attention_heads": 4}, "encoder_attention_heads = 4", "have 8 (detr"),
    "segformer": ("segformer", {"num_attention_heads": [2, 2]}, "num_attention_heads = [1, 2], this", "[2, 2]"),
}


@pytest.mark.parametrize("name", NARROW)
def test_the_way_back_says_heads_that_the_file_cannot_hold(name, tmp_path):
    model_type, fields, *said = NARROW[name]
    tiny_model(model_type, HEAD_OF.get(name, IMAGE_CLASSIFICATION), **fields_of(name), **fields).save_pretrained(
        tmp_path
    )
    report = convert_back(tmp_path, tmp_path / "w.pth", family=name)
    (note,) = [note for note in report.notes if "heads" in note and said[0] in note]
    assert said[1] in note and note in report.text()


def test_the_way_back_to_files_that_hold_heads_says_nothing_of_them(tmp_path):
    tiny_model("vit", hidden_size=192, num_attention_heads=6).save_pretrained(tmp_path)
    assert not any("heads" in note for note in convert_back(tmp_path, tmp_path / "w.npz", family="google_vit").notes)
