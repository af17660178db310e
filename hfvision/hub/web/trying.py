"""Try a model: a form that takes an image, and the answer of the model's process."""

import base64
import posixpath
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub import files, refs
from hfvision.hub.errors import BadRequest, HubError, NotFound
from hfvision.hub.http import bodies
from hfvision.hub.instance import Hub
from hfvision.hub.repositories import Repo
from hfvision.hub.try_it.models import Trial
from hfvision.hub.web import forms
from hfvision.hub.web.rendering import page
from hfvision.hub.web.sessions import check_origin
from hfvision.hub.web.shared import image_type, own_path, repo_values
from hfvision.hub.web.visits import Visit

FORM_BYTES = 64 * 1024  # of a form besides its image
MOST_EXAMPLES = 8


async def trial(request: Request, visit: Visit, repo: Repo) -> Response:
    """GET: the form. POST: the form with the answer below it, or the answer alone for the page's script."""
    settings = visit.hub.settings
    values = repo_values(repo, "try")
    if not (settings.try_it and values["triable"]):
        raise NotFound("This model cannot be tried here.")
    commit = await run_in_threadpool(lambda: refs.resolve(visit.hub, repo, "main"))
    offered = await run_in_threadpool(lambda: examples(visit.hub, repo, commit))
    values |= {"limit": settings.try_image_limit, "answer": None, "picture": None, "problem": None, "examples": offered}
    if request.method != "POST":
        return page(request, "try.html", scripts=True, **values)
    check_origin(request)
    status = 200
    try:
        if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            path = forms.chosen((await forms.fields(request)).get("example", ""), {path: path for path in offered})
            limit = settings.try_image_limit
            image = await run_in_threadpool(lambda: files.read_file(visit.hub, repo, commit, path, limit))
        else:
            image = await _image(request, settings.try_image_limit)
        answer = await run_in_threadpool(lambda: visit.trials.answer(repo, commit, image))
        values |= {"answer": answer, "picture": _address(answer)}
    except HubError as error:
        status = error.status
        values["problem"] = error.message
    if request.headers.get("x-fragment") == "1":
        return page(request, "answer.html", status, **values)
    return page(request, "try.html", status, scripts=True, **values)


def examples(hub: Hub, repo: Repo, commit: str) -> dict[str, str]:
    """Images of the repository that its card offers to try (`widget`): path -> title."""
    rows = (repo.card or {}).get("widget")
    found: dict[str, str] = {}
    for row in rows[:MOST_EXAMPLES] if isinstance(rows, list) else []:
        source, title = (row.get("src"), row.get("example_title")) if isinstance(row, dict) else (None, None)
        path = _path(repo, source) if isinstance(source, str) else None
        if path is not None and image_type(path):
            found[path] = str(title)[:60] if title else path.rpartition("/")[2]
    there = {entry.path for entry in files.entries(hub, repo, commit, list(found)) if entry.kind == "file"}
    return {path: title for path, title in found.items() if path in there}


def _path(repo: Repo, source: str) -> str | None:
    """The file of the repository that a card's address means, if it means one."""
    try:
        parts = urlsplit(source)
    except ValueError:
        return None
    path = unquote(parts.path)
    return own_path(repo, path) or (None if parts.netloc or "\0" in path else posixpath.normpath(path))


async def _image(request: Request, limit: int) -> bytes:
    """The file of the form. Raises BadRequest, and TooLarge before more than the limit is held."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise BadRequest("Send the image in a form (multipart/form-data).")
    body = b"".join([piece async for piece in bodies.stream(request, limit + FORM_BYTES)])

    async def once() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(request.headers, once(), max_files=1, max_fields=5).parse()
    except (MultiPartException, KeyError, ValueError, UnicodeError) as error:
        raise BadRequest("The form cannot be read.") from error
    try:
        found: Any = form.get("image")
        data: bytes = b"" if found is None or isinstance(found, str) else await found.read()
    finally:
        await form.close()
    if not data:
        raise BadRequest("Choose an image first.")
    return data


def _address(answer: Trial) -> str | None:
    if answer.picture is None:
        return None
    return f"data:image/png;base64,{base64.b64encode(answer.picture).decode()}"
