"""What the pages of a repository share: what its head shows, where addresses lead, which images are shown."""

import posixpath
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from hfvision.hub import repositories
from hfvision.hub.errors import BadRequest, HubError
from hfvision.hub.http.answers import base_url, quoted
from hfvision.hub.repositories import Repo
from hfvision.hub.web.licences import licence_banner
from hfvision.hub.web.rendering import prefix_of
from hfvision.hub.web.visits import Visit
from hfvision.tasks import TASKS

IMAGES = {  # endings -> media type and how such a file begins
    "png": ("image/png", (b"\x89PNG",)),
    "jpg": ("image/jpeg", (b"\xff\xd8\xff",)),
    "jpeg": ("image/jpeg", (b"\xff\xd8\xff",)),
    "gif": ("image/gif", (b"GIF8",)),
    "webp": ("image/webp", (b"RIFF",)),
    "bmp": ("image/bmp", (b"BM",)),
}
TRIABLE = {task.name for task in TASKS if task.answer}


def repo_values(repo: Repo, tab: str, revision: str = "main") -> dict[str, Any]:
    """What the head of every page of a repository shows."""
    triable = repo.kind == "model" and repo.library_name == "transformers" and repo.pipeline_tag in TRIABLE
    return {
        "repo": repo,
        "tab": tab,
        "revision": revision,
        "triable": triable,
        "banner": licence_banner(repo.card),
        "images": tuple(f".{ending}" for ending in IMAGES),
    }


def own_path(repo: Repo, path: str) -> str | None:
    """The file of a repository that an address names, as cards do it, on whichever hub they were written for."""
    found = re.fullmatch(rf"/{re.escape(repo.url)}/(?:resolve|raw|blob)/[^/]+/(.+)", path)
    return found[1] if found else None


def locator(request: Request, repo: Repo, commit: str) -> Callable[[str, bool], str | None]:
    """Where the addresses of a card lead: its own files as they were at a commit, this hub, or nowhere."""
    prefix, base = prefix_of(request), base_url(request)
    start = f"{prefix}/{quoted(repo.url)}"

    def file(path: str, image: bool) -> str | None:
        inside = posixpath.normpath(path)
        if inside.startswith(".."):
            return None
        where = "download" if image else "tree" if inside == "." or path.endswith("/") else "blob"
        return f"{start}/{where}/{commit}/{quote(inside if inside != '.' else '', safe='/%')}"

    def locate(address: str, image: bool) -> str | None:
        parts = urlsplit(address)
        if image and (own := own_path(repo, parts.path)):
            return file(own, image)
        if parts.netloc and not address.startswith(f"{base}/"):
            return None
        if parts.netloc or parts.path.startswith("/"):
            query = f"?{quote(parts.query, safe='=&%+:/')}" if parts.query else ""
            # one slash exactly: with two, or with a backslash, browsers would go to another host
            inside = parts.path.removeprefix(prefix) if parts.netloc else parts.path
            return f"{prefix}/{quote(inside.lstrip('/'), safe='/%')}{query}"
        return file(parts.path, image) if parts.path else None

    return locate


async def may_read_content(visit: Visit, repo: Repo) -> bool:
    """Whether a gated repository would let the reader at its files."""

    def work() -> bool:
        try:
            repositories.find(visit.hub, visit.caller, repo.kind, repo.full_name, repositories.CONTENT)
        except HubError:
            return False
        return True

    return await run_in_threadpool(work)


def ending(path: str) -> str:
    return path.rsplit("/", 1)[-1].rpartition(".")[2].lower()


def image_type(path: str) -> str | None:
    """The media type that an ending promises."""
    found = IMAGES.get(ending(path))
    return found[0] if found else None


def checked_revision(text: str) -> str:
    """A revision as typed into a form. Raises BadRequest for one that is empty or far too long."""
    if not 0 < len(text) <= 250 or not text.isprintable():
        raise BadRequest("Give a branch, a tag or a commit.")
    return text
