"""Git's objects: blobs, trees and commits encoded, decoded and hashed exactly as git does, and trees edited.

Everything here works on bytes; where objects are kept is the caller's affair. A tree is edited by reading only the
folders on the way to what changes, so that a commit to a large repository costs what the commit touches.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

FILE_MODE = "100644"
TREE_MODE = "40000"
POINTER_LIMIT = 200  # bytes; a large file's pointer has at most 146
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (0|[1-9][0-9]{0,18})\n"
)


@dataclass(frozen=True, slots=True)
class TreeItem:
    """One line of a tree: its mode, such as 100644 or 40000, and the hash of the blob or tree."""

    mode: str
    oid: str

    @property
    def is_tree(self) -> bool:
        return self.mode == TREE_MODE


Tree = dict[str, TreeItem]  # in git's order when it comes from `decode_tree`


@dataclass(frozen=True)
class CommitObject:
    """What a commit says. `author` is a name; `email` may be made up; `date` is in UTC and has whole seconds."""

    tree: str
    parents: tuple[str, ...]
    author: str
    email: str
    date: datetime
    message: str


def object_id(kind: str, data: bytes) -> str:
    """Git's sha1 of an object of that kind: blob, tree or commit."""
    return hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)) + data, usedforsecurity=False).hexdigest()


def tree_key(name: str, is_tree: bool) -> bytes:
    """Git's order within a tree: by bytes, folders as if their names ended in a slash."""
    return name.encode() + b"/" if is_tree else name.encode()


def encode_tree(tree: Mapping[str, TreeItem]) -> bytes:
    ordered = sorted(tree.items(), key=lambda pair: tree_key(pair[0], pair[1].is_tree))
    return b"".join(
        b"%s %s\0" % (item.mode.encode(), name.encode()) + bytes.fromhex(item.oid) for name, item in ordered
    )


def decode_tree(data: bytes) -> Tree:
    tree: Tree = {}
    start = 0
    while start < len(data):
        space = data.index(b" ", start)
        end = data.index(b"\0", space)
        tree[data[space + 1 : end].decode()] = TreeItem(data[start:space].decode(), data[end + 1 : end + 21].hex())
        start = end + 21
    return tree


def encode_commit(commit: CommitObject) -> bytes:
    who = f"{_clean(commit.author)} <{_clean(commit.email)}> {int(commit.date.timestamp())} +0000"
    lines = [f"tree {commit.tree}", *(f"parent {parent}" for parent in commit.parents), f"author {who}"]
    message = commit.message.replace("\0", "").rstrip("\n") + "\n"
    return "\n".join([*lines, f"committer {who}", "", message]).encode("utf-8", "replace")


def decode_commit(data: bytes) -> CommitObject:
    head, _, message = data.decode("utf-8", "replace").partition("\n\n")
    fields: dict[str, list[str]] = {}
    for line in head.split("\n"):
        name, _, value = line.partition(" ")
        fields.setdefault(name, []).append(value)
    author, seconds, _ = fields["author"][0].rsplit(" ", 2)
    name, _, email = author.partition(" <")
    return CommitObject(
        tree=fields["tree"][0],
        parents=tuple(fields.get("parent", ())),
        author=name,
        email=email.rstrip(">"),
        date=datetime.fromtimestamp(int(seconds), UTC),
        message=message.rstrip("\n"),
    )


def _clean(name: str) -> str:
    """A name that cannot break a commit's lines."""
    return re.sub(r"[<>\x00-\x1f\x7f]", "", name).strip() or "unknown"


def encode_pointer(sha256: str, size: int) -> bytes:
    """The text that stands in git for a large file of `size` bytes."""
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (sha256.encode(), size)


def decode_pointer(data: bytes | None) -> tuple[str, int] | None:
    """(sha256, size in bytes) if the text is a pointer exactly as git-lfs writes it, else None."""
    found = _POINTER.fullmatch(data) if data is not None and len(data) <= POINTER_LIMIT else None
    return (found[1].decode(), int(found[2])) if found else None


class TreeEditor:
    """A tree being changed. `read` gives a stored tree by hash; only folders that are entered are read.

    A file put where a folder is replaces the folder, and one put below a file replaces that file; folders that become
    empty vanish, as git has none.
    """

    def __init__(self, read: Callable[[str], Tree], root: str | None) -> None:
        self._read = read
        self._root = _Folder(root)

    def get(self, path: str) -> TreeItem | None:
        """The file or folder at a path now. A folder that was changed has an up-to-date hash only after `write`."""
        *folders, name = path.split("/")
        folder: _Folder | None = self._root
        for part in folders:
            folder = self._child(folder, part) if folder else None
        if folder is None:
            return None
        self._load(folder)
        return TreeItem(TREE_MODE, folder.opened[name].oid or "") if name in folder.opened else folder.items.get(name)

    def put(self, path: str, item: TreeItem) -> None:
        """Set a file, or a whole stored folder, at a path."""
        *folders, name = path.split("/")
        folder = self._root
        for part in folders:
            child = self._child(folder, part)
            if child is None:
                child = _Folder(None)
                self._load(folder)
                folder.items.pop(part, None)
                folder.opened[part] = child
            folder.changed = True
            folder = child
        self._load(folder)
        folder.opened.pop(name, None)
        folder.items[name] = item
        folder.changed = True

    def delete(self, path: str) -> bool:
        """Remove a file, or a folder with all in it; False if nothing is there."""
        *folders, name = path.split("/")
        way = [self._root]
        for part in folders:
            child = self._child(way[-1], part)
            if child is None:
                return False
            way.append(child)
        self._load(way[-1])
        if way[-1].opened.pop(name, None) is None and way[-1].items.pop(name, None) is None:
            return False
        for folder in way:
            folder.changed = True
        for part, parent, folder in reversed(list(zip(folders, way, way[1:], strict=False))):
            if not folder.items and not folder.opened:
                del parent.opened[part]
        return True

    def write(self) -> tuple[str, dict[str, bytes]]:
        """Hash of the edited tree, and the trees that are new: {hash: encoded}."""
        new: dict[str, bytes] = {}
        return self._write(self._root, new), new

    def _write(self, folder: "_Folder", new: dict[str, bytes]) -> str:
        if not folder.changed and folder.oid is not None:
            return folder.oid
        self._load(folder)
        items = dict(folder.items)
        for name, child in folder.opened.items():
            items[name] = TreeItem(TREE_MODE, self._write(child, new))
        data = encode_tree(items)
        folder.oid = object_id("tree", data)
        folder.changed = False
        new[folder.oid] = data
        return folder.oid

    def _load(self, folder: "_Folder") -> None:
        if not folder.loaded:
            folder.items = dict(self._read(folder.oid)) if folder.oid is not None else {}
            folder.loaded = True

    def _child(self, folder: "_Folder", name: str) -> "_Folder | None":
        """The folder of that name, opened; None if there is none, or a file."""
        self._load(folder)
        if name not in folder.opened:
            item = folder.items.get(name)
            if item is None or not item.is_tree:
                return None
            folder.opened[name] = _Folder(item.oid)
            del folder.items[name]
        return folder.opened[name]


class _Folder:
    __slots__ = ("changed", "items", "loaded", "oid", "opened")

    def __init__(self, oid: str | None) -> None:
        self.oid = oid
        self.items: Tree = {}
        self.opened: dict[str, _Folder] = {}  # sub-folders that were entered; not in `items`
        self.loaded = False
        self.changed = oid is None


def walk(
    read: Callable[[str], Tree], root: str, prefix: str = "", after: str | None = None, recursive: bool = True
) -> Iterator[tuple[str, TreeItem]]:
    """(path, item) of a tree in git's order, folders before what they hold.

    `after` resumes behind a path that was handed out before (a folder's ends in a slash); what lies before it is not
    read. `prefix` stands before every path and ends in a slash if not empty.
    """
    first, _, rest = after.partition("/") if after is not None else ("", "", "")
    inside = after is not None and "/" in after
    key = tree_key(first, inside) if after is not None else None
    for name, item in read(root).items():
        here = tree_key(name, item.is_tree)
        if key is not None and here < key:
            continue
        path = prefix + name
        resumed = key is not None and here == key
        if not resumed:
            yield path, item
        if item.is_tree and recursive:
            yield from walk(read, item.oid, path + "/", rest if resumed and rest else None)


def changes(
    read: Callable[[str], Tree], old: str | None, new: str | None, prefix: str = ""
) -> Iterator[tuple[str, TreeItem | None, TreeItem | None]]:
    """(path, before, after) of every file that differs between two trees, by path; equal folders are not read."""
    if old == new:
        return
    before = read(old) if old is not None else {}
    after = read(new) if new is not None else {}
    for name in sorted(before.keys() | after.keys()):
        one, two = before.get(name), after.get(name)
        if one == two:
            continue
        trees = [item.oid if item is not None and item.is_tree else None for item in (one, two)]
        files = [item if item is not None and not item.is_tree else None for item in (one, two)]
        if any(files):
            yield prefix + name, files[0], files[1]
        if any(trees):
            yield from changes(read, trees[0], trees[1], f"{prefix}{name}/")
