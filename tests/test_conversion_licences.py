"""Licences of converted weights: those of published files are known, others are asked for."""

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForSemanticSegmentation
from typer.testing import CliRunner

from hfvision.cards import check_card, write_folder_card
from hfvision.cards.model_card import UNSTATED
from hfvision.cli import build_app
from hfvision.conversion import convert, convert_back
from hfvision.conversion.tables import FORMATS
from hfvision.errors import ConfigError
from hfvision.licences import licence_of
from tests.originals import settings_of, tensors_of, write
from tests.test_conversion import run_script
from tests.test_recognition import manifests, stored

NVIDIA = "nvidia-source-code-license-segformer"


def front(folder):
    return ModelCard.load(folder / "README.md").data


@pytest.mark.parametrize("name", [format.name for format in FORMATS])
def test_weights_that_nobody_published_get_no_licence_and_the_command_says_what_to_pass(name, tmp_path):
    source = write(name, tensors_of(name), tmp_path)
    report = convert(source, tmp_path / "model", family=name, overrides=settings_of(name))
    assert front(tmp_path / "model").license == "unknown"
    card = (tmp_path / "model" / "README.md").read_text()
    assert UNSTATED in card and "not known to be weights that" in card
    assert not (tmp_path / "model" / "LICENSE").exists()
    assert "licence: none stated" in report.text() and "--license" in report.licence
    assert any("'unknown'" in problem for problem in check_card(tmp_path / "model"))
    if report.format == "segformer":
        assert NVIDIA in report.licence  # what holds if they come from published ones

    convert(source, tmp_path / "model", family=name, overrides=settings_of(name), license="mit", overwrite=True)
    assert front(tmp_path / "model").license == "mit"
    assert UNSTATED not in (tmp_path / "model" / "README.md").read_text()


def published(tmp_path, name="mit_b0.pth", family="segformer", manifest="mit_b0"):
    """A file of a published one's name, keys and shapes."""
    zeros = {key: torch.zeros(t.shape, dtype=t.dtype) for key, t in stored(manifests(family)[manifest]).items()}
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    torch.save(zeros, tmp_path / name)
    return tmp_path / name


def test_a_published_file_has_its_authors_licence_and_the_report_says_what_tells_it(tmp_path):
    report = convert(published(tmp_path), tmp_path / "model")
    assert (front(tmp_path / "model").license_name, report.catalog_row) == (NVIDIA, "mit-b0")
    assert (tmp_path / "model" / "LICENSE").is_file()
    assert report.licence.startswith(f"{NVIDIA}, of the published file that its name, keys and shapes tell")
    assert "pass --license" in report.licence
    convert(tmp_path / "mit_b0.pth", tmp_path / "stated", license="mit")
    assert licence_of(tmp_path / "stated").key == NVIDIA  # its authors' is stricter


def test_weights_of_the_same_shapes_under_another_name_are_not_taken_for_published_ones(tmp_path):
    report = convert(published(tmp_path, "ours.pth"), tmp_path / "model")
    assert (front(tmp_path / "model").license, report.catalog_row) == ("unknown", None)
    convert(tmp_path / "ours.pth", tmp_path / "stated", license="cc-by-4.0")
    assert licence_of(tmp_path / "stated").key == "cc-by-4.0"


def test_a_stated_licence_of_a_published_file_that_is_laxer_is_overruled_and_that_is_said(tmp_path):
    command = ["convert", str(published(tmp_path)), str(tmp_path / "model"), "--license", "mit"]
    done = CliRunner().invoke(build_app(), command)
    assert done.exit_code == 0
    assert f"licence: mit, as stated; {NVIDIA} of the published file is stricter, and holds" in done.stderr


def test_the_command_asks_for_the_licence_and_takes_it_later(tmp_path):
    source = write("deit", tensors_of("deit"), tmp_path)
    command = ["convert", str(source), str(tmp_path / "model"), "--family", "deit", "--set", "num_attention_heads=4"]
    done = CliRunner().invoke(build_app(), command)
    assert done.exit_code == 0
    assert "licence: none stated, since these are not known to be weights of facebookresearch/deit" in done.stderr
    assert "apache-2.0. State that of these weights with --license" in done.stderr
    assert CliRunner().invoke(build_app(), ["card", str(tmp_path / "model"), "--license", "mit"]).exit_code == 0
    assert front(tmp_path / "model").license == "mit"
    card = (tmp_path / "model" / "README.md").read_text()
    assert "No licence is stated" not in card and "also holds for what was trained from them" in card


def test_a_second_conversion_and_the_way_back_invent_no_licence(tmp_path):
    source = write("google_vit", tensors_of("google_vit"), tmp_path)
    convert(source, tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "again")
    assert front(tmp_path / "again").license == "unknown"
    convert_back(tmp_path / "again", tmp_path / "back.npz")
    convert(tmp_path / "back.npz", tmp_path / "forth")
    assert front(tmp_path / "forth").license == "unknown"


def test_the_scripts_take_the_licence_too(tmp_path, monkeypatch, capsys):
    source = write("deit", tensors_of("deit"), tmp_path)
    arguments = [source, tmp_path / "model", "--heads", 4, "--license", "mit"]
    assert "licence: mit, as stated" in run_script("convert_deit", arguments, monkeypatch, capsys)
    assert front(tmp_path / "model").license == "mit"


def test_weights_trained_since_keep_the_terms_of_the_published_file_and_not_its_figures(tmp_path, caplog):
    folder, name = tmp_path / "model", "segmenter-tiny-mask-16-ade20k"
    source = published(tmp_path, "ade20k/seg_tiny_mask/checkpoint.pth", "segmenter", "Ti16_mask_ade20k")
    report = convert(source, folder)
    assert (report.catalog_row, bool(front(folder).eval_results)) == (name, True)
    model = AutoModelForSemanticSegmentation.from_pretrained(folder)
    with torch.no_grad():
        model.decoder.layernorm.bias.add_(1)
    model.save_pretrained(folder)
    write_folder_card(folder)
    card = (folder / "README.md").read_text()
    assert (front(folder).license, front(folder).eval_results) == ("mit", None)
    assert "quoted from" not in card and f"are not those that were converted from {name} any more" in caplog.text
    assert f"| {name} | mit | github.com/rstrudel/segmenter |" in card
    write_folder_card(folder, license="cc-by-nc-4.0")
    assert licence_of(folder).key == "cc-by-nc-4.0"
    assert convert(folder, tmp_path / "again").catalog_row is None


def test_weights_that_were_not_trained_since_stay_published_when_the_card_is_refreshed_or_saved_anew(tmp_path):
    convert(published(tmp_path), tmp_path / "model")
    write_folder_card(tmp_path / "model")
    assert convert(tmp_path / "model", tmp_path / "again").catalog_row == "mit-b0"
    assert front(tmp_path / "again").license_name == NVIDIA
    write_folder_card(tmp_path / "again", license="mit")
    assert licence_of(tmp_path / "again").key == NVIDIA


@pytest.mark.parametrize("license", ["other", "unknown", ""])
def test_a_stated_licence_that_names_none_is_refused(license, tmp_path):
    source = write("google_vit", tensors_of("google_vit"), tmp_path)
    with pytest.raises(ConfigError, match="names no licence"):
        convert(source, tmp_path / "model", license=license)
    report = convert(source, tmp_path / "model", license="our-house-terms")
    assert (front(tmp_path / "model").license, front(tmp_path / "model").license_name) == ("other", "our-house-terms")
    assert report.licence == "our-house-terms, as stated"
