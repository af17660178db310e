"""`hfvision bench`: hfvision beside transformers, or timm: equal first, then the times of both."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hfvision.cli.output import JsonOption, emit

FOLDER = Path("benchmark")


def run(
    suites: Annotated[list[str] | None, typer.Argument(help="Suites, by default all; --list names them.")] = None,
    case: Annotated[str, typer.Option(help="Only cases of this name or SUITE/NAME; * stands for anything.")] = "*",
    peer: Annotated[str, typer.Option(help="transformers or timm.")] = "transformers",
    rounds: Annotated[int, typer.Option(help="Timed rounds of each case.")] = 5,
    threads: Annotated[
        int | None, typer.Option(help="Threads of torch; default: torch's own, 1 with --clock cpu.")
    ] = None,
    clock: Annotated[
        str, typer.Option(help="wall, or cpu: processor time, for machines that do other work, too.")
    ] = "wall",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16, for both sides.")] = "float32",
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Memory format of both sides.")] = False,
    memory: Annotated[bool, typer.Option(help="Measure peak memory, in child processes.")] = True,
    output: Annotated[Path, typer.Option(help="Folder for benchmark.json and benchmark.md.")] = FOLDER,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Small models: does everything run? The times mean nothing.")
    ] = False,
    listed: Annotated[bool, typer.Option("--list", help="Name the suites and cases, and stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    from hfvision.bench import SUITES, Setting, run
    from hfvision.bench.suites import load_suite

    if listed:
        names = {suite: [one.name for one in load_suite(suite)] for suite in SUITES}
        text = "\n".join(f"{suite}: {SUITES[suite]}\n    {', '.join(cases)}" for suite, cases in names.items())
        emit(names, text, as_json)
        return
    options: dict[str, Any] = {  # which Setting checks
        "device": device,
        "dtype": dtype,
        "peer": peer,
        "clock": clock,
        "threads": threads,
        "rounds": rounds,
        "memory": memory,
        "channels_last": channels_last,
        "tiny": tiny,
    }
    report = run(suites or (), Setting(**options), case, on_row=lambda row: typer.echo(row.summary(), err=True))
    paths = report.save(output)
    emit(report.to_dict(), report.to_markdown(), as_json)
    typer.echo(f"written to {' and '.join(map(str, paths))}", err=True)
    if not report.sound:
        raise typer.Exit(1)
