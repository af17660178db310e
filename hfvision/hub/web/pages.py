"""The routes of the pages, and what they share: who reads, errors as pages, the processes that try models.

Addresses follow the ones that clients and links know: `/me/x`, `/datasets/me/d`, `/me/x/tree/main`,
`/me/x/blob/main/config.json`, `/me/x/commits/main`, `/me/x/commit/<sha>`.
"""

from collections.abc import Awaitable, Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from hfvision.hub import repositories
from hfvision.hub.errors import HubError, NotFound, RepoNotFound
from hfvision.hub.http.answers import quoted
from hfvision.hub.instance import Hub
from hfvision.hub.repositories import Repo
from hfvision.hub.routing import Route, route
from hfvision.hub.try_it.models import ModelTrials
from hfvision.hub.try_it.previews import Previews
from hfvision.hub.web import compare, datasets, history, lists, repository, signing, trying
from hfvision.hub.web.rendering import page, prefix_of, static
from hfvision.hub.web.sessions import web_caller
from hfvision.hub.web.visits import Visit

Page = Callable[[Request, Visit], Awaitable[Response]]
RepoPage = Callable[[Request, Visit, Repo], Awaitable[Response]]
KINDS = {"model": "", "dataset": "datasets/"}


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
            route("GET", "/static/{name}", static_file),
            route("GET", "/{namespace}", self._page(lists.account)),
        ]
        for kind, prefix in KINDS.items():
            start = f"/{prefix}{{namespace}}/{{name}}"
            for methods, rest, handler in REPO_PAGES[kind]:
                made.append(route(methods, start + rest, self._repo_page(kind, rest, handler)))
        return made

    def _page(self, handler: Page) -> Callable[[Request], Awaitable[Response]]:
        """Errors become pages, too."""

        async def answer(request: Request) -> Response:
            try:
                caller = await web_caller(request)
                return await handler(request, Visit(self.hub, caller, self.trials, self.previews))
            except HubError as error:
                return error_page(request, error)

        return answer

    def _repo_page(self, kind: str, rest: str, handler: RepoPage) -> Callable[[Request], Awaitable[Response]]:
        """The same for a repository that the reader may see; under an older name the reader is led to the new one."""

        async def answer(request: Request, visit: Visit) -> Response:
            holes = request.path_params
            full_name = f"{holes['namespace']}/{holes['name']}"
            need = repositories.CONTENT if rest in NEEDS_CONTENT else repositories.SEE
            repo = await run_in_threadpool(repositories.find, visit.hub, visit.caller, kind, full_name, need)
            if repo.moved or repo.full_name != full_name:
                if request.method == "POST":
                    raise RepoNotFound(visit.caller.anonymous)
                raw = request.scope["raw_path"].decode("ascii", "replace").removeprefix("/").split("/")
                segments = raw[2 + KINDS[kind].count("/") :]
                target = "/".join((f"{prefix_of(request)}/{quoted(repo.url)}", *segments))
                return RedirectResponse(target, 307)
            return await handler(request, visit, repo)

        return self._page(answer)


NEEDS_CONTENT = {"/blob/{revision}/{path...}", "/download/{revision}/{path...}", "/compare", "/viewer", "/try"}
SHARED: list[tuple[str, str, RepoPage]] = [
    ("GET", "", repository.card),
    ("GET", "/tree/{revision}/{path...}", repository.tree),
    ("GET", "/blob/{revision}/{path...}", repository.blob),
    ("GET", "/download/{revision}/{path...}", repository.download),
    ("GET", "/commits/{revision}", history.commits),
    ("GET", "/commit/{revision}", history.commit),
    ("GET", "/compare", compare.compare),
]
REPO_PAGES: dict[str, list[tuple[str, str, RepoPage]]] = {
    "model": [*SHARED, ("GET POST", "/try", trying.trial)],
    "dataset": [*SHARED, ("GET", "/viewer", datasets.viewer)],
}


def error_page(request: Request, error: HubError) -> Response:
    """One sentence, and a way on. A page that is missing and one that is hidden look the same."""
    if request.scope.get("web_caller") is None:
        request.scope["web_caller"] = None
    status = 404 if isinstance(error, RepoNotFound) else error.status
    made = page(request, "error.html", status, message=error.message, status_code=status)
    for name, value in error.headers.items():
        made.headers[name] = value
    return made


async def static_file(request: Request) -> Response:
    found = static(request.path_params["name"])
    if found is None:
        raise NotFound("Nothing is at this address.")
    return found
