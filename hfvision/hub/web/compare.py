"""Two revisions side by side: what differs in their configs, key by key, and which files differ."""

import json
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub import commits, files, refs
from hfvision.hub.errors import EntryNotFound
from hfvision.hub.instance import Hub
from hfvision.hub.repositories import Repo
from hfvision.hub.web.rendering import page
from hfvision.hub.web.shared import checked_revision, repo_values
from hfvision.hub.web.visits import Visit

CONFIGS = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
    "model.safetensors.index.json",
)
CONFIG_LIMIT = 1 << 20  # bytes
MOST_KEYS = 5000
SHOWN = 200  # rows of one file
MISSING = object()


@dataclass(frozen=True)
class Row:
    """One key that differs; None on the side where it is absent."""

    key: str
    old: str | None
    new: str | None


@dataclass(frozen=True)
class FileRows:
    """The differences of one file; `note` instead where it cannot be compared by keys."""

    path: str
    rows: list[Row]
    more: int = 0
    note: str = ""


async def compare(request: Request, visit: Visit, repo: Repo) -> Response:
    """`?old=v1&new=main`; without `old` the last commit against the one before it."""
    query = request.query_params

    def work() -> dict[str, Any]:
        new = refs.resolve(visit.hub, repo, checked_revision(query.get("new") or "main"))
        given = query.get("old")
        parent = commits.find_commit(visit.hub, repo, new).parent
        old = refs.resolve(visit.hub, repo, checked_revision(given)) if given else parent or new
        changes = commits.diff(visit.hub, repo, old, new) if old != new else []
        changed = {change.path for change in changes}
        tables = [_differences(visit.hub, repo, old, new, path) for path in CONFIGS if path in changed]
        names = refs.names(visit.hub, repo)
        recent = commits.history(visit.hub, repo, "main", limit=20).items
        return {
            "old_commit": old,
            "new_commit": new,
            "changes": changes,
            "tables": tables,
            "names": names,
            "recent": recent,
        }

    found = await run_in_threadpool(work)
    values: dict[str, Any] = {"old": query.get("old") or found["old_commit"][:12], "new": query.get("new") or "main"}
    return page(request, "compare.html", **repo_values(repo, "compare"), **values, **found)


def _differences(hub: Hub, repo: Repo, old: str, new: str, path: str) -> FileRows:
    sides = []
    for revision in (old, new):
        try:
            data = files.read_file(hub, repo, revision, path, CONFIG_LIMIT + 1)
        except EntryNotFound:
            data = b"{}"
        if len(data) > CONFIG_LIMIT:
            return FileRows(path, [], note="is too large to compare")
        try:
            sides.append(flattened(json.loads(data)))
        except (ValueError, RecursionError):
            return FileRows(path, [], note="is not JSON in both revisions")
    try:
        rows = differences(*sides)
    except RecursionError:  # writing it down goes a little deeper than reading it
        return FileRows(path, [], note="is nested too deeply to compare")
    return FileRows(path, rows[:SHOWN], max(0, len(rows) - SHOWN))


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[Row]:
    """Keys whose values differ, in the order of the new side, then what is gone."""
    keys = [*new, *(key for key in old if key not in new)]
    return [
        Row(key, _text(old.get(key, MISSING)), _text(new.get(key, MISSING)))
        for key in keys
        if _whole(old.get(key, MISSING)) != _whole(new.get(key, MISSING))
    ]


def flattened(value: Any, start: str = "") -> dict[str, Any]:
    """Nested objects as `a.b.c`; lists stay whole. Raises ValueError where there are too many keys."""
    found: dict[str, Any] = {}
    waiting = [(start, value)]
    while waiting:
        name, one = waiting.pop()
        if isinstance(one, dict) and one:
            below = [(f"{name}.{key}" if name else str(key), child) for key, child in one.items()]
            waiting += reversed(below)
        elif name:
            found[name] = one
        if len(found) > MOST_KEYS:
            raise ValueError(f"more than {MOST_KEYS} keys")
    return found


def _whole(value: Any) -> str | None:
    """A value as JSON; None where there is none."""
    return None if value is MISSING else json.dumps(value, ensure_ascii=False)


def _text(value: Any) -> str | None:
    """The same, shortened."""
    text = _whole(value)
    return text if text is None or len(text) <= 500 else f"{text[:480]} ... ({len(text)} characters)"
