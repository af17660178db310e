"""Large files taken out of a repository for good, and, if asked, out of every commit that names them (section 4)."""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, delete, select, update

from hfvision.hub import metadata, objects
from hfvision.hub.accounts import Caller
from hfvision.hub.clock import now_ms
from hfvision.hub.database import batches, insert_new, obj, pull, ref, repo_commit, repo_lfs
from hfvision.hub.database import repo as repo_table
from hfvision.hub.errors import BadRequest
from hfvision.hub.gitobjects import (
    CommitObject,
    TreeItem,
    decode_tree,
    encode_commit,
    encode_pointer,
    encode_tree,
    object_id,
)
from hfvision.hub.instance import Hub
from hfvision.hub.large_files import held_in
from hfvision.hub.lookup import ADMIN, Repo, find_in

MOST_LINES = 5_000_000  # of all the trees and commits that one rewriting reads: some ten seconds
TREES = 50  # read at once
PENDING = 16 << 20  # bytes of new trees that wait to be stored together


def purge(hub: Hub, caller: Caller, repo: Repo, hashes: Sequence[str], rewrite: bool = False) -> int:
    """Unlink large files for good; the right to administer is needed. Returns how many commits were rewritten.

    With `rewrite` their paths leave every commit of every branch, tag and pull request: those commits and all that
    follow them get new hashes, and the former ones lead nowhere any more. Without it the paths stay, as pointer text.
    Raises what `find` raises for an administrator, and BadRequest for a history too long to be rewritten.
    """
    if not rewrite:
        with hub.writing() as connection:
            repo = find_in(connection, caller, repo.kind, repo.full_name, ADMIN)
            _unlink(hub, connection, repo, hashes)
        return 0
    with hub.reading() as connection:
        repo = find_in(connection, caller, repo.kind, repo.full_name, ADMIN)
        sizes = held_in(connection, repo.id, hashes)
        survey = _Survey({object_id("blob", encode_pointer(sha256, size)) for sha256, size in sizes.items()})
        survey.look(connection, repo)
    with hub.writing(sweeping=True) as connection:  # alone: nobody else builds on commits that are being replaced
        repo = find_in(connection, caller, repo.kind, repo.full_name, ADMIN)
        survey.look(connection, repo)
        moved = _Rewriting(hub, connection, survey).commits()
        _move(connection, repo, moved)
        _unlink(hub, connection, find_in(connection, caller, repo.kind, repo.full_name, ADMIN), hashes)
    return sum(old != new for old, new in moved.items())


class _Survey:
    """A repository's commits and which trees hold a blob that is to go; a second look reads only what is new."""

    def __init__(self, doomed: set[str]) -> None:
        self.doomed = doomed
        self.commits: dict[str, CommitObject] = {}
        self._inside: dict[str, list[str]] = {}  # tree -> the trees in it
        self._direct: set[str] = set()  # trees that name a doomed blob themselves
        self._lines = 0

    def look(self, connection: Connection, repo: Repo) -> None:
        """Raises BadRequest after MOST_LINES."""
        for head in connection.scalars(select(ref.c.oid).where(ref.c.repo == repo.id)).all():
            for oid, commit in objects.ancestry(connection, head):
                if oid in self.commits:
                    break
                self.commits[oid] = commit
                self._count(1)
        waiting = {commit.tree for commit in self.commits.values()} - self._inside.keys()
        while waiting:
            for batch in batches(waiting, TREES):
                for row in connection.execute(select(obj.c.oid, obj.c.data).where(obj.c.oid.in_(batch))):
                    self._read(row.oid, bytes(row.data))
            waiting = {oid for one in waiting for oid in self._inside[one]} - self._inside.keys()

    def _read(self, oid: str, data: bytes) -> None:
        items = decode_tree(data).values()
        self._count(len(items))
        self._inside[oid] = [item.oid for item in items if item.is_tree]
        if any(item.oid in self.doomed for item in items):
            self._direct.add(oid)

    def _count(self, lines: int) -> None:
        self._lines += lines
        if self._lines > MOST_LINES:
            raise BadRequest(
                f"This history has more than {MOST_LINES} lines to rewrite: squash its branches first, or keep the "
                "paths (rewrite_history=False)."
            )

    def touched(self) -> set[str]:
        """Trees that hold a doomed blob at any depth."""
        outside: dict[str, list[str]] = {}
        for oid, inside in self._inside.items():
            for one in inside:
                outside.setdefault(one, []).append(oid)
        found: set[str] = set()
        waiting = set(self._direct)
        while waiting:
            found |= waiting
            waiting = {oid for one in waiting for oid in outside.get(one, ())} - found
        return found


class _Rewriting:
    """Stores trees and commits without the doomed blobs."""

    def __init__(self, hub: Hub, connection: Connection, survey: _Survey) -> None:
        self._connection, self._survey = connection, survey
        self._read = objects.tree_reader(hub, connection)
        self._touched = survey.touched()
        self._trees: dict[str, str] = {}  # former -> new
        self._pending: dict[str, bytes] = {}
        self._size = 0

    def commits(self) -> dict[str, str]:
        """{former hash: new hash} of all commits, the same where nothing changes."""
        known = self._survey.commits
        moved: dict[str, str] = {}
        rows = []
        for head in known:
            chain = []
            at: str | None = head
            while at is not None and at not in moved:
                chain.append(at)
                at = next(iter(known[at].parents), None)
            for oid in reversed(chain):
                commit = known[oid]
                parents = tuple(moved[parent] for parent in commit.parents)
                new = replace(commit, tree=self._clean(commit.tree), parents=parents)
                moved[oid] = oid
                if new != commit:
                    data = encode_commit(new)
                    moved[oid] = object_id("commit", data)
                    parent = parents[0] if parents else None
                    size = len(data)
                    rows.append({"oid": moved[oid], "kind": "commit", "size": size, "parent": parent, "data": data})
        self._store()
        insert_new(self._connection, obj, rows)
        return moved

    def _clean(self, oid: str) -> str:
        if oid not in self._touched:
            return oid
        if oid not in self._trees:
            kept = {}
            for name, item in self._read(oid).items():
                new = self._clean(item.oid) if item.is_tree else item.oid
                if new != objects.EMPTY_TREE and new not in self._survey.doomed:
                    kept[name] = TreeItem(item.mode, new)
            data = encode_tree(kept)
            self._trees[oid] = object_id("tree", data)
            self._pending[self._trees[oid]] = data
            self._size += len(data)
            if self._size > PENDING:
                self._store()
        return self._trees[oid]

    def _store(self) -> None:
        objects.insert_objects(self._connection, "tree", self._pending)
        self._pending, self._size = {}, 0


def _move(connection: Connection, repo: Repo, moved: dict[str, str]) -> None:
    """Lead every reference to the new commits, and let no hash lead to another one."""
    insert_new(connection, repo_commit, [{"repo": repo.id, "oid": oid} for oid in sorted(set(moved.values()))])
    known = connection.scalars(select(repo_commit.c.oid).where(repo_commit.c.repo == repo.id)).all()
    for batch in batches(set(known) - set(moved.values())):
        connection.execute(delete(repo_commit).where(repo_commit.c.repo == repo.id, repo_commit.c.oid.in_(batch)))
    for table, column in ((ref, ref.c.oid), (pull, pull.c.merged_as)):
        for oid in connection.scalars(select(column).where(table.c.repo == repo.id).distinct()).all():
            if moved.get(oid, oid) != oid:
                changed = update(table).where(table.c.repo == repo.id, column == oid)
                connection.execute(changed.values({column.name: moved[oid]}))


def _unlink(hub: Hub, connection: Connection, repo: Repo, hashes: Sequence[str]) -> None:
    for batch in batches(hashes):
        connection.execute(delete(repo_lfs).where(repo_lfs.c.repo == repo.id, repo_lfs.c.sha256.in_(batch)))
    connection.execute(update(repo_table).where(repo_table.c.id == repo.id).values(modified=now_ms()))
    metadata.refresh(hub, connection, repo.id, repo.kind, objects.read_commit(connection, repo.sha).tree)
