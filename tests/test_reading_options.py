"""One table of reading options: Python's functions and every command that reads data have what it declares."""

import inspect
import re

import pytest
import typer
from typer.testing import CliRunner

from hfvision.cli import build_app
from hfvision.data import prepare_classification, prepare_detection, prepare_segmentation
from hfvision.errors import ConfigError
from hfvision.options import choices_of, flag_of
from hfvision.reading_options import TASKS, ReadingOptions, options_of

PREPARE = {
    "classification": prepare_classification,
    "segmentation": prepare_segmentation,
    "detection": prepare_detection,
    "panoptic": prepare_detection,
}


def flags_of_command(*words):
    """The options that a command's help lists."""
    done = CliRunner().invoke(build_app(), [*words, "--help"], env={"COLUMNS": "300", "TERM": "dumb"})
    assert done.exit_code == 0, done.output
    return set(re.findall(r"(?<!\S)--[a-z-]+", done.output))


@pytest.mark.parametrize("task", TASKS)
def test_python_takes_every_option_of_a_task_with_the_defaults_of_the_table(task):
    keywords = inspect.signature(PREPARE[task]).parameters
    assert {one.name: one.default for one in options_of(task)}.items() <= {
        name: keyword.default for name, keyword in keywords.items()
    }.items()


@pytest.mark.parametrize("task", TASKS)
def test_training_takes_every_option_of_its_task_and_none_of_another(task):
    ours = {flag_of(one) for one in options_of(task)}
    others = {flag_of(one) for one in options_of(*TASKS)} - ours
    flags = flags_of_command("train", task)
    assert ours <= flags and not others & flags


def test_evaluation_takes_every_option_but_those_that_choose_splits():
    flags = flags_of_command("evaluate")
    assert {flag_of(one) for one in options_of(*TASKS, splits=False)} <= flags
    assert not {"--train-split", "--held-out"} & flags


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"box_frm": "xyxy"}, "'box_frm' is no option; did you mean box_form?"),
        ({"label_column": "digit"}, "label_column is an option of classification, not of detection"),
        ({"box_form": "yxyx"}, "box_form is 'xyxy' or 'xywh' or 'cxcywh'; got 'yxyx'"),
    ],
)
def test_what_is_no_option_or_no_value_is_refused_with_what_is_meant(given, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        ReadingOptions.of(given, "detection")


def test_none_is_as_good_as_nothing_said():
    assert ReadingOptions.of({"empty": None, "names": None}, "detection") == ReadingOptions()


@pytest.mark.parametrize("option", [one for one in options_of(*TASKS) if choices_of(one)], ids=lambda one: one.name)
def test_the_command_line_refuses_a_value_that_is_none_as_wrong_usage(option):
    words = ["train", option.metadata["tasks"][0], "--model", "m", "--dataset", "d", "--output", "o"]
    done = CliRunner().invoke(build_app(), [*words, flag_of(option), "neither"])
    assert done.exit_code == 2 and "neither" in done.output


def test_no_help_text_hides_a_default_in_brackets():
    """Brackets are markup, which is not shown."""
    lost = [
        (name, parameter.name)
        for name, command in commands_of(typer.main.get_command(build_app()))
        for parameter in command.params
        if re.search(r"\[[a-z]", getattr(parameter, "help", None) or "")
    ]
    assert lost == []


def commands_of(command, name="hfvision"):
    yield name, command
    for key, inner in getattr(command, "commands", {}).items():
        yield from commands_of(inner, f"{name} {key}")
