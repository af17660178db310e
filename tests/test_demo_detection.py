"""The detection demo with models that know nothing: what it measures, draws and trains, its gate, and the recipes."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from hfvision.cli import build_app
from hfvision.data.scenes import DIGIT_NAMES, SCENE_CLASSES, load_digit_scenes
from hfvision.detections import Detections
from hfvision.errors import ConfigError, UnknownNameError
from hfvision.geometry import masks_to_boxes
from hfvision.processing.detection import DetrImageProcessor
from hfvision.registry import IMAGE_SEGMENTATION, OBJECT_DETECTION
from hfvision.training import demo_detection
from hfvision.training.demo_detection import (
    PANOPTIC_STARTER,
    RECIPES,
    STARTER,
    DetectionDemoResult,
    notes_for,
    run_detection_demo,
)
from tests.models import tiny_model, with_varied_queries

CLASSES = {OBJECT_DETECTION: DIGIT_NAMES, IMAGE_SEGMENTATION: SCENE_CLASSES}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> dict[str, str]:
    """Folders of models of the scenes' classes that have learned nothing."""
    folders = {}
    for auto_class, names in CLASSES.items():
        folder = tmp_path_factory.mktemp("untrained") / "tiny"
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}}
        model = tiny_model("detr", auto_class, **{"num_labels": len(names), **labels})
        with_varied_queries(model, torch.randn(2, 3, 96, 96)).save_pretrained(folder)
        DetrImageProcessor(size={"height": 96, "width": 96}).save_pretrained(folder)
        folders[auto_class] = str(folder)
    return folders


def test_the_demo_measures_and_draws_boxes(untrained, tmp_path) -> None:
    said: list[str] = []
    result = run_detection_demo(tmp_path / "out", starter=untrained[OBJECT_DETECTION], scenes=4, say=said.append)
    assert [line[:3] for line in said] == ["1/2", "2/2"]
    assert list(result.figures) == ["AP50", "AP", "AP75", "AR100"] and list(result.per_class) == DIGIT_NAMES
    assert (result.trained, result.passed, result.scenes, result.figure) == (False, False, 4, "AP50")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scenes.png"]
    with Image.open(result.picture) as picture:
        assert picture.size[0] > 400


def test_the_demo_measures_and_draws_segments(untrained, tmp_path) -> None:
    result = run_detection_demo(tmp_path / "out", starter=untrained[IMAGE_SEGMENTATION], scenes=3, required=0.0)
    assert (result.figure, result.passed) == ("PQ", True)
    assert list(result.per_class) == SCENE_CLASSES
    with Image.open(result.picture) as picture:
        assert picture.size[0] > 400


def test_right_answers_reach_one(untrained, tmp_path, monkeypatch) -> None:
    """Those of a pipeline that knows the scenes: boxes from the instances, segments from instances and mask."""
    scenes = load_digit_scenes(1, 5)["validation"]

    def boxes(images, **options):
        found = []
        for row in scenes:
            masks = np.array([np.array(row["instances"]) == number for number in row["objects"]["id"]])
            labels = row["objects"]["category"]
            found.append(Detections(masks_to_boxes(masks), [0.9] * len(labels), labels, DIGIT_NAMES, (96, 96)))
        return found

    def segments(images, **options):
        found = []
        for row in scenes:
            mask, instances = np.array(row["mask"]), np.array(row["instances"]).astype(int)
            ids = instances + 1  # the background is 1
            info = [{"id": one, "label_id": int(mask[ids == one][0])} for one in np.unique(ids).tolist()]
            found.append({"segmentation": ids, "segments_info": info})
        return found

    answers = {"object-detection": boxes, "image-segmentation": segments}
    monkeypatch.setattr(demo_detection.transformers, "pipeline", lambda task, model: answers[task])
    for place, (model, figures) in enumerate(
        {untrained[OBJECT_DETECTION]: ("AP", "AP50", "AR100"), untrained[IMAGE_SEGMENTATION]: ("PQ", "SQ")}.items()
    ):
        result = run_detection_demo(tmp_path / str(place), starter=model, scenes=5)
        assert [result.figures[name] for name in figures] == pytest.approx([1.0] * len(figures)) and result.passed


@pytest.mark.slow
@pytest.mark.parametrize("auto_class", list(CLASSES))
def test_the_demo_trains_its_model_anew_when_asked(untrained, tmp_path, monkeypatch, auto_class) -> None:
    few = load_digit_scenes(6, 3)
    recipes = {name: replace(recipe, dataset=few) for name, recipe in RECIPES.items()}
    monkeypatch.setattr(demo_detection, "RECIPES", recipes)
    starter = untrained[auto_class]
    result = run_detection_demo(tmp_path / "out", starter=starter, train=True, max_steps=1, scenes=2)
    assert result.trained and result.model == str(tmp_path / "out" / "tiny")
    assert (tmp_path / "out" / "tiny" / "model.safetensors").exists()


def test_nothing_is_overwritten(untrained, tmp_path) -> None:
    (tmp_path / "scenes.png").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="would be overwritten"):
        run_detection_demo(tmp_path, starter=untrained[OBJECT_DETECTION], scenes=1)
    with pytest.raises(ConfigError, match=r"scenes.png is a file"):
        run_detection_demo(tmp_path / "scenes.png", starter=untrained[OBJECT_DETECTION], scenes=1)
    assert [path.name for path in tmp_path.iterdir()] == ["scenes.png"]


def test_other_models_are_refused_before_anything_is_written(tmp_path) -> None:
    with pytest.raises(ConfigError, match="takes a model that finds objects, as detr-digit-scenes and"):
        run_detection_demo(tmp_path / "out", starter="vit-digits")
    with pytest.raises(UnknownNameError, match="'no-such-model' is none of the starter models"):
        run_detection_demo(tmp_path / "out", starter="no-such-model")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [STARTER, PANOPTIC_STARTER])
def test_the_command_in_a_card_is_one_that_trains(name, monkeypatch) -> None:
    """Its options are parsed as the command line does, and say what the recipe says."""
    recipe = replace(
        RECIPES[name],
        augmentation={"scale": (0.8, 1.2), "flip": 0, "crop": 0.25},
        settings={"keep_best": False, "epochs": 7, "learning_rate": 1e-3},
        further={"trunk": "segformer-digit-scenes", "num_queries": 12, "patience": 3},
    )
    given: dict = {}

    def train(task, model, dataset, output, args, **options):
        given.update(options, args=args, model=model, dataset=dataset, output=str(output))
        raise ConfigError("far enough")

    monkeypatch.setattr("hfvision.training.train.train", train)
    words = recipe.command(name).split()
    assert words[0] == "hfvision"
    with pytest.raises(ConfigError, match="far enough"):
        CliRunner().invoke(build_app(), words[1:], catch_exceptions=False)
    assert (given["model"], given["dataset"], given["output"]) == (f"new:{name}", recipe.dataset, "FOLDER")
    args, augment = given["args"], given["augment"]
    assert args == {
        **{"load_best_model_at_end": False, "num_train_epochs": 7, "learning_rate": 1e-3},
        "early_stopping_patience": 3,
    }
    assert (augment.scale, augment.flip, augment.crop) == ((0.8, 1.2), 0, 0.25)
    assert (given["trunk"], given["num_queries"]) == ("segformer-digit-scenes", 12)
    assert given["license"] == "apache-2.0"


def test_the_notes_of_a_card_hold_its_commands() -> None:
    for name in RECIPES:
        text = " ".join(notes_for(name))
        assert RECIPES[name].command(name) in text and f"hfvision demo detection --model {name} --train" in text


PASSING = DetectionDemoResult(
    model="out/model",
    trained=False,
    seconds=0.0,
    scenes=200,
    figures={"AP50": 0.91, "AP": 0.55},
    per_class={"digit 0": 0.5, "digit 1": None},
    required=0.8,
    picture="out/scenes.png",
)


def test_the_command_prints_the_figures_and_has_a_gate(monkeypatch) -> None:
    low = replace(PASSING, figures={"AP50": 0.79, "AP": 0.5})
    for result, code in ((PASSING, 0), (low, 1)):
        monkeypatch.setattr(demo_detection, "run_detection_demo", lambda *_, found=result, **__: found)
        outcome = CliRunner().invoke(build_app(), ["demo", "detection"])
        assert outcome.exit_code == code
        assert f"AP50 {result.figures['AP50']:.2%} over 200 unseen scenes" in outcome.stdout
        assert "absent" in outcome.stdout
        document = json.loads(CliRunner().invoke(build_app(), ["demo", "detection", "--json"]).stdout)
        assert document["passed"] == result.passed and document["figures"] == result.figures
    assert "AP50 is 79.00% over 200 scenes; wanted at least 80%" in outcome.stderr


def test_a_figure_that_there_is_not_fails() -> None:
    assert not replace(PASSING, figures={"AP50": math.nan}).passed
