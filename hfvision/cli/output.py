"""What every command does alike: its `--json` option, and results on stdout."""

import json
from typing import Annotated, Any

import typer

from hfvision.processes import is_main_process

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


def emit(result: Any, text: str, as_json: bool) -> None:
    """Print a command's result: `text` for people, or `result` as JSON. Of several processes the first one does."""
    if is_main_process():
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False, default=str) if as_json else text)
