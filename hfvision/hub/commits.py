"""Commits: apply operations to a branch atomically, history, squash, differences (protocol section 6)."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, literal, select, update

from hfvision.hub import metadata, objects
from hfvision.hub.accounts import Caller
from hfvision.hub.clock import now_ms
from hfvision.hub.database import insert_new, pull, ref, repo_commit, repo_lfs
from hfvision.hub.database import repo as repo_table
from hfvision.hub.errors import BadPath, BadRequest, Conflict, EntryNotFound, LoginNeeded, ParentMismatch
from hfvision.hub.gitobjects import (
    FILE_MODE,
    CommitObject,
    TreeEditor,
    TreeItem,
    changes,
    encode_pointer,
    object_id,
    walk,
)
from hfvision.hub.instance import Hub
from hfvision.hub.large_files import held_in, key
from hfvision.hub.lookup import CONTENT, MAIN, PROPOSE, WRITE, Page, Repo, find_in
from hfvision.hub.names import PATH_LIMIT, check_name, check_path
from hfvision.hub.refs import Ref, find_ref, printable, resolve_in
from hfvision.hub.repositories import create_in, email

MOST_MESSAGE = 65_536  # characters
MOST_COPIED = 100_000  # files and folders that the copies of one commit bring along


@dataclass(frozen=True)
class AddFile:
    """Write a regular file."""

    path: str
    content: bytes


@dataclass(frozen=True)
class AddLargeFile:
    """Point a path at a large file that this repository already holds (uploaded, or known from earlier commits)."""

    path: str
    sha256: str
    size: int | None = None  # checked if given; server-side copies leave it out


@dataclass(frozen=True)
class DeleteFile:
    """Delete a file; if the path is a folder, the folder."""

    path: str


@dataclass(frozen=True)
class DeleteFolder:
    """Delete a folder with all it holds."""

    path: str


@dataclass(frozen=True)
class CopyFile:
    """Copy a file or folder of this repository, from `revision` (None: the branch as it is before this commit)."""

    source: str
    path: str
    revision: str | None = None


Operation = AddFile | AddLargeFile | DeleteFile | DeleteFolder | CopyFile


@dataclass(frozen=True)
class Draft:
    """A commit that has been looked at and not yet applied: what can be done before a transaction is done."""

    operations: tuple[Operation, ...]
    blobs: dict[str, bytes]
    message: str


@dataclass(frozen=True)
class Commit:
    """One commit as shown to clients."""

    id: str
    tree: str
    parent: str | None
    title: str  # first line of the message
    message: str  # the rest
    author: str
    date: datetime  # UTC, whole seconds


@dataclass(frozen=True)
class Change:
    """One file that differs between two commits; None on the side where it is absent."""

    path: str
    status: str  # added | deleted | modified
    old: str | None  # git blob
    new: str | None


def to_commit(oid: str, commit: CommitObject) -> Commit:
    title, _, message = commit.message.partition("\n")
    parent = commit.parents[0] if commit.parents else None
    return Commit(oid, commit.tree, parent, title, message.strip("\n"), commit.author, commit.date)


def apply(
    hub: Hub,
    caller: Caller,
    repo: Repo,
    revision: str,
    operations: Iterable[Operation],
    summary: str,
    description: str = "",
    parent: str | None = None,
) -> Commit:
    """Apply operations in order to the head of a branch or refs/pr/N: all of them or none.

    `parent`: prefix of 5 to 40 hex digits that the head must have (ParentMismatch); None puts the commit on whatever
    the head is by then. Raises Forbidden, RevisionNotFound, BadPath, EntryNotFound, BadRequest (a large file that this
    repository does not hold). A tag or hash is no branch: BadRequest.
    """
    made = draft(hub, operations, summary, description)
    with hub.writing() as connection:
        repo, branch = lock_branch(connection, caller, repo, revision)
        return apply_in(hub, connection, caller, repo, branch, made, parent)


def draft(hub: Hub, operations: Iterable[Operation], summary: str, description: str = "") -> Draft:
    """Check paths, hash contents, read cards and headers of weights. Raises BadPath, BadRequest."""
    message = message_of(summary, description)
    operations = tuple(operations)
    blobs: dict[str, bytes] = {}
    for one in operations:
        if not isinstance(one, (DeleteFile, DeleteFolder)):
            check_path(one.path)
        if isinstance(one, AddFile):
            oid = object_id("blob", one.content)
            blobs[oid] = one.content
            metadata.prepare(hub, one.path, oid, one.content)
        elif isinstance(one, AddLargeFile) and "/" not in one.path and one.path.endswith(".safetensors"):
            metadata.prepare_tensors(hub, one.sha256, key(one.sha256))
    return Draft(operations, blobs, message)


def apply_in(
    hub: Hub, connection: Connection, caller: Caller, repo: Repo, branch: Ref, draft: Draft, parent: str | None
) -> Commit:
    """As `apply`, to a branch that this transaction has locked."""
    if repo.gated:  # a proposal may copy any file to where the card is shown from: it is for those who may read them
        find_in(connection, caller, repo.kind, repo.full_name, CONTENT)
    if parent is not None and not (len(parent) >= 5 and branch.commit.startswith(parent.lower())):
        raise ParentMismatch
    before = objects.read_commit(connection, branch.commit).tree
    editor = TreeEditor(objects.tree_reader(hub, connection), before)
    large = [one.sha256 for one in draft.operations if isinstance(one, AddLargeFile)]
    sizes = held_in(connection, repo.id, large)
    blobs = dict(draft.blobs)
    copied = 0
    for one in draft.operations:
        if isinstance(one, AddFile):
            editor.put(one.path, TreeItem(FILE_MODE, object_id("blob", one.content)))
        elif isinstance(one, AddLargeFile):
            pointer = _pointer(one, sizes)
            blobs[object_id("blob", pointer)] = pointer
            editor.put(one.path, TreeItem(FILE_MODE, object_id("blob", pointer)))
        elif isinstance(one, CopyFile):
            item = _copied(hub, connection, repo, one, before, branch.commit)
            copied += _count(hub, connection, item, one.path, MOST_COPIED - copied)
            editor.put(one.path, item)
        else:
            _delete(editor, one, branch.commit)
    objects.insert_objects(connection, "blob", blobs)
    paths = [one.path for one in draft.operations]
    return store(hub, connection, caller, repo, branch, editor, draft.message, paths)


def store(
    hub: Hub,
    connection: Connection,
    caller: Caller,
    repo: Repo,
    branch: Ref,
    editor: TreeEditor,
    message: str,
    paths: Collection[str],
) -> Commit:
    """Store an edited tree as a commit on the locked branch."""
    tree, trees = editor.write()
    objects.insert_objects(connection, "tree", trees)
    return advance(hub, connection, caller, repo, branch, tree, branch.commit, message, paths)


def lock_branch(connection: Connection, caller: Caller, repo: Repo, revision: str) -> tuple[Repo, Ref]:
    """The branch or pull request head to write to, held until the transaction ends.

    Raises what `find` raises for a writer, or for the author of the pull request; RevisionNotFound, BadRequest for
    what is no branch, Conflict for a pull request that is not open.
    """
    request = _pull(connection, repo, revision.removeprefix("refs/pr/")) if revision.startswith("refs/pr/") else None
    mine = request is not None and request.author == caller.name
    repo = find_in(connection, caller, repo.kind, repo.full_name, PROPOSE if mine else WRITE)
    found = find_ref(connection, repo, revision)
    if found is None or found.kind == "tags":
        resolve_in(connection, repo, revision)
        raise BadRequest(f"{printable(revision)} is no branch: commits go to branches and pull requests")
    where = ref.c.repo == repo.id, ref.c.kind == found.kind, ref.c.name == found.name
    # read again under the lock: another writer may have moved the branch while we waited for it
    head = connection.execute(select(ref.c.oid).where(*where).with_for_update()).scalar_one_or_none()
    if head is None:
        resolve_in(connection, repo, revision)
        raise ParentMismatch
    if found.kind == "pr":
        request = _pull(connection, repo, found.name)  # again under the lock, as it may just have been merged
        if request is None or request.status != "open":
            raise Conflict(f"Pull request {found.name} is not open any more: put these changes into a new one.")
    return repo, Ref(found.kind, found.name, head)


def _pull(connection: Connection, repo: Repo, number: str) -> Any:
    """Author and status of a pull request, or None."""
    if not number.isdecimal() or len(number) > 9:
        return None
    mine = pull.c.repo == repo.id, pull.c.number == int(number)
    return connection.execute(select(pull.c.author, pull.c.status).where(*mine)).first()


def advance(
    hub: Hub,
    connection: Connection,
    caller: Caller,
    repo: Repo,
    branch: Ref,
    tree: str,
    parent: str | None,
    message: str,
    paths: Collection[str] | None = None,
) -> Commit:
    """Store a commit and move the locked branch to it; `paths` are those that may have changed (None: any)."""
    oid, commit = objects.insert_commit(connection, tree, parent, caller.name, email(caller), message)
    insert_new(connection, repo_commit, [{"repo": repo.id, "oid": oid}])
    where = ref.c.repo == repo.id, ref.c.kind == branch.kind, ref.c.name == branch.name, ref.c.oid == branch.commit
    if connection.execute(update(ref).where(*where).values(oid=oid)).rowcount != 1:
        raise ParentMismatch  # cannot happen while the lock is held; if it does, nothing is kept
    connection.execute(update(repo_table).where(repo_table.c.id == repo.id).values(modified=now_ms()))
    main = branch.kind == "heads" and branch.name == MAIN
    if main and (paths is None or metadata.concerns(repo.kind, list(paths))):
        metadata.refresh(hub, connection, repo.id, repo.kind, tree)
    return to_commit(oid, commit)


def message_of(summary: str, description: str) -> str:
    """The message of a commit. Raises BadRequest for an empty summary."""
    title = " ".join(summary.split())
    if not title:
        raise BadRequest("a commit needs a summary")
    return "\n\n".join(part for part in (title, description.strip()) if part)[:MOST_MESSAGE]


def _pointer(one: AddLargeFile, sizes: dict[str, int]) -> bytes:
    size = sizes.get(one.sha256)
    if size is None:
        raise BadRequest(
            f"{printable(one.path)}: this repository holds no large file {one.sha256[:64]}; upload it first"
        )
    if one.size is not None and one.size != size:
        raise BadRequest(f"{printable(one.path)}: the large file has {size} bytes, not {one.size}")
    return encode_pointer(one.sha256, size)


def _copied(hub: Hub, connection: Connection, repo: Repo, one: CopyFile, before: str, head: str) -> TreeItem:
    if one.revision is not None:
        head = resolve_in(connection, repo, one.revision)
        before = objects.read_commit(connection, head).tree
    item = TreeEditor(objects.tree_reader(hub, connection), before).get(one.source.strip("/"))
    if item is None:
        raise EntryNotFound(f"{printable(one.source)} does not exist in this revision", head)
    return item


def _count(hub: Hub, connection: Connection, item: TreeItem, path: str, most: int) -> int:
    """How much a copy brings along: a few copies of copies would make more files than anyone could ever list.

    Raises BadRequest for more than `most`, BadPath where a file would lie deeper than paths reach.
    """
    count = 1
    if item.is_tree:
        for below, _ in walk(objects.tree_reader(hub, connection), item.oid, path + "/"):
            if len(below.encode()) > PATH_LIMIT:
                raise BadPath(f"the path {below[:PATH_LIMIT]!r} would have more than {PATH_LIMIT} bytes")
            count += 1
            if count > most:
                break
    if count > most:
        raise BadRequest(f"one commit copies at most {MOST_COPIED:,} files and folders: copy less at once")
    return count


def _delete(editor: TreeEditor, one: DeleteFile | DeleteFolder, head: str) -> None:
    path = one.path.rstrip("/") if isinstance(one, DeleteFolder) else one.path
    if not path:
        raise BadPath("the root of a repository cannot be deleted")
    item = editor.get(path)
    if item is None or (isinstance(one, DeleteFolder) and not item.is_tree) or not editor.delete(path):
        what = "folder" if isinstance(one, DeleteFolder) else "file"
        raise EntryNotFound(f"A {what} with this name doesn't exist: {printable(path)}", head)


def history(hub: Hub, repo: Repo, revision: str, limit: int = 100, cursor: str | None = None) -> Page:
    """Commits (`Commit`), newest first."""
    with hub.reading() as connection:
        # a cursor is the hash of the next commit, so it is checked like any other revision
        start = resolve_in(connection, repo, revision if cursor is None else cursor)
        found = [to_commit(*pair) for pair in objects.ancestry(connection, start, limit)]
    return Page(found, found[-1].parent if found else None)


def find_commit(hub: Hub, repo: Repo, revision: str) -> Commit:
    """Raises RevisionNotFound."""
    with hub.reading() as connection:
        oid = resolve_in(connection, repo, revision)
        return to_commit(oid, objects.read_commit(connection, oid))


def squash(hub: Hub, caller: Caller, repo: Repo, branch: str, message: str = "") -> Commit:
    """Replace a branch's history by one commit without parent that holds the same files.

    Other branches and tags keep their history; commits that none reaches go with the next garbage collection.
    """
    with hub.writing() as connection:
        repo, found = lock_branch(connection, caller, repo, branch)
        tree = objects.read_commit(connection, found.commit).tree
        return advance(
            hub, connection, caller, repo, found, tree, None, message_of(message or "Super-squash branch", "")
        )


def duplicate(
    hub: Hub, caller: Caller, source: Repo, kind: str, name: str, namespace: str, private: bool | None = None
) -> Repo:
    """A new repository with the files of another one's main, large files included, in one commit.

    Raises what `find` raises for a reader of the source's content, and what `create` raises.
    """
    check_name(name, "repository")
    if caller.anonymous:
        raise LoginNeeded
    with hub.writing() as connection:
        source = find_in(connection, caller, source.kind, source.full_name, CONTENT)
        if kind != source.kind:
            raise BadRequest(f"a {source.kind} cannot be duplicated as a {kind}")
        private = source.private if private is None else private
        target = create_in(connection, caller, kind, namespace or caller.name, name, private)
        held = select(literal(target.id), repo_lfs.c.sha256, literal(now_ms())).where(repo_lfs.c.repo == source.id)
        connection.execute(insert(repo_lfs).from_select(["repo", "sha256", "linked"], held))
        tree = objects.read_commit(connection, source.sha).tree
        branch = Ref("heads", MAIN, target.sha)
        advance(hub, connection, caller, target, branch, tree, target.sha, f"Duplicate from {source.full_name}")
        return find_in(connection, caller, kind, target.full_name)


def diff(hub: Hub, repo: Repo, old: str | None, new: str) -> list[Change]:
    """Files that differ between two revisions, by path; `old` None means the parent of `new` (or nothing)."""
    with hub.reading() as connection:
        after = objects.read_commit(connection, resolve_in(connection, repo, new))
        start = resolve_in(connection, repo, old) if old is not None else (after.parents or (None,))[0]
        before = objects.read_commit(connection, start).tree if start is not None else None
        return [to_change(*one) for one in changes(objects.tree_reader(hub, connection), before, after.tree)]


def to_change(path: str, old: TreeItem | None, new: TreeItem | None) -> Change:
    status = "added" if old is None else "deleted" if new is None else "modified"
    return Change(path, status, old.oid if old else None, new.oid if new else None)
