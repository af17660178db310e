"""Commits of a revision, and what one commit changed."""

import difflib
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub import commits as store
from hfvision.hub import files, refs
from hfvision.hub.errors import EntryNotFound
from hfvision.hub.instance import Hub
from hfvision.hub.repositories import Repo
from hfvision.hub.web.rendering import page
from hfvision.hub.web.repository import as_text, may_read_content, repo_values
from hfvision.hub.web.visits import Visit, off_loop

ROWS = 50
SHOWN_FILES = 100  # of a commit
SHOWN_DIFFS = 20
DIFF_LIMIT = 64 * 1024  # bytes of a file whose lines are compared
DIFF_LINES = 400
MOST_LINES = 3000  # of a file whose lines are compared


@dataclass(frozen=True)
class Shown:
    """A changed file: its lines as (kind, text) where they can be compared; kind is + - @ or a blank."""

    change: store.Change
    lines: list[tuple[str, str]] | None


async def commits(request: Request, visit: Visit, repo: Repo) -> Response:
    revision = request.path_params["revision"]

    def work() -> dict[str, Any]:
        refs.resolve(visit.hub, repo, revision)  # raises where there is none
        cursor = request.query_params.get("cursor") or None
        found = store.history(visit.hub, repo, revision, limit=ROWS, cursor=cursor)
        names = [ref.name for ref in refs.list_refs(visit.hub, repo) if ref.kind in ("heads", "tags")]
        return {"rows": found.items, "cursor": found.cursor, "names": names}

    return page(request, "commits.html", **repo_values(repo, "history", revision), **await off_loop(work))


async def commit(request: Request, visit: Visit, repo: Repo) -> Response:
    """The message and the files that changed, texts line by line."""
    readable = await may_read_content(visit, repo)

    def work() -> dict[str, Any]:
        found = store.find_commit(visit.hub, repo, request.path_params["revision"])
        changes = store.diff(visit.hub, repo, None, found.id)
        shown = [
            Shown(change, _lines(visit.hub, repo, found, change) if readable and at < SHOWN_DIFFS else None)
            for at, change in enumerate(changes[:SHOWN_FILES])
        ]
        return {"found": found, "changes": shown, "total": len(changes)}

    values = await off_loop(work)
    return page(request, "commit.html", **repo_values(repo, "history", values["found"].id), **values)


def _lines(hub: Hub, repo: Repo, found: store.Commit, change: store.Change) -> list[tuple[str, str]] | None:
    """What changed in a text file; None for others and for long ones."""
    sides = []
    for blob, revision in ((change.old, found.parent), (change.new, found.id)):
        text = ""
        if blob is not None and revision is not None:
            try:
                data = files.read_file(hub, repo, revision, change.path, DIFF_LIMIT + 1)
            except EntryNotFound:
                return None
            read = as_text(data) if len(data) <= DIFF_LIMIT else None
            if read is None:
                return None
            text = read
        sides.append(text.splitlines())
    if max(map(len, sides)) > MOST_LINES:
        return None
    rows = list(difflib.unified_diff(sides[0], sides[1], lineterm=""))[2:]
    shown = [(row[0], row[1:] if row[0] != "@" else row) for row in rows[:DIFF_LINES]]
    return [*shown, ("@", f"... {len(rows) - DIFF_LINES} more lines")] if len(rows) > DIFF_LINES else shown
