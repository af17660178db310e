"""What a form sends that changes something: checked for where it comes from and who may send it, before it is read."""

from typing import TypeVar

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from hfvision.hub.errors import BadRequest, Forbidden, LoginNeeded
from hfvision.hub.http import bodies
from hfvision.hub.http.answers import quoted
from hfvision.hub.repositories import Repo
from hfvision.hub.web.rendering import page_headers, prefix_of
from hfvision.hub.web.sessions import check_origin
from hfvision.hub.web.visits import Visit

FORM_LIMIT = 64 * 1024  # bytes of a form without files
Choice = TypeVar("Choice")


async def fields(request: Request) -> dict[str, str]:
    """The fields of a form of this hub, each once. Raises Forbidden for one that another site sends."""
    check_origin(request)
    sent = await bodies.form_or_json(request, cap=FORM_LIMIT)
    found = {name: str(values[0]).replace("\r\n", "\n").strip() for name, values in sent.items() if values}
    if any("\0" in value for value in found.values()):
        raise BadRequest("A form's text has no NUL characters.")
    return found


async def changes(request: Request, visit: Visit) -> dict[str, str]:
    """As `fields`, of a form that changes something: a reader's session with a read-only token changes nothing.

    Raises LoginNeeded and Forbidden; whether this reader may change this thing is for the services to say.
    """
    check_origin(request)
    if visit.caller.anonymous:
        raise LoginNeeded("Sign in first: this changes something.")
    if visit.caller.token_role == "read":
        raise Forbidden("You signed in with a token that only reads. Sign in with one that may write to change this.")
    return await fields(request)


def chosen(text: str, choices: dict[str, Choice]) -> Choice:
    """What a choice of a form stands for. Raises BadRequest for one that the form does not offer."""
    if text not in choices:
        raise BadRequest(f"The form offers {', '.join(choices)}; {text[:40]!r} came.")
    return choices[text]


def back(request: Request, path: str) -> Response:
    """To a page of this hub, once a form is done, so that loading it anew sends nothing again."""
    return RedirectResponse(f"{prefix_of(request)}/{path}", 303, page_headers())


def back_to(request: Request, repo: Repo, rest: str = "") -> Response:
    """To a page of a repository."""
    return back(request, quoted(repo.url) + rest)
