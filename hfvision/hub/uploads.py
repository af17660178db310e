"""What a client should do with each file before it commits (preupload, protocol section 6)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from hfvision.hub import files, objects
from hfvision.hub.errors import BadRequest
from hfvision.hub.globs import ignore_rules, is_ignored, is_large, large_rules
from hfvision.hub.instance import Hub
from hfvision.hub.lookup import Repo
from hfvision.hub.names import check_path

RULES_LIMIT = 128 * 1024  # bytes of a .gitignore or .gitattributes that are looked at
RULES_SECONDS = 10.0  # of the processor, for matching the files of one call with them


@dataclass(frozen=True)
class Candidate:
    """A file that a client has."""

    path: str
    size: int
    sample: bytes  # its first 512 bytes


@dataclass(frozen=True)
class Plan:
    """How to send it."""

    path: str
    mode: str  # regular | lfs
    ignored: bool
    oid: str | None  # of the file now at that path: git hash, or sha256 for a large file


def plan(
    hub: Hub, repo: Repo, revision: str, candidates: Sequence[Candidate], gitignore: str | None = None
) -> list[Plan]:
    """Regular or large, ignored or not, by .gitattributes, .gitignore (the sent one wins), size and NUL bytes.

    Raises BadPath, RevisionNotFound, and BadRequest for rules that take too long: some are written to.
    """
    for one in candidates:
        check_path(one.path)
    rules = ".gitattributes", ".gitignore"
    known = {
        entry.path: entry for entry in files.entries(hub, repo, revision, [*(one.path for one in candidates), *rules])
    }
    with hub.reading() as connection:
        texts = {name: _text(connection, known.get(name)) for name in rules}
    large = large_rules(texts[".gitattributes"])
    ignores = ignore_rules(texts[".gitignore"] if gitignore is None else gitignore[:RULES_LIMIT])
    end = time.thread_time() + RULES_SECONDS

    def tick() -> None:
        if time.thread_time() > end:
            raise BadRequest(
                f"Matching these files with .gitignore and .gitattributes takes more than {RULES_SECONDS:g} seconds: "
                "ask about fewer files at once, or use fewer and shorter patterns."
            )

    plans = []
    known_folders: dict[str, bool] = {}
    for one in candidates:
        tick()
        big = is_large(large, one.path) or one.size > hub.settings.regular_limit or b"\0" in one.sample
        entry = known.get(one.path)
        oid = entry.etag if entry is not None and entry.kind == "file" else None
        plans.append(
            Plan(one.path, "lfs" if big else "regular", is_ignored(ignores, one.path, known_folders, tick), oid)
        )
    return plans


def _text(connection: Connection, entry: files.Entry | None) -> str:
    if entry is None or entry.kind != "file" or entry.sha256 is not None or entry.size > RULES_LIMIT:
        return ""
    return objects.read_object(connection, entry.oid).decode("utf-8", "replace")
