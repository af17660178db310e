"""Repositories as a whole: create, delete, move, settings, squash, duplicate, access requests (protocol section 4)."""

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hfvision.hub import commits, repositories
from hfvision.hub.errors import BadRequest, NotFound
from hfvision.hub.http import bodies
from hfvision.hub.http.answers import json_answer, repo_url
from hfvision.hub.http.callers import user_of
from hfvision.hub.http.finding import API, hub_of, iso, kind_in, kind_of, repo_of
from hfvision.hub.repositories import ADMIN, CONTENT, PROPOSE, WRITE, Repo
from hfvision.hub.routing import route


def full_name(text: str) -> tuple[str, str]:
    """Namespace and name. Raises BadRequest unless both are there."""
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise BadRequest(f"A repository is called namespace/name, got {text[:200]!r}.")
    return namespace, name


def visibility(body: bodies.Json) -> bool | None:
    """Whether the body asks for a private repository; None if it does not say. Old clients send `private`."""
    wanted = bodies.optional_text(body, "visibility")
    if wanted is not None:
        if wanted not in {"public", "private", "protected"}:
            raise BadRequest(f'"visibility" must be public or private, got {wanted[:40]!r}.')
        return wanted != "public"
    private = body.get("private")
    if private is not None and not isinstance(private, bool):
        raise BadRequest(f'"private" must be true or false, got {bodies.shown(private)}.')
    return private


def created(request: Request, repo: Repo) -> dict[str, Any]:
    return {
        "url": repo_url(request, repo),
        "name": repo.full_name,
        "id": f"{repo.id:024x}",
        "private": repo.private,
    }


async def create(request: Request) -> Response:
    body = await bodies.json_object(request)
    caller = await user_of(request)
    name = bodies.text(body, "name")
    namespace = bodies.optional_text(body, "organization")
    if "/" in name and namespace is None:
        namespace, name = full_name(name)
    repo = await run_in_threadpool(
        repositories.create,
        hub_of(request),
        caller,
        kind_in(bodies.optional_text(body, "type")),
        name,
        namespace,
        visibility(body),
    )
    return json_answer(created(request, repo))


async def delete(request: Request) -> Response:
    body = await bodies.json_object(request)
    caller = await user_of(request)
    name = bodies.text(body, "name")
    namespace = bodies.optional_text(body, "organization") or ("" if "/" in name else caller.name)
    target = f"{namespace}/{name}" if namespace else name
    kind = kind_in(bodies.optional_text(body, "type"))
    await run_in_threadpool(repositories.delete, hub_of(request), caller, kind, target)
    return json_answer({"success": True})


async def move(request: Request) -> Response:
    body = await bodies.json_object(request)
    caller = await user_of(request)
    source, target = bodies.text(body, "fromRepo"), bodies.text(body, "toRepo")
    full_name(source)
    full_name(target)
    kind = kind_in(bodies.optional_text(body, "type"))
    repo = await run_in_threadpool(repositories.move, hub_of(request), caller, kind, source, target)
    return json_answer({"success": True, "url": repo_url(request, repo)})


async def settings(request: Request) -> Response:
    body = await bodies.json_object(request)
    caller = await user_of(request)
    gated = body.get("gated")
    if gated not in (None, False, "auto", "manual"):
        raise BadRequest(f'"gated" must be "auto", "manual" or false, got {bodies.shown(gated)}.')
    repo = await repo_of(request, ADMIN)
    changed = await run_in_threadpool(
        repositories.update_settings,
        hub_of(request),
        caller,
        repo.kind,
        repo.full_name,
        private=visibility(body),
        gated=gated,
    )
    return json_answer({"private": changed.private, "gated": changed.gated or False})


async def auth_check(request: Request) -> Response:
    await repo_of(request, CONTENT)
    return json_answer({"success": True})


async def auth_check_write(request: Request) -> Response:
    await repo_of(request, WRITE)
    return json_answer({"success": True})


async def duplicate(request: Request) -> Response:
    body = await bodies.json_object(request)
    caller = await user_of(request)
    source = await repo_of(request, CONTENT)
    wanted = bodies.optional_text(body, "repository") or source.name
    namespace, name = full_name(wanted if "/" in wanted else f"{caller.name}/{wanted}")
    repo = await run_in_threadpool(
        commits.duplicate, hub_of(request), caller, source, kind_of(request), name, namespace, visibility(body)
    )
    return json_answer(created(request, repo))


async def super_squash(request: Request) -> Response:
    body = await bodies.json_object(request)
    caller = await user_of(request)
    repo = await repo_of(request, WRITE)
    message = bodies.optional_text(body, "message") or ""
    branch = request.path_params["branch"]
    commit = await run_in_threadpool(commits.squash, hub_of(request), caller, repo, branch, message)
    return json_answer({"success": True, "commitOid": commit.id})


async def ask_access(request: Request) -> Response:
    """Ask to be let into a gated repository, with a token that may write: it lets in every token of the account."""
    caller = await user_of(request)
    repo = await repo_of(request, PROPOSE)
    status = await run_in_threadpool(repositories.request_access, hub_of(request), caller, repo)
    return json_answer({"status": status})


async def access_requests(request: Request) -> Response:
    caller = await user_of(request)
    repo = await repo_of(request, ADMIN)
    wanted = request.path_params["status"]
    rows = await run_in_threadpool(repositories.access_requests, hub_of(request), caller, repo)
    return json_answer(
        [
            {
                "requestId": row.id,
                "user": {"user": row.user, "fullname": row.fullname or row.user},
                "status": row.status,
                "timestamp": iso(row.asked),
            }
            for row in rows
            if row.status == wanted
        ]
    )


async def handle_access(request: Request) -> Response:
    body = await bodies.json_object(request)
    caller = await user_of(request)
    repo = await repo_of(request, ADMIN)
    status = bodies.text(body, "status", "accepted")
    by_id = "user" not in body
    who = bodies.text(body, "requestId" if by_id else "user")
    await run_in_threadpool(repositories.answer_access, hub_of(request), caller, repo, who, status, by_id)
    return json_answer({"success": True})


async def like(request: Request) -> Response:
    """Likes are not counted; who asks for a repository that is not there still learns that first."""
    await repo_of(request)
    raise NotFound("This hub keeps no likes.")


ROUTES = (
    route("POST", "/api/repos/create", create),
    route("DELETE", "/api/repos/delete", delete),
    route("POST", "/api/repos/move", move),
    route("PUT", API + "/settings", settings),
    route("GET", API + "/auth-check", auth_check),
    route("GET", API + "/auth-check/write", auth_check_write),
    route("POST", API + "/duplicate", duplicate),
    route("POST", API + "/super-squash/{branch}", super_squash),
    route("POST DELETE", API + "/like", like),
    route("POST", API + "/ask-access", ask_access),
    route("GET", API + "/user-access-request/{status}", access_requests),
    route("POST", API + "/user-access-request/handle", handle_access),
    route("POST", API + "/user-access-request/grant", handle_access),
)
