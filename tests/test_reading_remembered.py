"""What training was told of how to read its data holds when the model is measured, and can be overruled."""

import json
import logging

import datasets
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hfvision.cli import build_app
from hfvision.data import load_digit_scenes, load_digits
from hfvision.errors import DatasetError
from hfvision.training.arguments import VisionTrainingArguments
from hfvision.training.classification import train_classification
from hfvision.training.detection import train_detection
from hfvision.training.evaluation import evaluate
from hfvision.training.panoptic import train_panoptic
from hfvision.training.segmentation import train_segmentation

ONE_STEP = VisionTrainingArguments(
    max_steps=1, per_device_train_batch_size=4, learning_rate=1e-6, load_best_model_at_end=False
)


@pytest.fixture
def reports(caplog):
    caplog.set_level(logging.WARNING, logger="hfvision")
    return caplog


@pytest.fixture(scope="module")
def scenes():
    return load_digit_scenes(train=8, validation=8)


def classification_data(scenes):
    """Two columns could hold the labels."""
    digits = datasets.DatasetDict({split: data.select(range(60)) for split, data in load_digits().items()})
    parity = datasets.ClassLabel(names=["even", "odd"])
    return digits.map(lambda row: {"parity": row["label"] % 2}).cast_column("parity", parity)


def segmentation_data(scenes):
    """Two columns could hold the masks; those of "values" are ten times the classes, and the background is 7."""

    def stored(row):
        mask = np.asarray(row["mask"])
        return {"values": np.where(mask == 0, 7, mask * 10).astype(np.uint8)}

    arrays = datasets.Features(
        {"image": datasets.Image(), "mask": datasets.Image(), "values": datasets.Array2D((96, 96), "uint8")}
    )
    kept = datasets.DatasetDict({split: data.select_columns(["image", "mask"]) for split, data in scenes.items()})
    return kept.map(stored, features=arrays)


def detection_data(scenes):
    """Boxes as two corners, under the name that stands for a corner and a size; one has no area."""
    boxes = datasets.List(datasets.List(datasets.Value("float32"), length=4))

    def objects(row):
        found = np.array(row["objects"]["bbox"], float).reshape(-1, 4)
        found[:, 2:] += found[:, :2]
        return {"found": {"bbox": [*found.tolist(), [5, 5, 5, 9]], "category": [*row["objects"]["category"], 3]}}

    classes = datasets.List(datasets.Value("int64"))
    features = datasets.Features({"image": datasets.Image(), "found": {"bbox": boxes, "category": classes}})
    kept = {split: data.select_columns(["image", "objects"]) for split, data in scenes.items()}
    return datasets.DatasetDict(kept).map(objects, remove_columns=["objects"], features=features)


def panoptic_data(scenes):
    """Two columns could hold the map of segments, and nothing says what classes are called or can be counted."""
    info = datasets.List({"id": datasets.Value("int64"), "category_id": datasets.Value("int64")})
    features = datasets.Features(
        {"image": datasets.Image(), "ids": datasets.Image(), "mask": datasets.Image(), "segments_info": info}
    )

    def segments(row):
        ids = np.asarray(row["instances"])
        numbers = dict(zip(row["objects"]["id"], row["objects"]["category"], strict=True))
        there = [{"id": number + 1, "category_id": 20 + numbers.get(number, -1)} for number in np.unique(ids).tolist()]
        return {"ids": Image.fromarray(ids + 1), "segments_info": there}

    kept = {split: data.select_columns(["image", "mask", "instances", "objects"]) for split, data in scenes.items()}
    return datasets.DatasetDict(kept).map(segments, remove_columns=["instances", "objects"], features=features)


DIGITS = [f"digit {number}" for number in range(10)]
CLASSES = ["background", *DIGITS]
CASES = {
    "classification": (train_classification, "vit-digits", classification_data, {"label_column": "parity"}, "accuracy"),
    "segmentation": (
        train_segmentation,
        "segformer-digit-scenes",
        segmentation_data,
        {"mask_column": "values", "label_map": "map.json", "names": "names.txt", "ignore_index": 200},
        "mean_iou",
    ),
    "detection": (
        train_detection,
        "detr-digit-scenes",
        detection_data,
        {"box_form": "xyxy", "objects_column": "found", "names": DIGITS, "relative": False},
        "AP",
    ),
    "panoptic": (
        train_panoptic,
        "detr-panoptic-digit-scenes",
        panoptic_data,
        {"map_column": "ids", "names": {19 + number: name for number, name in enumerate(CLASSES)}, "things": DIGITS},
        "PQ",
    ),
}


@pytest.mark.parametrize("task", CASES)
def test_a_model_is_measured_as_it_was_trained_without_a_word(task, scenes, tmp_path, monkeypatch, reports):
    train, model, make, said, figure = CASES[task]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("\n".join(CLASSES))
    (tmp_path / "map.json").write_text(json.dumps({7: 0, **{10 * number: number for number in range(1, 11)}}))
    make(scenes).save_to_disk("data")
    trained = train(model, "data", "out", args=ONE_STEP, data_options=said)
    for file in tmp_path.glob("*.*"):
        file.unlink()  # what they hold is remembered
    reports.clear()
    measured = evaluate("out", "data")
    assert measured.metrics[figure] == pytest.approx(trained.metrics[figure], abs=1e-6)
    assert trained.metrics[figure] > 0.2
    lines = [message for message in reports.messages if message.startswith("read as in training: ")]
    assert len(lines) == 1 and all(name in lines[0] for name, value in said.items() if value)
    (entry,) = json.loads((tmp_path / "out/hfvision_evaluation.json").read_text())["evaluations"]
    assert entry["reading"] == json.loads((tmp_path / "out/training_run.json").read_text())["reading"]
    assert set(entry["reading"]) == set(said)


def test_what_is_said_goes_before_what_training_was_told(scenes, tmp_path, reports):
    data = classification_data(scenes)
    train_classification("vit-digits", data, tmp_path / "out", args=ONE_STEP, data_options={"label_column": "label"})
    data.save_to_disk(tmp_path / "data")
    assert evaluate(tmp_path / "out", str(tmp_path / "data"), record=False).reading == {"label_column": "label"}
    with pytest.raises(DatasetError, match="none of the model's: 'even', 'odd'"):
        evaluate(tmp_path / "out", str(tmp_path / "data"), data_options={"label_column": "parity"}, record=False)
    words = ["evaluate", str(tmp_path / "out"), "--dataset", str(tmp_path / "data"), "--no-record", "--by-number"]
    done = CliRunner().invoke(build_app(), [*words, "--label-column", "parity", "--json"])
    assert json.loads(done.stdout)["reading"] == {"label_column": "parity"}


def test_columns_of_training_are_looked_for_anew_where_data_has_others(scenes, tmp_path, reports):
    data = classification_data(scenes)
    train_classification("vit-digits", data, tmp_path / "out", args=ONE_STEP, data_options={"label_column": "label"})
    others = data["test"].remove_columns("parity").rename_column("label", "digit")
    assert evaluate(tmp_path / "out", others, record=False).samples == 60
    assert "has not the columns of training (label_column=label)" in reports.text
    with pytest.raises(DatasetError, match="no column label_column='lable'"):
        evaluate(tmp_path / "out", others, data_options={"label_column": "lable"}, record=False)


def test_a_share_of_the_classes_is_enough_to_be_measured_on(reports):
    few = load_digits()["test"].filter(lambda row: row["label"] < 3)
    assert evaluate("vit-digits", few, record=False).metrics["accuracy"] > 0.9
    more = few.cast_column("label", datasets.ClassLabel(names=[*map(str, range(10)), "no digit"]))
    assert evaluate("vit-digits", more, record=False).metrics["accuracy"] > 0.9
    assert "there is nothing to measure: 'no digit'" in reports.text
