"""Large files the git-lfs way: batch, whole and multipart uploads, verify, locks (protocol section 6.1)."""

import re
from collections.abc import AsyncIterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from hfvision.hub import large_files
from hfvision.hub.errors import BadRequest, Conflict, NotFound
from hfvision.hub.http import bodies, signing
from hfvision.hub.http.answers import base_url, json_answer, quoted, repo_url
from hfvision.hub.http.callers import user_of
from hfvision.hub.http.finding import hub_of, iso, repo_of, repo_to_push_to
from hfvision.hub.http.ranges import span_of
from hfvision.hub.http.resolve import blocks
from hfvision.hub.instance import Hub
from hfvision.hub.large_files import Lock, check_sha256
from hfvision.hub.names import whole_number
from hfvision.hub.repositories import CONTENT, WRITE, Repo
from hfvision.hub.routing import Route, route

MEDIA_TYPE = {"Content-Type": "application/vnd.git-lfs+json"}
OBJECTS = 1000  # of one batch
PARTS = 40_000  # of all the files of one batch: each has an address to be signed
SHA256 = re.compile(r"[0-9a-f]{64}")


def whole(text: str) -> int:
    """A whole number that a signed address holds. Raises BadRequest."""
    number = whole_number(text, 18)
    if number is None:
        raise BadRequest(f"This address wants a number, got {text[:80]!r}.")
    return number


async def batch(request: Request) -> Response:
    hub = hub_of(request)
    body = await bodies.json_object(request)
    operation = bodies.text(body, "operation")
    wanted = [
        (check_sha256(bodies.text(entry, "oid")), bodies.count(entry, "size"))
        for entry in bodies.objects(body, "objects", OBJECTS)
    ]
    if operation not in {"upload", "download"}:
        raise BadRequest(f'"operation" must be upload or download, got {operation[:40]!r}.')
    if bodies.text(body, "hash_algo", "sha256") != "sha256":
        raise BadRequest('"hash_algo" must be sha256.')
    ref = body.get("ref")
    revision = ref.get("name") if isinstance(ref, dict) else None
    if operation == "download":
        repo = await repo_of(request, CONTENT)
    else:
        repo = await repo_to_push_to(request, revision if isinstance(revision, str) else "")
    held = await run_in_threadpool(large_files.held, hub, repo, [oid for oid, _ in wanted])
    offered = body.get("transfers")
    multipart = isinstance(offered, list) and "multipart" in offered
    objects = []
    left = PARTS
    for oid, size in wanted:
        row: dict[str, Any] = {"oid": oid, "size": size}
        if operation == "download":
            row |= download_row(request, hub, oid, size, held)
        elif oid not in held:
            in_parts = multipart and size > hub.settings.multipart_above
            parts = -(-size // hub.settings.part_size) if in_parts else 0
            if size > hub.settings.file_limit:
                row["error"] = too_much(f"A file may have {hub.settings.file_limit} bytes at most.")
            elif parts > left:
                row["error"] = too_much(f"All files of a batch may have {PARTS} parts at most: ask for fewer at once.")
            else:
                left -= parts
                row |= await upload_row(request, hub, repo, oid, size, in_parts)
        objects.append(row)
    return json_answer({"transfer": "basic", "objects": objects, "hash_algo": "sha256"}, headers=MEDIA_TYPE)


def download_row(request: Request, hub: Hub, oid: str, size: int, held: dict[str, int]) -> dict[str, Any]:
    if held.get(oid) != size:
        return {"error": {"code": 404, "message": "This repository holds no such file of this size."}}
    address = hub.store.sign(large_files.key(oid), hub.settings.link_seconds)
    address = address or base_url(request) + signing.signed(hub, "GET", f"/api/lfs/objects/{oid}/{size}")
    return {"authenticated": True, "actions": {"download": {"href": address, "expires_in": hub.settings.link_seconds}}}


def too_much(message: str) -> dict[str, Any]:
    return {"code": 422, "message": message}


async def upload_row(request: Request, hub: Hub, repo: Repo, oid: str, size: int, in_parts: bool) -> dict[str, Any]:
    """Where to send one object: whole to one signed address, or in parts to several."""
    base, life = base_url(request), hub.settings.link_seconds
    verify = {"href": f"{repo_url(request, repo)}.git/info/lfs/objects/verify", "expires_in": life}
    if not in_parts:
        href = base + signing.signed(hub, "PUT", f"/api/lfs/uploads/{repo.id}/{oid}/{size}")
        return {"authenticated": True, "actions": {"upload": {"href": href, "expires_in": life}, "verify": verify}}
    session = await run_in_threadpool(large_files.begin_parts, hub, repo.id, oid, size)
    part_size = hub.settings.part_size
    place = f"/api/lfs/parts/{quoted(session)}/{oid}"
    header = {"chunk_size": str(part_size)}
    for number in range(1, -(-size // part_size) + 1):
        header[f"{number:05d}"] = base + signing.signed(hub, "PUT", f"{place}/{number}")
    upload = {"href": base + signing.signed(hub, "POST", place), "header": header, "expires_in": life}
    return {"authenticated": True, "actions": {"upload": upload, "verify": verify}}


async def receive(request: Request) -> Response:
    """A whole file, at an address that a batch has signed."""
    hub, holes = hub_of(request), request.path_params
    signing.check(hub, request)
    size = whole(holes["size"])
    body = bodies.stream(request, size)
    await large_files.receive_stream(hub, whole(holes["repo"]), holes["oid"], size, body)
    return Response(status_code=200, headers={"ETag": f'"{holes["oid"]}"'})


async def receive_part(request: Request) -> Response:
    hub, holes = hub_of(request), request.path_params
    signing.check(hub, request)
    body: AsyncIterator[bytes] = bodies.stream(request, hub.settings.part_size)
    part = await large_files.receive_part(hub, holes["session"], whole(holes["number"]), body)
    return Response(status_code=200, headers={"ETag": f'"{part.etag}"'})


async def complete(request: Request) -> Response:
    """Join the parts; `etag` comes back as it was sent, quotes and all."""
    hub, holes = hub_of(request), request.path_params
    signing.check(hub, request)
    body = await bodies.json_object(request, 4 * bodies.JSON_CAP)
    if body.get("oid") not in (None, holes["oid"]):
        raise BadRequest('"oid" is not the file that this upload was begun for.')
    parts = []
    for entry in bodies.objects(body, "parts", PARTS):
        parts.append((bodies.count(entry, "partNumber"), bodies.text(entry, "etag").strip('"')))
    await run_in_threadpool(large_files.complete_parts, hub, holes["session"], holes["oid"], parts)
    return json_answer({"success": True})


async def verify(request: Request) -> Response:
    body = await bodies.json_object(request)
    oid, size = bodies.text(body, "oid"), bodies.count(body, "size")
    repo = await repo_of(request)
    await user_of(request)
    await run_in_threadpool(large_files.verify, hub_of(request), repo, oid, size)
    return json_answer({"success": True}, headers=MEDIA_TYPE)


async def download(request: Request) -> Response:
    """A whole object, at an address that a batch has signed."""
    hub, holes = hub_of(request), request.path_params
    signing.check(hub, request)
    key, size = large_files.key(check_sha256(holes["oid"])), whole(holes["size"])
    if await run_in_threadpool(hub.store.size, key) != size:
        raise NotFound("This file was deleted after the address had been made.")
    span = span_of(request.headers.get("range"), size)
    headers = {"Content-Length": str(span.length), "Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
    if span.partial:
        headers["Content-Range"] = span.content_range
    return StreamingResponse(blocks(hub, key, span), 206 if span.partial else 200, headers)


def lock_json(lock: Lock) -> dict[str, Any]:
    return {"id": lock.id, "path": lock.path, "locked_at": iso(lock.created), "owner": {"name": lock.owner}}


async def create_lock(request: Request) -> Response:
    body = await bodies.json_object(request)
    caller, repo = await user_of(request), await repo_of(request, WRITE)
    path = bodies.text(body, "path")
    try:
        lock = await run_in_threadpool(large_files.create_lock, hub_of(request), caller, repo, path)
    except Conflict as error:
        held = await run_in_threadpool(large_files.locks, hub_of(request), repo, path)
        rows = [lock_json(lock) for lock in held]
        return json_answer({"message": error.message, "lock": rows[0] if rows else None}, 409, MEDIA_TYPE)
    return json_answer({"lock": lock_json(lock)}, 201, MEDIA_TYPE)


async def list_locks(request: Request) -> Response:
    repo = await repo_of(request)
    found = await run_in_threadpool(large_files.locks, hub_of(request), repo, request.query_params.get("path"))
    wanted = request.query_params.get("id")
    return json_answer({"locks": [lock_json(lock) for lock in found if wanted in (None, lock.id)]}, headers=MEDIA_TYPE)


async def verify_locks(request: Request) -> Response:
    caller, repo = await user_of(request), await repo_of(request, WRITE)
    found = await run_in_threadpool(large_files.locks, hub_of(request), repo)
    ours = [lock_json(lock) for lock in found if lock.owner == caller.name]
    theirs = [lock_json(lock) for lock in found if lock.owner != caller.name]
    return json_answer({"ours": ours, "theirs": theirs}, headers=MEDIA_TYPE)


async def unlock(request: Request) -> Response:
    body = await bodies.json_object(request)
    caller, repo = await user_of(request), await repo_of(request, WRITE)
    number, force = request.path_params["lock"], bodies.true(body.get("force"))
    lock = await run_in_threadpool(large_files.delete_lock, hub_of(request), caller, repo, number, force)
    return json_answer({"lock": lock_json(lock)}, headers=MEDIA_TYPE)


def repo_routes(place: str) -> tuple[Route, ...]:
    lfs = place + "/{namespace}/{name}.git/info/lfs"
    return (
        route("POST", lfs + "/objects/batch", batch),
        route("POST", lfs + "/objects/verify", verify),
        route("POST", lfs + "/locks", create_lock),
        route("GET", lfs + "/locks", list_locks),
        route("POST", lfs + "/locks/verify", verify_locks),
        route("POST", lfs + "/locks/{lock}/unlock", unlock),
    )


ROUTES = (
    *repo_routes(""),
    *repo_routes("/{kinds}"),
    route("PUT", "/api/lfs/uploads/{repo}/{oid}/{size}", receive),
    route("PUT", "/api/lfs/parts/{session}/{oid}/{number}", receive_part),
    route("POST", "/api/lfs/parts/{session}/{oid}", complete),
    route("GET", "/api/lfs/objects/{oid}/{size}", download),
)
