"""What a commit or a pull request changes, file by file, as pages show it."""

from collections.abc import Sequence
from dataclasses import dataclass

from hfvision.hub import diffs
from hfvision.hub.commits import Change
from hfvision.hub.instance import Hub

SHOWN_FILES = 100
SHOWN_DIFFS = 20
SHOWN_LINES = 400  # of one file


@dataclass(frozen=True)
class Shown:
    """A changed file: its lines as (kind, text) where they can be compared; kind is + - @ or a blank."""

    change: Change
    lines: list[tuple[str, str]] | None


def shown(hub: Hub, changes: Sequence[Change], readable: bool) -> list[Shown]:
    """The first files; the lines of the first of those, if the reader may read contents."""
    compared = diffs.compared(hub, changes[:SHOWN_DIFFS]) if readable else []
    nothing = [None] * SHOWN_FILES
    return [Shown(one, _told(lines)) for one, lines in zip(changes[:SHOWN_FILES], [*compared, *nothing], strict=False)]


def _told(lines: list[str] | None) -> list[tuple[str, str]] | None:
    if lines is None:
        return None
    told = [(line[0], line.rstrip("\r\n")[line[0] != "@" :]) for line in lines[:SHOWN_LINES]]
    return [*told, ("@", f"... {len(lines) - SHOWN_LINES} more lines")] if len(lines) > SHOWN_LINES else told
