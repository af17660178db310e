"""`hfvision predict` with folders, patterns and broken files: what is answered, written and said."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hfvision.cli import build_app
from hfvision.data.digits import load_digits
from hfvision.data.inputs import listed
from hfvision.data.scenes import load_digit_scenes
from hfvision.errors import CheckpointReadError, ConfigError, ImageReadError, UnknownNameError
from hfvision.pipelines.predict import Failure, predict, predictions_or_failures
from tests.models import tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four digits in folders, a file that is none, and a broken image."""
    folder = tmp_path_factory.mktemp("images")
    digits = load_digits()["test"]
    for row, name in enumerate(("a/one.png", "a/two.png", "b/deep/one.png", "b/three.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        digits[row]["image"].resize((40, 40)).save(folder / name)
    (folder / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    (folder / "notes.txt").write_text("no image")
    return folder


def run(*arguments):
    return CliRunner().invoke(build_app(), ["predict", *map(str, arguments)], catch_exceptions=False)


def names_of(inputs):
    return [one.name for one in inputs]


def test_folders_and_patterns_are_listed(folder, caplog):
    assert names_of(listed([str(folder)])) == ["a/broken", "a/one", "a/two", "b/three", "b/deep/one"]
    assert "no images and were left out (1): notes.txt" in caplog.text
    assert names_of(listed([f"{folder}/**/one.png"])) == ["a/one", "b/deep/one"]
    assert names_of(listed([f"{folder}/b*"])) == ["b/three", "b/deep/one"]
    assert names_of(listed([f"{folder}/a/t?o.png", f"{folder}/b/three.png"])) == ["two", "three"]
    assert listed([f"{folder}/none*.png", "missing.png"])[0].source.endswith("none*.png")
    assert listed(["https://host/picture.png?x=*"])[0].source == "https://host/picture.png?x=*"


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_broken_file_does_not_stop_the_others(folder, batch_size):
    sources = [one.source for one in listed([str(folder)])]
    sources.insert(2, "missing.png")
    answers = list(predictions_or_failures(sources, "vit-digits", batch_size=batch_size))
    good = [source for source in sources if "broken" not in source and "missing" not in source]
    whole = iter(predict(good, "vit-digits"))
    for source, answer in zip(sources, answers, strict=True):
        if source in good:
            for got, wanted in zip(answer, next(whole), strict=True):
                assert got["label"] == wanted["label"] and got["score"] == pytest.approx(wanted["score"], abs=1e-5)
        else:
            assert isinstance(answer, Failure) and isinstance(answer.error, ImageReadError)


def test_the_command_ends_with_the_list_of_failures_and_code_1(folder):
    done = run(folder, "missing.png", "--model", "vit-digits", "--top-k", 1)
    assert done.exit_code == 1
    assert done.stdout.count("images/") + done.stdout.count(str(folder)) >= 4
    assert "2 of 6 images failed:" in done.stderr
    assert "broken.png: ImageReadError" in done.stderr and "missing.png: ImageReadError" in done.stderr
    assert run(folder / "b", "--model", "vit-digits").exit_code == 0


@pytest.mark.parametrize("ending", ["json", "csv", "parquet"])
def test_answers_go_into_a_table(folder, tmp_path, ending):
    table = tmp_path / f"answers.{ending}"
    assert run(folder, "--model", "vit-digits", "--top-k", 2, "--output", table).exit_code == 1
    if ending == "json":
        rows = json.loads(table.read_text())
        assert [len(row.get("predictions", [])) for row in rows] == [0, 2, 2, 2, 2]
        assert "ImageReadError" in rows[0]["error"]
        return
    if ending == "csv":
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    else:
        rows = datasets.Dataset.from_parquet(str(table), cache_dir=str(tmp_path / "cache")).to_list()
    assert list(rows[0]) == ["image", "label", "score", "error"]
    assert len(rows) == 1 + 4 * 2
    assert "ImageReadError" in rows[0]["error"] and not rows[0]["label"]
    assert all(not row["error"] and 0 <= float(row["score"]) <= 1 for row in rows[1:])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    for row, name in enumerate(("x/scene.png", "y/scene.png")):
        (folder / name).parent.mkdir()
        load_digit_scenes(1, 2)["validation"][row]["image"].save(folder / name)
    return folder


@pytest.mark.parametrize(
    ("model", "columns"),
    [
        ("detr-digit-scenes", ["image", "score", "label", "xmin", "ymin", "xmax", "ymax", "error"]),
        ("segformer-digit-scenes", ["image", "id", "label", "pixels", "share", "score", "error"]),
    ],
)
def test_pictures_lie_in_the_folders_of_their_images_beside_a_table(scenes, tmp_path, model, columns):
    table, out = tmp_path / "answers.csv", tmp_path / "out"
    done = run(scenes, "--model", model, "--output", table, "--output", out)
    assert done.exit_code == 0, done.stderr
    assert {path.parent.name for path in out.rglob("scene.overlay.png")} == {"x", "y"}
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert set(columns) >= {*rows[0]} >= {"image", "label", "score", "error"}
    assert {row["image"] for row in rows} == {str(scenes / "x/scene.png"), str(scenes / "y/scene.png")}


def test_json_on_stdout_names_failures_too(folder):
    done = run(folder / "a", "--model", "vit-digits", "--json")
    rows = json.loads(done.stdout)
    assert ["error" in row for row in rows] == [True, False, False]


def test_options_of_the_image_processor_are_taken(folder, tmp_path):
    array = np.asarray(Image.open(folder / "a/one.png")).astype(np.float32) / 255
    np.save(tmp_path / "one.npy", array)
    refused = CliRunner().invoke(build_app(), ["predict", str(tmp_path / "one.npy"), "--model", "vit-digits"])
    assert "input_range=(0, 1)" in str(refused.exception)
    done = run(tmp_path / "one.npy", "--model", "vit-digits", "--processor", "input_range=[0,1]", "--json")
    (got,), (wanted,) = (
        json.loads(done.stdout),
        json.loads(run(folder / "a/one.png", "--model", "vit-digits", "--json").stdout),
    )
    assert got["predictions"] == wanted["predictions"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--device", "cuda:99"], ConfigError, "device 'cuda:99': this machine has"),
        (["--device", "gpu"], ConfigError, "device is cpu, cuda, cuda:1 or mps; got 'gpu'"),
        (["--processor", "input_range"], ConfigError, "--processor takes NAME=VALUE"),
        (["--processor", "input_rnge=1"], ConfigError, "input_rnge"),
        (["--output", "a.csv", "--output", "b.csv"], ConfigError, "--output is one folder, one file"),
        (["--output", "folder"], ConfigError, "classifies"),
    ],
)
def test_a_mistake_is_one_error(folder, arguments, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        run(folder / "a/one.png", "--model", "vit-digits", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_used_is_one_error(folder, tmp_path):
    image = folder / "a/one.png"
    with pytest.raises(UnknownNameError, match="not a folder with config"):
        run(image, "--model", tmp_path / "nothing")
    tiny_model("vit").save_pretrained(tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointReadError, match="cannot be loaded"):
        run(image, "--model", tmp_path / "broken")
    (tmp_path / "broken" / "config.json").write_text("{")
    with pytest.raises((CheckpointReadError, UnknownNameError)):
        run(image, "--model", tmp_path / "broken")
    tiny_model("vit", "AutoModel").save_pretrained(tmp_path / "trunk")
    with pytest.raises(ConfigError, match="without a head"):
        run(image, "--model", tmp_path / "trunk")


def test_an_empty_folder_is_one_error(tmp_path):
    with pytest.raises(ConfigError, match="no images in"):
        run(tmp_path, "--model", "vit-digits")


def test_overlays_say_the_names_of_the_answer(scenes):
    import hfvision

    (answer,) = predict([str(scenes / "x/scene.png")], "segformer-digit-scenes")
    config = hfvision.pipelines.loading.load_config("segformer-digit-scenes")
    assert answer["names"] == tuple(config.id2label[label] for label in range(config.num_labels))
    drawn = hfvision.segmentation_overlay(str(scenes / "x/scene.png"), answer)
    plain = hfvision.segmentation_overlay(
        str(scenes / "x/scene.png"), answer["classes"], answer["colours"], answer["names"], ignore_index=None
    )
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(plain))
    numbers = hfvision.segmentation_overlay(str(scenes / "x/scene.png"), answer["classes"], answer["colours"])
    assert np.asarray(numbers).shape != np.asarray(plain).shape or (np.asarray(numbers) != np.asarray(plain)).any()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_line_and_code_1():
    """All commands print by one function; this one needs no model, which a fresh process would import."""
    command = [sys.executable, "-m", "hfvision", "list"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert last == "OutputError: the output cannot be written: No space left on device"


def test_a_panoptic_answer_is_drawn_as_it_is(scenes):
    import hfvision

    image = str(scenes / "x/scene.png")
    (answer,) = predict([image], "detr-panoptic-digit-scenes")
    drawn = hfvision.panoptic_overlay(image, answer)
    apart = hfvision.panoptic_overlay(image, answer["segmentation"], answer["segments_info"])
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(apart))
