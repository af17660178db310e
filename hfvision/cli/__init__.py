"""`hfvision COMMAND`: one table of commands, one small module each.

A command's module offers `run`, whose signature typer turns into options (or `app`, where it has sub-commands). It
parses, calls one public function of the package and prints: results on stdout (one JSON document with `--json`),
everything else on stderr. Exit codes: 0 done, 1 failed, 2 wrong usage. The modules import nothing heavy at their top,
so that `hfvision --help` answers at once; `run` imports what it calls.
"""

import sys
from importlib import import_module
from typing import Any

import typer

from hfvision import __version__
from hfvision.errors import HfvisionError
from hfvision.processes import is_main_process, rank
from hfvision.termination import INTERRUPTED, TERMINATED, sigterm_exits

COMMANDS = {
    "predict": "Classify or segment images, or find objects in them, with a model from the Hub, a folder or hfvision.",
    "check": "Read a data set as training would, and say what is in it, what was left out, and what is wrong.",
    "train": "Fine-tune a model on a dataset, or train one from nothing.",
    "convert": "Turn an original checkpoint into a Hugging Face folder, or a folder back into the original format.",
    "push": "Check a model folder, upload it to the Hub as one commit, and compare what arrived.",
    "list": "List the model families, the checkpoints of their authors, and the models that ship with hfvision.",
    "evaluate": "Measure a model on a data set, and record the figures for its card.",
    "card": "Write or refresh a model's card, or the cards of the families' published files.",
    "licence": "Say what a model's licence allows, what a copy must carry, and what it was made from.",
    "demo": "Train a small classifier of handwritten digits and use it, segment scenes of them or find them there.",
    "bench": "Time hfvision beside transformers or timm on this machine, after checking that the numbers are equal.",
    "hub": "Serve a Hub of your own that every Hugging Face client can push to, and look after it.",
    "doctor": "Show versions and hardware, and check that everything works together.",
}
STOPPED: dict[Any, str] = {INTERRUPTED: "interrupted", TERMINATED: "ended by SIGTERM"}


def build_app() -> typer.Typer:
    app = typer.Typer(
        help="Vision transformers for the Hugging Face ecosystem.", no_args_is_help=True, pretty_exceptions_enable=False
    )

    def version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"hfvision {__version__}")
            raise typer.Exit

    @app.callback()
    def options(version: bool = typer.Option(False, "--version", callback=version, is_eager=True)) -> None: ...

    for name, summary in COMMANDS.items():
        module = import_module(f"hfvision.cli.{name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name, help=summary, no_args_is_help=True)
        else:
            app.command(name, help=summary)(module.run)
    return app


def main() -> None:
    """The console script. A user's mistake ends in one message and exit code 1, never in a traceback; Ctrl-C (130) and
    SIGTERM (143) end in one line, too.
    """
    try:
        with sigterm_exits():
            build_app()()
    except HfvisionError as error:
        # Of several processes those that are not the first say in one line what ended them: mostly it is the same.
        text = f"{type(error).__name__}: {error}"
        shown = text if is_main_process() else f"process {rank()}: {text.splitlines()[0]}"
        print(shown, file=sys.stderr)
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as end:
        code = end.code if isinstance(end, SystemExit) else INTERRUPTED
        if code in STOPPED and is_main_process():
            print(f"hfvision: {STOPPED[code]}; nothing half-written was kept.", file=sys.stderr)
        sys.exit(code)
