"""Try a model: a form that takes an image, and the answer of the model's process."""

import base64
from collections.abc import AsyncGenerator
from typing import Any

from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub import refs
from hfvision.hub.errors import BadRequest, HubError, NotFound
from hfvision.hub.http import bodies
from hfvision.hub.repositories import Repo
from hfvision.hub.try_it.models import Trial
from hfvision.hub.web.rendering import page
from hfvision.hub.web.repository import repo_values
from hfvision.hub.web.sessions import check_origin
from hfvision.hub.web.visits import Visit, off_loop

FORM_BYTES = 64 * 1024  # of a form besides its image


async def trial(request: Request, visit: Visit, repo: Repo) -> Response:
    """GET: the form. POST: the form with the answer below it, or the answer alone for the page's script."""
    settings = visit.hub.settings
    values = repo_values(repo, "try")
    if not (settings.try_it and values["triable"]):
        raise NotFound("This model cannot be tried here.")
    values |= {"limit": settings.try_image_limit, "answer": None, "picture": None, "problem": None}
    if request.method != "POST":
        return page(request, "try.html", scripts=True, **values)
    check_origin(request)
    status = 200
    try:
        image = await _image(request, settings.try_image_limit)
        commit = await off_loop(lambda: refs.resolve(visit.hub, repo, "main"))
        answer = await off_loop(lambda: visit.trials.answer(repo, commit, image))
        values |= {"answer": answer, "picture": _address(answer)}
    except HubError as error:
        status = error.status
        values["problem"] = error.message
    if request.headers.get("x-fragment") == "1":
        return page(request, "answer.html", status, **values)
    return page(request, "try.html", status, scripts=True, **values)


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
