"""Pull requests: the list, and one of them with what it changes, what was said, and how to end it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub import pulls
from hfvision.hub.commits import Commit
from hfvision.hub.errors import HubError, NotFound
from hfvision.hub.pulls import COMMENT, Event, Pull, number_in
from hfvision.hub.repositories import Repo
from hfvision.hub.web import forms
from hfvision.hub.web.changes import shown
from hfvision.hub.web.markdown import CARD_LIMIT, rendered
from hfvision.hub.web.rendering import page
from hfvision.hub.web.shared import locator, may_read_content, repo_values
from hfvision.hub.web.visits import Visit

ROWS = 50
STATES = ("open", "merged", "closed")
MOST_SAID = 200  # events that are shown, the latest ones
Action = Callable[[Visit, Repo, int, str], object]


@dataclass(frozen=True)
class Said:
    """A comment as HTML, or a new status, or a commit that was pushed; in the order of their times."""

    author: str
    created: datetime
    html: Markup | None = None
    status: str | None = None
    commit: Commit | None = None


async def listing(request: Request, visit: Visit, repo: Repo) -> Response:
    """`?status=open`, merged or closed; `before` is the number of the last one of the page before."""
    query = request.query_params
    status = query.get("status", "open")
    found = await run_in_threadpool(lambda: pulls.pulls(visit.hub, repo))
    counts = {state: sum(pull.status == state for pull in found) for state in STATES}
    if status not in counts:
        raise NotFound(f"Pull requests are {', '.join(STATES)}.")
    last = number_in(query["before"]) if "before" in query else None
    rows = [pull for pull in found if pull.status == status and (last is None or pull.number < last)]
    values = repo_values(repo, "pulls") | {"rows": rows[:ROWS], "shown_state": status, "counts": counts}
    return page(request, "discussions.html", before=rows[ROWS - 1].number if len(rows) > ROWS else None, **values)


async def one(request: Request, visit: Visit, repo: Repo) -> Response:
    return await _shown(request, visit, repo)


async def act(request: Request, visit: Visit, repo: Repo) -> Response:
    """A button of the page; what stands against it is said above the buttons."""
    number, action = number_in(request.path_params["number"]), ACTIONS.get(request.path_params["action"])
    if action is None:
        raise NotFound("Nothing is at this address.")
    sent = await forms.changes(request, visit)
    try:
        await run_in_threadpool(lambda: action(visit, repo, number, sent.get("comment", "")))
    except NotFound:
        raise
    except HubError as error:
        return await _shown(request, visit, repo, error)
    return forms.back_to(request, repo, f"/discussions/{number}")


ACTIONS: dict[str, Action] = {
    "comment": lambda visit, repo, number, said: pulls.comment(visit.hub, visit.caller, repo, number, said),
    "merge": lambda visit, repo, number, said: pulls.merge(visit.hub, visit.caller, repo, number, said),
    "close": lambda visit, repo, number, said: pulls.set_status(visit.hub, visit.caller, repo, number, "closed", said),
    "reopen": lambda visit, repo, number, said: pulls.set_status(visit.hub, visit.caller, repo, number, "open", said),
}


async def _shown(request: Request, visit: Visit, repo: Repo, problem: HubError | None = None) -> Response:
    number = number_in(request.path_params["number"])
    readable = await may_read_content(visit, repo)

    def work() -> dict[str, Any]:
        pull = pulls.find_pull(visit.hub, repo, number)
        changed = pulls.changes(visit.hub, repo, number)
        return {
            "pull": pull,
            "changes": shown(visit.hub, changed, readable),
            "total": len(changed),
            "conflicts": pulls.conflicts(visit.hub, repo, number) if pull.status == "open" else [],
            "said": _said(request, visit, repo, pull),
        }

    values = await run_in_threadpool(work)
    who, name = visit.caller, (repo.kind, repo.namespace, repo.name)
    writes, proposes = who.may_write(*name), who.may_propose(*name)
    closes = writes or (proposes and values["pull"].author == who.name)
    rights = {"may_merge": writes, "may_speak": proposes, "may_close": closes}
    told = {"problem": problem.message if problem else None, **rights, **values}
    return page(request, "discussion.html", problem.status if problem else 200, **repo_values(repo, "pulls"), **told)


def _said(request: Request, visit: Visit, repo: Repo, pull: Pull) -> list[Said]:
    """Description, comments, states and commits by time. All texts together are rendered up to a card's limit."""
    locate = locator(request, repo, repo.sha)
    left = CARD_LIMIT

    def html(text: str) -> Markup:
        nonlocal left
        left -= len(text)
        return rendered(text, locate) if left > 0 else Markup("<pre>{}</pre>").format(text)

    def told(event: Event) -> Said:
        if event.kind == COMMENT:
            return Said(event.author, event.created, html=html(event.text))
        return Said(event.author, event.created, status=event.text)

    events = pulls.events(visit.hub, repo, pull.number)[-MOST_SAID:]
    first = [Said(pull.author, pull.created, html=html(pull.description))] if pull.description.strip() else []
    pushed = [Said(one.author, one.date, commit=one) for one in pulls.own_commits(visit.hub, repo, pull.number)]
    return first + sorted([*map(told, events), *pushed], key=lambda said: said.created)
