"""Lists of models and datasets with search and filters, the front page, and the page of an account."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub import accounts, repositories
from hfvision.hub.errors import BadRequest
from hfvision.hub.web.rendering import page
from hfvision.hub.web.visits import Visit

ROWS = 30
SORTS = {"lastModified": "Recently changed", "downloads": "Downloads", "likes": "Likes", "createdAt": "Newest"}
USUAL_SORT = "lastModified"
GROUPS = {  # heading -> how its tags begin; the last group takes the rest
    "Licence": ("license:",),
    "Trained on": ("dataset:",),
    "Made from": ("base_model:",),
    "Data": ("modality:", "format:", "size_categories:"),
    "Task": ("task_categories:",),
}
SHOWN_TAGS = 12  # of each group
PLURAL = {kind: accounts.KINDS[kind] for kind in ("model", "dataset")}  # of what has pages


@dataclass(frozen=True)
class TagLink:
    """A filter as a link that switches it on or off."""

    tag: str
    text: str
    count: int | None
    on: bool
    query: str


async def home(request: Request, visit: Visit) -> Response:
    """The latest models and datasets."""

    def work() -> dict[str, Any]:
        return {
            plural: repositories.search(visit.hub, visit.caller, kind, sort=USUAL_SORT, limit=8).items
            for kind, plural in PLURAL.items()
        }

    return page(request, "home.html", **await run_in_threadpool(work))


async def models(request: Request, visit: Visit) -> Response:
    return await _list(request, visit, "model")


async def datasets(request: Request, visit: Visit) -> Response:
    return await _list(request, visit, "dataset")


async def account(request: Request, visit: Visit) -> Response:
    """A user or an organisation with what it has published, as far as the reader may see it."""
    name = request.path_params["namespace"]

    def work() -> dict[str, Any]:
        found = accounts.find_account(visit.hub, name)
        shown: dict[str, Any] = {
            plural: repositories.search(
                visit.hub, visit.caller, kind, author=found.name, sort=USUAL_SORT, limit=200
            ).items
            for kind, plural in PLURAL.items()
        }
        people = accounts.members(visit.hub, found.name) if found.kind == "org" else []
        return {**shown, "account": found, "people": people}

    return page(request, "account.html", **await run_in_threadpool(work))


async def _list(request: Request, visit: Visit, kind: str) -> Response:
    query = request.query_params
    words = query.get("search", "").split()[:10]
    filters = list(dict.fromkeys(query.getlist("filter")))[:20]
    sort = query.get("sort", USUAL_SORT)
    if sort not in SORTS:
        raise BadRequest(f"Lists are sorted by {', '.join(SORTS)}, not by {sort[:40]!r}.")
    task = query.get("pipeline_tag") or None
    author = query.get("author") or None

    def work() -> tuple[repositories.Page, list[tuple[str, int]]]:
        found = repositories.search(
            visit.hub,
            visit.caller,
            kind,
            words=words,
            author=author,
            filters=filters,
            pipeline_tag=task,
            sort=sort,
            limit=ROWS,
            cursor=query.get("cursor") or None,
        )
        return found, repositories.tag_counts(visit.hub, visit.caller, kind, limit=200)

    found, counts = await run_in_threadpool(work)
    kept = [(name, value) for name, value in query.multi_items() if name != "cursor" and value]
    following = urlencode([*kept, ("cursor", found.cursor)]) if found.cursor else None
    return page(
        request,
        "list.html",
        kind=kind,
        plural=PLURAL[kind],
        repos=found.items,
        following=following,
        first=query.get("cursor") is None,
        groups=_groups(counts, filters, kept),
        filters=filters,
        search=query.get("search", ""),
        author=author or "",
        sort=sort,
        sorts=SORTS,
    )


def _groups(counts: list[tuple[str, int]], on: list[str], kept: list[tuple[str, str]]) -> dict[str, list[TagLink]]:
    """The commonest tags by kind, chosen ones first."""
    known = dict(counts)
    found: dict[str, list[TagLink]] = {name: [] for name in (*GROUPS, "Tags")}
    for tag in dict.fromkeys([*on, *known]):
        name = next((name for name, starts in GROUPS.items() if tag.startswith(starts)), "Tags")
        text = tag.partition(":")[2] if name != "Tags" else tag
        chosen = tag in on
        without = [pair for pair in kept if pair != ("filter", tag)]
        query = urlencode(without if chosen else [*kept, ("filter", tag)])
        if chosen or len(found[name]) < SHOWN_TAGS:
            found[name].append(TagLink(tag, text or tag, known.get(tag), chosen, query))
    return {name: links for name, links in found.items() if links}
