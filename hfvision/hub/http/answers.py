"""Answers in the shape that clients read: JSON, errors with their headers, pages with a link to the next one."""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub.errors import BadRequest, HubError
from hfvision.hub.lookup import Repo

HOST = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
QUOTED_SAFE = "/!$'()*,:;=@~&+"  # characters of a path that need no quoting in an address


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, status, dict(headers or {}), "application/json; charset=utf-8")


def error_answer(error: HubError, request: Request) -> Response:
    """The answer of protocol section 2: the text in the body and, on one line, in a header; the code in another."""
    headers = dict(error.headers)
    if error.status >= 400:
        headers["X-Error-Message"] = one_line(error.message)
    if error.code:
        headers["X-Error-Code"] = error.code
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="Authentication required"'
    body = {"error": error.message}
    if error.url is not None:
        body["url"] = f"{base_url(request)}/{error.url.lstrip('/')}"
    return json_answer(body, error.status, headers)


def one_line(message: str) -> str:
    """Text as a header can carry it: Latin-1 in printable characters, at most 1,000 of them."""
    return re.sub(r"[^ -~\xa1-\xff]+", " ", message)[:1000].strip()


def base_url(request: Request) -> str:
    """What the client calls this hub, without a slash at its end (protocol section 0.4).

    The configured public address, else the `Host` that the client sent. Raises 400 for a `Host` that is none.
    """
    public: str = request.app.hub.settings.public_url
    if public:
        return public
    host = request.headers.get("host", "")
    if not HOST.fullmatch(host):
        raise BadRequest("The Host header is not a host.")
    return f"{request.url.scheme}://{host}"


def repo_url(request: Request, repo: Repo) -> str:
    """The address of a repository's page."""
    return f"{base_url(request)}/{repo.url}"


def quoted(path: str) -> str:
    """A path as part of an address."""
    return quote(path, safe=QUOTED_SAFE)


def page_answer(request: Request, rows: list[Any], cursor: str | None) -> Response:
    """A page of a list; with a cursor, `Link` names the next page with all parameters of this one (section 1)."""
    headers = {}
    if cursor is not None:
        kept = [(key, value) for key, value in request.query_params.multi_items() if key != "cursor"]
        raw_path = request.scope["raw_path"].decode("ascii", "replace").partition("?")[0]
        query = urlencode([*kept, ("cursor", cursor)])
        headers["Link"] = f'<{base_url(request)}{raw_path}?{query}>; rel="next"'
    return json_answer(rows, headers=headers)
