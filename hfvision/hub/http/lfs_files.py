"""The large files of a repository: list them, remove them for good, link them to another one (protocol section 4)."""

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub import large_files, purging, repositories
from hfvision.hub.errors import BadRequest
from hfvision.hub.http import bodies
from hfvision.hub.http.answers import json_answer, page_answer
from hfvision.hub.http.callers import user_of
from hfvision.hub.http.finding import API, hub_of, iso, kind_in, page_size, repo_of
from hfvision.hub.large_files import check_sha256
from hfvision.hub.repositories import ADMIN, CONTENT, WRITE
from hfvision.hub.routing import route

FILES_PER_CALL = 1000


async def listing(request: Request) -> Response:
    hub, repo = hub_of(request), await repo_of(request, WRITE)
    page = await run_in_threadpool(
        large_files.listing,
        hub,
        repo,
        limit=page_size(request, hub.settings.page_size),
        cursor=request.query_params.get("cursor"),
    )
    rows = [
        {
            "fileOid": one.sha256,
            "oid": one.sha256,
            "filename": one.path or one.sha256,
            "pushedAt": iso(one.linked),
            "ref": one.ref,
            "size": one.size,
        }
        for one in page.items
    ]
    return page_answer(request, rows, page.cursor)


async def purge(request: Request) -> Response:
    caller, repo = await user_of(request), await repo_of(request, ADMIN)
    deletions = (await bodies.json_object(request)).get("deletions")
    listed = deletions.get("sha") if isinstance(deletions, dict) else None
    if deletions is None or not isinstance(listed, list) or not all(isinstance(sha256, str) for sha256 in listed):
        raise BadRequest('"deletions" must be {"sha": [...]}.')
    if len(listed) > FILES_PER_CALL:
        raise BadRequest(f"{FILES_PER_CALL} files at most can be removed in one call, got {len(listed)}.")
    rewrite = deletions.get("rewriteHistory", False)
    if not isinstance(rewrite, bool):
        raise BadRequest(f'"rewriteHistory" must be true or false, got {bodies.shown(rewrite)}.')
    hashes = [check_sha256(sha256) for sha256 in listed]
    count = await run_in_threadpool(purging.purge, hub_of(request), caller, repo, hashes, rewrite)
    return json_answer({"success": True, "rewrittenCommits": count})


async def link_elsewhere(request: Request) -> Response:
    """Link files that the caller reads here to a repository that the caller writes: copies without sending bytes."""
    body = await bodies.json_object(request)
    caller, source = await user_of(request), await repo_of(request, CONTENT)
    target = body.get("target")
    if not isinstance(target, dict):
        raise BadRequest('"target" must be {"type": ..., "name": ...}.')
    kind, name = kind_in(bodies.optional_text(target, "type")), bodies.text(target, "name")
    hub = hub_of(request)
    repo = await run_in_threadpool(repositories.find, hub, caller, kind, name, WRITE)
    hashes = [check_sha256(bodies.text(entry, "sha256")) for entry in bodies.objects(body, "files", FILES_PER_CALL)]
    failed = await run_in_threadpool(large_files.copy_links, hub, caller, source, repo, hashes)
    return json_answer({"failed": [{"sha256": sha256, "error": why} for sha256, why in failed.items()]})


ROUTES = (
    route("GET", API + "/lfs-files", listing),
    route("POST", API + "/lfs-files/batch", purge),
    route("POST", API + "/lfs-files/duplicate", link_elsewhere),
)
