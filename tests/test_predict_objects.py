"""`predict` and its command with models that find objects: what comes back, what is written, and bad input."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline
from typer.testing import CliRunner

from hfvision.cli import build_app
from hfvision.data.scenes import load_digit_scenes
from hfvision.detections import Detections
from hfvision.errors import ConfigError
from hfvision.geometry import decode_rle
from hfvision.objects import read_objects
from hfvision.pipelines.predict import predict
from hfvision.processing.detection import DetrImageProcessor
from hfvision.registry import IMAGE_SEGMENTATION, OBJECT_DETECTION
from tests.models import tiny_model, with_varied_queries

LOW = 0.05  # scores of models that have learned nothing


def saved(auto_class: str, folder) -> str:
    model = with_varied_queries(tiny_model("detr", auto_class), torch.randn(2, 3, 64, 64))
    model.save_pretrained(folder)
    DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> str:
    return saved(OBJECT_DETECTION, tmp_path_factory.mktemp("detector") / "model")


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory) -> str:
    return saved(IMAGE_SEGMENTATION, tmp_path_factory.mktemp("segmenter") / "model")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[str]:
    """Two files of one name, and one that is called by a number, as COCO's are."""
    folder = tmp_path_factory.mktemp("images")
    scenes = load_digit_scenes(1, 3)["validation"]
    paths = [folder / "a" / "scene.png", folder / "b" / "scene.png", folder / "000042.png"]
    for path, image in zip(paths, scenes["image"], strict=True):
        path.parent.mkdir(exist_ok=True)
        image.save(path)
    return [str(path) for path in paths]


def run(*arguments: object):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(build_app(), ["predict", *map(str, arguments)], catch_exceptions=False)


def test_a_detector_gives_detections(detector, images) -> None:
    found = predict(images, detector, threshold=LOW, batch_size=2)
    detect = pipeline("object-detection", model=detector)
    assert [one.to_list() for one in found] == detect(images, threshold=LOW)
    assert all(isinstance(one, Detections) and one.size == (96, 96) and len(one) for one in found)
    assert not any(map(len, predict(images, detector, threshold=1.0)))


def test_the_command_writes_overlays_and_one_document_of_coco_results(detector, images, tmp_path) -> None:
    out = tmp_path / "out"
    done = run(*images, "--model", detector, "--threshold", LOW, "--output", out, "--json")
    rows = json.loads(done.stdout)
    pictures = ["000042.overlay.png", "scene-2.overlay.png", "scene.overlay.png"]
    assert sorted(os.listdir(out)) == sorted([*pictures, "detections.json"])
    found = predict(images, detector, threshold=LOW)
    results = json.loads((out / "detections.json").read_text())
    ids = ["scene", "scene-2", 42]
    assert results == [row for one, image_id in zip(found, ids, strict=True) for row in one.to_coco(image_id)]
    for row, one, image in zip(rows, found, images, strict=True):
        assert row["image"] == image and row["predictions"] == one.to_list()
        with Image.open(row["overlay"]) as picture:
            assert picture.size == (384, 384)


def test_the_text_has_a_line_for_each_object(detector, images) -> None:
    lines = run(images[0], "--model", detector, "--threshold", LOW).stdout.splitlines()
    (found,) = predict(images[:1], detector, threshold=LOW)
    assert lines[0] == images[0] and len(lines) == 1 + len(found)
    first = found.to_list()[0]
    assert lines[1].split() == [first["label"], f"{first['score']:.4f}", *map(str, first["box"].values())]
    assert run(images[0], "--model", detector, "--threshold", 1).stdout.splitlines()[1].strip() == "nothing was found"


def test_tiles_are_those_of_the_pipeline(detector, images) -> None:
    done = run(images[0], "--model", detector, "--threshold", LOW, "--tile", 64, "--overlap", 0.5, "--json")
    wanted = pipeline("object-detection", model=detector)(images[0], threshold=LOW, tile=64, overlap=0.5, batch_size=1)
    assert json.loads(done.stdout)[0]["predictions"] == wanted


def test_panoptic_maps_and_segments_come_in_cocos_form(segmenter, images, tmp_path) -> None:
    out = tmp_path / "out"
    rows = json.loads(run(*images, "--model", segmenter, "--threshold", LOW, "--output", out, "--json").stdout)
    answers = predict(images, segmenter, threshold=LOW)
    document = json.loads((out / "segments.json").read_text())
    assert {row["id"] for row in document["categories"]} == {
        segment["label_id"] for answer in answers for segment in answer["segments_info"]
    }
    stems = ["scene", "scene-2", "000042"]
    kinds = ("map", "overlay")
    assert sorted(os.listdir(out)) == sorted([f"{s}.{k}.png" for s in stems for k in kinds] + ["segments.json"])
    assert any(answer["segments_info"] for answer in answers)
    for row, answer, annotation in zip(rows, answers, document["annotations"], strict=True):
        assert row["predictions"] == answer["segments_info"]
        objects = read_objects({**annotation, "segmentation": out / annotation["file_name"]}, (96, 96))
        masks = [answer["segmentation"] == segment["id"] for segment in answer["segments_info"]]
        np.testing.assert_array_equal(objects.masks.decoded(), np.array(masks).reshape(-1, 96, 96))
        assert objects.labels.tolist() == [segment["label_id"] for segment in answer["segments_info"]]
    assert [row["image_id"] for row in document["annotations"]] == ["scene", "scene-2", 42]


def test_instances_are_coco_results_with_run_lengths(segmenter, images, tmp_path) -> None:
    options = ["--subtask", "instance", "--threshold", LOW]
    done = run(images[0], "--model", segmenter, *options, "--output", tmp_path, "--json")
    (found,) = predict(images[:1], segmenter, subtask="instance", threshold=LOW)
    results = json.loads((tmp_path / "detections.json").read_text())
    assert len(found) and len(results) == len(found) == len(json.loads(done.stdout)[0]["predictions"])
    for row, mask in zip(results, found.decoded_masks(), strict=True):
        np.testing.assert_array_equal(decode_rle(row["segmentation"]), mask)
    semantic = run(images[0], "--model", segmenter, "--subtask", "semantic", "--output", tmp_path / "semantic")
    assert semantic.exit_code == 0
    assert sorted(os.listdir(tmp_path / "semantic")) == ["scene.map.png", "scene.overlay.png"]


def test_options_of_models_that_do_something_else_are_named(detector, segmenter, images) -> None:
    with pytest.raises(ConfigError, match=r"top_k: for a model that classifies; .* detects objects and takes thresh"):
        predict(images, detector, top_k=3)
    with pytest.raises(ConfigError, match=r"tile: for a model that .* or detects objects; .* one that segments obj"):
        predict(images, segmenter, tile=64)
    with pytest.raises(ConfigError, match=r"subtask, threshold: .* 'vit-digits' is one that classifies"):
        predict(images, "vit-digits", subtask="instance", threshold=0.5)
    with pytest.raises(ConfigError, match="tresh: no model takes this"):
        predict(images, detector, tresh=0.5)


def test_nothing_is_written_for_models_that_classify(images, tmp_path) -> None:
    with pytest.raises(ConfigError, match="--output is for models that say where something is"):
        run(images[0], "--model", "vit-digits", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()
