"""`hfvision.train`: model + data set -> a folder that a pipeline loads, for every task.

    result = hfvision.train("image-classification", "vit-digits", "photos/", "out", {"num_train_epochs": 5})
    result = hfvision.train("image-segmentation", "nvidia/mit-b0", "streets/", "out", kind="semantic")

Each task's module says what is its own (`RECIPE`); the rest stands here once.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from transformers import AutoConfig, PreTrainedModel, TrainerCallback

from hfvision.errors import ConfigError
from hfvision.starters import resolve
from hfvision.tasks import TASKS, Task, task_of_class, tasks_named
from hfvision.training.arguments import NEW, VisionTrainingArguments
from hfvision.training.base import ModelSource, load_base
from hfvision.training.recipe import Recipe
from hfvision.training.run import Run, TrainingResult

TRAINED = tuple(task for task in TASKS if task.training)


def train(
    task: str,
    model: ModelSource,
    dataset: Any,
    output_dir: str | os.PathLike[str],
    args: VisionTrainingArguments | Mapping[str, Any] | None = None,
    *,
    kind: str | None = None,
    processor: Any = None,
    data_options: Mapping[str, Any] | None = None,
    resume: bool = False,
    license: str | None = None,
    notes: Sequence[str] = (),
    callbacks: Sequence[TrainerCallback] = (),
    **options: Any,
) -> TrainingResult:
    """Train on `dataset`, measure on held-out images, and write config, weights, processor and card to `output_dir`.

    `task` is a name of the Hub: image-classification, object-detection, image-segmentation. `kind` is that of
    segmentation, as in `hfvision.create`: semantic, panoptic, or instance, which a panoptic model does; None: as the
    model is. `args` are VisionTrainingArguments, or a
    dict of those fields that differ from the task's defaults (`VisionTrainingArguments.for_task`). Everything of
    TrainingArguments works, `report_to` and `push_to_hub` among it: what is pushed at the end is the finished folder.
    `options` are those of the task: see `train_classification`, `train_segmentation`, `train_detection` and
    `train_panoptic`, which also say what `model`, `processor`, `dataset` and `data_options` may be.

    `output_dir` is a new or empty folder. With `resume` it may hold the same run, interrupted: it continues after the
    last checkpoint; finished: its result is returned. On failure what can be resumed stays, otherwise nothing does.

    Raises UnknownNameError for a task, key or option that is none, DatasetError, ConfigError or CheckpointReadError
    before anything is written, and ConfigError if training diverges.

    Example:
        >>> import hfvision, tempfile
        >>> out = tempfile.mkdtemp()
        >>> result = hfvision.train("image-classification", "vit-digits", "digits", out, {"max_steps": 1})
        >>> result.steps
        1
    """
    recipe = recipe_of(task, model, kind)
    chosen = recipe.options_of(options)
    args = chosen.check(_arguments(recipe.task, model, args))
    run = Run(output_dir, args, figure=recipe.figure, resume=resume)
    with run.main_first():
        base = load_base(model, processor, recipe.auto_class, recipe.kind)
        data = dataset
        if not isinstance(data, recipe.data_class):
            data = recipe.prepare(data, **{**chosen.reading(), **(data_options or {})})
    data = chosen.changed_data(data, args)
    result = run.train(recipe.build(run, base, data, chosen), license=license, notes=notes, callbacks=callbacks)
    return chosen.finished(result, base, data)


def recipe_of(task: str, model: ModelSource, kind: str | None = None) -> Recipe:
    """The recipe of a task. Raises UnknownNameError for a task or a kind that is none, with the nearest one."""
    rows = tasks_named(task, kind, among=TRAINED, owner="hfvision.train")
    if len(rows) > 1:
        rows = [row for row in rows if _fits(row, model)] or rows
    return recipe_of_row(rows[0])


def recipe_of_row(task: Task) -> Recipe:
    """The recipe of a row of the table of tasks that is trained."""
    recipe: Recipe = import_module(str(task.training)).RECIPE
    return recipe


def _fits(task: Task, model: ModelSource) -> bool:
    """Whether the class of a model is one of those of the task."""
    if isinstance(model, PreTrainedModel):
        names = [type(model).__name__]
    else:
        try:
            names = AutoConfig.from_pretrained(resolve(os.fspath(model).removeprefix(NEW))).architectures or []
        except (OSError, ValueError):
            names = []  # reading the model says what is wrong with it
    return any(task_of_class(name) is task for name in names)


def _arguments(
    task: str, model: ModelSource, args: VisionTrainingArguments | Mapping[str, Any] | None
) -> VisionTrainingArguments:
    """A call's arguments, over the defaults of the task. Raises ConfigError for those of another Trainer."""
    if isinstance(args, VisionTrainingArguments):
        return replace(args)  # which makes accelerate forget the precision of another run
    if args is None or isinstance(args, Mapping):
        return VisionTrainingArguments.for_task(task, model, **(args or {}))
    raise ConfigError(
        f"args are hfvision.VisionTrainingArguments, or a dict of the fields that differ from the task's defaults; got "
        f"{type(args).__name__}."
    )
