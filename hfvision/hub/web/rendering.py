"""Templates and the headers that every page carries."""

import secrets
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from hfvision import __version__
from hfvision.hub.http.answers import base_url, quoted
from hfvision.hub.repositories import Repo

STATIC = {"style.css": "text/css; charset=utf-8", "try.js": "text/javascript; charset=utf-8"}
SECOND, MINUTE, HOUR, DAY = 1, 60, 3600, 86400


@cache
def environment() -> Environment:
    """The templates; whatever is put into them is escaped unless it is Markup made by `markdown.rendered`."""
    made = Environment(
        loader=PackageLoader("hfvision.hub.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "bytes": bytes_text,
        "count": count_text,
        "ago": ago_text,
        "date": date_text,
        "path": quoted,
        "segment": segment,
        "architecture": architecture,
        "parameters": parameters,
        "dtypes": dtypes,
    }
    made.globals["version"] = __version__
    return made


def page(request: Request, template: str, status: int = 200, scripts: bool = False, **values: Any) -> Response:
    """A whole page. `scripts`: the hub's own script may run, which no page has that shows what users wrote."""
    nonce = secrets.token_urlsafe(16)
    values |= {
        "base": base_url(request),
        "prefix": prefix_of(request),
        "caller": request.scope.get("web_caller"),
        "here": here(request),
        "nonce": nonce,
    }
    body = environment().get_template(template).render(values)
    return HTMLResponse(body, status, page_headers(nonce if scripts else None))


def page_headers(nonce: str | None = None) -> dict[str, str]:
    """Nothing is loaded from elsewhere, framed or sent elsewhere; without a nonce no script runs."""
    policy = [
        "default-src 'none'",
        "style-src 'self'",
        "img-src 'self' data:",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ]
    if nonce is None:
        policy.append("sandbox allow-same-origin allow-forms allow-downloads allow-popups")
    else:
        policy += [f"script-src 'nonce-{nonce}'", "connect-src 'self'", "img-src 'self' data: blob:"]
        policy.remove("img-src 'self' data:")
    return {
        "Content-Security-Policy": "; ".join(policy),
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-cache",
    }


def static(name: str) -> Response | None:
    """A file of the pages themselves; its address carries the version, so it may be kept for long."""
    if name not in STATIC:
        return None
    content = files("hfvision.hub.web").joinpath("static", name).read_bytes()
    return Response(content, headers={"Cache-Control": "public, max-age=86400"}, media_type=STATIC[name])


def prefix_of(request: Request) -> str:
    """What stands before every address of this hub on its host: "" or "/hub"."""
    prefix: bytes = request.app.prefix
    return prefix.decode()


def here(request: Request) -> str:
    """Path and query of this page, for the way back after signing in."""
    path: str = request.scope["raw_path"].decode("ascii", "replace")
    query = request.scope.get("query_string", b"").decode("ascii", "replace")
    return f"{path}?{query}" if query else path


def segment(text: str) -> str:
    """Text as one segment of an address, slashes quoted: a revision."""
    return quoted(text).replace("/", "%2F")


def bytes_text(size: int) -> str:
    """1.4 MB; decimal units."""
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def count_text(number: int) -> str:
    """86.6 M of 86,567,656."""
    for limit, unit in ((10**9, "G"), (10**6, "M"), (10**4, "k")):
        if number >= limit:
            return f"{number / (1000 if unit == 'k' else limit):.1f} {unit}"
    return f"{number:,}"


def architecture(repo: Repo) -> str:
    """The class that a config names; "" where it names none, whatever else it holds there."""
    named = (repo.config or {}).get("architectures")
    return named[0][:100] if isinstance(named, list) and named and isinstance(named[0], str) else ""


def parameters(repo: Repo) -> int:
    """Numbers in the safetensors files, 0 where there are none."""
    total = (repo.safetensors or {}).get("total")
    return total if isinstance(total, int) else 0


def dtypes(repo: Repo) -> str:
    """F32, BF16"""
    counts = (repo.safetensors or {}).get("parameters")
    return ", ".join(map(str, list(counts)[:5])) if isinstance(counts, dict) else ""


def date_text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def ago_text(moment: datetime) -> str:
    """How long ago, in the largest unit that fits."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    units = (("day", DAY), ("hour", HOUR), ("minute", MINUTE))
    for name, length in units:
        if seconds >= length:
            number = seconds // length
            return (
                date_text(moment)[:10] if name == "day" and number > 30 else f"{number} {name}{'s'[: number > 1]} ago"
            )
    return "just now"
