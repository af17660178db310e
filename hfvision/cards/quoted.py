"""The catalogue's figures as a card has them: quoted, in per cent, with name and address of their source."""

import re
from typing import TYPE_CHECKING

from hfvision.cards.figures import Result
from hfvision.cards.tasks import NAMES

if TYPE_CHECKING:
    from hfvision.catalog import CatalogRow, Figure

_ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)\b")


def quoted(row: "CatalogRow") -> list[Result]:
    """The row's figures."""
    return [
        Result(
            NAMES[row.auto_class],
            figure.dataset,
            figure.split,
            figure.metric,
            figure.value,
            source=figure.source,
            url=source_url(figure),
            percent=True,
        )
        for figure in row.figures
    ]


def source_url(figure: "Figure") -> str | None:
    """Where the source of a figure is: timm's results, a paper, or the README of a repository."""
    if figure.source.startswith("timm "):
        return "https://github.com/huggingface/pytorch-image-models/tree/main/results"
    if paper := _ARXIV.search(figure.source):
        return f"https://arxiv.org/abs/{paper[1]}"
    repository = _REPOSITORY.match(figure.source)
    return f"https://github.com/{repository[1]}" if repository else None
