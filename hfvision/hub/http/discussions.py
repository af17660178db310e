"""Pull requests as clients see them: open, list, discuss, close, merge (protocol section 14)."""

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub import diffs, pulls, repositories
from hfvision.hub.accounts import Caller
from hfvision.hub.errors import BadRequest, GatedRepo
from hfvision.hub.http import bodies
from hfvision.hub.http.answers import json_answer, repo_url
from hfvision.hub.http.callers import caller_of, user_of
from hfvision.hub.http.finding import API, hub_of, iso, repo_of
from hfvision.hub.instance import Hub
from hfvision.hub.pulls import COMMENT, Event, Pull
from hfvision.hub.repositories import CONTENT, PROPOSE, WRITE, Repo
from hfvision.hub.routing import route

TITLE = 200  # characters
NUMBERED = API + "/discussions/{number}"

Row = dict[str, Any]


def pull_json(repo: Repo, pull: Pull) -> Row:
    return {
        "num": pull.number,
        "title": pull.title,
        "author": {"name": pull.author},
        "createdAt": iso(pull.created),
        "status": pull.status,
        "repo": {"name": repo.full_name, "type": repo.kind},
        "isPullRequest": True,
    }


def event_json(pull: int, event: Event) -> Row:
    row: Row = {
        "id": f"{pull:012x}{event.number:012x}",
        "type": event.kind,
        "createdAt": iso(event.created),
        "author": {"name": event.author},
    }
    if event.kind != COMMENT:
        return row | {"data": {"status": event.text}}
    latest = {"raw": event.text, "html": "", "updatedAt": row["createdAt"], "author": row["author"]}
    return row | {"data": {"edited": False, "hidden": False, "latest": latest, "history": []}}


def details_json(hub: Hub, caller: Caller, repo: Repo, number: int, with_diff: bool) -> Row:
    """All about a pull request. The diff shows contents, so it is for those alone who may read them."""
    pull = pulls.find_pull(hub, repo, number)
    description = event_json(number, Event(0, COMMENT, pull.author, pull.description, pull.created))
    told = [event_json(number, event) for event in pulls.events(hub, repo, number)]
    pushed = [
        {
            "id": commit.id,
            "type": "commit",
            "createdAt": iso(commit.date),
            "author": {"name": commit.author},
            "data": {"subject": commit.title, "oid": commit.id},
        }
        for commit in pulls.own_commits(hub, repo, number)
    ]
    into: Row = {"base": f"refs/heads/{pull.base}"}
    if pull.merged_as is not None:
        into["mergeCommitId"] = pull.merged_as
    row = pull_json(repo, pull) | {
        "changes": into,
        # commits know whole seconds only; within one, what was pushed comes before what was said about it
        "events": sorted([description, *pushed, *told], key=lambda event: event["createdAt"][:19]),
        "filesWithConflicts": pulls.conflicts(hub, repo, number) if pull.status == "open" else [],
    }
    if with_diff:
        try:
            repositories.find(hub, caller, repo.kind, repo.full_name, CONTENT)
            row["diff"] = diffs.text(hub, pulls.changes(hub, repo, number))
        except GatedRepo:
            row["diff"] = None
    return row


def number_in(request: Request) -> int:
    """The number in the path. Raises NotFound."""
    return pulls.number_in(request.path_params["number"])


async def open_pull(request: Request) -> Response:
    body = await bodies.json_object(request)
    caller = await user_of(request)
    repo = await repo_of(request, PROPOSE)
    title = bodies.text(body, "title").strip()
    if not bodies.true(body.get("pullRequest")):
        raise BadRequest("This hub has pull requests, and no discussions without one.")
    if not 3 <= len(title) <= TITLE:
        raise BadRequest(f"A title has 3 to {TITLE} characters, got {len(title)}.")
    description = bodies.optional_text(body, "description") or ""
    pull = await run_in_threadpool(pulls.open_pull, hub_of(request), caller, repo, title, description)
    return json_answer({"num": pull.number, "pullRequest": True, "url": f"{repo.url}/discussions/{pull.number}"})


async def details(request: Request) -> Response:
    repo = await repo_of(request)
    caller = await caller_of(request)
    with_diff = bodies.true(request.query_params.get("diff"))
    row = await run_in_threadpool(details_json, hub_of(request), caller, repo, number_in(request), with_diff)
    return json_answer(row)


async def listing(request: Request) -> Response:
    repo = await repo_of(request)
    query = request.query_params
    status, author = query.get("status"), query.get("author")
    rows = [
        pull_json(repo, pull)
        for pull in await run_in_threadpool(pulls.pulls, hub_of(request), repo)
        if query.get("type") != "discussion"
        and (status in (None, "all") or (pull.status == "open") == (status == "open"))
        and author in (None, pull.author)
    ]
    start = 0 if query.get("p", "0") == "0" else len(rows)  # one page holds them all; clients ask until it is empty
    return json_answer({"discussions": rows[start:], "count": len(rows), "start": start})


async def merge(request: Request) -> Response:
    body = await bodies.json_object(request)
    caller = await user_of(request)
    repo = await repo_of(request, WRITE)
    number = number_in(request)
    said = bodies.optional_text(body, "comment") or ""
    made = await run_in_threadpool(pulls.merge, hub_of(request), caller, repo, number, said)
    page = repo_url(request, repo)
    return json_answer({"success": True, "commitOid": made.id, "commitUrl": f"{page}/commit/{made.id}"})


async def set_status(request: Request) -> Response:
    body = await bodies.json_object(request)
    caller = await user_of(request)
    repo = await repo_of(request, PROPOSE)
    number = number_in(request)
    status, said = bodies.text(body, "status"), bodies.optional_text(body, "comment") or ""
    event = await run_in_threadpool(pulls.set_status, hub_of(request), caller, repo, number, status, said)
    return json_answer({"newStatus": event_json(number, event)})


async def comment(request: Request) -> Response:
    body = await bodies.json_object(request)
    caller = await user_of(request)
    repo = await repo_of(request, PROPOSE)
    number = number_in(request)
    said = bodies.text(body, "comment")
    event = await run_in_threadpool(pulls.comment, hub_of(request), caller, repo, number, said)
    return json_answer({"newMessage": event_json(number, event)})


ROUTES = (
    route("GET", API + "/discussions", listing),
    route("POST", API + "/discussions", open_pull),
    route("GET", NUMBERED, details),
    route("POST", NUMBERED + "/comment", comment),
    route("POST", NUMBERED + "/merge", merge),
    route("POST", NUMBERED + "/status", set_status),
)
