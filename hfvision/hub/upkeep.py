"""Looking after a hub: garbage collection, verification of every hash, backup (protocol section 13).

Collection may run while the hub serves, and may be killed at any point: what it removes first is only what nothing
refers to, and the references go last.
"""

import hashlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, delete, func, select

from hfvision.hub.backups import backup, restore
from hfvision.hub.clock import now_ms, to_ms
from hfvision.hub.database import batches, lfs, obj, pull, ref, repo, repo_commit, repo_lfs, session
from hfvision.hub.gitobjects import POINTER_LIMIT, decode_commit, decode_pointer, decode_tree, object_id
from hfvision.hub.instance import Hub
from hfvision.hub.large_files import key
from hfvision.hub.lookup import MAIN
from hfvision.hub.store import PARTIAL, Stored

__all__ = ["Collected", "backup", "collect_garbage", "fsck", "restore"]
_EPOCH = re.compile(r"xorb/(.+)-(\d{6})-\d+/")


@dataclass(frozen=True)
class Collected:
    """What a garbage collection removed."""

    git_objects: int
    links: int  # of repositories to large files
    large_files: int
    stored_objects: int  # in the store, large files included
    stored_bytes: int


class _Marks:
    """What references reach: kept between two looks, so that the second one reads only what is new."""

    def __init__(self) -> None:
        self.live: set[str] = set()  # git objects, of all repositories
        self.of_repo: dict[int, set[str]] = {}
        self.pointers: dict[str, str] = {}  # blob -> sha256

    def look(self, connection: Connection) -> None:
        roots: dict[int, set[str]] = {}
        for row in connection.execute(select(ref.c.repo, ref.c.oid)):
            roots.setdefault(row.repo, set()).add(row.oid)
        for repo_id, oids in roots.items():
            self._mark(connection, self.of_repo.setdefault(repo_id, set()), oids)
        for gone in self.of_repo.keys() - roots.keys():
            del self.of_repo[gone]
        self.live = set().union(*self.of_repo.values())
        small = select(obj.c.oid, obj.c.data).where(obj.c.kind == "blob", obj.c.size <= POINTER_LIMIT)
        found = ((row.oid, decode_pointer(bytes(row.data))) for row in connection.execute(small))
        self.pointers = {oid: pointer[0] for oid, pointer in found if pointer is not None}

    def _mark(self, connection: Connection, seen: set[str], oids: set[str]) -> None:
        waiting = oids - seen
        while waiting:
            seen |= waiting
            deeper: set[str] = set()
            for batch in batches(waiting):
                inner = select(obj.c.kind, obj.c.data).where(obj.c.oid.in_(batch), obj.c.kind != "blob")
                for row in connection.execute(inner):
                    if row.kind == "commit":
                        commit = decode_commit(bytes(row.data))
                        deeper.update((commit.tree, *commit.parents))
                        continue
                    for item in decode_tree(bytes(row.data)).values():
                        (deeper if item.is_tree else seen).add(item.oid)
            waiting = deeper - seen

    def large(self, repo_id: int) -> set[str]:
        """sha256 of the large files that a repository's history names."""
        reached = self.of_repo.get(repo_id, set())
        return {sha256 for oid, sha256 in self.pointers.items() if oid in reached}


def collect_garbage(hub: Hub) -> Collected:
    """Remove what no reference of any repository reaches, uploads that no commit took, and expired xorbs.

    Uploads and links are given `settings.grace_seconds`. Writers wait only for the second, short look.
    """
    marks = _Marks()
    limit = now_ms() - hub.settings.grace_seconds * 1000
    with hub.reading() as connection:
        marks.look(connection)
    stored = [one for prefix in ("lfs/", "tmp/", "xorb/") for one in hub.store.listing(prefix)]
    with hub.writing(sweeping=True) as connection:
        marks.look(connection)
        links = _unlink(connection, marks, limit)
        objects = _sweep_objects(connection, marks)
        connection.execute(delete(session).where(session.c.created < limit))
    # only when no link leads there any more: had the links gone in one transaction with the bytes, a death between the
    # two would bring them back, to bytes that are gone
    with hub.writing(sweeping=True) as connection:
        linked = select(repo_lfs.c.sha256)
        loose = lfs.c.sha256.not_in(linked), lfs.c.uploaded < limit
        rows = connection.execute(select(lfs.c.sha256).where(*loose)).scalars().all()
        doomed = {key(sha256) for sha256 in rows} | set(_stray(hub, connection, stored, limit))
        # the bytes go first: if we die in between, a row is left that nothing refers to, and the next run takes it
        hub.store.delete(sorted(doomed))
        for batch in batches(rows):
            connection.execute(delete(lfs).where(lfs.c.sha256.in_(batch)))
    sizes = {one.key: one.size for one in stored if one.key in doomed}
    _remove_partial(hub, limit)
    return Collected(objects, links, len(rows), len(sizes), sum(sizes.values()))


def _unlink(connection: Connection, marks: _Marks, limit: int) -> int:
    count = 0
    for repo_id in connection.scalars(select(repo.c.id)).all():
        reached = marks.of_repo.get(repo_id, set())
        known = connection.scalars(select(repo_commit.c.oid).where(repo_commit.c.repo == repo_id)).all()
        for batch in batches(oid for oid in known if oid not in reached):
            connection.execute(delete(repo_commit).where(repo_commit.c.repo == repo_id, repo_commit.c.oid.in_(batch)))
        old = select(repo_lfs.c.sha256).where(repo_lfs.c.repo == repo_id, repo_lfs.c.linked < limit)
        large = marks.large(repo_id)
        for batch in batches(sha256 for sha256 in connection.scalars(old).all() if sha256 not in large):
            mine = repo_lfs.c.repo == repo_id, repo_lfs.c.sha256.in_(batch)
            count += connection.execute(delete(repo_lfs).where(*mine)).rowcount
    return count


def _sweep_objects(connection: Connection, marks: _Marks) -> int:
    count = 0
    dead = [oid for oid in connection.scalars(select(obj.c.oid)) if oid not in marks.live]
    for batch in batches(dead):
        count += connection.execute(delete(obj).where(obj.c.oid.in_(batch))).rowcount
    return count


def _stray(hub: Hub, connection: Connection, stored: list[Stored], limit: int) -> Iterator[str]:
    """Keys of old objects that no row knows: uploads cut off before they were linked, parts, expired xorbs."""
    rows = set(connection.scalars(select(lfs.c.sha256)))
    sessions = set(connection.scalars(select(session.c.id)))
    expired = datetime.fromtimestamp(time.time() - hub.settings.link_seconds - hub.settings.grace_seconds, UTC)
    for one in stored:
        folder, _, name = one.key.partition("/")
        if to_ms(one.modified) >= limit:
            continue
        if folder == "xorb":
            space = _EPOCH.match(one.key)
            # clients of this instance may name a month's xorbs until the month is over
            unknown = space is None or space[1] != hub.instance_id or space[2] < expired.strftime("%Y%m")
        elif folder == "tmp":
            unknown = name.partition("/")[0] not in sessions
        else:
            unknown = name.rpartition("/")[2] not in rows
        if unknown:
            yield one.key


def _remove_partial(hub: Hub, limit: int) -> None:
    """Files that a process was writing when it died."""
    if hub.store.local is not None and (hub.store.local / PARTIAL).is_dir():
        for path in (hub.store.local / PARTIAL).iterdir():
            if path.stat().st_mtime * 1000 < limit:
                path.unlink(missing_ok=True)


def fsck(hub: Hub, contents: bool = True) -> list[str]:
    """Everything that is not as it should be, one sentence each; an empty list is a healthy hub.

    Every git object is hashed and everything it names must be there; every reference leads to a commit; every large
    file that a repository holds is in the store with its size, and, with `contents`, with its hash.
    """
    problems: list[str] = []
    with hub.reading() as connection:
        if connection.dialect.name == "sqlite":
            verdict = connection.exec_driver_sql("PRAGMA quick_check").scalars().all()
            problems += [f"SQLite says: {line}" for line in verdict if line != "ok"]
        problems += _check_objects(connection)
        joined = select(lfs.c.sha256, lfs.c.size).where(lfs.c.sha256.in_(select(repo_lfs.c.sha256)))
        large = connection.execute(joined).all()
    for row in large:
        size = hub.store.size(key(row.sha256))
        if size is None and not _still_held(hub, row.sha256):
            continue  # collected since we looked
        if size != row.size:
            problems.append(f"large file {row.sha256} has {size} bytes in the store, not {row.size}")
        elif contents and _sha256(hub, row.sha256) != row.sha256:
            problems.append(f"large file {row.sha256} has other bytes than its hash says")
    return problems


def _check_objects(connection: Connection) -> list[str]:
    kinds: dict[str, str] = {row.oid: row.kind for row in connection.execute(select(obj.c.oid, obj.c.kind))}
    problems = []

    def want(oid: str, kind: str, who: str) -> None:
        if kinds.get(oid) != kind:
            problems.append(f"{who} names {kind} {oid}, which is {kinds.get(oid, 'missing')}")

    for row in connection.execution_options(stream_results=True, yield_per=500).execute(select(obj)):
        data, who = bytes(row.data), f"{row.kind} {row.oid}"
        if object_id(row.kind, data) != row.oid or len(data) != row.size:
            problems.append(f"{who} has other bytes than its hash says")
        elif row.kind == "tree":
            for name, item in decode_tree(data).items():
                want(item.oid, "tree" if item.is_tree else "blob", f"{who} ({name})")
        elif row.kind == "commit":
            commit = decode_commit(data)
            want(commit.tree, "tree", who)
            for parent in commit.parents:
                want(parent, "commit", who)
            if row.parent != (commit.parents[0] if commit.parents else None):
                problems.append(f"{who} has a wrong parent beside it")
    known = {(row.repo, row.oid) for row in connection.execute(select(repo_commit))}
    names = {row.id: f"{row.kind} {row.namespace}/{row.name}" for row in connection.execute(select(repo))}
    heads, pulled = set(), set()
    for row in connection.execute(select(ref)):
        who = f"refs/{row.kind}/{row.name} of {names.get(row.repo, row.repo)}"
        want(row.oid, "commit", who)
        if (row.repo, row.oid) not in known:
            problems.append(f"{who} leads to a commit that the repository does not know")
        if (row.kind, row.name) == ("heads", MAIN):
            heads.add(row.repo)
        elif row.kind == "pr":
            pulled.add((row.repo, row.name))
    for row in connection.execute(select(pull.c.repo, pull.c.number)):
        if (row.repo, str(row.number)) not in pulled:
            problems.append(f"pull request {row.number} of {names.get(row.repo, row.repo)} has no head")
        pulled.discard((row.repo, str(row.number)))
    problems += [f"refs/pr/{name} of {names.get(repo_id, repo_id)} has no pull request" for repo_id, name in pulled]
    for repo_id, oid in known:
        want(oid, "commit", names.get(repo_id, str(repo_id)))
    return problems + [f"{name} has no {MAIN} branch" for repo_id, name in names.items() if repo_id not in heads]


def _still_held(hub: Hub, sha256: str) -> bool:
    with hub.reading() as connection:
        return bool(connection.scalar(select(func.count()).select_from(repo_lfs).where(repo_lfs.c.sha256 == sha256)))


def _sha256(hub: Hub, sha256: str) -> str:
    digest = hashlib.sha256()
    for block in hub.store.stream(key(sha256)):
        digest.update(block)
    return digest.hexdigest()
