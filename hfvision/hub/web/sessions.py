"""Signing in to the pages with a token: a signed cookie that names the token, never its text.

The cookie ends when the token does. It is not sent along from other sites (SameSite=Strict), so no other site can act
or look in a reader's name; forms check the Origin header besides.
"""

import base64
import binascii
import hmac
import time
from hashlib import sha256
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub import accounts
from hfvision.hub.accounts import ANONYMOUS, Caller
from hfvision.hub.errors import BadToken, Forbidden
from hfvision.hub.http.answers import base_url
from hfvision.hub.http.callers import caller_of
from hfvision.hub.instance import Hub

COOKIE = "hfvision_hub"
LIFE = 30 * 24 * 3600  # seconds


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
    app = request.app
    address = request.client.host if request.client else ""
    app.bad_tokens.check(address, token)
    try:
        if not token.isascii() or not 0 < len(token) <= 512:
            raise BadToken
        caller = await run_in_threadpool(accounts.authenticate, app.hub, token)
        if caller.token_id is None:
            raise BadToken
    except BadToken:
        app.bad_tokens.add(address)
        raise
    response.set_cookie(
        COOKIE,
        _signed(app.hub, caller.token_id, int(time.time()) + LIFE),
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


def _signed(hub: Hub, token_id: int, expires: int) -> str:
    payload = f"{token_id}.{expires}".encode()
    return base64.urlsafe_b64encode(payload + b"." + _mac(hub, payload)).decode()


def _token_id(hub: Hub, cookie: str) -> int | None:
    try:
        token_id, expires, mac = base64.urlsafe_b64decode(cookie).split(b".", 2)
        genuine = hmac.compare_digest(mac, _mac(hub, token_id + b"." + expires))
        return int(token_id) if genuine and int(expires) > time.time() else None
    except (ValueError, binascii.Error):
        return None


def _mac(hub: Hub, payload: bytes) -> bytes:
    return hmac.new(hub.secret, b"web session " + payload, sha256).digest()
