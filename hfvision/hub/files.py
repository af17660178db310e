"""Files and folders of a revision: lists, single entries, bytes (protocol sections 4.3 and 5)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from sqlalchemy import Connection

from hfvision.hub import objects
from hfvision.hub.commits import Commit, to_commit
from hfvision.hub.errors import EntryNotFound
from hfvision.hub.gitobjects import Tree, TreeItem, walk
from hfvision.hub.instance import Hub
from hfvision.hub.large_files import key
from hfvision.hub.lookup import Page, Repo
from hfvision.hub.refs import printable, resolve_in

EXPANDED_PAGE = 100  # entries of one page with last commits, which cost a walk through history


@dataclass(frozen=True)
class Entry:
    """One file or folder of a revision."""

    kind: str  # file | directory
    path: str  # from the root of the repository
    oid: str  # git hash: of the blob (the pointer's for large files) or of the tree
    size: int  # bytes of the file itself; 0 for folders
    sha256: str | None = None  # large files only
    pointer_size: int | None = None  # large files only
    last_commit: Commit | None = None  # where asked for

    @property
    def etag(self) -> str:
        """sha256 of a large file, git blob hash of another; without quotes."""
        return self.sha256 or self.oid


@dataclass(frozen=True)
class OpenFile:
    """A file found for reading. Regular files have `data`; large ones are read from `hub.store` at `key`."""

    entry: Entry
    commit: str
    data: bytes | None
    key: str | None


def list_tree(
    hub: Hub,
    repo: Repo,
    revision: str,
    path: str = "",
    *,
    recursive: bool = False,
    expand: bool = False,
    limit: int = 1000,
    cursor: str | None = None,
) -> Page:
    """Entries (`Entry`) below a folder, in git's order. `expand` adds each one's last commit.

    Raises EntryNotFound if the path is missing or is a file; the root of an empty repository is an empty list. For
    stable pages resolve the revision once and put the hash into the next page's address.
    """
    limit = min(limit, EXPANDED_PAGE) if expand else limit
    path = path.strip("/")
    with hub.reading() as connection:
        commit = resolve_in(connection, repo, revision)
        item = _find(hub, connection, objects.read_commit(connection, commit).tree, path)
        if item is None or not item.is_tree:
            raise EntryNotFound(f"{printable(path)} does not exist on {printable(revision)}", commit)
        read = objects.tree_reader(hub, connection)
        found = list(islice(walk(read, item.oid, path and path + "/", _inside(cursor, path), recursive), limit + 1))
        page = _entries(hub, connection, repo, commit, found[:limit], expand)
    more = len(found) > limit
    last = page[-1] if page else None
    return Page(page, (last.path + "/" if last.kind == "directory" else last.path) if more and last else None)


def _inside(cursor: str | None, path: str) -> str | None:
    """A cursor is the path where the last page ended; made relative to the folder that is listed."""
    if not cursor:
        return None
    return cursor.removeprefix(path + "/") if path else cursor


def entries(hub: Hub, repo: Repo, revision: str, paths: Sequence[str], *, expand: bool = False) -> list[Entry]:
    """Those of the paths that exist, in the order asked."""
    with hub.reading() as connection:
        commit = resolve_in(connection, repo, revision)
        root = objects.read_commit(connection, commit).tree
        items = [(path, _find(hub, connection, root, path)) for path in dict.fromkeys(paths) if path]
        found = [(path, item) for path, item in items if item is not None]
        return _entries(hub, connection, repo, commit, found, expand)


def siblings(hub: Hub, repo: Repo, revision: str, *, sizes: bool = True) -> list[Entry]:
    """Every file of a revision. Without `sizes` only path and oid are filled in, which is quicker."""
    with hub.reading() as connection:
        commit = resolve_in(connection, repo, revision)
        tree = objects.read_commit(connection, commit).tree
        found = [pair for pair in walk(objects.tree_reader(hub, connection), tree) if not pair[1].is_tree]
        if not sizes:
            return [Entry("file", path, item.oid, 0) for path, item in found]
        return _entries(hub, connection, repo, commit, found, False)


def open_file(hub: Hub, repo: Repo, revision: str, path: str, *, pointer: bool = False) -> OpenFile:
    """Find a file. `pointer` gives the text that git stores for a large one. Raises EntryNotFound, RevisionNotFound."""
    with hub.reading() as connection:
        commit = resolve_in(connection, repo, revision)
        item = _find(hub, connection, objects.read_commit(connection, commit).tree, path)
        if item is None or item.is_tree or not path:
            raise EntryNotFound(f"{printable(path)} does not exist on {printable(revision)}", commit)
        entry = _entries(hub, connection, repo, commit, [(path, item)], False)[0]
        if entry.sha256 is not None and not pointer:
            return OpenFile(entry, commit, None, key(entry.sha256))
        data = objects.read_object(connection, entry.oid)
        plain = replace(entry, size=len(data), sha256=None, pointer_size=None)
        return OpenFile(plain, commit, data, None)


def read_file(hub: Hub, repo: Repo, revision: str, path: str, limit: int) -> bytes:
    """At most the first `limit` bytes of a file, wherever they lie: for cards, configs and previews."""
    found = open_file(hub, repo, revision, path)
    if found.data is not None:
        return found.data[:limit]
    return hub.store.read(found.key or "", 0, min(limit, found.entry.size))


def _find(hub: Hub, connection: Connection, root: str, path: str) -> TreeItem | None:
    item: TreeItem | None = TreeItem("40000", root)
    read = objects.tree_reader(hub, connection)
    for name in path.split("/") if path else ():
        if item is None or not item.is_tree:
            return None
        item = read(item.oid).get(name)
    return item


def _entries(
    hub: Hub, connection: Connection, repo: Repo, commit: str, found: Sequence[tuple[str, TreeItem]], expand: bool
) -> list[Entry]:
    blobs = objects.blobs(connection, repo.id, [item.oid for _, item in found if not item.is_tree])
    last = last_commits(hub, connection, commit, [path for path, _ in found]) if expand else {}
    made = []
    for path, item in found:
        if item.is_tree:
            made.append(Entry("directory", path, item.oid, 0, last_commit=last.get(path)))
            continue
        blob = blobs[item.oid]
        stored = blob.stored if blob.sha256 else None
        made.append(Entry("file", path, item.oid, blob.size, blob.sha256, stored, last.get(path)))
    return made


def last_commits(hub: Hub, connection: Connection, commit: str, paths: Iterable[str]) -> dict[str, Commit]:
    """The commit that last changed each path, walking back from `commit`; remembered, as history never changes."""
    pending: dict[str, set[str]] = {}  # folder -> names still to be found
    known: dict[str, str] = {}
    for path in paths:
        remembered = hub.last_commits.get((commit, path))
        if remembered is None:
            folder, _, name = path.rpartition("/")
            pending.setdefault(folder, set()).add(name)
        else:
            known[path] = remembered
    found = {path: to_commit(oid, objects.read_commit(connection, oid)) for path, oid in known.items()}
    walked = objects.ancestry(connection, commit)
    here = next(walked)
    while pending:
        before = next(walked, None)
        for folder in list(pending):
            now = _folder(hub, connection, here[1].tree, folder)
            then = _folder(hub, connection, before[1].tree, folder) if before else {}
            if now is then:  # the same object from memory: this commit did not touch the folder
                continue
            for name in [name for name in pending[folder] if now.get(name) != then.get(name)]:
                path = f"{folder}/{name}" if folder else name
                found[path] = to_commit(*here)
                hub.last_commits.put((commit, path), here[0])
                pending[folder].remove(name)
            if not pending[folder] or before is None:
                del pending[folder]
        if before is None:
            break
        here = before
    return found


def _folder(hub: Hub, connection: Connection, root: str, path: str) -> Tree:
    item = _find(hub, connection, root, path)
    return objects.tree_reader(hub, connection)(item.oid) if item is not None and item.is_tree else {}
