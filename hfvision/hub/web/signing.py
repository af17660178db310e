"""Signing in and out of the pages."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from hfvision.hub.errors import BadToken
from hfvision.hub.http import bodies
from hfvision.hub.web import sessions
from hfvision.hub.web.rendering import page, page_headers, prefix_of
from hfvision.hub.web.visits import Visit


async def login(request: Request, visit: Visit) -> Response:
    """The form; a good token leads back to the page that the reader came from."""
    if request.method != "POST":
        return page(request, "login.html", failed=False, next=_within(request.query_params.get("next", "/")))
    sessions.check_origin(request)
    form = await bodies.form_or_json(request, cap=16 * 1024)
    target = _within(str(form.get("next", ["/"])[0]))
    answer = RedirectResponse(prefix_of(request) + target, 303, page_headers())
    try:
        await sessions.sign_in(request, str(form.get("token", [""])[0]).strip(), answer)
    except BadToken:
        return page(request, "login.html", 401, failed=True, next=target)
    return answer


async def logout(request: Request, visit: Visit) -> Response:
    sessions.check_origin(request)
    answer = RedirectResponse(f"{prefix_of(request)}/", 303, page_headers())
    sessions.sign_out(answer)
    return answer


def _within(target: str) -> str:
    """The way back, if it stays on this hub."""
    inside = target.startswith("/") and not target.startswith("//") and "\\" not in target
    return target if inside and target.isprintable() and len(target) < 2000 else "/"
