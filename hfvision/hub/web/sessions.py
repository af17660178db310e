"""Signing in to the pages with a token: a signed cookie that names the token, never its text.

The cookie ends when the token does. It is not sent along from other sites (SameSite=Strict), so no other site can act
or look in a reader's name; forms check the Origin header besides.
"""

from urllib.parse import urlsplit

from itsdangerous import BadData
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub import accounts
from hfvision.hub.accounts import ANONYMOUS, Caller
from hfvision.hub.errors import BadToken, Forbidden
from hfvision.hub.http.answers import base_url
from hfvision.hub.http.callers import authenticated, caller_of
from hfvision.hub.instance import Hub

COOKIE = "hfvision_hub"
LIFE = 30 * 24 * 3600  # seconds
PURPOSE = "web session"


async def web_caller(request: Request) -> Caller:
    """Who reads a page: by cookie, or by the Authorization header as clients send it; else anonymous."""
    if request.headers.get("authorization"):
        caller = await caller_of(request)
    else:
        token_id = _token_id(request.app.hub, request.cookies.get(COOKIE, ""))
        caller = ANONYMOUS
        if token_id is not None:
            try:
                caller = await run_in_threadpool(accounts.resume, request.app.hub, token_id)
            except BadToken:
                caller = ANONYMOUS  # deleted or expired since
    request.scope["web_caller"] = caller
    return caller


async def sign_in(request: Request, token: str, response: Response) -> Caller:
    """Check a token that a form brought and put the cookie on the answer. Raises BadToken, 429 after many bad ones."""
    caller = await authenticated(request, token)
    assert caller.token_id is not None  # only who is anonymous has none
    response.set_cookie(
        COOKIE,
        str(request.app.hub.serializer(PURPOSE).dumps(caller.token_id)),
        max_age=LIFE,
        httponly=True,
        samesite="strict",
        secure=base_url(request).startswith("https:"),
    )
    return caller


def sign_out(response: Response) -> None:
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")


def check_origin(request: Request) -> None:
    """Raises Forbidden for a form that another site sends."""
    origin = request.headers.get("origin")
    wanted = "://".join(urlsplit(base_url(request))[:2])
    site = request.headers.get("sec-fetch-site", "same-origin")
    if site not in ("same-origin", "none") or origin not in (None, wanted):
        raise Forbidden("This form was sent from another site.")


def _token_id(hub: Hub, cookie: str) -> int | None:
    try:
        return int(hub.serializer(PURPOSE).loads(cookie, max_age=LIFE))
    except BadData:  # forged, or expired; and the cookies of 0.4.0: their readers sign in once more
        return None
