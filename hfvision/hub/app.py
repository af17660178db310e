"""The server: raw-path routing, request ids, errors as clients read them, and every area's routes (ASGI)."""

import logging
import re
import secrets
from collections.abc import Iterable
from dataclasses import replace
from importlib import import_module

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hfvision.hub.errors import BadRequest, HubError, NotFound
from hfvision.hub.http.answers import base_url, error_answer, json_answer
from hfvision.hub.http.callers import BadTokens
from hfvision.hub.http.downloads import Downloads
from hfvision.hub.http.finding import no_such_repo
from hfvision.hub.instance import Hub, open_hub
from hfvision.hub.operation import Operation
from hfvision.hub.routing import BadPathError, Route, Router
from hfvision.hub.settings import HubSettings
from hfvision.hub.web.pages import Pages, nowhere, wants_page

log = logging.getLogger(__name__)

AREAS = (
    "identity",
    "repos",
    "info",
    "tree",
    "refs",
    "preupload",
    "commit",
    "resolve",
    "lfs",
    "lfs_files",
    "cas",
    "validation",
    "discussions",
)
DRAINED = 8 << 20  # bytes of an unread body that are still taken in, so that a refusal reaches its client


class HubApp:
    """One hub as an ASGI application; handlers find it as `request.app`, with `hub`, `bad_tokens`, `downloads`."""

    def __init__(self, hub: Hub, routes: Iterable[Route]) -> None:
        self.hub = hub
        self.bad_tokens = BadTokens()
        self.downloads = Downloads(hub)
        self.router = Router(routes)
        self.prefix = path_prefix(hub.settings.public_url)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self.http(scope, receive, send)

    async def lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                await run_in_threadpool(self.downloads.flush)
                self.hub.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Nothing that a client sends ends in a 5xx; what does is logged with its request id."""
        scope["app"] = self
        scope["raw_path"] = self.inner_path(scope)
        scope["request_id"] = request_id = request_id_of(scope)
        request = Request(scope, receive)
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers.setdefault("X-Content-Type-Options", "nosniff")
            await send(message)

        try:
            try:
                response = await self.answer(request)
            except HubError as error:
                await drain(request)
                response = error_answer(error, request)
            except BadPathError as error:
                response = error_answer(BadRequest(str(error)), request)
            await response(scope, receive, send_with_headers)
        except ClientDisconnect:
            log.info("client left", extra={"request_id": request_id})
        except Exception:
            log.exception("request failed", extra={"request_id": request_id})
            if not started:
                failed = json_answer({"error": f"The hub failed; its log has request {request_id}."}, 500)
                await failed(scope, receive, send_with_headers)
            else:
                raise

    async def answer(self, request: Request) -> Response:
        base_url(request)  # a Host that cannot be echoed is refused before anything is done
        if b"%00" in request.scope["query_string"]:  # PostgreSQL takes no text with one, not even to look for it
            raise BadRequest("The query has a NUL character.")
        match = self.router.match(request.scope["raw_path"], request.method)
        request.scope["route"] = match.pattern  # what metrics and logs name this request by
        request.scope["path_params"] = match.holes
        if match.handler is None:
            if match.allowed:
                allow = ", ".join(sorted(match.allowed))
                return json_answer({"error": f"This address takes {allow}."}, 405, {"Allow": allow})
            if wants_page(request):
                return await nowhere(request)
            raise NotFound("Nothing is at this address.")
        return await match.handler(request)

    def inner_path(self, scope: Scope) -> bytes:
        """The raw path below the prefix of the public address, for proxies that leave the prefix there."""
        raw: bytes = (scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0]
        if self.prefix and (raw == self.prefix or raw.startswith(self.prefix + b"/")):
            return raw[len(self.prefix) :] or b"/"
        return raw


def path_prefix(public_url: str) -> bytes:
    """`/hub` of `https://h/hub`; empty where the hub has a host of its own."""
    return re.sub(r"^[a-z]+://[^/]*", "", public_url).rstrip("/").encode()


def request_id_of(scope: Scope) -> str:
    """The id that the client chose (`X-Amzn-Trace-Id`) if it is harmless in logs, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-amzn-trace-id" and re.fullmatch(rb"[A-Za-z0-9=;_.:-]{1,200}", value):
            return value.decode()
    return secrets.token_hex(16)


async def drain(request: Request) -> None:
    """Take in what is left of a body, within reason: many clients read no answer before they have sent everything."""
    taken = 0
    try:
        async for piece in request.stream():
            taken += len(piece)
            if taken > DRAINED:
                return
    except (ClientDisconnect, RuntimeError):  # gone, or read already
        return


def api_routes() -> list[Route]:
    """The routes of every area of the API, and what answers where a repository's name lacks its namespace."""
    routes: list[Route] = [route for area in AREAS for route in import_module(f"hfvision.hub.http.{area}").ROUTES]
    full = "/{namespace}/{name}"
    single = [
        replace(route, pattern=route.pattern.replace(full, "/{name}"), handler=no_such_repo, fallback=True)
        for route in routes
        if full in route.pattern
    ]
    return [*routes, *single]


def create_app(settings: HubSettings) -> ASGIApp:
    """The application that `hfvision hub serve` runs: the API and the web pages over one opened hub."""
    hub = open_hub(settings)
    pages = Pages(hub)
    return Operation(HubApp(hub, [*api_routes(), *pages.routes()]), hub, [pages.close])
