"""`hfvision.train`: model + data set -> a folder that a pipeline loads, for every task.

    result = hfvision.train("image-classification", "vit-digits", "photos/", "out", {"num_train_epochs": 5})

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
from hfvision.tasks import TASKS
from hfvision.training.arguments import NEW, VisionTrainingArguments, refuse_unknown
from hfvision.training.base import ModelSource, load_base
from hfvision.training.recipe import Recipe
from hfvision.training.run import Run, TrainingResult

MODULES = {task.recipe: task.training for task in TASKS if task.training}
SEGMENTS = "image-segmentation"  # on the Hub: semantic or panoptic, as the model is


def train(
    task: str,
    model: ModelSource,
    dataset: Any,
    output_dir: str | os.PathLike[str],
    args: VisionTrainingArguments | Mapping[str, Any] | None = None,
    *,
    processor: Any = None,
    data_options: Mapping[str, Any] | None = None,
    resume: bool = False,
    license: str | None = None,
    notes: Sequence[str] = (),
    callbacks: Sequence[TrainerCallback] = (),
    **options: Any,
) -> TrainingResult:
    """Train on `dataset`, measure on held-out images, and write config, weights, processor and card to `output_dir`.

    `task` is a name of the Hub: image-classification, object-detection, image-segmentation (semantic or panoptic, as
    the model is; semantic-segmentation and panoptic-segmentation say which). `args` are VisionTrainingArguments, or a
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
    recipe = recipe_of(task, model)
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


def recipe_of(task: str, model: ModelSource) -> Recipe:
    """The recipe of a task. Raises UnknownNameError for a name that is none, with the nearest one."""
    name = _kind_of_segmentation(model) if task == SEGMENTS else task
    refuse_unknown({name: None}, [*MODULES, SEGMENTS], "the tasks that are trained", "task")
    recipe: Recipe = import_module(MODULES[name]).RECIPE
    return recipe


def _kind_of_segmentation(model: ModelSource) -> str:
    """Panoptic for a model that finds segments, and semantic for others."""
    if isinstance(model, PreTrainedModel):
        names = [type(model).__name__]
    else:
        try:
            names = AutoConfig.from_pretrained(resolve(os.fspath(model).removeprefix(NEW))).architectures or []
        except (OSError, ValueError):
            names = []  # reading the model says what is wrong with it
    is_panoptic = any(name.endswith(("ForSegmentation", "ForUniversalSegmentation")) for name in names)
    return "panoptic-segmentation" if is_panoptic else "semantic-segmentation"


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
