"""Commits of a revision, and what one commit changed."""

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub import commits as store
from hfvision.hub import refs
from hfvision.hub.repositories import Repo
from hfvision.hub.web.changes import shown
from hfvision.hub.web.rendering import page
from hfvision.hub.web.shared import may_read_content, repo_values
from hfvision.hub.web.visits import Visit

ROWS = 50


async def commits(request: Request, visit: Visit, repo: Repo) -> Response:
    revision = request.path_params["revision"]

    def work() -> dict[str, Any]:
        refs.resolve(visit.hub, repo, revision)  # raises where there is none
        cursor = request.query_params.get("cursor") or None
        found = store.history(visit.hub, repo, revision, limit=ROWS, cursor=cursor)
        names = refs.names(visit.hub, repo)
        return {"rows": found.items, "cursor": found.cursor, "names": names}

    return page(request, "commits.html", **repo_values(repo, "history", revision), **await run_in_threadpool(work))


async def commit(request: Request, visit: Visit, repo: Repo) -> Response:
    """The message and the files that changed, texts line by line; and whose head it is: clients print this address."""
    readable = await may_read_content(visit, repo)

    def work() -> dict[str, Any]:
        found = store.find_commit(visit.hub, repo, request.path_params["revision"])
        changes = store.diff(visit.hub, repo, None, found.id)
        heads = [ref.name for ref in refs.list_refs(visit.hub, repo) if ref.kind == "pr" and ref.commit == found.id]
        changed = {"changes": shown(visit.hub, changes, readable), "total": len(changes)}
        return {"found": found, "pulls": heads, **changed}

    values = await run_in_threadpool(work)
    return page(request, "commit.html", **repo_values(repo, "history", values["found"].id), **values)
