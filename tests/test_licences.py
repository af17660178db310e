"""The strictest licence of a model and its parents holds, travels with its text, and is shown with its sources."""

import json
import logging
import shutil

import pytest
import torch
from typer.testing import CliRunner

from hfvision.cards import check_card
from hfvision.catalog import rows
from hfvision.cli import build_app
from hfvision.data import load_digit_scenes, load_digits
from hfvision.errors import CheckpointReadError, ConfigError
from hfvision.licences import (
    LICENCES,
    UNKNOWN,
    Tier,
    carries,
    conflict,
    inherit,
    licence_named,
    licence_of,
    strictest,
    trace,
    write_licence_files,
)
from hfvision.models.vit import ViTConfig, ViTForImageClassification
from hfvision.processing.classification import ViTImageProcessor
from hfvision.starters import STARTERS
from hfvision.training.arguments import VisionTrainingArguments
from hfvision.training.classification import train_classification
from hfvision.training.detection import train_detection

NVIDIA = "nvidia-source-code-license-segformer"
BANNER = "Research or evaluation only"
ONE_STEP = VisionTrainingArguments(max_steps=1, per_device_train_batch_size=4, learning_rate=1e-4)


def model_folder(folder, card):
    """A tiny classifier of digits with a card."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=10, **sizes)
    torch.manual_seed(0)
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5]).save_pretrained(folder)
    (folder / "README.md").write_text(f"---\n{card}\n---\n# mine\n")
    return folder


@pytest.fixture(scope="module")
def digits():
    return {split: data.select(range(30)) for split, data in load_digits().items()}


def fine_tuned(parent, digits, out, **options):
    return train_classification(
        parent, digits, out, args=ONE_STEP, data_options={"drop_empty_classes": True}, **options
    )


@pytest.mark.parametrize(
    ("parents", "winner"),
    [
        (["mit", "apache-2.0"], "apache-2.0"),
        (["apache-2.0", "cc-by-sa-4.0"], "cc-by-sa-4.0"),
        (["gpl-3.0", "openrail"], "openrail"),
        (["agpl-3.0", "cc-by-nc-4.0", "mit"], "cc-by-nc-4.0"),
        (["cc-by-nc-sa-4.0", NVIDIA], NVIDIA),
        ([NVIDIA, "unknown"], "unknown"),
        ([NVIDIA, "somebodys-own"], "somebodys-own"),
        (["cc0-1.0"], "cc0-1.0"),
    ],
)
def test_the_strictest_licence_wins_in_any_order(parents, winner):
    found = [licence_named(name) for name in parents]
    assert strictest(found).key == strictest(reversed(found)).key == winner


def test_the_strictest_of_none_is_refused():
    with pytest.raises(ConfigError, match="got none"):
        strictest([])


def test_two_that_each_want_their_own_terms_are_a_conflict():
    assert "no licence keeps to both" in conflict([LICENCES["gpl-3.0"], LICENCES["mit"], LICENCES[NVIDIA]])
    assert "no licence keeps to both" in conflict([LICENCES["gpl-3.0"], LICENCES["cc-by-sa-4.0"]])
    assert conflict([LICENCES["gpl-3.0"], LICENCES["mit"]]) is None
    assert conflict([LICENCES[NVIDIA], LICENCES["apache-2.0"]]) is None


def test_every_licence_that_forbids_commercial_use_has_a_banner_and_only_those():
    assert [key for key, one in LICENCES.items() if (one.commercial is False) != (one.banner is not None)] == []
    assert {one.tier for one in LICENCES.values() if one.commercial is False} == {Tier.NON_COMMERCIAL}


def test_published_weights_have_the_licence_of_their_authors_repository():
    wanted = {
        "google-research/vision_transformer": "apache-2.0",
        "facebookresearch/deit": "apache-2.0",
        "microsoft/Swin-Transformer": "mit",
        "NVlabs/SegFormer": NVIDIA,
        "rstrudel/segmenter": "mit",
        "fudan-zvg/SETR": "mit",
        "facebookresearch/detr": "apache-2.0",
        "SwinTransformer/Swin-Transformer-Semantic-Segmentation": "apache-2.0",
    }
    assert {one.repository: licence_of(one.name).key for one in rows()} == wanted
    assert {(one.repository, licence_of(one.name).key) for one in rows()} == set(wanted.items())


@pytest.mark.parametrize(
    ("repository", "key"),
    [
        ("nvidia/mit-b0", NVIDIA),
        ("nvidia/segformer-b0-finetuned-ade-512-512", NVIDIA),
        ("microsoft/swin-tiny-patch4-window7-224", "mit"),
        ("facebook/timesformer-base-finetuned-k400", "cc-by-nc-4.0"),
        ("google/vit-base-patch16-224", "apache-2.0"),
    ],
)
def test_publishers_on_the_hub_are_known_without_a_network(repository, key):
    assert licence_of(repository).key == key


@pytest.mark.parametrize("name", STARTERS)
def test_starters_are_ours_and_come_from_nobody(name):
    report = trace(name)
    assert (report.licence.key, report.parents, report.licence.commercial) == ("apache-2.0", (), True)


def test_what_dense_models_started_from_is_named_and_its_notices_are_carried():
    report = trace("segmenter-base-mask-16-ade20k")
    assert (report.licence.key, report.code) == ("mit", "mit")
    assert [parent.repository for parent in report.parents] == ["google-research/vision_transformer"]
    assert [one.key for one in report.all()] == ["mit", "apache-2.0"]


def test_a_card_cannot_lift_what_its_base_model_asks_for(tmp_path):
    front = "license: apache-2.0\nbase_model:\n- nvidia/mit-b0\n- somebody/unheard-of"
    report = trace(model_folder(tmp_path / "mine", front))
    assert (report.own.key, report.licence.key, report.overruled) == ("apache-2.0", NVIDIA, True)
    assert "made from nvidia/mit-b0: " + NVIDIA in report.text()
    assert "commercial use  not allowed" in report.text()
    assert [one for one in check_card(tmp_path / "mine") if "stricter" in one] != []


@pytest.mark.parametrize(
    ("front", "key"),
    [
        ("license: other\nlicense_name: nvidia-source-code-license-for-segformer", NVIDIA),
        ("license: [mit, cc-by-nc-4.0]", "cc-by-nc-4.0"),
        ("license: other\nlicense_name: my-terms\nlicense_link: https://example.org/terms", "my-terms"),
        ("license: other", "unknown"),
        ("tags: [a]", "unknown"),
    ],
)
def test_a_cards_licence_is_read_as_the_hub_spells_it(front, key, tmp_path):
    assert licence_of(model_folder(tmp_path / "mine", front)).key == key


def test_a_fine_tune_inherits_with_banner_text_and_record_over_generations(digits, tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="hfvision")
    parent = model_folder(tmp_path / "mit", f"license: other\nlicense_name: {NVIDIA}")
    fine_tuned(parent, digits, tmp_path / "first", license="mit")
    assert "'mit' was given, but mit is under NVIDIA Source Code License for SegFormer" in caplog.text
    shutil.rmtree(parent)  # the record knows it still
    fine_tuned(tmp_path / "first", digits, tmp_path / "second")
    for name in ("first", "second"):
        card = (tmp_path / name / "README.md").read_text()
        assert f"license: other\nlicense_name: {NVIDIA}\nlicense_link: https://github.com/NVlabs" in card
        assert card.partition("\n# ")[2].split("\n")[2].startswith(f"> **{BANNER}")
        assert "3.3 Use Limitation." in (tmp_path / name / "LICENSE").read_text()
        assert check_card(tmp_path / name) == []
        assert licence_of(tmp_path / name).commercial is False
    chain = [one.model for one in trace(tmp_path / "second").family()]
    assert chain == ["second", "first", "mit"]
    assert str(tmp_path) not in (tmp_path / "second" / "training_run.json").read_text()


def test_what_its_maker_states_settles_a_parent_that_states_nothing(digits, tmp_path):
    parent = model_folder(tmp_path / "silent", "tags: [a]")
    fine_tuned(parent, digits, tmp_path / "stated", license="apache-2.0")
    assert licence_of(tmp_path / "stated").key == "apache-2.0"
    fine_tuned(parent, digits, tmp_path / "unstated")
    assert licence_of(tmp_path / "unstated") == UNKNOWN
    assert [one for one in check_card(tmp_path / "unstated") if "license" in one] != []


def test_a_detector_inherits_from_the_model_that_its_trunk_comes_from(tmp_path):
    trunk = tmp_path / "trunk"
    shutil.copytree(STARTERS["segformer-digit-scenes"], trunk)
    card = (trunk / "README.md").read_text()
    (trunk / "README.md").write_text(card.replace("license: apache-2.0", "license: cc-by-nc-4.0"))
    scenes = load_digit_scenes(train=4, validation=2)
    train_detection(
        "new:detr-digit-scenes", scenes, tmp_path / "out", args=ONE_STEP, trunk=trunk, augment=None, license="mit"
    )
    report = trace(tmp_path / "out")
    assert (report.licence.key, [parent.model for parent in report.parents]) == ("cc-by-nc-4.0", ["trunk"])
    assert "Non-commercial" in (tmp_path / "out" / "README.md").read_text()


def test_a_licence_file_of_somebody_else_is_kept_beside_the_text_that_must_travel(tmp_path):
    (tmp_path / "LICENSE").write_text("mine\n")
    nvidia = LICENCES[NVIDIA]
    assert not carries(tmp_path, nvidia)
    written = write_licence_files(tmp_path, [nvidia])
    assert [path.name for path in written] == [f"LICENSE.{NVIDIA}"]
    assert (tmp_path / "LICENSE").read_text() == "mine\n"
    assert carries(tmp_path, nvidia)


def test_an_mit_text_has_its_copyright_line_or_is_not_written(tmp_path):
    assert write_licence_files(tmp_path, [LICENCES["mit"]]) == []
    write_licence_files(tmp_path, [LICENCES["mit"]], {"mit": "microsoft/Swin-Transformer"})
    text = (tmp_path / "LICENSE").read_text()
    assert "Copyright (c) Microsoft Corporation." in text
    assert "{" not in text


def test_what_is_no_model_is_refused_with_what_was_looked_for(tmp_path):
    with pytest.raises(CheckpointReadError, match="the nearest: segformer-b0-ade20k-512"):
        licence_of("segformer-b0-ade2k-512")
    with pytest.raises(CheckpointReadError, match="neither a model"):
        licence_of(tmp_path)
    with pytest.raises(CheckpointReadError, match="no model folder"):
        licence_of("some/where/else")
    with pytest.raises(CheckpointReadError, match="front matter"):
        licence_of(model_folder(tmp_path / "odd", "license: [mit"))


def test_the_command_prints_text_and_json():
    app = build_app()
    shown = CliRunner().invoke(app, ["licence", "mit-b0"])
    assert (shown.exit_code, "commercial use  not allowed" in shown.stdout, BANNER in shown.stdout) == (0, True, True)
    found = json.loads(CliRunner().invoke(app, ["licence", "mit-b0", "--json"]).stdout)
    assert (found["license"], found["commercial"], found["hub"]["license"]) == (NVIDIA, False, "other")
    assert isinstance(CliRunner().invoke(app, ["licence", "no-such-model"]).exception, CheckpointReadError)


def test_a_maker_may_ask_for_more_than_the_parents_do():
    report = inherit("mine", "cc-by-nc-4.0", [trace("vit-digits")])
    assert (report.licence.key, report.overruled) == ("cc-by-nc-4.0", False)
    assert inherit("mine", "mit", [trace("vit-digits")]).licence.key == "mit"  # both ask for notices alone


def test_texts_of_all_licences_of_a_published_file_travel_with_their_own_copyright_lines(tmp_path):
    report = trace("upernet-swin-tiny")
    written = write_licence_files(tmp_path, report.all(), report.repositories())
    assert [path.name for path in written] == ["LICENSE", "LICENSE.mit"]
    assert "Apache License" in written[0].read_text()
    assert "Copyright (c) Microsoft Corporation." in written[1].read_text()
