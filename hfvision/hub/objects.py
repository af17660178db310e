"""Git objects as rows: read with a memory for trees, written once, and what the blobs of a tree stand for."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, case, literal, null, select

from hfvision.hub.database import batches, insert_new, lfs, obj, repo_lfs
from hfvision.hub.gitobjects import (
    POINTER_LIMIT,
    CommitObject,
    Tree,
    decode_commit,
    decode_pointer,
    decode_tree,
    encode_commit,
    object_id,
)
from hfvision.hub.instance import Hub

EMPTY_TREE = object_id("tree", b"")


@dataclass(frozen=True)
class Blob:
    """What a blob stands for in one repository: a regular file, or a large one if the repository holds it."""

    size: int  # bytes of the file itself
    stored: int  # bytes of the blob
    sha256: str | None


def tree_reader(hub: Hub, connection: Connection) -> Callable[[str], Tree]:
    """A function that reads trees by hash, within this transaction. Never change what it returns."""

    def read(oid: str) -> Tree:
        tree = hub.trees.get(oid)
        if tree is None:
            tree = decode_tree(read_object(connection, oid)) if oid != EMPTY_TREE else {}
            hub.trees.put(oid, tree)
        return tree

    return read


def read_object(connection: Connection, oid: str) -> bytes:
    """Bytes of an object that must be there: something stored refers to it."""
    return bytes(connection.execute(select(obj.c.data).where(obj.c.oid == oid)).scalar_one())


def read_commit(connection: Connection, oid: str) -> CommitObject:
    return decode_commit(read_object(connection, oid))


def ancestry(connection: Connection, oid: str, limit: int | None = None) -> Iterator[tuple[str, CommitObject]]:
    """(hash, commit) from a commit back through first parents, at most `limit`; the database walks, in batches."""
    start: str | None = oid
    left = limit
    while start is not None and (left is None or left > 0):
        most = 100 if left is None else min(100, left)
        columns = (obj.c.oid, obj.c.parent, obj.c.data)
        chain = select(*columns, literal(1).label("n")).where(obj.c.oid == start).cte("chain", recursive=True)
        chain = chain.union_all(
            select(*columns, chain.c.n + 1).join(chain, obj.c.oid == chain.c.parent).where(chain.c.n < most)
        )
        start = None
        for row in connection.execute(select(chain).order_by(chain.c.n)).all():
            yield row.oid, decode_commit(bytes(row.data))
            start = row.parent
        left = None if left is None else left - most


def blobs(connection: Connection, repo_id: int, oids: Iterable[str]) -> dict[str, Blob]:
    """What blobs stand for. Pointer text whose file this repository does not hold is just text."""
    small = case((obj.c.size <= POINTER_LIMIT, obj.c.data), else_=null())
    sizes: dict[str, int] = {}
    pointers: dict[str, tuple[str, int]] = {}
    for batch in batches(dict.fromkeys(oids)):
        query = select(obj.c.oid, obj.c.size, small.label("data")).where(obj.c.oid.in_(batch))
        for row in connection.execute(query):
            sizes[row.oid] = row.size
            pointer = decode_pointer(bytes(row.data)) if row.data is not None else None
            if pointer is not None:
                pointers[row.oid] = pointer
    held: dict[str, int] = {}
    linked = select(lfs.c.sha256, lfs.c.size).join(repo_lfs, repo_lfs.c.sha256 == lfs.c.sha256)
    for batch in batches({sha for sha, _ in pointers.values()}):
        query = linked.where(repo_lfs.c.repo == repo_id, lfs.c.sha256.in_(batch))
        held.update((row.sha256, row.size) for row in connection.execute(query))
    found = {}
    for oid, size in sizes.items():
        sha256, real = pointers.get(oid, ("", size))
        # anyone can write the text of a pointer; one that tells another size than the file has is just text
        found[oid] = Blob(real, size, sha256) if held.get(sha256) == real else Blob(size, size, None)
    return found


def insert_objects(connection: Connection, kind: str, objects: dict[str, bytes]) -> None:
    """Store blobs or trees that are not there yet; in one order always, so that writers cannot lock each other out."""
    rows = [
        {"oid": oid, "kind": kind, "size": len(data), "parent": None, "data": data}
        for oid, data in sorted(objects.items())
    ]
    insert_new(connection, obj, rows)


def insert_commit(
    connection: Connection, tree: str, parent: str | None, author: str, email: str, message: str
) -> tuple[str, CommitObject]:
    """Store a new commit, dated now."""
    commit = CommitObject(
        tree=tree,
        parents=(parent,) if parent else (),
        author=author,
        email=email,
        date=datetime.now(UTC).replace(microsecond=0),
        message=message,
    )
    data = encode_commit(commit)
    oid = object_id("commit", data)
    insert_new(connection, obj, [{"oid": oid, "kind": "commit", "size": len(data), "parent": parent, "data": data}])
    return oid, commit
