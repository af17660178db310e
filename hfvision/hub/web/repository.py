"""The card of a repository, its files, and one file."""

from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from hfvision.hub import commits, files, metadata, refs, repositories
from hfvision.hub.errors import DisabledRepo, EntryNotFound, HubError
from hfvision.hub.http.answers import base_url
from hfvision.hub.repositories import Repo
from hfvision.hub.web import datasets
from hfvision.hub.web.markdown import CARD_LIMIT, body_of, rendered
from hfvision.hub.web.rendering import page, page_headers
from hfvision.hub.web.shared import IMAGES, ending, image_type, locator, may_read_content, repo_values
from hfvision.hub.web.snippets import python_snippet, shell_snippet
from hfvision.hub.web.visits import Visit

TEXT_LIMIT = 256 * 1024  # bytes of a text file that are shown
IMAGE_LIMIT = 20 << 20  # bytes of an image that is shown in a page
FOLDER_ROWS = 500


async def card(request: Request, visit: Visit, repo: Repo) -> Response:
    """The card with its licence, the code to load it and, for a dataset, its first images."""
    if repo.disabled:  # the card is one of its files
        raise DisabledRepo
    revision = request.query_params.get("revision") or "main"

    def work() -> tuple[Repo, str, str, list[str]]:
        commit = refs.resolve(visit.hub, repo, revision)
        try:
            text = files.read_file(visit.hub, repo, commit, "README.md", CARD_LIMIT).decode("utf-8", "replace")
        except (EntryNotFound, HubError) as error:
            if not isinstance(error, EntryNotFound):
                raise
            text = ""
        names = refs.names(visit.hub, repo)
        return metadata.at_commit(visit.hub, repo, commit), commit, text, names

    shown, commit, text, names = await run_in_threadpool(work)
    readable = await may_read_content(visit, repo)
    locate = locator(request, repo, commit)
    body = await run_in_threadpool(lambda: rendered(body_of(text), locate)) if text else None
    values = repo_values(shown, "card", revision) | {
        "commit": commit,
        "names": names,
        "body": body,
        "readable": readable,
        "asked": await run_in_threadpool(lambda: repositories.access_status(visit.hub, visit.caller, repo)),
        "snippets": (shell_snippet(repo, base_url(request)), python_snippet(shown, revision)),
    }
    if repo.kind == "dataset" and readable:
        values["gallery"] = await datasets.first_images(visit, repo, commit)
    return page(request, "repository.html", **values)


async def tree(request: Request, visit: Visit, repo: Repo) -> Response:
    """A folder with the last change of each of its entries."""
    revision, path = request.path_params["revision"], request.path_params["path"]

    def work() -> dict[str, Any]:
        commit = refs.resolve(visit.hub, repo, revision)
        found = files.list_tree(
            visit.hub,
            repo,
            commit,
            path,
            expand=True,
            limit=FOLDER_ROWS,
            cursor=request.query_params.get("cursor") or None,
        )
        names = refs.names(visit.hub, repo)
        head = commits.find_commit(visit.hub, repo, commit)
        return {"entries": found.items, "cursor": found.cursor, "names": names, "head": head, "commit": commit}

    values = (
        repo_values(repo, "files", revision) | {"path": path, "crumbs": crumbs(path)} | await run_in_threadpool(work)
    )
    values["entries"].sort(key=lambda entry: (entry.kind != "directory", entry.path))
    return page(request, "tree.html", **values)


async def blob(request: Request, visit: Visit, repo: Repo) -> Response:
    """One file: its text, or the image, or what there is to say of it."""
    revision, path = request.path_params["revision"], request.path_params["path"]

    def work() -> dict[str, Any]:
        commit = refs.resolve(visit.hub, repo, revision)
        found = files.open_file(visit.hub, repo, commit, path)
        text, cut = None, False
        if image_type(path) is None:
            start = files.read_file(visit.hub, repo, commit, path, TEXT_LIMIT)
            text, cut = as_text(start), found.entry.size > len(start)
        return {"entry": found.entry, "commit": commit, "text": text, "cut": cut}

    values = (
        repo_values(repo, "files", revision) | {"path": path, "crumbs": crumbs(path)} | await run_in_threadpool(work)
    )
    shown = image_type(path) is not None and values["entry"].size <= IMAGE_LIMIT
    return page(request, "blob.html", image=shown, **values)


async def download(request: Request, visit: Visit, repo: Repo) -> Response:
    """A file for a signed-in browser, which has no token to send. Images show in pages, everything else is saved."""
    revision, path = request.path_params["revision"], request.path_params["path"]
    found = await run_in_threadpool(lambda: files.open_file(visit.hub, repo, revision, path))
    media = image_type(path)
    if media is not None:
        start = await run_in_threadpool(lambda: files.read_file(visit.hub, repo, found.commit, path, 16))
        media = media if start.startswith(IMAGES[ending(path)][1]) else None
    name = quote(path.rsplit("/", 1)[-1])
    headers = page_headers() | {
        "Content-Disposition": f"{'inline' if media else 'attachment'}; filename*=UTF-8''{name}",
        "Content-Length": str(found.entry.size),
        "ETag": f'"{found.entry.etag}"',
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    media = media or "application/octet-stream"
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers={"ETag": headers["ETag"]})
    if found.key is None:
        return Response(found.data or b"", headers=headers, media_type=media)
    if request.method == "HEAD":
        return Response(headers=headers, media_type=media)
    return StreamingResponse(visit.hub.store.stream(found.key), headers=headers, media_type=media)


def crumbs(path: str) -> list[tuple[str, str]]:
    """(name, path) of every folder on the way and of the entry itself."""
    parts = [part for part in path.split("/") if part]
    return [(part, "/".join(parts[: depth + 1])) for depth, part in enumerate(parts)]


def as_text(data: bytes) -> str | None:
    """Text, or None for anything that is none; a character may be cut at the end."""
    if b"\0" in data:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        return data[: error.start].decode("utf-8") if len(data) - error.start < 4 else None
