"""A data set is checked exactly as training reads it: the same report, the same refusal, the same options."""

import json
import logging

import datasets
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import hfvision
from hfvision.cli import build_app
from hfvision.data import load_digit_scenes, load_digits
from hfvision.data.checking import PREPARE, check_dataset
from hfvision.errors import ConfigError, DatasetError
from hfvision.reading_options import TASKS


def command(*words):
    return CliRunner().invoke(build_app(), ["check", *map(str, words)])


@pytest.fixture(scope="module")
def scenes():
    return load_digit_scenes(train=4, validation=3)


@pytest.mark.parametrize("task", TASKS)
def test_a_good_data_set_is_accepted_with_its_report_and_nothing_is_said_besides(task, scenes, caplog):
    caplog.set_level(logging.WARNING, logger="hfvision")
    data = load_digits() if task == "classification" else scenes
    found = check_dataset(data, task)
    assert found.accepted and found.refusal is None and not caplog.messages
    document = json.loads(json.dumps(found.to_dict()))
    assert document["accepted"] and document["report"]["task"] == task
    train, *_ = document["report"]["splits"].values()
    assert train["images"] == len(data["train"]) and len(train["classes"]) >= 10


@pytest.mark.parametrize("task", TASKS)
def test_what_training_refuses_is_refused_with_its_words(task, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "alone.png")
    with pytest.raises(DatasetError) as error:
        PREPARE[task](tmp_path)
    done = command(tmp_path, "--task", task, "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["refusal"] == str(error.value) and str(error.value) in done.stderr
    assert command(tmp_path, "--task", task).stdout == ""


def test_the_command_counts_classes_pixels_and_what_it_was_told_to_ignore(scenes, tmp_path):
    scenes.save_to_disk(tmp_path / "data")
    said = ["--mask-column", "mask", "--ignore-index", "3", "--names", ",".join(map(str, range(11)))]
    done = command(tmp_path / "data", "--task", "segmentation", *said, "--json")
    assert done.exit_code == 0, done.output
    split = json.loads(done.stdout)["report"]["splits"]["train"]
    values = np.concatenate([np.asarray(row["mask"]).ravel() for row in scenes["train"]])
    pixels = np.bincount(values, minlength=11).tolist()
    assert split["images"] == 4 and split["ignored_pixels"] == pixels[3]
    assert [split["classes"][str(number)]["pixels"] for number in (0, 1, 2, 4)] == [pixels[n] for n in (0, 1, 2, 4)]
    text = command(tmp_path / "data", "--task", "segmentation", *said)
    assert "train: 4 images" in text.stdout and text.stdout.endswith("Training would take it.\n")


def test_options_choose_columns_and_splits_as_in_training(tmp_path):
    digits = load_digits()["train"].select(range(40))
    parity = datasets.ClassLabel(names=["even", "odd"])
    two = digits.map(lambda row: {"parity": row["label"] % 2}).cast_column("parity", parity)
    two.save_to_disk(tmp_path / "two")
    done = command(tmp_path / "two", "--task", "classification")
    assert done.exit_code == 1 and "2 columns could hold the labels" in done.stderr
    done = command(tmp_path / "two", "--task", "classification", "--label-column", "parity", "--held-out", "0.5")
    assert done.exit_code == 0 and "20 of 40 images were held out" in done.stderr


def test_an_option_of_another_task_is_wrong_usage(tmp_path):
    assert command(tmp_path, "--task", "segmentation", "--box-form", "xyxy").exit_code == 2
    assert command(tmp_path, "--task", "sorting").exit_code == 2
    with pytest.raises(ConfigError, match="box_form is an option of detection and panoptic"):
        hfvision.check_dataset(tmp_path, "segmentation", box_form="xyxy")
