"""The settings of a repository for those who administer it, and asking to be let into a gated one.

Each form of the page is one action at an address of its own; afterwards the reader is led back to the page.
"""

from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub import repositories
from hfvision.hub.errors import BadRequest, Forbidden, HubError, NotFound
from hfvision.hub.repositories import Repo
from hfvision.hub.web import forms
from hfvision.hub.web.rendering import page
from hfvision.hub.web.shared import repo_values
from hfvision.hub.web.visits import Visit

VISIBILITY = {"public": False, "private": True}
GATES: dict[str, str | bool] = {"no": False, "auto": "auto", "manual": "manual"}
ANSWERS = {"accept": "accepted", "reject": "rejected"}
Action = Callable[[Visit, Repo, dict[str, str]], Repo | None]


async def settings(request: Request, visit: Visit, repo: Repo) -> Response:
    return await _shown(request, visit, repo)


async def change(request: Request, visit: Visit, repo: Repo) -> Response:
    """One form of the page; what stands against it is said above the forms."""
    act = ACTIONS.get(request.path_params["action"])
    if act is None:
        raise NotFound("Nothing is at this address.")
    sent = await forms.changes(request, visit)
    try:
        left = await run_in_threadpool(lambda: act(visit, repo, sent))
    except HubError as error:
        return await _shown(request, visit, repo, error)
    return forms.back(request, repo.namespace) if left is None else forms.back_to(request, left, "/settings")


async def ask(request: Request, visit: Visit, repo: Repo) -> Response:
    """Ask to be let into a gated repository; its card says from then on how that stands."""
    await forms.changes(request, visit)
    if not visit.caller.may_propose(repo.kind, repo.namespace, repo.name):
        raise Forbidden("You signed in with a token for other repositories. Sign in with one that may write here.")
    if repo.gated:
        await run_in_threadpool(lambda: repositories.request_access(visit.hub, visit.caller, repo))
    return forms.back_to(request, repo)


async def _shown(request: Request, visit: Visit, repo: Repo, problem: HubError | None = None) -> Response:
    rows = await run_in_threadpool(lambda: repositories.access_requests(visit.hub, visit.caller, repo))
    values: dict[str, Any] = {"requests": rows, "problem": problem.message if problem else None}
    return page(request, "settings.html", problem.status if problem else 200, **repo_values(repo, "settings"), **values)


def _visibility(visit: Visit, repo: Repo, sent: dict[str, str]) -> Repo:
    private = forms.chosen(sent.get("visibility", ""), VISIBILITY)
    return repositories.update_settings(visit.hub, visit.caller, repo.kind, repo.full_name, private=private)


def _gate(visit: Visit, repo: Repo, sent: dict[str, str]) -> Repo:
    gated = forms.chosen(sent.get("gated", ""), GATES)
    return repositories.update_settings(visit.hub, visit.caller, repo.kind, repo.full_name, gated=gated)


def _answer(visit: Visit, repo: Repo, sent: dict[str, str]) -> Repo:
    status = forms.chosen(sent.get("answer", ""), ANSWERS)
    repositories.answer_access(visit.hub, visit.caller, repo, sent.get("user", ""), status)
    return repo


def _rename(visit: Visit, repo: Repo, sent: dict[str, str]) -> Repo:
    return repositories.move(visit.hub, visit.caller, repo.kind, repo.full_name, sent.get("name", ""))


def _delete(visit: Visit, repo: Repo, sent: dict[str, str]) -> None:
    if sent.get("name") != repo.full_name:
        raise BadRequest(f"Type {repo.full_name} to delete it, as it stands here; {sent.get('name', '')[:100]!r} came.")
    repositories.delete(visit.hub, visit.caller, repo.kind, repo.full_name)


ACTIONS: dict[str, Action] = {
    "visibility": _visibility,
    "gate": _gate,
    "access": _answer,
    "rename": _rename,
    "delete": _delete,
}
