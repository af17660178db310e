"""Xet as clients speak it: tokens, xorbs and shards in, reconstructions out (protocol section 7).

Routes that are not here answer 404 on purpose: clients then take the older or plainer way without a word (the global
question for known chunks, grants for direct uploads, version 2 of shards and reconstructions).
"""

from collections.abc import AsyncIterator, Iterator

from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from hfvision.hub import xet
from hfvision.hub.errors import BadRequest, BadToken
from hfvision.hub.http import bodies
from hfvision.hub.http.answers import base_url, json_answer
from hfvision.hub.http.callers import caller_of, user_of
from hfvision.hub.http.finding import API, hub_of, repo_of, repo_to_push_to
from hfvision.hub.http.ranges import RangeNotSatisfiable, span_of
from hfvision.hub.large_files import check_sha256
from hfvision.hub.repositories import CONTENT, Repo
from hfvision.hub.routing import route
from hfvision.hub.xet import Access

CAS = "/cas/{space}"


async def give_token(request: Request, repo: Repo, scope: str) -> Response:
    """Address and token, as JSON for the one client and as headers for the other."""
    hub, caller = hub_of(request), await caller_of(request)
    text, access = await run_in_threadpool(xet.grant, hub, repo.id, caller, scope)
    address = f"{base_url(request)}/cas/{access.space}"
    headers = {
        "X-Xet-Cas-Url": address,
        "X-Xet-Access-Token": text,
        "X-Xet-Token-Expiration": str(access.expires),
        "Cache-Control": "no-store",
    }
    return json_answer({"casUrl": address, "accessToken": text, "exp": access.expires}, headers=headers)


async def write_token(request: Request) -> Response:
    await user_of(request)
    return await give_token(request, await repo_to_push_to(request, request.path_params["revision"]), "write")


async def read_token(request: Request) -> Response:
    return await give_token(request, await repo_of(request, CONTENT), "read")


def access_of(request: Request, scope: str) -> Access:
    """What the request's Xet token allows. Raises BadToken, Forbidden."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.isascii():
        raise BadToken
    return xet.check(hub_of(request), token.strip(), request.path_params["space"], scope)


async def receive_xorb(request: Request) -> Response:
    hub, access = hub_of(request), access_of(request, "write")
    body = bodies.stream(request, hub.settings.xorb_limit)
    new = await xet.receive_xorb(hub, access, request.path_params["xorb"], body)
    return json_answer({"was_inserted": new})


async def receive_shard(request: Request) -> Response:
    hub, access = hub_of(request), access_of(request, "write")
    body = await bodies.read(request, hub.settings.shard_limit)
    return json_answer({"result": await run_in_threadpool(xet.receive_shard, hub, access, body)})


async def reconstruction(request: Request) -> Response:
    hub, access = hub_of(request), access_of(request, "read")
    name = check_sha256(request.path_params["file"])
    start, end = wanted(request)
    try:
        answer = await run_in_threadpool(xet.reconstruction, hub, access, name, start, end)
    except BadRequest as error:
        if error.status == 416:
            raise RangeNotSatisfiable(start) from None
        raise
    cas = f"{base_url(request)}/cas/{access.space}"
    for fetches in answer["fetch_info"].values():
        for fetch in fetches:
            fetch["url"] = cas + fetch["url"]
    return json_answer(answer)


def wanted(request: Request) -> tuple[int, int | None]:
    """Bytes start..end (exclusive) that the Range header asks for; the whole file without one."""
    header = request.headers.get("range")
    if header is None:
        return 0, None
    huge = 1 << 62
    span = span_of(header, huge)
    return span.start, None if span.end == huge else span.end


async def virtual_xorb(request: Request) -> Response:
    """Part of a stored file in the shape of a xorb; the address is signed, no token comes."""
    hub, holes = hub_of(request), request.path_params
    span = span_of(request.headers.get("range"), 1 << 62)
    if not span.partial:
        raise BadRequest("This address wants a Range.")
    signature = request.query_params.get("sig", "")
    source = await run_in_threadpool(
        xet.virtual_xorb, hub, holes["space"], holes["xorb"], signature, span.start, span.end - 1
    )
    first = await run_in_threadpool(next, source, b"")  # errors belong before the first byte of the answer
    return StreamingResponse(pieces(first, source), 206, {"Content-Type": "application/octet-stream"})


async def pieces(first: bytes, rest: Iterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in iterate_in_threadpool(rest):
        yield piece


ROUTES = (
    route("GET", API + "/xet-write-token/{revision}", write_token),
    route("GET", API + "/xet-read-token/{revision}", read_token),
    route("POST", CAS + "/v1/xorbs/default/{xorb}", receive_xorb),
    route("POST", CAS + "/v1/shards", receive_shard),
    route("GET", CAS + "/v1/reconstructions/{file}", reconstruction),
    route("GET", CAS + "/virtual/{xorb}", virtual_xorb),
)
