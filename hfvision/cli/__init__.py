"""`hfvision COMMAND`: one table of commands, one small module each.

A command's module offers `run`, whose signature typer turns into options (or `app`, where it has sub-commands). It
parses, calls one public function of the package and prints: results on stdout (one JSON document with `--json`),
everything else on stderr. Exit codes: 0 done, 1 failed, 2 wrong usage. The modules import nothing heavy at their top,
so that `hfvision --help` answers at once; `run` imports what it calls.
"""

import os
import sys
import traceback
from importlib import import_module
from typing import Any

import typer

from hfvision import __version__
from hfvision.cli.options import add_command
from hfvision.errors import HfvisionError
from hfvision.processes import is_main_process, rank
from hfvision.termination import INTERRUPTED, TERMINATED, sigterm_exits
from hfvision.writing import is_write_failure

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
# What torch says of a device that is not there or that it was not built for.
NO_DEVICE = (
    "not compiled with CUDA",
    "No CUDA GPUs",
    "NVIDIA driver",
    "invalid device ordinal",
    "MPS backend",
    "device string",
)
DEBUG = "HFVISION_DEBUG"
STOPPED: dict[Any, str] = {INTERRUPTED: "interrupted", TERMINATED: "ended by SIGTERM"}


def build_app() -> typer.Typer:
    app = typer.Typer(
        help="Vision transformers for the Hugging Face ecosystem.", no_args_is_help=True, pretty_exceptions_enable=False
    )

    def version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"hfvision {__version__}")
            raise typer.Exit

    def debugging(wanted: bool) -> None:
        if wanted:
            os.environ[DEBUG] = "1"

    @app.callback()
    def options(
        version: bool = typer.Option(False, "--version", callback=version, is_eager=True),
        trace: bool = typer.Option(
            False, "--traceback", callback=debugging, help=f"Show where an error comes from; so does {DEBUG}=1."
        ),
    ) -> None: ...

    for name, summary in COMMANDS.items():
        module = import_module(f"hfvision.cli.{name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name, help=summary, no_args_is_help=True)
        else:
            add_command(app, name, module.run, summary)
    return app


def main() -> None:
    """The console script. A user's mistake, a full disk or a missing device ends in one message and exit code 1, never
    in a traceback; Ctrl-C (130) and SIGTERM (143) end in one line, too. What nobody foresaw is one line as well, which
    says where it happened; `--traceback` and HFVISION_DEBUG=1 show all of it.
    """
    try:
        with sigterm_exits():
            build_app()()
    except HfvisionError as error:
        # Of several processes those that are not the first say in one line what ended them: mostly it is the same.
        text = f"{type(error).__name__}: {error}"
        shown = text if is_main_process() else f"process {rank()}: {text.splitlines()[0]}"
        print(shown, file=sys.stderr)
        _debugged()
        sys.exit(1)
    except Exception as error:
        _debugged()
        print(f"hfvision: {described(error)}", file=sys.stderr)
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as end:
        code = end.code if isinstance(end, SystemExit) else INTERRUPTED
        if code in STOPPED and is_main_process():
            print(f"hfvision: {STOPPED[code]}; nothing half-written was kept.", file=sys.stderr)
        sys.exit(code)


def described(error: Exception) -> str:
    """An exception that is no error of hfvision's own, in one line: what the system refused, or where a fault is."""
    text = " ".join(str(error).split())
    if is_write_failure(error):
        return f"{text}. Free some room or write elsewhere; a training continues with --resume."
    if isinstance(error, OSError):
        return text
    kind = type(error).__name__
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        return f"out of memory: {text or 'the machine has no more'}. A smaller --batch-size needs less."
    if any(said in text for said in NO_DEVICE):
        return f"the device cannot be used: {text} --device cpu always works; hfvision doctor lists what there is."
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"unexpected {kind}: {text} ({os.path.basename(frame.filename)}, line {frame.lineno}). That is a fault of "
        f"hfvision or of a library under it: {DEBUG}=1 shows all of it, for a report."
    )


def _debugged() -> None:
    """Show the traceback of the exception at hand, where that is wanted."""
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        traceback.print_exc()
