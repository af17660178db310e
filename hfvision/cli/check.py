"""`hfvision check DATASET --task TASK`: a data set as training would read it, or what is wrong with it."""

from typing import Annotated

import typer

from hfvision.cli.options import NOTHING, Given, reading_of, takes, usage_errors
from hfvision.cli.output import JsonOption, emit
from hfvision.errors import UnknownNameError
from hfvision.reading_options import TASKS, ReadingOptions
from hfvision.tasks import reading_named


@takes(reading=reading_of(*TASKS))
def run(
    dataset: Annotated[str, typer.Argument(help="Folder, annotation file, Hub id, parquet file, or a built-in name.")],
    task: Annotated[str, typer.Option(help="What would be trained on it.", metavar="|".join(TASKS))],
    reading: Given = NOTHING,
    as_json: JsonOption = False,
) -> None:
    """Read a data set as training does with the same options, and say what is in it: classes with their counts, crowds,
    images without objects, what was left out and why. Exit code 1 if training would refuse it.
    """
    try:
        task = reading_named(task)
    except UnknownNameError as error:
        raise typer.BadParameter(str(error), param_hint="--task") from None
    with usage_errors():
        ReadingOptions.of(reading, task)
    from hfvision.data.checking import check_dataset

    found = check_dataset(dataset, task, **reading)
    for note in found.notes:
        typer.echo(note, err=True)
    if found.refusal is not None:
        typer.echo(f"DatasetError: {found.refusal}", err=True)
    text = "" if found.report is None else f"{found.report.text()}\nTraining would take it."
    if found.accepted or as_json:
        emit(found.to_dict(), text, as_json)
    if not found.accepted:
        raise typer.Exit(1)
