"""Measuring a model gives the figures of its training, whatever order the data has its classes in, with a record."""

import json
import shutil
from pathlib import Path

import datasets
import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from hfvision.cli import build_app
from hfvision.data import load_digit_scenes, load_digits, prepare_detection
from hfvision.errors import CheckpointReadError, ConfigError, DatasetError
from hfvision.models.vit import ViTConfig, ViTModel
from hfvision.starters import STARTERS
from hfvision.training.evaluation import evaluate


def said(name, metric):
    """The figure in the card of a starter."""
    results = ModelCard.load(STARTERS[name] / "README.md").data.eval_results
    return next(one.metric_value for one in results if one.metric_type == metric)


@pytest.fixture(scope="module")
def scenes():
    return load_digit_scenes(train=1, validation=12)["validation"]


def test_a_classifier_has_the_figures_of_its_card_and_a_record_of_them(tmp_path):
    folder = Path(shutil.copytree(STARTERS["vit-digits"], tmp_path / "mine"))
    result = evaluate(folder, "digits", batch_size=60)
    assert (result.samples, result.split, result.task) == (360, "test", "image-classification")
    assert result.metrics["accuracy"] == said("vit-digits", "accuracy")
    record = json.loads((folder / "hfvision_evaluation.json").read_text())["evaluations"]
    assert [one["metrics"] for one in record] == [result.metrics]
    assert set(record[0]) >= {"dataset", "revision", "date", "versions", "weights", "device", "settings"}
    assert str(tmp_path) not in json.dumps(record)
    evaluate(folder, "digits", batch_size=90)  # the same weights on the same data: in its place
    evaluate(folder, load_digits()["train"].select(range(40)))
    record = json.loads((folder / "hfvision_evaluation.json").read_text())["evaluations"]
    assert [(one["split"], one["samples"]) for one in record] == [("test", 360), ("train", 40)]


def test_classes_are_matched_by_name_or_if_wanted_by_number():
    digits = load_digits()["test"].select(range(60))
    names = [str(digit) for digit in reversed(range(10))]
    turned = digits.add_column(
        "other", [9 - digit for digit in digits["label"]], feature=datasets.ClassLabel(names=names)
    )
    turned = turned.remove_columns("label").rename_column("other", "label")
    by_name = evaluate("vit-digits", turned, record=False)
    assert by_name.metrics["accuracy"] == evaluate("vit-digits", digits, record=False).metrics["accuracy"] > 0.9
    assert evaluate("vit-digits", turned, record=False, by_number=True).metrics["accuracy"] < 0.3
    strange = turned.cast_column("label", datasets.ClassLabel(names=[f"digit {name}" for name in names]))
    with pytest.raises(DatasetError, match="none of the model's: 'digit 9'"):
        evaluate("vit-digits", strange, record=False)


def test_a_segmenter_and_detectors_are_measured_on_a_split_that_stands_alone(scenes):
    segmented = evaluate("segformer-digit-scenes", scenes, record=False)
    assert (segmented.samples, segmented.class_figure) == (12, "IoU")
    assert segmented.metrics["mean_iou"] > 0.8
    panoptic = evaluate("detr-panoptic-digit-scenes", scenes, record=False)
    assert panoptic.metrics["PQ"] > 0.7


def test_a_detector_is_measured_whatever_order_the_data_has_its_classes_in(scenes):
    plain = prepare_detection(scenes, evaluate_only=True)
    turned = prepare_detection(scenes, evaluate_only=True, names=list(reversed(plain.names)))
    figures = [evaluate("detr-digit-scenes", data, record=False) for data in (plain, turned)]
    assert figures[0].metrics["AP50"] == figures[1].metrics["AP50"] > 0.8
    assert figures[0].per_class == figures[1].per_class


def test_what_cannot_be_measured_is_refused_and_nothing_is_written(tmp_path, scenes):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    ViTModel(ViTConfig(image_size=8, patch_size=4, **sizes)).save_pretrained(tmp_path / "trunk")
    with pytest.raises(ConfigError, match="ViTModel; what is measured"):
        evaluate(tmp_path / "trunk", "digits")
    with pytest.raises(CheckpointReadError, match="cannot load a model"):
        evaluate(tmp_path / "nothing", "digits")
    turned = ["background", *(f"digit {number}" for number in reversed(range(10)))]
    with pytest.raises(DatasetError, match="compared by number"):
        evaluate("segformer-digit-scenes", scenes, data_options={"names": turned}, record=False)
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds no evaluations"):
        evaluate("vit-digits", load_digits()["test"].select(range(40)), record=tmp_path / "notes.json")
    assert (tmp_path / "notes.json").read_text() == "{}"


def test_the_command_prints_the_figures_and_writes_the_record_that_it_is_given(tmp_path):
    given = ["evaluate", "vit-digits", "--dataset", "digits", "--record", str(tmp_path / "r.json")]
    done = CliRunner().invoke(build_app(), [*given, "--json"])
    assert json.loads(done.stdout)["metrics"]["accuracy"] == said("vit-digits", "accuracy")
    done = CliRunner().invoke(build_app(), given)
    assert "accuracy             0.9917" in done.stdout
    assert len(json.loads((tmp_path / "r.json").read_text())["evaluations"]) == 1
