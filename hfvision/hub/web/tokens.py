"""The tokens of whoever is signed in: a list, a form that makes one, a button that ends one.

Only a session of a token that writes, and everywhere, gets here; and what it makes ends no later than it does itself,
so that a token which was lent for a while does not turn into one for ever.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub import accounts
from hfvision.hub.errors import BadRequest, Forbidden, HubError, LoginNeeded
from hfvision.hub.names import whole_number
from hfvision.hub.web import forms
from hfvision.hub.web.rendering import page
from hfvision.hub.web.visits import Visit

PAGE = "settings/tokens"
ROLES = {"read": "read", "write": "write"}
LONGEST = 3650  # days


async def tokens(request: Request, visit: Visit) -> Response:
    """GET: the list. POST: a new token, whose text this answer shows and no later one."""
    _check(visit)
    if request.method != "POST":
        return await _shown(request, visit)
    sent = await forms.changes(request, visit)
    try:
        text = await run_in_threadpool(lambda: _made(visit, sent))
    except HubError as error:
        return await _shown(request, visit, error.status, problem=error.message)
    answer = await _shown(request, visit, made=text)
    answer.headers["Cache-Control"] = "no-store"
    return answer


async def remove(request: Request, visit: Visit) -> Response:
    """End a token; with the token of this session the session ends, too."""
    _check(visit)
    sent = await forms.changes(request, visit)
    await run_in_threadpool(lambda: accounts.delete_token(visit.hub, visit.caller.name, sent.get("name", "")))
    return forms.back(request, PAGE)


def _check(visit: Visit) -> None:
    if visit.caller.anonymous:
        raise LoginNeeded("Sign in first: these are your tokens.")
    if visit.caller.token_role != "write":
        raise Forbidden("This page is for those who signed in with a token that may write everywhere.")


def _made(visit: Visit, sent: dict[str, str]) -> str:
    name, days = sent.get("name", ""), sent.get("days", "")
    if not name.isprintable():
        raise BadRequest(f"A token's name is one line of printable characters, got {name[:100]!r}.")
    role = forms.chosen(sent.get("role", ""), ROLES)
    ends = []
    if days:
        count = whole_number(days, 5)
        if count is None or not 1 <= count <= LONGEST:
            raise BadRequest(f"A token lasts 1 to {LONGEST} days, or without a number for ever; got {days[:40]!r}.")
        ends.append(datetime.now(UTC) + timedelta(days=count))
    mine = accounts.list_tokens(visit.hub, visit.caller.name)
    ends += [row.expires for row in mine if row.id == visit.caller.token_id and row.expires is not None]
    return accounts.create_token(visit.hub, visit.caller.name, name, role, expires=min(ends, default=None))


async def _shown(request: Request, visit: Visit, status: int = 200, **more: Any) -> Response:
    rows = await run_in_threadpool(lambda: accounts.list_tokens(visit.hub, visit.caller.name))
    values: dict[str, Any] = {"made": None, "problem": None, "longest": LONGEST, **more}
    return page(request, "tokens.html", status, tokens=rows, current=visit.caller.token_id, **values)
