"""What every command does alike: its `--json` option, and results on stdout."""

import json
import os
import sys
from typing import Annotated, Any

import typer

from hfvision.errors import OutputError
from hfvision.processes import is_main_process

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


def emit(result: Any, text: str, as_json: bool) -> None:
    """Print a command's result: `text` for people, or `result` as JSON. Of several processes the first one does.

    Raises OutputError where stdout takes no more, as a full disk does; a reader that has gone (a pipe) is typer's.
    """
    if not is_main_process():
        return
    try:
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False, default=str) if as_json else text)
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - what is left would fail again when Python ends
        raise OutputError(f"the output cannot be written: {error.strerror or error}") from error
