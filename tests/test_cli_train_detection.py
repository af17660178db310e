"""`hfvision train detection` and `hfvision train panoptic`."""

import json

import pytest
import typer
from typer.testing import CliRunner

from hfvision.cli import train as command
from hfvision.data import load_digit_scenes
from hfvision.models.detr.config import DetrConfig
from hfvision.processing.detection import DetrImageProcessor
from hfvision.registry import ARCHITECTURES
from hfvision.training.arguments import VisionTrainingArguments


@pytest.fixture
def given(tmp_path):
    """Options of a new tiny model and of scenes on disk."""
    DetrConfig(**ARCHITECTURES["detr"].tiny).save_pretrained(tmp_path / "tiny")
    DetrImageProcessor(size={"shortest_edge": 32, "longest_edge": 64}).save_pretrained(tmp_path / "tiny")
    scenes = load_digit_scenes(train=12, validation=4, size=32, digits=(1, 1), digit_size=(16, 24))
    scenes.save_to_disk(tmp_path / "data")
    arguments = ["--model", f"new:{tmp_path / 'tiny'}", "--dataset", tmp_path / "data", "--output", tmp_path / "out"]
    return [*arguments, "--max-steps", "2", "--batch-size", "8"]


def run_command(*arguments):
    app = typer.Typer()
    app.add_typer(command.app, name="train")
    return CliRunner().invoke(app, ["train", *map(str, arguments)], catch_exceptions=False)


def test_detection_trains_as_the_options_say(given, tmp_path):
    arguments = ["detection", *given, "--scale", "0.8", "1.25", "--no-flip", "--eos", "0.2", "--queries", "4"]
    arguments += ["--loss-weights", "loss_giou=3", "--box-form", "xywh", "--pixels", "--trunk-rate-factor", "0.5"]
    ran = run_command(*arguments, "--json")
    result = json.loads(ran.stdout)
    assert (ran.exit_code, result["steps"], result["samples"], result["overfit"]) == (0, 2, 4, None)
    plan = json.loads((tmp_path / "out" / "training_run.json").read_text())["plan"]
    assert (
        plan["settings"]["learning_rate"] == VisionTrainingArguments.for_task("object-detection", "new:x").learning_rate
    )
    assert (plan["augment"]["scale"], plan["augment"]["flip"]) == ([0.8, 1.25], 0)
    assert (plan["loss"]["eos_coefficient"], plan["loss"]["weights"]["loss_giou"]) == (0.2, 3)
    assert (plan["num_queries"], plan["trunk_rate_factor"], plan["patience"]) == (4, 0.5, 0)
    assert "| weights at the start | random |" in (tmp_path / "out" / "README.md").read_text()
    assert "AP " in run_command(*arguments, "--resume").stdout
    assert run_command(*arguments, "--resume", "--loss-weights", "loss_giou").exit_code == 2


def test_images_that_are_not_learnt_by_heart_end_in_exit_code_1(given):
    ran = run_command("detection", *given, "--overfit", "3")
    assert ran.exit_code == 1
    assert "3 images could not be learned by heart: AP50" in ran.stdout
    assert "look at:" in ran.stdout


def test_panoptic_trains_from_a_new_model(given, tmp_path):
    ran = run_command("panoptic", *given, "--threshold", "0.3", "--no-augment", "--json")
    result = json.loads(ran.stdout)
    assert (ran.exit_code, result["steps"], result["samples"]) == (0, 2, 4)
    plan = json.loads((tmp_path / "out" / "training_run.json").read_text())["plan"]
    assert (plan["threshold"], plan["augment"], plan["task"]) == (0.3, None, "image-segmentation")
