"""What a repository is, and lists of them (protocol sections 4.1 and 4.2)."""

import re
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub import files, metadata, refs, repositories
from hfvision.hub.errors import BadRequest
from hfvision.hub.files import Entry
from hfvision.hub.http import bodies
from hfvision.hub.http.answers import json_answer, page_answer
from hfvision.hub.http.callers import caller_of
from hfvision.hub.http.finding import API, hub_of, iso, kind_of, page_size, repo_of
from hfvision.hub.instance import Hub
from hfvision.hub.repositories import Repo
from hfvision.hub.routing import route

SORTS = {
    "createdAt": "createdAt",
    "created_at": "createdAt",
    "downloads": "downloads",
    "lastModified": "lastModified",
    "last_modified": "lastModified",
    "likes": "likes",
    "trendingScore": "trendingScore",
    "trending_score": "trendingScore",
}
ROWS_WITH_FILES = 50  # rows of one page when each of them lists its files
SCALES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}

Row = dict[str, Any]

# Properties that need nothing but the repository's own row, by the name that `expand` and answers use.
PROPERTIES: dict[str, Callable[[Repo], Any]] = {
    "author": lambda repo: repo.namespace,
    "cardData": lambda repo: repo.card,
    "config": lambda repo: repo.config,
    "createdAt": lambda repo: iso(repo.created),
    "description": lambda repo: (repo.card or {}).get("description"),
    "disabled": lambda repo: repo.disabled,
    "downloads": lambda repo: repo.downloads,
    "downloadsAllTime": lambda repo: repo.downloads,
    "gated": lambda repo: repo.gated or False,
    "lastModified": lambda repo: iso(repo.modified),
    "library_name": lambda repo: repo.library_name,
    "likes": lambda repo: repo.likes,
    "model-index": lambda repo: (repo.card or {}).get("model-index"),
    "pipeline_tag": lambda repo: repo.pipeline_tag,
    "private": lambda repo: repo.private,
    "safetensors": lambda repo: repo.safetensors,
    "sdk": lambda repo: (repo.card or {}).get("sdk"),
    "sha": lambda repo: repo.sha,
    "spaces": lambda repo: [],
    "tags": lambda repo: list(repo.tags),
    "trendingScore": lambda repo: repo.downloads,  # a hub of one institute: what is used most is what trends
    "widgetData": lambda repo: (repo.card or {}).get("widget"),
}
MODEL_ONLY = {"config", "library_name", "model-index", "pipeline_tag", "safetensors", "spaces", "widgetData"}
ALWAYS = ("author", "createdAt", "downloads", "library_name", "likes", "pipeline_tag", "private", "tags")
FULL = (*ALWAYS, "disabled", "gated", "lastModified", "sha")
INFO = (*FULL, "cardData", "config", "model-index", "safetensors", "sdk", "spaces", "widgetData")
MAY_BE_NULL = {"library_name", "pipeline_tag"}  # told even when unknown: clients look for the key


def row_of(repo: Repo, names: tuple[str, ...]) -> Row:
    """A repository as JSON with these properties; those without a value are left out."""
    row: Row = {"_id": f"{repo.id:024x}", "id": repo.full_name}
    if repo.kind == "model":
        row["modelId"] = repo.full_name
    for name in names:
        if name not in PROPERTIES or (name in MODEL_ONLY and repo.kind != "model"):
            continue
        value = PROPERTIES[name](repo)
        if value is not None or name in MAY_BE_NULL:
            row[name] = value
    return row


def sibling_json(entry: Entry, blobs: bool) -> Row:
    row: Row = {"rfilename": entry.path}
    if blobs:
        row |= {"size": entry.size, "blobId": entry.oid}
        if entry.sha256 is not None:
            row["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": entry.pointer_size}
    return row


def siblings(hub: Hub, repo: Repo, commit: str, blobs: bool) -> list[Row]:
    return [sibling_json(entry, blobs) for entry in files.siblings(hub, repo, commit, sizes=blobs)]


def expanded(request: Request) -> list[str]:
    return request.query_params.getlist("expand") + request.query_params.getlist("expand[]")


async def info(request: Request) -> Response:
    repo = await repo_of(request)
    revision = request.path_params.get("revision", "main")
    return json_answer(await run_in_threadpool(describe, hub_of(request), repo, revision, request))


def describe(hub: Hub, repo: Repo, revision: str, request: Request) -> Row:
    """One repository as one of its revisions describes it."""
    commit = refs.resolve(hub, repo, revision)
    expand = expanded(request)
    blobs = bodies.true(request.query_params.get("blobs"))
    row = row_of(metadata.at_commit(hub, repo, commit), tuple(expand) if expand else INFO)
    if not expand or "siblings" in expand:
        row["siblings"] = siblings(hub, repo, commit, blobs)
    if not expand or "usedStorage" in expand:
        row["usedStorage"] = repositories.used_storage(hub, repo)
    if bodies.true(request.query_params.get("securityStatus")):
        row["securityRepoStatus"] = {"scansDone": False, "filesWithIssues": []}
    return row


def parameter_range(text: str | None) -> tuple[int | None, int | None]:
    """`min:6B,max:128B` as numbers of parameters. Raises BadRequest."""
    ends: dict[str, int] = {}
    for part in (text or "").split(","):
        if not part:
            continue
        fit = re.fullmatch(r"(min|max):(\d{1,6}(?:\.\d{1,6})?)([KMBT]?)", part)
        if fit is None:
            raise BadRequest(f'"num_parameters" must look like min:6B,max:128B; got {(text or "")[:80]!r}.')
        ends[fit[1]] = round(float(fit[2]) * SCALES[fit[3]])
    return ends.get("min"), ends.get("max")


async def listing(request: Request) -> Response:
    hub, caller = hub_of(request), await caller_of(request)
    kind = kind_of(request)
    query = request.query_params
    sort = query.get("sort")
    if sort is not None and sort not in SORTS:
        raise BadRequest(f'"sort" must be one of {", ".join(sorted(set(SORTS.values())))}; got {sort[:40]!r}.')
    expand = expanded(request)
    full = bodies.true(query.get("full"))
    with_files = full or "siblings" in expand
    most = min(hub.settings.page_size, ROWS_WITH_FILES) if with_files else hub.settings.page_size
    if query.get("inference") or query.get("inference_provider"):
        return json_answer([])  # nobody serves models of this hub
    page = await run_in_threadpool(
        repositories.search,
        hub,
        caller,
        kind,
        words=query.getlist("search"),
        author=query.get("author"),
        filters=query.getlist("filter"),
        pipeline_tag=query.get("pipeline_tag"),
        gated=bodies.true(query["gated"]) if "gated" in query else None,
        parameters=parameter_range(query.get("num_parameters")),
        sort=SORTS[sort] if sort else None,
        limit=page_size(request, most),
        cursor=query.get("cursor"),
    )
    names = list(expand or (FULL if full else ALWAYS))
    if not expand:
        names += ["cardData"] if full or bodies.true(query.get("cardData")) else []
        names += ["config"] if bodies.true(query.get("config")) else []

    def rows() -> list[Row]:
        result = []
        for repo in page.items:
            row = row_of(repo, tuple(names))
            if with_files:
                row["siblings"] = siblings(hub, repo, repo.sha, blobs=False)
            if "usedStorage" in expand:
                row["usedStorage"] = repositories.used_storage(hub, repo)
            result.append(row)
        return result

    return page_answer(request, await run_in_threadpool(rows), page.cursor)


ROUTES = (
    route("GET", "/api/{kinds}", listing),
    route("GET", API, info),
    route("GET", API + "/revision/{revision}", info),
)
