"""Cards of published files and of model folders: valid for the Hub, generated, refreshed without loss, and checked."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from hfvision.cards import check_card, family_cards, folder_card, row_card, write_family_cards, write_folder_card
from hfvision.cards.check import check_front, read_front
from hfvision.cards.existing import split_sections
from hfvision.catalog import rows
from hfvision.cli import build_app
from hfvision.errors import CheckpointReadError, ConfigError, UnknownNameError
from hfvision.starters import STARTERS
from hfvision.training.evaluation import evaluate

MODEL_CARDS = Path(__file__).parents[1] / "model_cards"
PUBLISHED = [row for row in rows() if row.published]
SEGFORMER = "NVlabs/SegFormer"
BANNER = "> **Research or evaluation only: the NVIDIA Source Code License for SegFormer"


@pytest.fixture
def folder(tmp_path):
    """A model folder with a card: the starter of digits."""
    return Path(shutil.copytree(STARTERS["vit-digits"], tmp_path / "mine"))


def test_the_families_cards_are_what_the_generator_writes_now(tmp_path):
    written = {path.name: path.read_text(encoding="utf-8") for path in write_family_cards(tmp_path)}
    assert {path.name: path.read_text(encoding="utf-8") for path in MODEL_CARDS.glob("*")} == written


def test_every_published_file_is_in_the_card_of_one_family_and_no_other_row_is():
    cards = family_cards()
    listed = [row.name for card in cards for row in card.rows]
    assert sorted(listed) == sorted(row.name for row in PUBLISHED)
    assert len(cards) == 25
    for card in cards:
        assert all(f"| {row.name} | `{row.file}`" in card.text for row in card.rows)


@pytest.mark.parametrize("card", family_cards(), ids=lambda card: card.name)
def test_a_familys_card_is_valid_marks_every_figure_and_says_the_data_terms(card):
    front, problems = read_front(card.text)
    assert problems + check_front(front) == []
    quoted = [
        metric for model in front.get("model-index", ()) for result in model["results"] for metric in result["metrics"]
    ]
    assert len(quoted) == sum(len(row.figures) for row in card.rows)
    sections = split_sections(card.text)[1]
    lines = [line for line in sections["Results"].splitlines() if line.startswith("|")][2:]
    assert len(lines) == len(quoted)
    assert all("quoted from" in line and "not measured" in line for line in lines)
    assert ("ImageNet" in sections["Limits"]) == any("imagenet" in name for row in card.rows for name in row.datasets)
    assert (BANNER in card.text) == (card.rows[0].repository == SEGFORMER)
    for code in (part.split("```")[0] for part in card.text.split("```python\n")[1:]):
        compile(code, card.name, "exec")


def test_the_card_of_every_published_file_is_valid_and_has_its_licence():
    for row in PUBLISHED:
        text = row_card(row)
        front, problems = read_front(text)
        assert (row.name, problems + check_front(front)) == (row.name, [])
        assert front["license"] == row.license
        assert front.get("license_name") == row.license_name
        assert (BANNER in text) == (row.repository == SEGFORMER)
        assert front["pipeline_tag"] in text


def test_a_family_without_files_is_refused():
    with pytest.raises(UnknownNameError, match="segmenter"):
        family_cards("setr")


def test_a_refreshed_card_keeps_what_hfvision_does_not_write(folder):
    path = folder / "README.md"
    card = path.read_text().replace("tags:\n- hfvision", "language: en\ntags:\n- handwriting\n- hfvision")
    card = card.replace("## Labels\n\n", "## Labels\n\n<!-- kept -->\nTen digits, as children write them.\n\n")
    path.write_text(card + "\n## Ethics\n\n```sh\n## no title\n```\nAsk the writers.\n")
    old = ModelCard.load(path).data
    write_folder_card(folder, name="me/digits")
    new = ModelCard.load(path)
    assert (new.data.language, new.data.eval_results) == ("en", old.eval_results)
    assert set(new.data.tags) == {"handwriting", "hfvision", "vision", "vit"}
    title, sections = split_sections(new.text)
    assert title == "me/digits"
    assert 'model="me/digits"' in sections["Use"]
    assert sections["Ethics"].endswith("Ask the writers.")
    assert "as children write them" in sections["Labels"]
    assert "| images | 1,437 |" in sections["Training"]
    assert "Trained on `digits`." in sections[""]
    assert check_card(folder, "me/digits") == []
    again = path.read_text()
    write_folder_card(folder)
    assert path.read_text() == again


def test_a_folder_without_a_card_gets_one_and_nothing_is_invented(folder):
    (folder / "README.md").unlink()
    write_folder_card(folder, license="mit")
    data = ModelCard.load(folder / "README.md").data
    assert (data.license, data.pipeline_tag, data.eval_results) == ("mit", "image-classification", None)
    assert check_card(folder) == []


def test_a_converted_published_file_gets_its_authors_figures_licence_and_data_terms(folder):
    record = {"catalog_row": "deit-tiny-patch16-224", "source": "deit.pth", "sha256": "ab" * 32, "format": "deit"}
    (folder / "hfvision_conversion.json").write_text(json.dumps(record))
    (folder / "README.md").unlink()
    text = folder_card(folder)
    data = ModelCard(text).data
    assert (data.license, data.datasets) == ("apache-2.0", ["imagenet-1k"])
    assert {one.source_name for one in data.eval_results} >= {"facebookresearch/deit README_deit"}
    assert "| sha256 | " + "ab" * 32 in text
    assert "https://image-net.org/download" in text


def test_a_published_non_commercial_file_stays_so_whatever_is_stated(folder):
    (folder / "hfvision_conversion.json").write_text(json.dumps({"catalog_row": "mit-b0"}))
    write_folder_card(folder, license="mit")
    assert BANNER in (folder / "README.md").read_text()
    assert "3.3 Use Limitation." in (folder / "LICENSE").read_text()
    assert check_card(folder) == []


def test_figures_are_of_the_weights_in_the_folder_or_not_in_the_card(folder, caplog):
    evaluate(folder, "digits")
    card = folder_card(folder)
    assert "measured 2" in card
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes() + b" ")
    assert "measured 2" not in folder_card(folder)
    assert "other weights" in caplog.text


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("license: apache-2.0\n", "", "license is missing"),
        ("license: apache-2.0", "license: my-own", "which the Hub does not know"),
        ("license: apache-2.0", "license: other", "without license_name"),
        ("license: apache-2.0", "license: unknown", "ask the authors"),
        ("library_name: transformers", "library_name: timm", "library_name"),
        ("pipeline_tag: image-classification", "pipeline_tag: classification", "pipeline_tag"),
        ("tags:\n- hfvision\n- vision\n- vit\n", "", "tags are missing"),
        ("tags:\n- hfvision\n- vision\n- vit\n", "tags: [vision]\n", "model type 'vit'"),
        ("library_name:", "base_model: ../runs/x\nlibrary_name:", "base_model has '../runs/x'"),
        ("value: 1.0\n", "value: '1.0'\n", "no finite number"),
        ("      args:\n        samples: 360\n", "", "neither measured"),
        ("| 360 | measured |", "| 360 | good |", "neither measured nor quoted"),
        ('model="vit-digits"', 'model="other"', "does not load 'vit-digits'"),
        ("```python", "```py", "no snippet"),
        ("library_name: transformers", "library_name: [", "front matter cannot be read"),
        ("  results:\n", "  result:\n", "front matter cannot be read"),
    ],
)
def test_a_faulty_card_is_told_what_is_wrong(old, new, problem, folder):
    path = folder / "README.md"
    assert check_card(folder) == []
    card = path.read_text()
    assert old in card
    path.write_text(card.replace(old, new))
    found = check_card(folder)
    assert [one for one in found if problem in one] != []


def test_a_card_without_front_matter_and_a_folder_without_card_are_told(folder):
    (folder / "README.md").write_text("# mine\n")
    assert "no front matter" in check_card(folder)[0]
    (folder / "README.md").unlink()
    assert "has no card" in check_card(folder)[0]


def test_a_card_that_cannot_be_read_is_not_overwritten(folder):
    (folder / "README.md").write_text("---\nlicense: [\n---\n# mine\n")
    with pytest.raises(ConfigError, match="Mend it"):
        write_folder_card(folder)
    assert "license: [" in (folder / "README.md").read_text()
    with pytest.raises(CheckpointReadError, match=r"no config\.json"):
        write_folder_card(folder.parent)


def test_the_command_writes_checks_and_says_what_is_wrong(folder, tmp_path):
    app = build_app()
    done = CliRunner().invoke(app, ["card", str(folder), "--name", "me/digits", "--json"])
    assert (done.exit_code, json.loads(done.stdout)["problems"]) == (0, [])
    (folder / "README.md").write_text((folder / "README.md").read_text().replace("license: apache-2.0\n", ""))
    done = CliRunner().invoke(app, ["card", str(folder), "--check"])
    assert (done.exit_code, "license is missing" in done.stderr) == (1, True)
    done = CliRunner().invoke(app, ["card", str(tmp_path / "cards"), "--family", "detr", "--json"])
    assert [Path(path).name for path in json.loads(done.stdout)] == ["detr-coco-2017.md", "detr-coco-2017-panoptic.md"]
    assert CliRunner().invoke(app, ["card", str(folder), "--all", "--name", "x"]).exit_code == 2
