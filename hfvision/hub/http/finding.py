"""From a request to its repository: the kind in the path, the right to see or change it, redirects after a move."""

from datetime import UTC, datetime
from urllib.parse import quote, unquote_to_bytes

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub import repositories
from hfvision.hub.errors import BadRequest, HubError, NotFound, RepoNotFound
from hfvision.hub.http.callers import caller_of
from hfvision.hub.instance import Hub
from hfvision.hub.names import whole_number
from hfvision.hub.repositories import KINDS, PROPOSE, SEE, WRITE, Repo

KIND_OF = {plural: kind for kind, plural in KINDS.items()}
API = "/api/{kinds}/{namespace}/{name}"
PULLS = "refs/pr/"


class Moved(HubError):
    """The repository has a new name: a relative redirect to the same address under it (protocol section 4)."""

    status = 307

    def __init__(self, location: str) -> None:
        super().__init__("The repository has moved.", headers={"Location": location})


def hub_of(request: Request) -> Hub:
    hub: Hub = request.app.hub
    return hub


def kind_of(request: Request) -> str:
    """model, dataset, ... from the plural in the path; a path without one is a model's. Raises NotFound."""
    plural = request.path_params.get("kinds", "models")
    if plural not in KIND_OF:
        raise NotFound("Nothing is at this address.")
    return KIND_OF[plural]


def kind_in(value: str | None) -> str:
    """The kind that a body names; none means model. Raises BadRequest."""
    if value is None:
        return "model"
    if value not in KINDS:
        raise BadRequest(f'"type" must be one of {", ".join(KINDS)}; got {value[:40]!r}.')
    return value


async def repo_of(request: Request, need: str = SEE) -> Repo:
    """The repository that the path names, if the caller may do `need` with it (section 2).

    Raises RepoNotFound, Forbidden, GatedRepo, DisabledRepo; Moved where a GET came by an older name.
    """
    caller = await caller_of(request)
    full_name = f"{request.path_params['namespace']}/{request.path_params['name']}"
    repo = await run_in_threadpool(repositories.find, hub_of(request), caller, kind_of(request), full_name, need)
    if repo.moved and request.method in {"GET", "HEAD"}:
        raise Moved(moved_to(request, repo))
    return repo


async def no_such_repo(request: Request) -> Response:
    """Where a name of one part stands in place of namespace/name: no repository here is called so."""
    kind_of(request)
    raise RepoNotFound((await caller_of(request)).anonymous)


async def repo_to_push_to(request: Request, revision: str) -> Repo:
    """The repository for the steps that come before a commit: writable, or open to a pull request of the caller.

    A pull request needs a token that may write and a repository that its owner sees; the commit itself checks whose
    pull request it is.
    """
    if request.query_params.get("create_pr") in {"1", "true"} or revision.startswith(PULLS):
        return await repo_of(request, PROPOSE)
    return await repo_of(request, WRITE)


def moved_to(request: Request, repo: Repo) -> str:
    """The path of this request with the repository's present name in it, and the same query."""
    segments = request.scope["raw_path"].split(b"/")
    wanted = [request.path_params["namespace"].encode(), request.path_params["name"].encode()]
    for at in range(len(segments) - 1):
        if [unquote_to_bytes(segment) for segment in segments[at : at + 2]] == wanted:
            segments[at : at + 2] = [quote(repo.namespace).encode(), quote(repo.name).encode()]
            break
    query = request.scope["query_string"]
    location = request.app.prefix + b"/".join(segments) + (b"?" + query if query else b"")
    return str(location.decode("latin-1"))


def iso(moment: datetime) -> str:
    """A time as clients parse it: UTC, milliseconds, Z."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def page_size(request: Request, most: int, usual: int | None = None) -> int:
    """`limit` of the query within 1 to `most`; `usual` where none came. Raises BadRequest for anything else."""
    text = request.query_params.get("limit")
    if text is None:
        return usual or most
    number = whole_number(text, 9)
    if number is None:
        raise BadRequest(f'"limit" must be a number, got {text[:40]!r}.')
    return min(max(number, 1), most)
