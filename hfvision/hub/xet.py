"""Xet: xorbs and shards taken in, files built from them; files handed out through Xet (protocol section 7).

Only a way in and out: what is kept is the large file under its sha256. Uploaded xorbs live under the uploader's own
folder and a month's epoch, and may go afterwards. For downloads the hub cuts a stored file into virtual xorbs of
uncompressed chunks on the fly, named by the file's sha256 and their place in it, so that no xorb is ever needed again
and every large file has a `xetHash`: its sha256.
"""

import asyncio
import hashlib
import re
import tempfile
import time
from collections.abc import AsyncIterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import IO, Any

from itsdangerous import BadData

from hfvision.hub import large_files, xet_format
from hfvision.hub.accounts import Caller
from hfvision.hub.errors import BadRequest, BadToken, ChecksumMismatch, Forbidden, NotFound, TooLarge
from hfvision.hub.instance import Hub
from hfvision.hub.store import BLOCK, Check

CHUNK = 64 * 1024  # bytes of a virtual chunk
FRAME = 8 + CHUNK  # with its header
CHUNKS = 512  # of a virtual xorb: 32 MiB
_HASH = re.compile(r"[0-9a-f]{64}")
_VIRTUAL = re.compile(r"([0-9a-f]{64})-(\d{1,9})-(\d{1,12})")


@dataclass(frozen=True)
class Access:
    """What a Xet token allows; the token is a signed text, no row anywhere."""

    repo_id: int
    account_id: int  # 0: anonymous
    scope: str  # read | write
    expires: int  # unix seconds
    space: str  # last part of the CAS address: instance, epoch and account


def grant(hub: Hub, repo_id: int, caller: Caller, scope: str) -> tuple[str, Access]:
    """A token's text and what it allows, for `settings.link_seconds`. The CAS address ends in /cas/<access.space>."""
    now = time.time()
    account = caller.account.id if caller.account else 0
    month = datetime.fromtimestamp(now, UTC).strftime("%Y%m")
    space = f"{hub.instance_id}-{month}-{account}"
    access = Access(repo_id, account, scope, int(now) + hub.settings.link_seconds, space)
    return str(hub.serializer("xet token").dumps(asdict(access))), access


def check(hub: Hub, token: str, space: str, scope: str) -> Access:
    """Raises BadToken if forged, expired or of another space, Forbidden if it is for the other purpose.

    A token that writes does not read: who proposes a change to a gated repository has one, too.
    """
    try:
        access = Access(**hub.serializer("xet token").loads(token))
    except BadData as error:
        raise BadToken from error
    if access.expires <= time.time() or access.space != space:
        raise BadToken
    if access.scope != scope:
        raise Forbidden(f"this Xet token is to {access.scope}, not to {scope}")
    return access


def _key(space: str, xorb: str) -> str:
    return f"xorb/{space}/{xorb}"


async def receive_xorb(hub: Hub, access: Access, xorb: str, body: AsyncIterable[bytes]) -> bool:
    """Check and keep a xorb under the caller's space; False if it was there. Raises BadRequest, TooLarge."""
    if not _HASH.fullmatch(xorb):
        raise BadRequest("a xorb is named by 64 lower-case hex digits")
    # on disk at once: many may come at the same time; the file has no name and goes with the process
    with tempfile.TemporaryFile(dir=hub.settings.root) as file:
        size = 0
        async for block in body:
            size += len(block)
            if size > hub.settings.xorb_limit:
                raise TooLarge(f"the xorb has more than {hub.settings.xorb_limit} bytes")
            file.write(block)
        return await asyncio.wrap_future(hub.workers.submit(_keep_xorb, hub, access, xorb, file, size))


def _keep_xorb(hub: Hub, access: Access, xorb: str, file: IO[bytes], size: int) -> bool:
    file.seek(0)
    body = file.read(size)
    found = xet_format.xorb_hash(memoryview(body))
    if found != xorb:
        raise BadRequest(f"the xorb has hash {found}, not {xorb}")
    if hub.store.size(_key(access.space, xorb)) == size:
        return False
    hub.store.put(_key(access.space, xorb), [body], Check(None, size), size)
    return True


def receive_shard(hub: Hub, access: Access, body: bytes) -> int:
    """Build, check and link every file of a shard; 1 if any was new to the repository, else 0.

    Raises BadRequest, TooLarge, ChecksumMismatch.
    Segments are looked for among the caller's own xorbs only, and every file is built and hashed even if the store
    has it: naming a hash proves nothing, having the bytes does.
    """
    if len(body) > hub.settings.shard_limit:
        raise TooLarge(f"the shard has more than {hub.settings.shard_limit} bytes")
    files = xet_format.parse_shard(body)
    total = sum(one.size for one in files)
    if total > hub.settings.file_limit:
        raise TooLarge(f"the shard's files have {total} bytes; the hub takes {hub.settings.file_limit}")
    future = hub.workers.submit(_build_all, hub, access, files)
    return 1 if future.result() else 0


def _build_all(hub: Hub, access: Access, files: list[xet_format.ShardFile]) -> bool:
    opened = _Xorbs(hub, access.space)
    new = [large_files.receive(hub, access.repo_id, one.sha256, one.size, opened.bytes_of(one)) for one in files]
    return any(new)


class _Xorbs:
    """Xorbs of one space, the last one kept open: neighbouring segments mostly come from the same."""

    def __init__(self, hub: Hub, space: str) -> None:
        self._hub, self._space = hub, space
        self._name = ""
        self._chunks: list[tuple[int, int, memoryview]] = []

    def bytes_of(self, file: xet_format.ShardFile) -> Iterator[bytes]:
        for segment in file.segments:
            chunks = self._open(segment.xorb)[segment.start : segment.end]
            if len(chunks) != segment.end - segment.start or sum(size for _, size, _ in chunks) != segment.size:
                raise BadRequest(f"a segment of the shard does not fit xorb {segment.xorb}")
            gathered = bytearray()
            for scheme, size, packed in chunks:
                gathered += xet_format.unpack(scheme, size, packed)
                if len(gathered) >= BLOCK:
                    yield bytes(gathered)
                    gathered.clear()
            yield bytes(gathered)

    def _open(self, xorb: str) -> list[tuple[int, int, memoryview]]:
        if xorb != self._name:
            try:
                body = self._hub.store.read(_key(self._space, xorb))
            except FileNotFoundError as error:
                raise BadRequest(f"the shard names xorb {xorb}, which this account has not uploaded here") from error
            self._chunks = [
                (scheme, size, data) for _, scheme, size, data in xet_format.packed_chunks(memoryview(body))
            ]
            self._name = xorb
        return self._chunks


def reconstruction(hub: Hub, access: Access, xet_hash: str, start: int = 0, end: int | None = None) -> dict[str, Any]:
    """Answer to `reconstructions/{hash}` for bytes start..end (exclusive) of a file of the token's repository.

    Each `url` in `fetch_info` is a path below the CAS address, `/virtual/<name>?sig=..`, to be made absolute. Raises
    NotFound; BadRequest with status 416 when start lies beyond the end.
    """
    with hub.reading() as connection:
        size = large_files.held_in(connection, access.repo_id, [xet_hash]).get(xet_hash)
    if size is None:
        raise NotFound(f"there is no file {xet_hash[:64]}")
    end = size if end is None else min(end, size)
    if size and not 0 <= start < end:
        error = BadRequest(f"the file has {size} bytes: there are none at {start}")
        error.status = 416
        raise error
    terms, fetch = [], {}
    first, last = start // CHUNK, -(-end // CHUNK)
    for xorb in range(first // CHUNKS, -(-last // CHUNKS)):
        low, high = max(first, xorb * CHUNKS), min(last, (xorb + 1) * CHUNKS)
        name = hashlib.sha256(f"{xet_hash} {xorb}".encode()).hexdigest()
        span = {"start": low - xorb * CHUNKS, "end": high - xorb * CHUNKS}
        length = min(high * CHUNK, size) - low * CHUNK
        terms.append({"hash": name, "unpacked_length": length, "range": span})
        virtual = f"{xet_hash}-{xorb}-{access.expires}"
        begin = span["start"] * FRAME
        packed = {"start": begin, "end": begin + length + 8 * (high - low) - 1}
        signature = hub.signer(f"xet virtual {access.space}").get_signature(virtual).decode()
        url = f"/virtual/{virtual}?sig={signature}"
        fetch[name] = [{"range": span, "url": url, "url_range": packed}]
    return {"offset_into_first_range": start - first * CHUNK, "terms": terms, "fetch_info": fetch}


def virtual_size(hub: Hub, space: str, name: str, signature: str) -> int:
    """Bytes of a virtual xorb. Raises Forbidden if the signature is not ours or too old, NotFound."""
    found = _VIRTUAL.fullmatch(name)
    if (
        found is None
        or not hub.signer(f"xet virtual {space}").verify_signature(name, signature.encode("utf-8", "replace"))
        or int(found[3]) <= time.time()
    ):
        raise Forbidden("this address is not the hub's, or too old")
    size = hub.store.size(large_files.key(found[1]))
    if size is None:
        raise NotFound("the file was deleted")
    length = min(CHUNKS * CHUNK, size - int(found[2]) * CHUNKS * CHUNK)
    return length + 8 * -(-length // CHUNK)


def virtual_xorb(hub: Hub, space: str, name: str, signature: str, start: int, end: int) -> Iterator[bytes]:
    """Bytes start..end (inclusive, as in Range) of a virtual xorb. Raises Forbidden if the signature is not ours."""
    total = virtual_size(hub, space, name, signature)
    sha256, number, _ = name.split("-")
    return _frames(hub, large_files.key(sha256), int(number) * CHUNKS * CHUNK, total, start, min(end + 1, total))


def _frames(hub: Hub, key: str, base: int, total: int, start: int, end: int) -> Iterator[bytes]:
    """Bytes start..end of the framed chunks of a file from `base` on, `total` bytes framed."""
    at = start // FRAME
    blocks = hub.store.stream(key, base + at * CHUNK, base + total - 8 * -(-total // FRAME))
    waiting = bytearray()
    while at * FRAME < end:
        length = min(CHUNK, total - at * FRAME - 8)
        while len(waiting) < length:
            block = next(blocks, None)
            if block is None:
                raise ChecksumMismatch("the stored file is shorter than it was")
            waiting += block
        size = length.to_bytes(3, "little")
        frame = b"\0" + size + b"\0" + size + bytes(waiting[:length])
        del waiting[:length]
        yield frame[max(0, start - at * FRAME) : max(0, end - at * FRAME)]
        at += 1
