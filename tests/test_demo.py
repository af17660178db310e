"""The demo from end to end with a few steps, its gate, and what it does to images and labels."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, pipeline
from typer.testing import CliRunner

from hfvision.cli import build_app
from hfvision.data.digits import load_digit_scenes, load_digits
from hfvision.errors import ConfigError
from hfvision.metrics.segmentation import SegmentationMetric
from hfvision.models.segformer.model import SegformerConfig, SegformerForSemanticSegmentation
from hfvision.processing.segmentation import SegformerImageProcessor
from hfvision.registry import ARCHITECTURES
from hfvision.training import demo, demo_segmentation
from hfvision.training.demo import DemoResult, Prediction, even_or_odd, run_demo, vary_digit
from hfvision.training.demo_segmentation import SegmentationDemoResult, run_segmentation_demo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def result(folder: Path, said: list[str]) -> DemoResult:
    return run_demo(folder, seed=3, max_steps=6, say=said.append)


def test_the_demo_says_what_it_does_and_leaves_two_models_and_a_picture(result, folder, said) -> None:
    assert [line[:3] for line in said] == ["1/4", "2/4", "3/4", "4/4"]
    assert sorted(path.name for path in folder.iterdir()) == ["demo.png", "vit-digits", "vit-even-odd"]
    for name in ("vit-digits", "vit-even-odd"):
        files = {path.name for path in (folder / name).iterdir()}
        assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= files
    assert (result.held_out_images, result.train_images) == (360, 1437)
    with Image.open(result.picture) as picture:
        assert picture.size[0] > 1000


def test_its_figure_is_what_the_saved_folder_reaches_through_the_pipeline(result) -> None:
    held_out = load_digits()["test"]
    predict = pipeline("image-classification", model=result.model)
    answers = [answer[0]["label"] for answer in predict(list(held_out["image"]), top_k=1)]
    assert result.accuracy == np.mean(
        [answer == str(digit) for answer, digit in zip(answers, held_out["label"], strict=True)]
    )
    for prediction in result.predictions:
        assert prediction.predicted == answers[prediction.image]
        assert prediction.true == str(held_out[prediction.image]["label"])


def test_it_shows_every_digit(result) -> None:
    assert sorted({prediction.true for prediction in result.predictions}) == [str(digit) for digit in range(10)]


def test_the_fine_tuned_model_has_the_other_labels_and_the_first_ones_trunk(result) -> None:
    config = AutoConfig.from_pretrained(result.fine_tuned)
    assert config.id2label == {0: "even", 1: "odd"}
    assert config.hidden_size == demo.ARCHITECTURE["hidden_size"]
    assert "vit-digits" in (Path(result.fine_tuned) / "README.md").read_text()


def test_six_steps_do_not_pass_the_gate(result) -> None:
    assert result.required_accuracy == 0.97
    assert not result.passed
    assert replace(result, accuracy=0.97).passed
    assert not replace(result, accuracy=349 / 360).passed  # 96.94 %


def test_called_again_it_trains_nothing_and_finds_the_same(result, folder, caplog) -> None:
    again = run_demo(folder, seed=3, max_steps=6)
    assert again.already_trained
    assert not result.already_trained
    assert (again.accuracy, again.predictions) == (result.accuracy, result.predictions)
    assert "nothing was trained" in caplog.text


def test_called_again_with_another_seed_it_refuses(result, folder) -> None:
    with pytest.raises(ConfigError, match=r"settings.seed: it has 3, this call 4"):
        run_demo(folder, seed=4, max_steps=6)


def test_a_folder_of_other_things_is_left_alone(tmp_path) -> None:
    (tmp_path / "vit-digits").mkdir()
    (tmp_path / "vit-digits" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"not empty.*thesis.tex"):
        run_demo(tmp_path, max_steps=1)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")] == ["vit-digits/thesis.tex"]


def test_a_file_in_the_place_of_the_folder_and_somebodys_picture_are_left_alone(tmp_path) -> None:
    (tmp_path / "demo.png").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"demo.png is a file"):
        run_demo(tmp_path / "demo.png", max_steps=1)
    with pytest.raises(ConfigError, match="would be overwritten"):
        run_demo(tmp_path, max_steps=1)
    assert [path.name for path in tmp_path.iterdir()] == ["demo.png"]
    assert (tmp_path / "demo.png").read_bytes() == b"mine"


def test_a_seed_that_cannot_be_is_refused_before_anything_is_written(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"seed is a whole number from 0 .*; got -1"):
        run_demo(tmp_path / "out", seed=-1)
    assert not (tmp_path / "out").exists()


def test_a_folder_called_digits_is_not_taken_for_the_data(tmp_path, monkeypatch) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run_demo("out", max_steps=1).held_out_images == 360


def test_the_number_of_threads_is_as_before(result) -> None:
    before = torch.get_num_threads()
    with demo.one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


PASSING = DemoResult(
    model="out/vit-digits",
    parameters=100_000,
    train_images=1437,
    epochs=5.0,
    already_trained=False,
    seconds=60.0,
    accuracy=354 / 360,
    held_out_images=360,
    required_accuracy=0.97,
    predictions=[Prediction(0, "8", "8", 0.99), Prediction(7, "9", "3", 0.51)],
    fine_tuned="out/vit-even-odd",
    fine_tuned_accuracy=0.99,
    fine_tuned_seconds=5.0,
    picture="out/demo.png",
)


def run_command(monkeypatch: pytest.MonkeyPatch, result: DemoResult, *arguments: str):  # type: ignore[no-untyped-def]
    monkeypatch.setattr(demo, "run_demo", lambda *_, **__: result)
    return CliRunner().invoke(build_app(), ["demo", *arguments])


def test_the_command_prints_the_figures_with_their_sample_counts(monkeypatch) -> None:
    outcome = run_command(monkeypatch, PASSING)
    assert outcome.exit_code == 0
    assert "98.33% of 360 held-out images (354 right)" in outcome.stdout
    lines = [line.split() for line in outcome.stdout.splitlines()]
    assert ["0", "8", "8", "99.0%"] in lines
    assert ["7", "9", "3", "51.0%", "wrong"] in lines


def test_the_command_fails_below_97_percent_and_still_prints_what_it_found(monkeypatch) -> None:
    outcome = run_command(monkeypatch, replace(PASSING, accuracy=349 / 360))
    assert outcome.exit_code == 1
    assert "96.94% of 360 held-out images (349 right)" in outcome.stdout
    assert "96.94% of 360 held-out images are right; wanted at least 97%" in outcome.stderr


def test_json_is_one_document(monkeypatch) -> None:
    document = json.loads(run_command(monkeypatch, PASSING, "--json").stdout)
    assert document["passed"] is True
    assert document["predictions"][1] == {"image": 7, "true": "9", "predicted": "3", "probability": 0.51}
    failed = run_command(monkeypatch, replace(PASSING, accuracy=0.5), "--json")
    assert (failed.exit_code, json.loads(failed.stdout)["passed"]) == (1, False)


def test_variations_depend_on_the_generator_alone() -> None:
    image = load_digits()["train"][0]["image"]
    first, again, other = (
        np.asarray(vary_digit(image, np.random.default_rng(seed))) for seed in ((0, 1), (0, 1), (0, 2))
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_variations_keep_the_digit_in_the_frame_and_two_in_five_are_negatives() -> None:
    images = load_digits()["train"]["image"][:200]
    varied = [vary_digit(image, np.random.default_rng(row)) for row, image in enumerate(images)]
    assert {(image.mode, image.size) for image in varied} == {("L", (16, 16))}
    values = np.stack([np.asarray(image) for image in varied]).astype(float)
    # The ground is the value of most of the border: dark in a picture, bright in its negative.
    border = np.concatenate([values[:, 0], values[:, -1], values[:, :, 0], values[:, :, -1]], axis=1)
    negative = np.median(border, axis=1) > 127
    assert 50 < negative.sum() < 110  # 80 expected, with a standard deviation of 7
    values[negative] = 255 - values[negative]
    ink = (values - values.min(axis=(1, 2), keepdims=True)).mean(axis=(1, 2))
    before = np.array([np.asarray(image).mean() for image in images])
    # The least scale, 0.7, leaves half of the area; less would mean that part of the digit left the frame.
    assert np.mean(ink / before < 0.45) < 0.05


def test_even_or_odd_relabels_and_keeps_the_images() -> None:
    digits = load_digits()
    parity = even_or_odd(digits)
    assert parity["test"].features["label"].names == ["even", "odd"]
    assert parity["test"]["label"] == [digit % 2 for digit in digits["test"]["label"]]
    assert parity["test"][5]["image"] == digits["test"][5]["image"]


def test_help_imports_no_torch() -> None:
    import subprocess

    code = (
        "import sys; from typer.testing import CliRunner; from hfvision.cli import build_app; "
        "out = CliRunner().invoke(build_app(), ['demo', '--help']); "
        "assert out.exit_code == 0, out.output; assert '--seed' in out.output; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# Segmentation


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a model of the scenes' classes that has learned nothing."""
    folder = tmp_path_factory.mktemp("untrained") / "tiny"
    torch.manual_seed(0)
    names = dict(enumerate(["background", *(f"digit {digit}" for digit in range(10))]))
    labels = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    SegformerForSemanticSegmentation(SegformerConfig(**ARCHITECTURES["segformer"].tiny, **labels)).save_pretrained(
        folder
    )
    SegformerImageProcessor(size={"height": 96, "width": 96}).save_pretrained(folder)
    return str(folder)


def test_the_segmentation_demo_measures_the_label_maps_that_it_writes(untrained, tmp_path) -> None:
    said: list[str] = []
    result = run_segmentation_demo(tmp_path / "out", starter=untrained, scenes=5, say=said.append)
    assert [line[:3] for line in said] == ["1/2", "2/2"]
    maps = [np.array(Image.open(path)) for path in sorted((tmp_path / "out" / "maps").iterdir())]
    metric = SegmentationMetric(11)
    metric.update(maps, [np.array(mask) for mask in load_digit_scenes(1, 5)["validation"]["mask"]])
    assert result.mean_iou == metric.result()["mean_iou"]
    assert (result.trained, result.passed, result.scenes) == (False, False, 5)
    with Image.open(result.picture) as picture:
        assert picture.size[0] > 500


def test_the_segmentation_demo_trains_its_model_anew_when_asked(untrained, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(demo_segmentation, "SCENES", load_digit_scenes(8, 4))
    result = run_segmentation_demo(tmp_path / "out", starter=untrained, train=True, max_steps=1, scenes=2)
    assert result.trained
    assert result.model == str(tmp_path / "out" / "tiny")
    assert (tmp_path / "out" / "tiny" / "model.safetensors").exists()


def test_the_segmentation_demo_overwrites_nothing(untrained, tmp_path) -> None:
    (tmp_path / "scenes.png").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="would be overwritten"):
        run_segmentation_demo(tmp_path, starter=untrained, scenes=1)
    with pytest.raises(ConfigError, match=r"scenes.png is a file"):
        run_segmentation_demo(tmp_path / "scenes.png", starter=untrained, scenes=1)
    assert [path.name for path in tmp_path.iterdir()] == ["scenes.png"]


def test_the_segmentation_command_prints_the_figures_and_has_a_gate(monkeypatch) -> None:
    passing = SegmentationDemoResult(
        model="out/model",
        trained=False,
        seconds=0.0,
        scenes=200,
        mean_iou=0.81,
        pixel_accuracy=0.97,
        per_class={"background": 0.98, "digit 0": None},
        required_mean_iou=0.8,
        maps="out/maps",
        picture="out/scenes.png",
    )
    for result, code in ((passing, 0), (replace(passing, mean_iou=0.79), 1)):
        monkeypatch.setattr(demo_segmentation, "run_segmentation_demo", lambda *_, found=result, **__: found)
        outcome = CliRunner().invoke(build_app(), ["demo", "segmentation"])
        assert outcome.exit_code == code
        assert f"{result.mean_iou:.2%} over 200 unseen scenes" in outcome.stdout
        assert "absent" in outcome.stdout
    assert "79.00% over 200 scenes; wanted at least 80%" in outcome.stderr
    assert CliRunner().invoke(build_app(), ["demo", "--train"]).exit_code == 2
