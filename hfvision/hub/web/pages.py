"""The routes of the pages, and what they share: who reads, errors as pages, the processes that try models.

Addresses follow the ones that clients and links know: `/me/x`, `/datasets/me/d`, `/me/x/tree/main`,
`/me/x/blob/main/config.json`, `/me/x/commits/main`, `/me/x/commit/<sha>`, `/me/x/discussions/1`.
"""

import logging
from collections.abc import Awaitable, Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response

from hfvision.hub import repositories
from hfvision.hub.accounts import PREFIXES
from hfvision.hub.errors import GatedRepo, HubError, NotFound, RepoNotFound
from hfvision.hub.http.answers import quoted
from hfvision.hub.instance import Hub
from hfvision.hub.repositories import Repo
from hfvision.hub.routing import Route, route
from hfvision.hub.try_it.models import ModelTrials
from hfvision.hub.try_it.previews import Previews
from hfvision.hub.web import (
    compare,
    datasets,
    discussions,
    history,
    lists,
    repository,
    settings,
    signing,
    tokens,
    trying,
)
from hfvision.hub.web.rendering import page, prefix_of, static
from hfvision.hub.web.sessions import web_caller
from hfvision.hub.web.visits import Visit

log = logging.getLogger(__name__)

Page = Callable[[Request, Visit], Awaitable[Response]]
RepoPage = Callable[[Request, Visit, Repo], Awaitable[Response]]


class Pages:
    """The pages of one hub. `close` ends the processes that they started."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.trials = ModelTrials(hub)
        self.previews = Previews(hub)

    def close(self) -> None:
        self.trials.close()

    def routes(self) -> list[Route]:
        made = [
            route("GET", "/", self._page(lists.home)),
            route("GET", "/models", self._page(lists.models)),
            route("GET", "/datasets", self._page(lists.datasets)),
            route("GET POST", "/login", self._page(signing.login)),
            route("POST", "/logout", self._page(signing.logout)),
            route("GET POST", f"/{tokens.PAGE}", self._page(tokens.tokens)),
            route("POST", f"/{tokens.PAGE}/remove", self._page(tokens.remove)),
            route("GET", "/static/{name}", static_file),
            route("GET", "/{namespace}", self._page(lists.account)),
        ]
        for kind, pages in REPO_PAGES.items():
            start = f"/{PREFIXES[kind]}{{namespace}}/{{name}}"
            for methods, rest, handler in pages:
                made.append(route(methods, start + rest, self._repo_page(kind, rest, handler)))
        return made

    def _page(self, handler: Page) -> Callable[[Request], Awaitable[Response]]:
        """Errors become pages, too, those that nobody expected included."""

        async def answer(request: Request) -> Response:
            try:
                caller = await web_caller(request)
                return await handler(request, Visit(self.hub, caller, self.trials, self.previews))
            except HubError as error:
                return error_page(request, error)
            except ClientDisconnect:
                raise
            except Exception:
                request_id = request.scope["request_id"]
                log.exception("page failed", extra={"request_id": request_id})
                return error_page(request, Unexpected(request_id))

        return answer

    def _repo_page(self, kind: str, rest: str, handler: RepoPage) -> Callable[[Request], Awaitable[Response]]:
        """The same for a repository that the reader may see; under an older name the reader is led to the new one."""

        async def answer(request: Request, visit: Visit) -> Response:
            holes = request.path_params
            full_name = f"{holes['namespace']}/{holes['name']}"
            need = NEEDS.get(rest, repositories.SEE)
            repo = await run_in_threadpool(repositories.find, visit.hub, visit.caller, kind, full_name, need)
            if repo.moved or repo.full_name != full_name:
                if request.method == "POST":
                    raise RepoNotFound(visit.caller.anonymous)
                raw = request.scope["raw_path"].decode("ascii", "replace").removeprefix("/").split("/")
                segments = raw[2 + PREFIXES[kind].count("/") :]
                target = "/".join((f"{prefix_of(request)}/{quoted(repo.url)}", *segments))
                return RedirectResponse(target, 307)
            return await handler(request, visit, repo)

        return self._page(answer)


class Unexpected(HubError):
    """A page that could not be made: the request's id leads to the reason in the log."""

    status = 500

    def __init__(self, request_id: str) -> None:
        super().__init__(f"The hub failed; its log has request {request_id}.")


CONTENT_PAGES = ("/blob/{revision}/{path...}", "/download/{revision}/{path...}", "/compare", "/viewer", "/try")
NEEDS = {
    **dict.fromkeys(CONTENT_PAGES, repositories.CONTENT),
    **dict.fromkeys(("/settings", "/settings/{action}"), repositories.ADMIN),
}
SHARED: list[tuple[str, str, RepoPage]] = [
    ("GET", "", repository.card),
    ("GET", "/tree/{revision}/{path...}", repository.tree),
    ("GET", "/blob/{revision}/{path...}", repository.blob),
    ("GET", "/download/{revision}/{path...}", repository.download),
    ("GET", "/commits/{revision}", history.commits),
    ("GET", "/commit/{revision}", history.commit),
    ("GET", "/compare", compare.compare),
    ("GET", "/discussions", discussions.listing),
    ("GET", "/discussions/{number}", discussions.one),
    ("POST", "/discussions/{number}/{action}", discussions.act),
    ("POST", "/access", settings.ask),
    ("GET", "/settings", settings.settings),
    ("POST", "/settings/{action}", settings.change),
]
REPO_PAGES: dict[str, list[tuple[str, str, RepoPage]]] = {
    "model": [*SHARED, ("GET POST", "/try", trying.trial)],
    "dataset": [*SHARED, ("GET", "/viewer", datasets.viewer)],
}


def error_page(request: Request, error: HubError) -> Response:
    """One sentence, and a way on. A page that is missing and one that is hidden look the same."""
    status = 404 if isinstance(error, RepoNotFound) else error.status
    gate = prefix_of(request) + card_path(request) if isinstance(error, GatedRepo) else None
    made = page(request, "error.html", status, message=error.message, status_code=status, gate=gate)
    for name, value in error.headers.items():
        made.headers[name] = value
    return made


def card_path(request: Request) -> str:
    """The card of the repository whose other page was asked for."""
    holes = request.path_params
    kind = "datasets/" if request.scope["route"].startswith("/datasets/") else ""
    return f"/{kind}{quoted(holes['namespace'])}/{quoted(holes['name'])}"


async def nowhere(request: Request) -> Response:
    """What a browser is told at an address that leads to nothing."""
    await web_caller(request)
    return error_page(request, NotFound("Nothing is at this address."))


def wants_page(request: Request) -> bool:
    """Whether a browser asks for something to read: clients of the API take anything, and never name HTML."""
    return request.method == "GET" and "text/html" in request.headers.get("accept", "")


async def static_file(request: Request) -> Response:
    found = static(request.path_params["name"])
    if found is None:
        raise NotFound("Nothing is at this address.")
    return found
