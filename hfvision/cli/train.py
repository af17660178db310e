"""`hfvision train TASK`: its options are the fields of VisionTrainingArguments, of the task's options and of reading.

They are made when a task is asked for, since the fields are those of transformers' class, which brings torch.
"""

from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hfvision.cli.options import NOTHING, Given, Source, add_command, reading_of, source_of, takes
from hfvision.cli.output import JsonOption, emit
from hfvision.cli.train_arguments import options_of_arguments, other_spellings, refused_arguments, whole_steps
from hfvision.errors import UnknownNameError
from hfvision.tasks import TASKS, reading_named

REST = "Further arguments of transformers' Trainer"


class Tasks(TyperGroup):
    """The commands of all tasks, under the Hub's names, too; one gets its options when it is run."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-"):
            with suppress(UnknownNameError):
                args = [reading_named(args[0]), *args[1:]]
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and command_of(str(command.name)), rest


app = typer.Typer(cls=Tasks)
ROWS = {task.reading: task for task in TASKS if task.training and task.reading}
for _name, _task in ROWS.items():
    app.command(_name, help=f"Train a model for {_task.recipe.replace('-', ' ')}.")(lambda: None)


@app.callback()
def tasks() -> None:
    """Fine-tune a model on a data set, or train one from nothing. TASK --help lists the options of a task.

    The Hub's names of tasks do, too; image-segmentation is semantic there.
    """


def command_of(name: str) -> Any:
    """The command that trains for a task, "detection" for one."""
    task = ROWS[name]
    recipe = import_module(str(task.training)).RECIPE
    common, rest = options_of_arguments(recipe.task)

    @takes(
        common=Source(common, "Training"),
        options=source_of(recipe.options, "Model and loss"),
        reading=reading_of(name),
        rest=Source(rest, REST),
    )
    def train(
        model: Annotated[
            str,
            typer.Option(
                help="Hub id, folder, or a model that ships with hfvision (see hfvision list). new: before it takes "
                "only its architecture, with new weights."
            ),
        ],
        dataset: Annotated[str, typer.Option(help=recipe.datasets)],
        output: Annotated[Path, typer.Option(help="Folder to write: new, empty, or an interrupted run (--resume).")],
        resume: Annotated[bool, typer.Option(help="Continue an interrupted run; starts it if there is none.")] = False,
        license: Annotated[
            str | None, typer.Option(help="License of the result.", show_default="the base model's")
        ] = None,
        as_json: JsonOption = False,
        common: Given = NOTHING,
        precision: Annotated[
            str | None,
            typer.Option(help="fp32, bf16 or fp16 (mixed precision).", rich_help_panel="Training"),
        ] = None,
        options: Given = NOTHING,
        reading: Given = NOTHING,
        rest: Given = NOTHING,
    ) -> None:
        from hfvision.training.settings import arguments_of
        from hfvision.training.train import train

        args = whole_steps({**common, **rest}) | arguments_of({} if precision is None else {"precision": precision})
        result: Any = train(
            task.name,
            model,
            dataset,
            output,
            args,
            kind=task.kind,
            data_options=reading,
            resume=resume,
            license=license,
            **options,
        )
        emit(asdict(result), result.in_words(), as_json)
        if not result.passed:
            raise typer.Exit(1)

    alone = typer.Typer(add_completion=False)
    about = f"Fine-tune {recipe.kind}; other classes get a new head. The same command with --resume continues a run."
    spellings = other_spellings([*common, *rest])
    add_command(alone, name, train, about, spellings=spellings, refused=refused_arguments())
    return typer.main.get_command(alone)
