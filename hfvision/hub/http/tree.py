"""Files and folders of a revision as lists (protocol section 4.3)."""

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub import files, refs
from hfvision.hub.errors import BadRequest
from hfvision.hub.files import Entry
from hfvision.hub.http import bodies
from hfvision.hub.http.answers import json_answer, page_answer
from hfvision.hub.http.finding import API, hub_of, iso, page_size, repo_of
from hfvision.hub.routing import route

PATHS_PER_CALL = 1000
PAGE_WITH_COMMITS = 100  # entries of one page when each is told with its last commit


def entry_json(entry: Entry, xet: bool) -> dict[str, Any]:
    """An entry as clients read it; `xet` adds the hash by which it can be had through Xet."""
    row: dict[str, Any] = {"type": entry.kind, "oid": entry.oid, "size": entry.size, "path": entry.path}
    if entry.sha256 is not None:
        row["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": entry.pointer_size}
        if xet:
            row["xetHash"] = entry.sha256
    if entry.last_commit is not None:
        commit = entry.last_commit
        row["lastCommit"] = {"id": commit.id, "title": commit.title, "date": iso(commit.date)}
        if entry.kind == "file":
            row["securityFileStatus"] = None
    return row


async def tree(request: Request) -> Response:
    hub, repo = hub_of(request), await repo_of(request)
    query = request.query_params
    expand = bodies.true(query.get("expand"))
    most = min(PAGE_WITH_COMMITS, hub.settings.page_size) if expand else hub.settings.page_size
    # A cursor carries the commit of the first page: the pages of one list show one state of the branch.
    commit, _, cursor = query.get("cursor", "").partition(":")
    if not commit:
        commit = await run_in_threadpool(refs.resolve, hub, repo, request.path_params["revision"])
    page = await run_in_threadpool(
        files.list_tree,
        hub,
        repo,
        commit,
        request.path_params["path"].strip("/"),
        recursive=bodies.true(query.get("recursive")),
        expand=expand,
        limit=page_size(request, most),
        cursor=cursor or None,
    )
    rows = [entry_json(entry, hub.settings.xet_downloads) for entry in page.items]
    return page_answer(request, rows, None if page.cursor is None else f"{commit}:{page.cursor}")


async def paths_info(request: Request) -> Response:
    hub, repo = hub_of(request), await repo_of(request)
    form = await bodies.form_or_json(request, hub.settings.preupload_limit)
    paths = form.get("paths", [])
    if not all(isinstance(path, str) for path in paths):
        raise BadRequest('"paths" must be a list of texts.')
    if len(paths) > PATHS_PER_CALL:
        raise BadRequest(f'"paths" may have {PATHS_PER_CALL} entries at most, got {len(paths)}.')
    expand = bodies.true(next(iter(form.get("expand", [])), False))
    found = await run_in_threadpool(
        files.entries, hub, repo, request.path_params["revision"], [path.strip("/") for path in paths], expand=expand
    )
    return json_answer([entry_json(entry, hub.settings.xet_downloads) for entry in found])


ROUTES = (
    route("GET", API + "/tree/{revision}/{path...}", tree),
    route("POST", API + "/paths-info/{revision}", paths_info),
)
