"""First rows of parquet files for pages, read by a process with limits that sees only the bytes that it asks for."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from hfvision.hub import files
from hfvision.hub.instance import Hub
from hfvision.hub.repositories import Repo
from hfvision.hub.try_it.process import Child, TrialFailed, Turns

MODULE = "hfvision.hub.try_it.parquet_reader"
SECONDS = 20
MEMORY = 2 << 30  # bytes of address space
READ_LIMIT = 256 << 20  # bytes of the file that one preview may read
LARGEST_READ = 64 << 20
AT_ONCE = 2
MOST_WAITING = 6  # readers, those who are being answered included
REMEMBERED = 64  # previews; a file's content never changes under its hash


@dataclass(frozen=True)
class Table:
    """Some rows. A cell is {"text"} or {"image": data address, "size": [W, H]}."""

    columns: list[str]
    rows: list[dict[str, dict[str, Any]]]
    total: int  # rows of the whole file


def cell_of(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell with its values of their kinds: the process has read a stranger's file. Raises ValueError and kin."""
    if "image" not in cell:
        return {"text": str(cell["text"])}
    width, height = map(int, cell["size"])
    if not str(cell["image"]).startswith("data:image/"):
        raise ValueError
    return {"image": str(cell["image"]), "size": [width, height]}


class Previews:
    """The previews of one server process."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._turns = Turns(AT_ONCE, MOST_WAITING)
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, int, int], Table] = OrderedDict()

    def rows(self, repo: Repo, commit: str, path: str, start: int, count: int) -> Table:
        """`count` rows from `start` on. Raises EntryNotFound, TrialBusy, TrialFailed with a reason for the reader."""
        found = files.open_file(self._hub, repo, commit, path)
        key = (found.entry.etag, start, count)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        with self._turns.turn():
            table = self._read(found, start, count)
        with self._lock:
            self._known[key] = table
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return table

    def _read(self, found: files.OpenFile, start: int, count: int) -> Table:
        options = {
            "size": found.entry.size,
            "start": start,
            "rows": count,
            "memory": MEMORY,
            "most": READ_LIMIT,
            "seconds": SECONDS,
        }
        child = Child(MODULE, options)
        try:
            with child.deadline(SECONDS):
                while "read" in (answer := child.hear()):
                    child.send(self._bytes(found, *answer["read"]))
        finally:
            child.close()
        if "error" in answer:
            raise TrialFailed(str(answer["error"])[:300])
        try:
            columns = [str(name) for name in answer["columns"]]
            rows = [{name: cell_of(row[name]) for name in columns} for row in answer["rows"][:count]]
            return Table(columns, rows, int(answer["total"]))
        except (KeyError, TypeError, ValueError):
            raise TrialFailed("The file cannot be shown.") from None

    def _bytes(self, found: files.OpenFile, offset: Any, length: Any) -> bytes:
        """What the process asked for, within the file. Raises TrialFailed for anything else."""
        if isinstance(offset, int) and isinstance(length, int) and offset >= 0 and 0 < length <= LARGEST_READ:
            if found.key is None:
                data = (found.data or b"")[offset : offset + length]
            else:
                data = self._hub.store.read(found.key, offset, offset + length)
            if len(data) == length:
                return data
        raise TrialFailed("The file cannot be shown: its columns are too large for a preview.")
