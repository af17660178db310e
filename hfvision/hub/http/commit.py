"""Commits as clients send them: a header and operations, one JSON object a line (protocol section 6)."""

import base64
import binascii
from collections.abc import Iterator
from typing import IO, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub import commits, pulls
from hfvision.hub.accounts import Caller
from hfvision.hub.cards import json_parts
from hfvision.hub.commits import AddFile, AddLargeFile, Commit, CopyFile, DeleteFile, DeleteFolder, Operation
from hfvision.hub.errors import BadRequest
from hfvision.hub.http import bodies
from hfvision.hub.http.answers import json_answer, repo_url
from hfvision.hub.http.callers import user_of
from hfvision.hub.http.finding import API, hub_of, repo_to_push_to
from hfvision.hub.instance import Hub
from hfvision.hub.pulls import Pull
from hfvision.hub.repositories import Repo
from hfvision.hub.routing import route

OPERATIONS = 100_000  # of one commit
SUMMARY = 1000  # characters
LINE_PARTS = 2_000_000  # values of a line: it has a handful, and as many more as a text that is not base64 has commas


def lines_of(spool: IO[bytes]) -> Iterator[tuple[str, bodies.Json]]:
    """(key, value) of each line. Raises BadRequest for a line that has another shape."""
    for number, line in enumerate(spool, 1):
        if not line.strip():
            continue
        if json_parts(line) > LINE_PARTS:
            raise BadRequest(f"Line {number} of the commit has too many values. Send contents as base64.")
        value = bodies.parse_json(line, f"line {number} of the commit", nul=True)
        if not isinstance(value, dict) or not isinstance(value.get("value"), dict):
            raise BadRequest(f'Line {number} of the commit must be {{"key": ..., "value": {{...}}}}.')
        for name, text in value["value"].items():
            # contents may have any character, and a path is refused in its own words; the rest goes to the database
            if name not in ("content", "path") and isinstance(text, str) and "\0" in text:
                raise BadRequest(f'"{name[:40]}" in line {number} of the commit has a NUL character.')
        yield bodies.text(value, "key"), value["value"]


def operation(key: str, value: bodies.Json) -> Operation:
    """The operation of one line. Raises BadRequest."""
    if key == "file":
        return AddFile(bodies.text(value, "path"), content_of(value))
    if key == "lfsFile":
        if bodies.text(value, "algo", "sha256") != "sha256":
            raise BadRequest('"algo" must be sha256.')
        size = None if value.get("size") is None else bodies.count(value, "size")
        return AddLargeFile(bodies.text(value, "path"), bodies.text(value, "oid"), size)
    if key == "deletedFile":
        return DeleteFile(bodies.text(value, "path"))
    if key == "deletedFolder":
        return DeleteFolder(bodies.text(value, "path").rstrip("/"))
    if key == "copyFile":
        source = bodies.optional_text(value, "srcPath") or bodies.text(value, "src_path_in_repo")
        return CopyFile(source, bodies.text(value, "path"), bodies.optional_text(value, "srcRevision"))
    raise BadRequest(f"A commit has file, lfsFile, deletedFile, deletedFolder and copyFile lines; got {key[:40]!r}.")


def content_of(value: bodies.Json) -> bytes:
    content, encoding = bodies.text(value, "content"), bodies.text(value, "encoding", "utf-8")
    if encoding == "base64":
        try:
            return base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError):
            raise BadRequest('"content" must be base64.') from None
    if encoding != "utf-8":
        raise BadRequest(f'"encoding" must be base64 or utf-8, got {encoding[:40]!r}.')
    return content.encode()


def read_commit(spool: IO[bytes]) -> tuple[bodies.Json, list[Operation]]:
    """Header and operations of a body. Raises BadRequest."""
    header: bodies.Json | None = None
    operations: list[Operation] = []
    for key, value in lines_of(spool):
        if key == "header":
            if header is not None or operations:
                raise BadRequest("A commit has one header, as its first line.")
            header = value
        elif header is None:
            raise BadRequest("A commit begins with its header line.")
        else:
            operations.append(operation(key, value))
            if len(operations) > OPERATIONS:
                raise BadRequest(f"A commit has {OPERATIONS} operations at most.")
    if header is None:
        raise BadRequest("A commit begins with its header line.")
    return header, operations


def apply(
    hub: Hub, caller: Caller, repo: Repo, revision: str, new_pull: bool, spool: IO[bytes]
) -> tuple[Commit, Pull | None]:
    """Read and apply a commit, on a pull request of its own if asked."""
    header, operations = read_commit(spool)
    summary = bodies.text(header, "summary", "").strip() or "Update files"
    description = bodies.optional_text(header, "description") or ""
    parent = bodies.optional_text(header, "parentCommit")
    summary = summary[:SUMMARY]
    if not new_pull:
        return commits.apply(hub, caller, repo, revision, operations, summary, description, parent), None
    return pulls.propose(hub, caller, repo, revision, operations, summary, description, parent)


async def commit(request: Request) -> Response:
    hub, caller = hub_of(request), await user_of(request)
    revision = request.path_params["revision"]
    repo = await repo_to_push_to(request, revision)
    new_pull = bodies.true(request.query_params.get("create_pr"))
    async with bodies.spooled(request, hub.settings.commit_limit) as spool:
        made, pull = await run_in_threadpool(apply, hub, caller, repo, revision, new_pull, spool)
    page = repo_url(request, repo)
    answer: dict[str, Any] = {
        "success": True,
        "commitOid": made.id,
        "commitUrl": f"{page}/commit/{made.id}",
        "hookOutput": "",
    }
    if pull is not None:
        answer["pullRequestUrl"] = f"{page}/discussions/{pull.number}"
    return json_answer(answer)


ROUTES = (route("POST", API + "/commit/{revision}", commit),)
