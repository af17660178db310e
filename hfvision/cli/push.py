"""`hfvision push`: a model folder to the Hub."""

from pathlib import Path
from typing import Annotated

import typer

from hfvision.cli.output import JsonOption, emit


def run(
    folder: Annotated[Path, typer.Argument(help="The model's folder, as convert and train write it.")],
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the Hub, or on the server of HF_ENDPOINT.")],
    private: Annotated[bool, typer.Option("--private", help="Create the repository so that only you see it.")] = False,
    revision: Annotated[str | None, typer.Option(help="An existing branch to push to; main by default.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request with the commit.")] = False,
    with_code: Annotated[
        bool,
        typer.Option("--with-code", help="Add what trust_remote_code=True needs where hfvision is not imported."),
    ] = False,
    message: Annotated[str | None, typer.Option(help="The commit's message.")] = None,
    token: Annotated[str | None, typer.Option(help="By default HF_TOKEN, or that of `hf auth login`.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Push to a repository that holds something else, too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """The report goes to stderr, the model's address to stdout; with --json the whole report goes to stdout."""
    from hfvision.publishing import push

    report = push(
        folder,
        repository,
        private=private,
        revision=revision,
        create_pr=create_pr,
        with_code=with_code,
        message=message,
        token=token,
        overwrite=overwrite,
    )
    if not as_json:
        typer.echo(report.text(), err=True)
    emit(report.to_dict(), report.pull_request or report.url, as_json)
