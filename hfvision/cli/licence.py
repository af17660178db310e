"""`hfvision licence MODEL`: what the weights' licence allows, and what a copy must carry."""

from typing import Annotated

import typer

from hfvision.cli.output import JsonOption, emit


def run(
    model: Annotated[
        str, typer.Argument(help="A model folder, a Hub id, a row of the catalogue (hfvision list), or a starter.")
    ],
    as_json: JsonOption = False,
) -> None:
    """The licence, who says so, what it allows, what a card and a copy must carry, and the chain of parents. Of a
    fine-tune the strictest licence among its own and its parents' holds. No legal advice.
    """
    from hfvision.licences import trace

    report = trace(model)
    emit(report.to_dict(), report.text(), as_json)
