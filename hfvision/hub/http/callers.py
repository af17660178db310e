"""Who is calling: tokens from the Authorization header, and a brake on guessing them."""

import base64
import binascii
import hashlib
import time
from collections import OrderedDict

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from hfvision.hub import accounts
from hfvision.hub.accounts import ANONYMOUS, Caller
from hfvision.hub.errors import BadToken, HubError, LoginNeeded

WINDOW = 60.0  # seconds in which an address may send TRIES bad tokens
TRIES = 30
ADDRESSES = 10_000  # addresses remembered, and good tokens; the longest silent one is forgotten first
LONGEST_TOKEN = 512  # characters


class TooManyBadTokens(HubError):
    """An address has sent so many bad tokens that further ones are not even looked up for a while."""

    status = 429

    def __init__(self, seconds: float) -> None:
        super().__init__(
            "Too many requests with invalid tokens came from this address; wait a minute.",
            headers={"Retry-After": str(max(1, round(seconds)))},
        )


class BadTokens:
    """Counts bad tokens per address within a moving window, in this process.

    Each process counts for itself. A count in the database would let anyone without a token make every process write,
    in turn with all commits, while it would protect little: with W processes an address has W times as many tries at
    tokens of 190 random bits. Tokens that were good here keep working from an address that is held off, so that one
    client with an old token does not lock out those who share its address.
    """

    def __init__(self) -> None:
        self._bad: OrderedDict[str, list[float]] = OrderedDict()
        self._good: OrderedDict[bytes, None] = OrderedDict()  # sha256 of tokens

    def check(self, address: str, token: str) -> None:
        """Raises TooManyBadTokens if the address has used up its tries and the token is not known to be good."""
        if _digest(token) in self._good:
            return
        now = time.monotonic()
        times = [moment for moment in self._bad.get(address, ()) if now - moment < WINDOW]
        if len(times) >= TRIES:
            raise TooManyBadTokens(WINDOW - (now - times[0]))

    def add(self, address: str) -> None:
        now = time.monotonic()
        times = self._bad.pop(address, [])
        self._bad[address] = [*(moment for moment in times if now - moment < WINDOW), now][-TRIES:]
        if len(self._bad) > ADDRESSES:
            self._bad.popitem(last=False)

    def good(self, token: str) -> None:
        """Remember a token that has just been found good; it is looked up again each time all the same."""
        digest = _digest(token)
        self._good.pop(digest, None)
        self._good[digest] = None
        if len(self._good) > ADDRESSES:
            self._good.popitem(last=False)

    def forget(self) -> None:
        """Let every address try again."""
        self._bad.clear()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def token_of(request: Request) -> str | None:
    """The token that came, or None. `Bearer TOKEN`, and `Basic` with the token as password as git sends it.

    A header that is neither gives the empty text, which is nobody's token.
    """
    header = request.headers.get("authorization", "").strip()
    if not header:
        return None
    scheme, _, value = header.partition(" ")
    token = value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(token, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return token if scheme.lower() == "bearer" else ""


async def authenticated(request: Request, token: str) -> Caller:
    """Who has this token. Raises BadToken, or 429 after too many of them from this address."""
    app = request.app
    address = request.client.host if request.client else ""
    app.bad_tokens.check(address, token)
    try:
        if not 0 < len(token) <= LONGEST_TOKEN or not token.isascii():
            raise BadToken
        caller = await run_in_threadpool(accounts.authenticate, app.hub, token)
    except BadToken:
        app.bad_tokens.add(address)
        raise
    app.bad_tokens.good(token)
    return caller


async def caller_of(request: Request) -> Caller:
    """The caller of a request, anonymous without a token. Raises BadToken (401), or 429 after too many of them."""
    known: Caller | None = request.scope.get("caller")
    if known is not None:
        return known
    token = token_of(request)
    caller = ANONYMOUS if token is None else await authenticated(request, token)
    request.scope["caller"] = caller
    return caller


async def user_of(request: Request) -> Caller:
    """The caller, who must have sent a token. Raises LoginNeeded (401) otherwise."""
    caller = await caller_of(request)
    if caller.anonymous:
        raise LoginNeeded
    return caller
