"""`hfvision card`: the card of a model folder, or those of the families' published files."""

from pathlib import Path
from typing import Annotated

import typer

from hfvision.cli.output import JsonOption, emit


def run(
    target: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A model folder; with --family or --all the folder to write to.")
    ],
    name: Annotated[str | None, typer.Option(help="What title and snippet call the model: me/my-model.")] = None,
    license: Annotated[str | None, typer.Option(help="The weights' licence; a parent's stricter one holds.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; say what is wrong with the card.")] = False,
    family: Annotated[str | None, typer.Option(help="Write the cards of a family's published files.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Write the cards of all families' published files.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write or refresh README.md of a model folder from its config and its records of conversion, training and
    evaluation. Sections that hfvision does not write stay, and those that begin with <!-- kept -->. Then the card is
    checked: problems end in exit code 1.
    """
    from hfvision.cards import check_card, write_family_cards, write_folder_card

    if family or all_:
        if name or license or check:
            raise typer.BadParameter("--name, --license and --check are for the card of one model folder")
        paths = write_family_cards(target, family)
        emit([str(path) for path in paths], "\n".join(map(str, paths)), as_json)
        return
    path = target / "README.md" if check else write_folder_card(target, name=name, license=license)
    problems = check_card(target, name)
    emit({"card": str(path), "problems": problems}, str(path), as_json)
    for problem in problems:
        typer.echo(f"{path}: {problem}", err=True)
    if problems:
        raise typer.Exit(1)
