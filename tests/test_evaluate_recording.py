"""Evaluations keep the answer to every image and the classes taken for each other, which give the figures again."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from typer.testing import CliRunner

from hfvision.cli import build_app
from hfvision.data import load_digit_scenes, load_digits
from hfvision.errors import ConfigError
from hfvision.metrics.confusion import NOTHING, BoxConfusion, paired, pixel_confusion
from hfvision.plots import confusion_sheet
from hfvision.training.evaluation import evaluate

MODELS = {
    "classification": "vit-digits",
    "segmentation": "segformer-digit-scenes",
    "detection": "detr-digit-scenes",
    "panoptic": "detr-panoptic-digit-scenes",
}


@pytest.fixture(scope="module")
def data():
    scenes = load_digit_scenes(train=1, validation=9)["validation"]
    return dict.fromkeys(MODELS, scenes) | {"classification": load_digits()["test"].select(range(50))}


@pytest.fixture(scope="module")
def kept(data, tmp_path_factory):
    """task -> result, rows, confusion; batches of four, so that the last one is smaller."""
    folder, found = tmp_path_factory.mktemp("kept"), {}
    for task, model in MODELS.items():
        rows, counts = folder / f"{task}.json", folder / f"{task}-confusion.json"
        result = evaluate(model, data[task], record=False, batch_size=4, predictions=rows, confusion=counts)
        found[task] = result, json.loads(rows.read_text()), json.loads(counts.read_text())
    return found


def test_a_classifiers_answers_and_confusion_give_its_accuracy(kept, data):
    result, rows, confusion = kept["classification"]
    assert [row["truth"] for row in rows] == [str(label) for label in data["classification"]["label"]]
    assert np.mean([row["right"] for row in rows]) == result.metrics["accuracy"]
    assert all(row["right"] == (row["label"] == row["truth"]) and 0 < row["score"] <= 1 for row in rows)
    counts = np.array(confusion["counts"])
    assert counts.sum() == 50 and np.trace(counts) / 50 == result.metrics["accuracy"]
    classes = confusion["classes"]
    again = np.zeros_like(counts)
    for row in rows:
        again[classes.index(row["truth"]), classes.index(row["label"])] += 1
    assert (again == counts).all()


def test_a_segmenters_answers_and_confusion_give_its_figures(kept, data):
    result, rows, confusion = kept["segmentation"]
    counts = np.array(confusion["counts"])
    assert np.trace(counts) / counts.sum() == pytest.approx(result.metrics["pixel_accuracy"], abs=1e-12)
    union = counts.sum(0) + counts.sum(1) - np.diag(counts)
    assert (np.diag(counts)[union > 0] / union[union > 0]).mean() == pytest.approx(
        result.metrics["mean_iou"], abs=1e-12
    )
    pixels = np.array([row["pixels"] for row in rows])
    shares = np.array([row["pixel_accuracy"] for row in rows])
    assert (pixels * shares).sum() / pixels.sum() == pytest.approx(result.metrics["pixel_accuracy"], abs=1e-12)
    for row, scene in zip(rows, data["segmentation"], strict=True):
        present = {int(value) for value in np.unique(scene["mask"])}
        truly = {place for place, share in enumerate(row["accuracy"].values()) if share is not None}
        assert truly == present


def test_a_detectors_answers_are_results_that_pycocotools_takes(kept, data, capsys):
    result, rows, _ = kept["detection"]
    annotations = [
        {"id": 100 * image + place + 1, "image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3]}
        | {"iscrowd": 0}
        for image, scene in enumerate(data["detection"])
        for place, (label, box) in enumerate(zip(scene["objects"]["category"], scene["objects"]["bbox"], strict=True))
    ]
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(9)],
        "categories": [{"id": label, "name": str(label)} for label in range(10)],
        "annotations": annotations,
    }
    truth.createIndex()
    measured = COCOeval(truth, truth.loadRes(rows), "bbox")
    measured.evaluate()
    measured.accumulate()
    measured.summarize()
    assert measured.stats[0] == pytest.approx(result.metrics["AP"], abs=1e-3)  # boxes are rounded in the file
    assert all(row["category"] == f"digit {row['category_id']}" for row in rows)


def test_a_detectors_confusion_counts_every_object_once(kept, data):
    _, _, confusion = kept["detection"]
    counts, classes = np.array(confusion["counts"]), confusion["classes"]
    labels = np.concatenate([scene["objects"]["category"] for scene in data["detection"]]).astype(int)
    assert classes == [*(f"digit {number}" for number in range(10)), NOTHING]
    assert counts.sum(axis=1)[:10].tolist() == np.bincount(labels, minlength=10).tolist()
    assert np.trace(counts) > 0.7 * len(labels)


def test_panoptic_answers_and_confusion_are_of_the_segments_that_were_measured(kept, data):
    result, rows, confusion = kept["panoptic"]
    assert np.mean([row["PQ"] for row in rows]) == pytest.approx(result.metrics["PQ"], abs=0.1)
    for row in rows:
        assert sum(segment["area"] for segment in row["segments"]) <= 96 * 96
        assert row["PQ"] == pytest.approx(row["SQ"] * row["RQ"], abs=0.05)
        assert all(0.5 <= segment["score"] <= 1 and segment["area"] > 0 for segment in row["segments"])
    counts = np.array(confusion["counts"])
    true = sum(np.bincount(np.asarray(scene["mask"]).ravel(), minlength=11) for scene in data["panoptic"])
    assert counts.sum(axis=1).tolist() == [*true.tolist(), 0] and confusion["unit"] == "pixels"
    assert np.trace(counts) > 0.9 * counts.sum()


@pytest.mark.parametrize("task", MODELS)
def test_tables_hold_the_rows_of_json(task, kept, data, tmp_path):
    _, rows, _ = kept[task]
    evaluate(MODELS[task], data[task], record=False, batch_size=4, predictions=tmp_path / "rows.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert len(table) == len(rows)
    for name, value in table[0].items():
        outer, _, inner = name.partition(".")
        wanted = rows[0][outer][inner] if inner else rows[0][outer]
        value = json.loads(value) if isinstance(wanted, list) else value
        assert value == (pytest.approx(wanted, abs=1e-5) if isinstance(wanted, float) else wanted)


def test_the_command_writes_all_files_names_images_by_their_place_and_keeps_them_out_of_the_record(tmp_path):
    for split, row in zip(("test", "test"), load_digits()["test"].select(range(2)), strict=True):
        folder = tmp_path / "digits" / split / str(row["label"])
        folder.mkdir(parents=True)
        row["image"].save(folder / "one.png")
    files = {name: tmp_path / name for name in ("p.csv", "c.csv", "c.png", "r.json")}
    words = ["evaluate", "vit-digits", "--dataset", tmp_path / "digits", "--predictions", files["p.csv"]]
    words += ["--confusion", files["c.csv"], "--confusion", files["c.png"], "--record", files["r.json"]]
    done = CliRunner().invoke(build_app(), [*map(str, words)])
    assert done.exit_code == 0, done.output
    with files["p.csv"].open() as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows} == {f"test/{row['truth']}/one.png" for row in rows} and len(rows) == 2
    first, *others = files["c.csv"].read_text().splitlines()
    assert first == "truth / answer,0,1,2,3,4,5,6,7,8,9" and len(others) == 10
    with Image.open(files["c.png"]) as picture:
        assert picture.width > 300
    assert str(tmp_path) not in files["r.json"].read_text()
    assert all(str(files[name]) in done.stdout for name in ("p.csv", "c.csv", "c.png"))


def test_other_files_are_refused_before_anything_runs(tmp_path):
    for files in ({"predictions": tmp_path / "p.txt"}, {"confusion": [tmp_path / "c.png", tmp_path / "c.svg"]}):
        with pytest.raises(ConfigError, match="files that end in"):
            evaluate("no such model", "no such data", **files)
    with pytest.raises(ConfigError, match="is a folder"):
        (tmp_path / "c.png").mkdir()
        evaluate("no such model", "no such data", confusion=tmp_path / "c.png")
    assert [path.name for path in Path(tmp_path).iterdir()] == ["c.png"]


def test_boxes_are_paired_within_their_class_first_and_then_across():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [40, 40, 50, 50], [80, 80, 90, 90], [0, 60, 10, 70.0]])
    truth = {
        "boxes": [[0, 0, 10, 9], [0, 0, 10, 10], [40, 40, 50, 51], [70, 0, 80, 10], [0, 55, 20, 75]],
        "labels": np.array([0, 1, 2, 1, 2]),
        "iscrowd": np.array([0, 0, 0, 0, 1]),
    }
    answer = {"boxes": boxes, "labels": np.array([0, 1, 0, 2, 2]), "scores": np.array([0.9, 0.8, 0.7, 0.6, 0.9])}
    metric = BoxConfusion(3)
    metric.update([answer], [truth])
    expected = np.zeros((4, 4), int)
    expected[0, 0] = expected[1, 1] = 1  # each has its own class, though the other's box is nearer
    expected[2, 0] = 1  # the same place, another class
    expected[1, 3] = 1  # not found
    expected[3, 2] = 1  # where nothing is; the answer inside a crowd is no error
    assert metric.confusion.tolist() == expected.tolist()
    metric = BoxConfusion(3, threshold=0.85)
    metric.update([answer], [truth])
    assert metric.confusion.sum() == 4 and metric.confusion[:, 3].tolist() == [0, 2, 1, 0]


def test_the_confusion_of_many_random_boxes_adds_up():
    generator = np.random.default_rng(0)
    for _ in range(200):
        counts, sizes = generator.integers(0, 6, 2), []
        for count in counts:
            corners = generator.uniform(0, 20, (count, 2))
            sizes.append(np.concatenate([corners, corners + generator.uniform(1, 20, (count, 2))], axis=1))
        labels = [generator.integers(0, 3, count) for count in counts]
        crowd = generator.random(counts[1]) < 0.2
        metric = BoxConfusion(3, threshold=0.3)
        scores = generator.random(counts[0])
        reference = {"boxes": sizes[1], "labels": labels[1], "iscrowd": crowd}
        metric.update([{"boxes": sizes[0], "labels": labels[0], "scores": scores}], [reference])
        assert metric.confusion[:3].sum(axis=1).tolist() == np.bincount(labels[1][~crowd], minlength=3).tolist()
        answered = np.bincount(labels[0][scores >= 0.3], minlength=3)
        assert (metric.confusion[:, :3].sum(axis=0) <= answered).all()
        assert crowd.any() or (metric.confusion[:, :3].sum(axis=0) == answered).all()


def test_a_row_takes_the_free_column_that_it_overlaps_most():
    assert paired(np.array([[0.6, 0.7], [0.9, 0.8], [1, 1]]), 0.5) == {0: 1, 1: 0}
    assert paired(np.zeros((2, 0)), 0.5) == {} and paired(np.full((1, 2), -1.0), 0.0) == {}
    counted = pixel_confusion(np.array([[0, 1], [-1, 1]]), np.array([[2, 1], [1, 0]]), 3)
    assert counted.tolist() == [[0, 0, 1], [1, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("classes", [1, 2, 12, 60, 400])
def test_the_picture_is_darker_where_more_of_a_row_is(classes):
    counts = np.eye(classes, dtype=int) * 9
    counts[0, -1] += 1
    sheet = np.asarray(confusion_sheet(counts, [f"class {n}" for n in range(classes)], title="title").convert("L"))
    assert sheet.shape[1] >= 2 * classes and (sheet < 80).sum() >= 2 * classes
    with pytest.raises(ConfigError, match="names for"):
        confusion_sheet(counts, [*map(str, range(classes)), "more"])
