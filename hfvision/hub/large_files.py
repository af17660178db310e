"""Large files: whose they are, uploads whole and in parts, locks (protocol sections 6.1 and 12).

A large file is named by its sha256 and stored once. A repository may refer to it only if it holds a link to it, and
gets the link by someone uploading the bytes there: knowing a hash gives nothing.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from hfvision.hub import objects
from hfvision.hub.accounts import Caller
from hfvision.hub.clock import now_ms, to_datetime
from hfvision.hub.database import batches, insert_new, lfs, lock, part, ref, repo_lfs, session
from hfvision.hub.errors import BadRequest, Conflict, Forbidden, HubError, NotFound, RepoNotFound, TooLarge
from hfvision.hub.gitobjects import encode_pointer, object_id
from hfvision.hub.instance import Hub
from hfvision.hub.lookup import CONTENT, MAIN, WRITE, Page, Repo, find_in
from hfvision.hub.names import check_path
from hfvision.hub.store import Check

_SHA256 = re.compile(r"[0-9a-f]{64}")
MOST_PARTS = 100_000


class TryAgain(HubError):
    """Something went away at a bad moment: the same request will work."""

    status = 503


@dataclass(frozen=True)
class Part:
    """One uploaded part of a multipart session."""

    number: int  # from 1
    size: int
    etag: str  # without quotes


@dataclass(frozen=True)
class Held:
    """A large file that a repository links to; `path` and `ref` say where one of its heads has it, if any does."""

    sha256: str
    size: int  # bytes
    linked: datetime
    path: str | None
    ref: str | None  # such as main or refs/tags/v1


@dataclass(frozen=True)
class Lock:
    """A git-lfs lock."""

    id: str
    path: str
    owner: str
    created: datetime


def check_sha256(text: str) -> str:
    """64 lower-case hex digits, or BadRequest."""
    if not isinstance(text, str) or not _SHA256.fullmatch(text):
        raise BadRequest("a large file is named by the 64 lower-case hex digits of its sha256")
    return text


def key(sha256: str) -> str:
    """Where the store keeps it."""
    return f"lfs/{sha256[:2]}/{sha256[2:4]}/{sha256}"


def held(hub: Hub, repo: Repo, hashes: Sequence[str]) -> dict[str, int]:
    """sha256 -> size in bytes of those that this repository links to."""
    with hub.reading() as connection:
        return held_in(connection, repo.id, hashes)


def held_in(connection: Connection, repo_id: int, hashes: Iterable[str]) -> dict[str, int]:
    """As `held`, within a transaction."""
    sizes: dict[str, int] = {}
    joined = select(lfs.c.sha256, lfs.c.size).join(repo_lfs, repo_lfs.c.sha256 == lfs.c.sha256)
    for batch in batches(set(hashes)):
        rows = connection.execute(joined.where(repo_lfs.c.repo == repo_id, lfs.c.sha256.in_(batch)))
        sizes.update({row.sha256: row.size for row in rows})
    return sizes


def receive(hub: Hub, repo_id: int, sha256: str, size: int, chunks: Iterable[bytes]) -> bool:
    """Store a whole file while hashing it and link it to the repository; False if the repository had it.

    Raises ChecksumMismatch (nothing kept), TooLarge. Bytes that the store has are hashed all the same: they are what
    shows that the sender has the file. Whether the store had them is told to nobody: they may be in private there.
    """
    check = _expect(hub, sha256, size)
    if hub.store.size(key(sha256)) != size:
        hub.store.put(key(sha256), chunks, check, size)
    else:
        for _ in check.over(chunks):
            pass
    return link(hub, repo_id, sha256, size)


async def receive_stream(hub: Hub, repo_id: int, sha256: str, size: int, chunks: AsyncIterable[bytes]) -> bool:
    """The same from an asynchronous source, such as a request's body."""
    check = _expect(hub, sha256, size)
    if await asyncio.to_thread(hub.store.size, key(sha256)) != size:
        await hub.store.put_stream(key(sha256), chunks, check, size)
    else:
        async for _ in check.over_stream(chunks):
            pass
    return await asyncio.to_thread(link, hub, repo_id, sha256, size)


def _expect(hub: Hub, sha256: str, size: int) -> Check:
    check_sha256(sha256)
    if size < 0:
        raise BadRequest("a file's size is not negative")
    if size > hub.settings.file_limit:
        raise TooLarge(f"the file has {size} bytes; the hub takes {hub.settings.file_limit}")
    return Check(sha256, size)


def link(hub: Hub, repo_id: int, sha256: str, size: int) -> bool:
    """Let a repository refer to a stored file whose bytes its caller has just shown; False if it did before."""
    now = now_ms()
    try:
        with hub.writing() as connection:
            # garbage collection cannot run during this transaction; it may have just before
            if hub.store.size(key(sha256)) != size:
                raise TryAgain("the upload was cleared away meanwhile; send it again")
            if not insert_new(connection, lfs, [{"sha256": sha256, "size": size, "uploaded": now}]):
                connection.execute(update(lfs).where(lfs.c.sha256 == sha256).values(uploaded=now))
            new = bool(insert_new(connection, repo_lfs, [{"repo": repo_id, "sha256": sha256, "linked": now}]))
            if not new:
                mine = repo_lfs.c.repo == repo_id, repo_lfs.c.sha256 == sha256
                connection.execute(update(repo_lfs).where(*mine).values(linked=now))
            return new
    except Conflict as error:  # the repository was deleted while the bytes came
        raise RepoNotFound(anonymous=False) from error


def verify(hub: Hub, repo: Repo, sha256: str, size: int) -> None:
    """That the repository holds this file with this size; raises NotFound or BadRequest."""
    have = held(hub, repo, [check_sha256(sha256)]).get(sha256)
    if have is None:
        raise NotFound(f"{repo.full_name} holds no large file {sha256}")
    if have != size:
        raise BadRequest(f"the large file {sha256} has {have} bytes, not {size}")


def begin_parts(hub: Hub, repo_id: int, sha256: str, size: int) -> str:
    """Id of a new multipart session; its parts are `settings.part_size` bytes, the last one shorter."""
    _expect(hub, sha256, size)
    if size > MOST_PARTS * hub.settings.part_size:
        raise TooLarge(f"the file would have more than {MOST_PARTS} parts of {hub.settings.part_size} bytes")
    values = {
        "id": secrets.token_hex(20),
        "repo": repo_id,
        "sha256": sha256,
        "size": size,
        "part_size": hub.settings.part_size,
        "created": now_ms(),
    }
    with hub.writing() as connection:
        connection.execute(insert(session).values(**values))
    return str(values["id"])


async def receive_part(hub: Hub, session_id: str, number: int, chunks: AsyncIterable[bytes]) -> Part:
    """Store one part; sending it again replaces it. Raises NotFound, BadRequest (number), ChecksumMismatch (size)."""
    row = await asyncio.to_thread(_session, hub, session_id)
    length = min(row.part_size, row.size - (number - 1) * row.part_size)
    if number < 1 or length <= 0:
        raise BadRequest(f"a file of {row.size} bytes has no part {number} of {row.part_size} bytes")
    check = Check(None, length)
    await hub.store.put_stream(_part_key(session_id, number), chunks, check, length)
    made = Part(number, length, check.hexdigest)
    await asyncio.to_thread(_note_part, hub, session_id, made)
    return made


def _note_part(hub: Hub, session_id: str, made: Part) -> None:
    with hub.writing() as connection:
        connection.execute(delete(part).where(part.c.session == session_id, part.c.number == made.number))
        values = {"session": session_id, "number": made.number, "size": made.size, "etag": made.etag}
        connection.execute(insert(part).values(**values))


def complete_parts(hub: Hub, session_id: str, sha256: str, parts: Sequence[tuple[int, str]]) -> None:
    """Join (number, etag) parts, check the hash, link. Raises ChecksumMismatch, BadRequest (missing or other parts).

    Asking again after success is fine: the session is kept for a while, its parts are not.
    """
    row = _session(hub, session_id)
    if row.sha256 != sha256:
        raise BadRequest("this session is for another file")
    with hub.reading() as connection:
        if sha256 in held_in(connection, row.repo, [sha256]):
            return
        rows = connection.execute(select(part).where(part.c.session == session_id).order_by(part.c.number)).all()
    sent = sorted((number, etag.strip('"')) for number, etag in parts)
    count = -(-row.size // row.part_size)
    if [(one.number, one.etag) for one in rows] != sent or len(rows) != count:
        raise BadRequest(f"the file has {count} parts; {len(rows)} came and {len(sent)} were listed, or they differ")
    keys = [_part_key(session_id, one.number) for one in rows]
    try:
        receive(hub, row.repo, sha256, row.size, (block for one in keys for block in hub.store.stream(one)))
    except FileNotFoundError as error:
        raise TryAgain("a part was cleared away meanwhile; send the file again") from error
    hub.store.delete(keys)


def _session(hub: Hub, session_id: str) -> Any:
    with hub.reading() as connection:
        row = connection.execute(select(session).where(session.c.id == session_id)).first()
    if row is None:
        raise NotFound("there is no such upload, or it was abandoned too long ago")
    return row


def _part_key(session_id: str, number: int) -> str:
    return f"tmp/{session_id}/{number:06d}"


def listing(hub: Hub, repo: Repo, limit: int = 1000, cursor: str | None = None) -> Page:
    """What the repository links to (`Held`), by sha256."""
    joined = select(lfs.c.sha256, lfs.c.size, repo_lfs.c.linked).join(repo_lfs, repo_lfs.c.sha256 == lfs.c.sha256)
    joined = joined.where(repo_lfs.c.repo == repo.id, lfs.c.sha256 > (cursor or "")).order_by(lfs.c.sha256)
    with hub.reading() as connection:
        rows = connection.execute(joined.limit(limit + 1)).all()
        places = _places(hub, connection, repo, {one.sha256: one.size for one in rows[:limit]})
    nowhere = None, None
    items = [
        Held(one.sha256, one.size, to_datetime(one.linked), *places.get(one.sha256, nowhere)) for one in rows[:limit]
    ]
    return Page(items, rows[limit - 1].sha256 if len(rows) > limit else None)


def _places(hub: Hub, connection: Connection, repo: Repo, sizes: dict[str, int]) -> dict[str, tuple[str, str]]:
    """sha256 -> (path, reference) where heads of branches, tags or pull requests have these files; main goes first."""
    wanted = {object_id("blob", encode_pointer(sha256, size)): sha256 for sha256, size in sizes.items()}
    found: dict[str, tuple[str, str]] = {}
    seen: set[str] = set()  # folders are mostly the same in all of them
    read = objects.tree_reader(hub, connection)

    def look(tree: str, prefix: str, name: str) -> None:
        if tree in seen or len(found) == len(wanted):
            return
        seen.add(tree)
        for entry, item in read(tree).items():
            if item.is_tree:
                look(item.oid, f"{prefix}{entry}/", name)
            elif item.oid in wanted:
                found.setdefault(wanted[item.oid], (prefix + entry, name))

    rows = connection.execute(select(ref.c.kind, ref.c.name, ref.c.oid).where(ref.c.repo == repo.id)).all()
    order = {"heads": 0, "tags": 1, "pr": 2}
    for row in sorted(rows, key=lambda row: (order[row.kind], row.oid != repo.sha, row.name != MAIN, row.name)):
        name = row.name if row.kind == "heads" else f"refs/{row.kind}/{row.name}"
        if len(found) < len(wanted):
            look(objects.read_commit(connection, row.oid).tree, "", name)
    return found


def copy_links(hub: Hub, caller: Caller, source: Repo, target: Repo, hashes: Sequence[str]) -> dict[str, str]:
    """Link files of one repository to another; {sha256: why not} of those that the source does not hold."""
    with hub.writing() as connection:
        source = find_in(connection, caller, source.kind, source.full_name, CONTENT)
        target = find_in(connection, caller, target.kind, target.full_name, WRITE)
        known = held_in(connection, source.id, hashes)
        now = now_ms()
        insert_new(connection, repo_lfs, [{"repo": target.id, "sha256": one, "linked": now} for one in sorted(known)])
    return {one: "the source holds no such file" for one in hashes if one not in known}


def create_lock(hub: Hub, caller: Caller, repo: Repo, path: str) -> Lock:
    """Raises Conflict if locked, BadPath."""
    made = Lock(secrets.token_hex(8), check_path(path), caller.name, to_datetime(now_ms()))
    with hub.writing() as connection:
        repo = find_in(connection, caller, repo.kind, repo.full_name, WRITE)
        values = {"id": made.id, "repo": repo.id, "path": path, "owner": caller.name, "created": now_ms()}
        if not insert_new(connection, lock, [values]):
            raise Conflict(f"already locked: {path}")
    return made


def locks(hub: Hub, repo: Repo, path: str | None = None) -> list[Lock]:
    """Locks of a repository, or the one on a path."""
    mine = select(lock).where(lock.c.repo == repo.id).order_by(lock.c.path)
    with hub.reading() as connection:
        return list(_locks(connection.execute(mine if path is None else mine.where(lock.c.path == path))))


def delete_lock(hub: Hub, caller: Caller, repo: Repo, lock_id: str, force: bool = False) -> Lock:
    """Raises NotFound, and Forbidden for somebody else's lock unless forced."""
    with hub.writing() as connection:
        repo = find_in(connection, caller, repo.kind, repo.full_name, WRITE)
        where = lock.c.repo == repo.id, lock.c.id == lock_id
        found = next(_locks(connection.execute(select(lock).where(*where))), None)
        if found is None:
            raise NotFound("there is no such lock")
        if found.owner != caller.name and not force:
            raise Forbidden(f"the lock is {found.owner}'s")
        connection.execute(delete(lock).where(*where))
        return found


def _locks(rows: Any) -> Iterator[Lock]:
    return (Lock(row.id, row.path, row.owner, to_datetime(row.created)) for row in rows)
