"""The one table of tasks: its rows are whole, everything reads it, and old names of tasks hold."""

import ast
import json
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import transformers
from typer.testing import CliRunner

import hfvision
from hfvision.catalog import list_models, rows
from hfvision.cli import build_app
from hfvision.errors import ConfigError, UnknownNameError
from hfvision.registry import ARCHITECTURES, load
from hfvision.tasks import PIPELINES, TASKS, reading_named, task_of_auto_class, task_of_class, tasks_named
from hfvision.training.train import recipe_of

PACKAGE = Path(hfvision.__file__).parent
NAMES = {name for task in TASKS for name in (task.name, task.old_name) if name}
OURS = [task for task in TASKS if task.auto_class]
OF_KIND = {  # a row of the catalogue, and the class that it builds for segmentation
    "segmenter-tiny-mask-16-ade20k": "semantic",
    "detr-resnet-50-panoptic": "panoptic",
}


def literal_keys(path):
    """The keys of every literal mapping of a module, and the first parts of every literal table of pairs."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Dict):
            yield [key.value for key in node.keys if isinstance(key, ast.Constant)]
        elif isinstance(node, ast.Tuple | ast.List):
            pairs = [one.elts for one in node.elts if isinstance(one, ast.Tuple) and len(one.elts) > 1]
            yield [one.value for pair in pairs for one in pair[:2] if isinstance(one, ast.Constant)]


def values_of(path):
    """The values of every literal mapping of a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Dict):
            yield [value.value for value in node.values if isinstance(value, ast.Constant)]


def test_no_other_module_holds_a_table_of_tasks():
    second = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "tasks"
        for names in (*literal_keys(path), *values_of(path))
        if len(NAMES & {name for name in names if isinstance(name, str)}) > 1
    }
    assert second == set()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.recipe)
def test_a_row_names_what_there_is(task):
    for reference in task.parts.values():
        assert callable(load(reference))
    for auto_class in task.auto_classes:
        assert hasattr(transformers, auto_class) and task_of_auto_class(auto_class) is task
    for ending in task.class_endings:
        assert task_of_class(f"Some{ending}") is task
    if task.training:
        assert import_module(task.training).RECIPE.task == task.recipe
        assert recipe_of(task.name, "none", task.kind).task == task.recipe


def test_rows_are_told_apart_by_name_and_kind():
    assert len({(task.name, task.kind) for task in TASKS}) == len({task.recipe for task in TASKS}) == len(TASKS)
    assert {task.name for task in OURS} == set(PIPELINES)
    assert task_of_class("ViTForImageClassification").name == "image-classification"
    assert task_of_class("SamModel").name == "mask-generation" and task_of_class("Nothing") is None


def test_every_auto_class_of_the_registry_has_a_task():
    others = {"AutoBackbone", "AutoModelForPreTraining"}
    auto_classes = {auto_class for one in ARCHITECTURES.values() for auto_class in one.models} - others
    assert {name for name in auto_classes if task_of_auto_class(name) is None} == set()


@pytest.mark.parametrize("name", OF_KIND)
def test_a_model_is_created_by_the_name_that_cards_and_pipelines_use(name):
    found = hfvision.catalog.row(name)
    assert (found.task, found.kind) == ("image-segmentation", OF_KIND[name])
    assert type(hfvision.create(name, task="image-segmentation")).__name__ == found.model_class


def test_a_kind_says_which_model_is_created():
    model = hfvision.create("mit-b0", task="image-segmentation", kind="semantic", num_labels=3)
    assert type(model).__name__.endswith("ForSemanticSegmentation")
    with pytest.raises(UnknownNameError, match="has no model for"):
        hfvision.create("mit-b0", task="image-segmentation", kind="panoptic")


def test_a_model_of_another_row_is_created_by_the_hubs_name():
    model = hfvision.create("mit-b0", task="image-segmentation", num_labels=3)
    assert type(model).__name__.endswith("ForSemanticSegmentation") and model.config.num_labels == 3
    with pytest.raises(UnknownNameError, match="Did you mean 'image-segmentation'"):
        hfvision.create("mit-b0", task="image-segmentaton")


@pytest.mark.parametrize("task", [task for task in TASKS if task.old_name], ids=lambda task: task.old_name)
def test_an_old_name_holds_and_is_deprecated_where_python_says_it(task, capsys):
    wanted = rows(task=task.name, kind=task.kind)
    with pytest.warns(DeprecationWarning, match=f"is called '{task.name}' with kind '{task.kind}'") as caught:
        assert rows(task=task.old_name) == wanted
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning) as caught:
        assert list_models(task=task.old_name) == sorted(one.name for one in wanted)
    assert caught[0].filename == __file__
    name = next(name for name, kind in OF_KIND.items() if kind == task.kind)
    with pytest.warns(DeprecationWarning) as caught:
        model = hfvision.create(name, task=task.old_name)
    assert caught[0].filename == __file__ and type(model).__name__ == hfvision.catalog.row(name).model_class


def test_the_hubs_name_covers_every_kind():
    both = {one.name for kind in ("semantic", "panoptic") for one in rows(task="image-segmentation", kind=kind)}
    assert {one.name for one in rows(task="image-segmentation")} == both
    assert rows(kind="instance") == rows(kind="panoptic")
    with pytest.raises(UnknownNameError, match="Did you mean 'semantic'"):
        rows(task="image-segmentation", kind="semantics")
    with pytest.raises(UnknownNameError, match="no kind 'semantic'; it has none of that task"):
        rows(task="object-detection", kind="semantic")


def test_the_command_line_takes_old_names_and_kinds():
    run = partial(CliRunner().invoke, build_app(), catch_exceptions=False)
    shown = [
        json.loads(run(["list", "--json", *said]).stdout)["checkpoints"]
        for said in (
            ["--task", "panoptic-segmentation"],
            ["--task", "image-segmentation", "--kind", "panoptic"],
            ["--kind", "instance"],
        )
    ]
    assert shown[0] == shown[1] == shown[2] != []
    assert {(one["task"], one["kind"]) for one in shown[0]} == {("image-segmentation", "panoptic")}


@pytest.mark.parametrize("task", [task for task in TASKS if task.reading], ids=lambda task: task.recipe)
def test_a_data_set_is_read_by_any_name_of_its_task(task):
    assert reading_named(task.reading) == reading_named(task.recipe) == task.reading
    assert tasks_named(task.name)[0].reading == reading_named(task.name)


def test_a_data_set_is_checked_by_the_hubs_name(tmp_path):
    found = hfvision.check_dataset("digits", "image-classification")
    assert found.accepted and found.task == "classification"
    with pytest.raises(ConfigError, match="Did you mean 'object-detection'"):
        hfvision.check_dataset("digits", "object-detecton")
    with pytest.raises(ConfigError, match="Did you mean 'detection'"):
        hfvision.check_dataset("digits", "detecton")
    done = CliRunner().invoke(build_app(), ["check", "digits", "--task", "image-classification"])
    assert done.exit_code == 0 and "Training would take it." in done.stdout


def test_the_catalogues_table_of_0_4_is_still_had():
    with pytest.warns(DeprecationWarning, match=r"the one table is hfvision\.tasks"):
        old = hfvision.catalog.TASKS
    assert old == {task.auto_class: task.recipe for task in OURS}
