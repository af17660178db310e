"""Pull requests as far as pushing to one needs them: open, look at, list (protocol section 14)."""

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub import refs
from hfvision.hub.errors import BadRequest, NotFound
from hfvision.hub.http import bodies
from hfvision.hub.http.answers import json_answer
from hfvision.hub.http.callers import user_of
from hfvision.hub.http.finding import API, hub_of, iso, repo_of
from hfvision.hub.refs import Pull
from hfvision.hub.repositories import Repo
from hfvision.hub.routing import route

TITLE = 200  # characters


def pull_json(repo: Repo, pull: Pull) -> dict[str, Any]:
    return {
        "num": pull.number,
        "title": pull.title,
        "author": {"name": pull.author},
        "createdAt": iso(pull.created),
        "status": pull.status,
        "repo": {"name": repo.full_name, "type": repo.kind},
        "isPullRequest": True,
    }


def details_json(repo: Repo, pull: Pull) -> dict[str, Any]:
    comment = {
        "id": f"{pull.number:024x}",
        "type": "comment",
        "createdAt": iso(pull.created),
        "author": {"name": pull.author},
        "data": {
            "edited": False,
            "hidden": False,
            "latest": {
                "raw": pull.description,
                "html": "",
                "updatedAt": iso(pull.created),
                "author": {"name": pull.author},
            },
            "history": [],
        },
    }
    base = f"refs/heads/{pull.base}"
    return {**pull_json(repo, pull), "changes": {"base": base}, "filesWithConflicts": [], "events": [comment]}


async def open_pull(request: Request) -> Response:
    body = await bodies.json_object(request)
    caller = await user_of(request)
    repo = await repo_of(request)
    title = bodies.text(body, "title").strip()
    if not bodies.true(body.get("pullRequest")):
        raise BadRequest("This hub has pull requests, and no discussions without one.")
    if not 3 <= len(title) <= TITLE:
        raise BadRequest(f"A title has 3 to {TITLE} characters, got {len(title)}.")
    description = bodies.optional_text(body, "description") or ""
    pull = await run_in_threadpool(refs.open_pull, hub_of(request), caller, repo, title, description)
    return json_answer({"num": pull.number, "pullRequest": True, "url": f"{repo.url}/discussions/{pull.number}"})


async def details(request: Request) -> Response:
    repo = await repo_of(request)
    number = request.path_params["number"]
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise NotFound("No pull request has this number.")
    pull = await run_in_threadpool(refs.find_pull, hub_of(request), repo, int(number))
    return json_answer(details_json(repo, pull))


async def listing(request: Request) -> Response:
    repo = await repo_of(request)
    pulls = await run_in_threadpool(refs.pulls, hub_of(request), repo)
    query = request.query_params
    status, author = query.get("status"), query.get("author")
    rows = [
        pull_json(repo, pull)
        for pull in sorted(pulls, key=lambda pull: -pull.number)
        if query.get("type") != "discussion"
        and (status in (None, "all") or (pull.status == "open") == (status == "open"))
        and author in (None, pull.author)
    ]
    start = 0 if query.get("p", "0") == "0" else len(rows)  # one page holds them all; clients ask until it is empty
    return json_answer({"discussions": rows[start:], "count": len(rows), "start": start})


ROUTES = (
    route("GET", API + "/discussions", listing),
    route("POST", API + "/discussions", open_pull),
    route("GET", API + "/discussions/{number}", details),
)
