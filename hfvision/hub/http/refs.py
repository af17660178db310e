"""Branches, tags and history of a repository (protocol section 4.3)."""

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub import commits, refs
from hfvision.hub.commits import Commit
from hfvision.hub.http import bodies
from hfvision.hub.http.answers import json_answer, page_answer
from hfvision.hub.http.callers import user_of
from hfvision.hub.http.finding import API, hub_of, iso, page_size, repo_of
from hfvision.hub.repositories import WRITE
from hfvision.hub.routing import route

COMMITS_PER_PAGE = 50


async def list_refs(request: Request) -> Response:
    repo = await repo_of(request)
    found = await run_in_threadpool(refs.list_refs, hub_of(request), repo)
    rows: dict[str, list[dict[str, Any]]] = {"branches": [], "converts": [], "tags": []}
    if bodies.true(request.query_params.get("include_prs")):
        rows["pullRequests"] = []
    groups = {"heads": "branches", "tags": "tags", "pr": "pullRequests"}
    for ref in found:
        if groups[ref.kind] in rows:
            rows[groups[ref.kind]].append({"name": ref.name, "ref": ref.path, "targetCommit": ref.commit})
    return json_answer(rows)


def commit_json(commit: Commit, formatted: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": commit.id,
        "title": commit.title,
        "message": commit.message,
        "date": iso(commit.date),
        "authors": [{"user": commit.author, "avatar": ""}],
    }
    if formatted:
        row["formatted"] = {"title": commit.title, "message": commit.message}
    return row


async def history(request: Request) -> Response:
    hub, repo = hub_of(request), await repo_of(request)
    expand = request.query_params.getlist("expand[]") + request.query_params.getlist("expand")
    page = await run_in_threadpool(
        commits.history,
        hub,
        repo,
        request.path_params["revision"],
        limit=page_size(request, hub.settings.page_size, min(COMMITS_PER_PAGE, hub.settings.page_size)),
        cursor=request.query_params.get("cursor"),
    )
    return page_answer(request, [commit_json(commit, "formatted" in expand) for commit in page.items], page.cursor)


async def create_branch(request: Request) -> Response:
    body = await bodies.json_object(request)
    caller = await user_of(request)
    repo = await repo_of(request, WRITE)
    start = bodies.optional_text(body, "startingPoint")
    name = request.path_params["branch"]
    commit = await run_in_threadpool(refs.create_branch, hub_of(request), caller, repo, name, start)
    return json_answer({"success": True, "targetCommit": commit})


async def delete_branch(request: Request) -> Response:
    caller = await user_of(request)
    repo = await repo_of(request, WRITE)
    await run_in_threadpool(refs.delete_branch, hub_of(request), caller, repo, request.path_params["branch"])
    return json_answer({"success": True})


async def create_tag(request: Request) -> Response:
    body = await bodies.json_object(request)
    caller = await user_of(request)
    repo = await repo_of(request, WRITE)
    name, message = bodies.text(body, "tag"), bodies.optional_text(body, "message") or ""
    revision = await run_in_threadpool(refs.resolve, hub_of(request), repo, request.path_params["revision"])
    commit = await run_in_threadpool(refs.create_tag, hub_of(request), caller, repo, name, revision, message)
    return json_answer({"success": True, "targetCommit": commit})


async def delete_tag(request: Request) -> Response:
    caller = await user_of(request)
    repo = await repo_of(request, WRITE)
    await run_in_threadpool(refs.delete_tag, hub_of(request), caller, repo, request.path_params["revision"])
    return json_answer({"success": True})


ROUTES = (
    route("GET", API + "/refs", list_refs),
    route("GET", API + "/commits/{revision}", history),
    route("POST", API + "/branch/{branch}", create_branch),
    route("DELETE", API + "/branch/{branch}", delete_branch),
    route("POST", API + "/tag/{revision}", create_tag),
    route("DELETE", API + "/tag/{revision}", delete_tag),
)
