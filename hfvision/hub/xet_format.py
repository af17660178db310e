"""Bytes of Xet: hash texts, xorbs (packs of compressed chunks) and shards (lists of what files are made of).

Everything comes from a client and is checked: lengths before anything is read or unpacked, hashes after (protocol
section 7.2). All numbers are little-endian.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import lz4.frame
from blake3 import blake3

from hfvision.hub.errors import BadRequest

CHUNK_LIMIT = 128 * 1024  # bytes of a chunk unpacked
PACKED_LIMIT = 256 * 1024
MOST_CHUNKS = 8 * 1024 + 1024  # of one xorb, with some room
RECORD = 48
FOOTER = b"XETBLOB"
RAW, LZ4, GROUPED_LZ4 = 0, 1, 2
SHARD_TAG = b"HFRepoMetaData"
BOOKEND = b"\xff" * 32
HAS_VERIFICATION = 1 << 31
HAS_METADATA = 1 << 30
# published keys of the format: one for the hashes of chunks, one for those of groups of hashes
DATA_KEY = bytes.fromhex("6697f5775b9550de3135cbaca597181c9de421109beb2b58b4d0b04b93adf229")
GROUP_KEY = bytes.fromhex("017ec5c7a5472996fd946666b48a02e65ddd536f37c76dd2f86352e64a53713f")


@dataclass(frozen=True)
class Segment:
    """A run of chunks of one xorb; `size` bytes unpacked, chunks `start` up to, not including, `end`."""

    xorb: str
    size: int
    start: int
    end: int


@dataclass(frozen=True)
class ShardFile:
    """A file as a shard describes it."""

    sha256: str
    size: int
    segments: tuple[Segment, ...]


def hash_text(raw: bytes) -> str:
    """Xet's text of 32 bytes: four u64 numbers, 16 hex digits each. The same shuffle leads back for sha256."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))


def packed_chunks(body: memoryview) -> Iterator[tuple[int, int, int, memoryview]]:
    """(offset, scheme, unpacked size, packed bytes) of the chunks of a xorb. Raises BadRequest."""
    at = count = 0
    while at < len(body) and bytes(body[at : at + len(FOOTER)]) != FOOTER:
        if len(body) - at < 8 or body[at] != 0:
            raise BadRequest(f"no chunk of version 0 at byte {at} of the xorb")
        packed = int.from_bytes(body[at + 1 : at + 4], "little")
        unpacked = int.from_bytes(body[at + 5 : at + 8], "little")
        count += 1
        if (
            not 0 < unpacked <= CHUNK_LIMIT
            or packed > PACKED_LIMIT
            or len(body) - at - 8 < packed
            or count > MOST_CHUNKS
        ):
            raise BadRequest(f"the chunk at byte {at} of the xorb is too large, empty or cut off")
        yield at, body[at + 4], unpacked, body[at + 8 : at + 8 + packed]
        at += 8 + packed
    if count == 0:
        raise BadRequest("the xorb has no chunks")


def unpack(scheme: int, size: int, packed: memoryview) -> bytes:
    """The chunk's own bytes. Raises BadRequest for a scheme that is unknown or a length that is wrong."""
    if scheme == RAW:
        data = bytes(packed)
    elif scheme in (LZ4, GROUPED_LZ4):
        try:
            # never more than one byte over what was promised, whatever the frame would make
            data = lz4.frame.LZ4FrameDecompressor().decompress(bytes(packed), max_length=size + 1)
        except RuntimeError as error:
            raise BadRequest(f"a chunk of the xorb does not unpack: {error}") from error
    else:
        raise BadRequest(f"a chunk of the xorb has compression scheme {scheme}; 0, 1 and 2 are known")
    if len(data) != size:
        raise BadRequest(f"a chunk of the xorb has {len(data)} bytes unpacked, not the promised {size}")
    return _ungroup(data) if scheme == GROUPED_LZ4 else data


def _ungroup(data: bytes) -> bytes:
    """Undo the sorting of bytes by their place within groups of four."""
    mixed = bytearray(len(data))
    at = 0
    for plane in range(4):
        count = len(range(plane, len(data), 4))
        mixed[plane::4] = data[at : at + count]
        at += count
    return bytes(mixed)


def xorb_hash(body: memoryview) -> str:
    """Hash of a xorb from its chunks, each unpacked and hashed. Raises BadRequest."""
    leaves = []
    for _, scheme, size, packed in packed_chunks(body):
        leaves.append((blake3(unpack(scheme, size, packed), key=DATA_KEY).digest(), size))
    return hash_text(merge(leaves)[0])


def merge(nodes: Sequence[tuple[bytes, int]]) -> tuple[bytes, int]:
    """Root (hash, bytes) of a tree whose groups end where the hashes say so."""
    while len(nodes) > 1:
        parents = []
        start = 0
        while start < len(nodes):
            end = _group_end(nodes, start)
            text = "".join(f"{hash_text(digest)} : {size}\n" for digest, size in nodes[start:end])
            parents.append((blake3(text.encode(), key=GROUP_KEY).digest(), sum(size for _, size in nodes[start:end])))
            start = end
        nodes = parents
    return nodes[0]


def _group_end(nodes: Sequence[tuple[bytes, int]], start: int) -> int:
    """2 to 9 children: cut after the third or a later one whose last number is a multiple of 4."""
    if len(nodes) - start <= 2:
        return len(nodes)
    last = min(start + 9, len(nodes))
    for at in range(start + 2, last):
        if int.from_bytes(nodes[at][0][24:32], "little") % 4 == 0:
            return at + 1
    return last


def parse_shard(body: bytes) -> list[ShardFile]:
    """The files of a shard as clients upload it. Raises BadRequest."""
    if len(body) < RECORD or not body.startswith(SHARD_TAG) or int.from_bytes(body[32:40], "little") != 2:
        raise BadRequest("this is no shard of version 2")
    at = RECORD
    found: list[ShardFile] = []
    while True:
        header = _record(body, at)
        at += RECORD
        if header[:32] == BOOKEND:
            return found
        flags, count = struct.unpack_from("<II", header, 32)
        extra = (count if flags & HAS_VERIFICATION else 0) + (1 if flags & HAS_METADATA else 0)
        if len(body) - at < (count + extra) * RECORD:
            raise BadRequest("the shard is cut off")
        segments = []
        for place in range(at, at + count * RECORD, RECORD):
            _, size, start, end = struct.unpack_from("<4I", body, place + 32)
            if start >= end:
                raise BadRequest("a segment of the shard has no chunks")
            segments.append(Segment(hash_text(body[place : place + 32]), size, start, end))
        at += (count + extra) * RECORD
        if not flags & HAS_METADATA:
            raise BadRequest("the shard gives no sha256 for a file")
        sha256 = hash_text(body[at - RECORD : at - RECORD + 32])
        found.append(ShardFile(sha256, sum(one.size for one in segments), tuple(segments)))


def _record(body: bytes, at: int) -> bytes:
    if len(body) - at < RECORD:
        raise BadRequest("the shard is cut off")
    return body[at : at + RECORD]
