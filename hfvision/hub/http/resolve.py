"""Downloads: one file of one revision, whole or in part (protocol section 5)."""

import mimetypes
from collections.abc import AsyncIterator, Iterator

from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from hfvision.hub import files
from hfvision.hub.files import OpenFile
from hfvision.hub.http.answers import base_url, quoted
from hfvision.hub.http.finding import hub_of, repo_of
from hfvision.hub.http.ranges import Span, span_of
from hfvision.hub.instance import Hub
from hfvision.hub.repositories import CONTENT, KINDS, Repo
from hfvision.hub.routing import route

# Shown to scripts of other origins; user files themselves run nothing: sandboxed, and never sniffed.
EXPOSED = "Accept-Ranges, Content-Length, Content-Range, ETag, Link, Location, X-Error-Code, X-Error-Message, "
EXPOSED += "X-Linked-Etag, X-Linked-Size, X-Repo-Commit, X-Request-Id, X-Xet-Hash"
SAFE_TYPES = {"image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp", "application/json"}


async def resolve(request: Request) -> Response:
    return await download(request, pointer=False)


async def raw(request: Request) -> Response:
    """The same, but of a large file the text that git stores for it."""
    return await download(request, pointer=True)


async def download(request: Request, pointer: bool) -> Response:
    hub, repo = hub_of(request), await repo_of(request, CONTENT)
    path, revision = request.path_params["path"], request.path_params["revision"]
    found = await run_in_threadpool(files.open_file, hub, repo, revision, path, pointer=pointer)
    headers = describe(request, repo, found, path)
    size = len(found.data) if found.data is not None else found.entry.size
    if f'"{found.entry.etag}"' in request.headers.get("if-none-match", "") and "range" not in request.headers:
        return Response(status_code=304, headers=headers)
    span = span_of(request.headers.get("range"), size)
    if request.method == "GET" and span.start == 0:
        request.app.downloads.add(request, repo.id)
    signed = hub.store.sign(found.key, hub.settings.link_seconds) if found.key is not None else None
    if signed is not None:
        return RedirectResponse(signed, 302, headers)
    headers["Content-Length"] = str(span.length)
    if span.partial:
        headers["Content-Range"] = span.content_range
    status = 206 if span.partial else 200
    if request.method == "HEAD" or span.length == 0:
        return Response(None, status, headers)
    if found.data is not None:
        return Response(found.data[span.start : span.end], status, headers)
    assert found.key is not None
    return StreamingResponse(blocks(hub, found.key, span), status, headers)


def describe(request: Request, repo: Repo, found: OpenFile, path: str) -> dict[str, str]:
    """The headers that clients live on: commit, ETag, size and name; for large files also their Xet hash."""
    entry, name = found.entry, path.rpartition("/")[2]
    guessed = mimetypes.guess_type(name)[0] or "application/octet-stream"
    headers = {
        "X-Repo-Commit": found.commit,
        "ETag": f'"{entry.etag}"',
        "Accept-Ranges": "bytes",
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Expose-Headers": EXPOSED,
        "Cache-Control": "no-cache",
        "Content-Disposition": f"inline; filename*=UTF-8''{quoted(name)}",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Content-Type": guessed if guessed in SAFE_TYPES else "text/plain; charset=utf-8",
        "Vary": "Authorization",
        "X-Content-Type-Options": "nosniff",
    }
    if entry.sha256 is not None and found.key is not None:
        if guessed not in SAFE_TYPES:
            headers["Content-Type"] = "application/octet-stream"
        headers["X-Linked-Etag"] = headers["ETag"]
        headers["X-Linked-Size"] = str(entry.size)
        if hub_of(request).settings.xet_downloads:
            refresh = f"{base_url(request)}/api/{KINDS[repo.kind]}/{repo.full_name}/xet-read-token/{found.commit}"
            headers["X-Xet-Hash"] = entry.sha256
            headers["Link"] = f'<{refresh}>; rel="xet-auth"'
    return headers


async def blocks(hub: Hub, key: str, span: Span) -> AsyncIterator[bytes]:
    """Bytes of a stored file; what reads it is closed whether or not the client stays to the end."""
    source: Iterator[bytes] = hub.store.stream(key, span.start, span.end)
    try:
        async for block in iterate_in_threadpool(source):
            yield block
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            await run_in_threadpool(close)


ROUTES = (
    route("GET", "/{namespace}/{name}/resolve/{revision}/{path...}", resolve),
    route("GET", "/{kinds}/{namespace}/{name}/resolve/{revision}/{path...}", resolve),
    route("GET", "/{namespace}/{name}/raw/{revision}/{path...}", raw),
    route("GET", "/{kinds}/{namespace}/{name}/raw/{revision}/{path...}", raw),
)
