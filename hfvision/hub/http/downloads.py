"""How often repositories are downloaded: gathered in memory, written to the database every few seconds."""

import asyncio
import time
from collections import Counter, OrderedDict

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from hfvision.hub import repositories
from hfvision.hub.instance import Hub

SAME_DOWNLOAD = 600.0  # seconds in which further files of a repository belong to the same download of one client
FLUSH = 3.0  # seconds between two writes
REMEMBERED = 50_000  # downloads under way that are remembered; the oldest is forgotten first


class Downloads:
    """Counts a client that fetches files of a repository once, however many files it takes."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._counts: Counter[int] = Counter()
        self._recent: OrderedDict[tuple[str, str, int], float] = OrderedDict()
        self._writing: asyncio.Task[None] | None = None

    def add(self, request: Request, repo_id: int) -> None:
        """Note a GET; only those that a client marks as downloads count (protocol section 1)."""
        if request.headers.get("x-hf-download-counter") != "1":
            return
        now = time.monotonic()
        address = request.client.host if request.client else ""
        key = (address, request.headers.get("user-agent", "")[:200], repo_id)
        last = self._recent.pop(key, None)
        self._recent[key] = now
        if len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)
        if last is None or now - last > SAME_DOWNLOAD:
            self._counts[repo_id] += 1
        if self._counts and self._writing is None:
            self._writing = asyncio.create_task(self._write_soon())

    async def _write_soon(self) -> None:
        await asyncio.sleep(FLUSH)
        self._writing = None
        await run_in_threadpool(self.flush)

    def flush(self) -> None:
        """Write what was counted; a crash loses a few seconds' worth."""
        counts, self._counts = self._counts, Counter()
        if counts:
            repositories.count_downloads(self._hub, dict(counts))
