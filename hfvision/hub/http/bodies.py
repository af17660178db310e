"""Reading request bodies without trusting their size: every reader counts while it streams and stops at its cap."""

import json
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import IO, Any
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from hfvision.hub.errors import BadRequest, TooLarge

JSON_CAP = 1 << 20  # bytes of an ordinary JSON or form body
SPOOL_IN_MEMORY = 1 << 20  # bytes that a spooled body may hold before it goes to the disk

NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # as JSON writes it; after an odd number of backslashes it is text

Json = dict[str, Any]


def too_large(cap: int) -> TooLarge:
    return TooLarge(f"The body of this request may have {cap} bytes at most.")


async def stream(request: Request, cap: int) -> AsyncIterator[bytes]:
    """The body in the pieces that it came in. Raises 413 before or while reading once it is over `cap` bytes."""
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > cap):
        raise too_large(cap)
    seen = 0
    async for piece in request.stream():
        seen += len(piece)
        if seen > cap:
            raise too_large(cap)
        if piece:
            yield piece


async def read(request: Request, cap: int = JSON_CAP) -> bytes:
    pieces = [piece async for piece in stream(request, cap)]
    return b"".join(pieces)


@asynccontextmanager
async def spooled(request: Request, cap: int) -> AsyncIterator[IO[bytes]]:
    """The body as a file object at its start; on the disk once it is large; gone when the block ends."""
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_IN_MEMORY) as spool:
        waiting: list[bytes] = []
        held = 0
        async for piece in stream(request, cap):
            waiting.append(piece)
            held += len(piece)
            if held >= SPOOL_IN_MEMORY:
                await run_in_threadpool(spool.writelines, waiting)
                waiting, held = [], 0
        await run_in_threadpool(spool.writelines, waiting)
        spool.seek(0)
        yield spool


def parse_json(data: bytes, what: str = "body", nul: bool = False) -> Any:
    """JSON as Python values. Raises 400 for anything else, NUL unless allowed, lone surrogates, nesting as a trap."""
    try:
        value = json.loads(data, parse_constant=refuse_constant)
        if b"\\u" in data:  # an escape can spell half of a character, which nothing later could write down
            json.dumps(value, ensure_ascii=False).encode()
            if not nul and NUL.search(data):  # PostgreSQL takes no text with one, not even to look for it
                raise ValueError("it has a NUL character")
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"The {what} is not valid JSON: {str(error)[:200]}") from None
    return value


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


async def json_object(request: Request, cap: int = JSON_CAP) -> Json:
    """The body as a JSON object; an empty body is an empty object. Raises 400 for anything else."""
    data = await read(request, cap)
    value = parse_json(data) if data.strip() else {}
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.")
    return value


async def form_or_json(request: Request, cap: int = JSON_CAP) -> dict[str, list[Any]]:
    """Fields and their values, from a URL-encoded form or from JSON (a value alone counts as a list of one)."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":
        data = await read(request, cap)
        try:
            return dict(parse_qs(data.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=20_000))
        except ValueError as error:
            raise BadRequest(f"The form cannot be read: {error}") from None
    value = await json_object(request, cap)
    return {key: entry if isinstance(entry, list) else [entry] for key, entry in value.items()}


def text(body: Json, name: str, default: str | None = None) -> str:
    """The text of a field. Raises 400 if it is missing (with no default) or something else."""
    value = body.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise BadRequest(f'"{name}" must be a text, got {shown(value)}.')
    return value


def optional_text(body: Json, name: str) -> str | None:
    return None if body.get(name) is None else text(body, name)


def objects(body: Json, name: str, most: int) -> list[Json]:
    """A list of objects. Raises 400 for another type, or for more than `most` of them."""
    value = body.get(name)
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise BadRequest(f'"{name}" must be a list of objects, got {shown(value)}.')
    if len(value) > most:
        raise BadRequest(f'"{name}" may have {most} entries at most, got {len(value)}.')
    return value


def count(body: Json, name: str) -> int:
    """A number of bytes. Raises 400 for anything but an integer of 0 to 2**63 - 1."""
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise BadRequest(f'"{name}" must be a number of bytes, got {shown(value)}.')
    return value


def shown(value: object) -> str:
    return "nothing" if value is None else repr(value)[:80]


def true(value: object) -> bool:
    """What `true` means in a query, a form or JSON."""
    return value is True or (isinstance(value, str) and value.lower() in {"true", "1"})
