"""`hfvision doctor`: versions, hardware, and whether everything works together. Exit code 1 if something is broken."""

import typer

from hfvision.cli.output import JsonOption, emit


def run(as_json: JsonOption = False) -> None:
    from hfvision.doctor import diagnose

    diagnosis = diagnose()
    emit(diagnosis.to_dict(), str(diagnosis), as_json)
    if not diagnosis.healthy:
        raise typer.Exit(1)
