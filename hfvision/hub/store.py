"""Where large things lie: a local folder, or S3 and its like through obstore.

An object appears under its key whole and verified, or not at all: bytes are hashed as they pass, and a wrong hash or
length ends the upload before it is published.
"""

import asyncio
import hashlib
import os
import secrets
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from hfvision.errors import ConfigError
from hfvision.hub.errors import ChecksumMismatch, TooLarge

BLOCK = 1024**2  # bytes read at a time
PART = 8 * BLOCK  # of one part of an upload to an object store, which takes 10,000 at most
MOST_PARTS = 9000
QUEUED = 16  # chunks that wait for an object store to take them
PARTIAL = "partial"  # folder of files that are being written


@dataclass(frozen=True)
class Stored:
    """An object as listed."""

    key: str
    size: int  # bytes
    modified: datetime


class Check:
    """Hashes what passes and, at the end, wants this sha256 and size (either may be None: then it only measures)."""

    def __init__(self, sha256: str | None, size: int | None, limit: int | None = None) -> None:
        self._sha256, self._size = sha256, size
        self._limit = size if size is not None else limit
        self._hash = hashlib.sha256()
        self.size = 0

    def pass_on(self, chunk: bytes) -> bytes:
        self.size += len(chunk)
        if self._limit is not None and self.size > self._limit:
            if self._size is not None:
                raise ChecksumMismatch(f"more than the promised {self._size} bytes came; nothing was kept")
            raise TooLarge(f"more than the {self._limit} bytes that the hub takes came; nothing was kept")
        self._hash.update(chunk)
        return chunk

    def finish(self) -> None:
        """Raises ChecksumMismatch."""
        if self._size is not None and self.size != self._size:
            raise ChecksumMismatch(f"{self.size} of the promised {self._size} bytes came; nothing was kept")
        if self._sha256 is not None and self.hexdigest != self._sha256:
            raise ChecksumMismatch(
                f"the bytes have sha256 {self.hexdigest}, not the promised {self._sha256}; nothing was kept"
            )

    @property
    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def over(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The chunks; the check fails inside the iteration, before its end: whoever stores them then gives up."""
        for chunk in chunks:
            if chunk:
                yield self.pass_on(chunk)
        self.finish()

    async def over_stream(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            if chunk:
                yield self.pass_on(chunk)
        self.finish()


class Store:
    """One folder or bucket. Keys are slash-separated and made by this package only, never from a client's text."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.local: Path | None = None
        try:
            if "://" not in url or url.startswith("file://"):
                self.local = Path(url.removeprefix("file://")).absolute()
                self.local.mkdir(parents=True, exist_ok=True)
                self._store: Any = LocalStore(self.local)
            else:
                plain = os.environ.get("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT", "")).startswith("http://")
                self._store = from_url(url, client_options={"allow_http": True} if plain else None)
        except (OSError, ValueError, BaseError) as error:
            raise ConfigError(f"the hub's store {url} cannot be opened: {error}") from error

    def put(self, key: str, chunks: Iterable[bytes], check: Check, expected: int = 0) -> None:
        """Store what passes the check; else nothing. `expected` bytes are only a hint for the size of parts."""
        if self.local is not None:
            with self._new_file(key) as file:
                for chunk in check.over(chunks):
                    file.write(chunk)
            return
        # obstore takes from the iterator on threads where nothing may ask it for more: what is read here feeds it
        queue: SimpleQueue[bytes | BaseException | None] = SimpleQueue()
        room = threading.Semaphore(QUEUED)
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(obstore.put, self._store, key, _taken(queue, room), **self._parts(expected))
            try:
                for chunk in check.over(chunks):
                    while not room.acquire(timeout=1):
                        if sending.done():
                            break
                    if sending.done():
                        break
                    queue.put(chunk)
                queue.put(None)
            except BaseException as error:
                queue.put(error)
                with suppress(BaseException):
                    sending.result()
                raise
            sending.result()

    async def put_stream(self, key: str, chunks: AsyncIterable[bytes], check: Check, expected: int = 0) -> None:
        """The same from an asynchronous source; hashing and writing do not hold up the event loop."""
        if self.local is None:
            await obstore.put_async(self._store, key, check.over_stream(chunks), **self._parts(expected))
            return
        with self._new_file(key, settle=False) as file:
            gathered = bytearray()
            async for chunk in chunks:
                gathered += chunk
                if len(gathered) >= BLOCK:
                    await asyncio.to_thread(_pass_and_write, check, file, bytes(gathered))
                    gathered.clear()
            await asyncio.to_thread(_pass_and_write, check, file, bytes(gathered))
            check.finish()
            await asyncio.to_thread(_settle, file)

    def _parts(self, expected: int) -> dict[str, Any]:
        return {"chunk_size": max(PART, -(-expected // MOST_PARTS)), "max_concurrency": 4}

    @contextmanager
    def _new_file(self, key: str, settle: bool = True) -> Iterator[BinaryIO]:
        """A file that takes its place when the block ends well, with its bytes on the disk, and else vanishes."""
        assert self.local is not None
        path = self.local / key
        work = self.local / PARTIAL / secrets.token_hex(16)
        work.parent.mkdir(parents=True, exist_ok=True)
        try:
            with work.open("wb") as file:
                yield file
                if settle:
                    _settle(file)
            new = [folder for folder in path.parents if folder != self.local.parent and not folder.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            work.replace(path)
            for folder in dict.fromkeys([path.parent, *(one.parent for one in new)]):
                _settle_folder(folder)
        finally:
            work.unlink(missing_ok=True)

    def size(self, key: str) -> int | None:
        """Bytes of an object; None if there is none."""
        if self.local is not None:  # many times quicker than asking through obstore
            path = self.local / key
            return path.stat().st_size if path.is_file() else None
        try:
            return int(obstore.head(self._store, key)["size"])
        except FileNotFoundError:
            return None

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Bytes start..end (exclusive; None: to the end) as far as there are any. Raises FileNotFoundError."""
        return b"".join(self.stream(key, start, end))

    def stream(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The same in blocks of about a mebibyte."""
        size = self.size(key)
        if size is None:
            raise FileNotFoundError(f"the store has no {key}")
        end = size if end is None else min(end, size)
        if start >= end:
            return
        if self.local is not None:
            with (self.local / key).open("rb") as file:
                file.seek(start)
                while start < end and (block := file.read(min(BLOCK, end - start))):
                    start += len(block)
                    yield block
            return
        found = obstore.get(self._store, key, options={"range": (start, end)})
        for block in found.stream(min_chunk_size=BLOCK):
            yield bytes(block)

    def path(self, key: str) -> Path | None:
        """The file itself, where the store is a local folder."""
        return self.local / key if self.local is not None else None

    def sign(self, key: str, seconds: int) -> str | None:
        """An address that reads the object without a token for so long; None where the store is a folder."""
        if self.local is not None:
            return None
        return str(obstore.sign(self._store, "GET", key, timedelta(seconds=seconds)))

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are gone already do not matter."""
        if self.local is None:  # many in one request; a bucket does not mind what is gone
            obstore.delete(self._store, list(keys))
            return
        for key in keys:
            with suppress(FileNotFoundError):
                obstore.delete(self._store, key)

    def listing(self, prefix: str) -> Iterator[Stored]:
        """All objects below a folder, such as `lfs/`."""
        for batch in obstore.list(self._store, prefix):
            for row in batch:
                yield Stored(row["path"], row["size"], row["last_modified"])


def _taken(queue: "SimpleQueue[bytes | BaseException | None]", room: threading.Semaphore) -> Iterator[bytes]:
    while (item := queue.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        room.release()
        yield item


def _pass_and_write(check: Check, file: BinaryIO, block: bytes) -> None:
    file.write(check.pass_on(block))


def _settle(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _settle_folder(folder: Path) -> None:
    """Make a folder's new entries last; not every system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
