"""Branches, tags, heads of pull requests, and what a revision means (protocol section 4.3)."""

import re
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select

from hfvision.hub.accounts import Caller
from hfvision.hub.database import insert_new, ref, repo_commit
from hfvision.hub.errors import Conflict, Forbidden, RevisionNotFound
from hfvision.hub.instance import Hub
from hfvision.hub.lookup import MAIN, WRITE, Repo, find_in
from hfvision.hub.names import check_ref

_HASH = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True)
class Ref:
    """A name for a commit."""

    kind: str  # heads | tags | pr
    name: str
    commit: str

    @property
    def path(self) -> str:
        """refs/heads/main"""
        return f"refs/{self.kind}/{self.name}"


def list_refs(hub: Hub, repo: Repo) -> list[Ref]:
    """All refs, by kind and name; main comes first among the branches."""
    with hub.reading() as connection:
        rows = connection.execute(select(ref).where(ref.c.repo == repo.id)).all()
    found = [Ref(row.kind, row.name, row.oid) for row in rows]
    return sorted(found, key=lambda one: (one.kind, one.name != MAIN, one.name))


def names(hub: Hub, repo: Repo) -> list[str]:
    """Of branches and tags, as `list_refs` sorts them: what a reader may choose from."""
    return [one.name for one in list_refs(hub, repo) if one.kind in ("heads", "tags")]


def resolve(hub: Hub, repo: Repo, revision: str) -> str:
    """40-hex commit of a branch, tag, refs/heads/x, refs/tags/x, refs/pr/N, full hash or unique prefix of 7 or more.

    Raises RevisionNotFound. A hash means something only in a repository that it was committed to.
    """
    with hub.reading() as connection:
        return resolve_in(connection, repo, revision)


def resolve_in(connection: Connection, repo: Repo, revision: str) -> str:
    """As `resolve`, within a transaction."""
    found = find_ref(connection, repo, revision)
    if found is not None:
        return found.commit
    if _HASH.fullmatch(revision):
        mine = select(repo_commit.c.oid).where(repo_commit.c.repo == repo.id)
        if len(revision) == 40:
            mine = mine.where(repo_commit.c.oid == revision)
        else:
            mine = mine.where(repo_commit.c.oid >= revision, repo_commit.c.oid < revision + "g")
        hits = connection.scalars(mine.limit(2)).all()
        if len(hits) == 1:
            return str(hits[0])
    raise RevisionNotFound("Invalid rev id: " + printable(revision))


def find_ref(connection: Connection, repo: Repo, revision: str) -> Ref | None:
    """The branch, tag or pull request head of that name, branches first."""
    full = re.fullmatch(r"refs/(heads|tags|pr)/(.+)", revision)
    wanted = [(full[1], full[2])] if full else [("heads", revision), ("tags", revision)]
    for kind, name in wanted:
        where = ref.c.repo == repo.id, ref.c.kind == kind, ref.c.name == name.replace("\0", "\ufffd")
        oid = connection.scalar(select(ref.c.oid).where(*where))
        if oid is not None:
            return Ref(kind, name, oid)
    return None


def create_branch(hub: Hub, caller: Caller, repo: Repo, name: str, start: str | None = None) -> str:
    """Its commit. `start` None means main. Raises BadRequest (name), Conflict, RevisionNotFound, Forbidden."""
    return _create(hub, caller, repo, "heads", check_ref(name, "branch"), start or MAIN)


def create_tag(hub: Hub, caller: Caller, repo: Repo, name: str, revision: str, message: str = "") -> str:
    """Its commit. Tags are lightweight: the message is not kept. Raises as `create_branch`."""
    return _create(hub, caller, repo, "tags", check_ref(name, "tag"), revision)


def _create(hub: Hub, caller: Caller, repo: Repo, kind: str, name: str, start: str) -> str:
    with hub.writing() as connection:
        repo = find_in(connection, caller, repo.kind, repo.full_name, WRITE)
        commit = resolve_in(connection, repo, start)
        if not insert_new(connection, ref, [{"repo": repo.id, "kind": kind, "name": name, "oid": commit}]):
            raise Conflict(f"Reference refs/{kind}/{name} already exists")  # clients match these words
        return commit


def delete_branch(hub: Hub, caller: Caller, repo: Repo, name: str) -> None:
    """Raises Forbidden for main, RevisionNotFound "Invalid rev id"."""
    if name == MAIN:
        raise Forbidden("Cannot delete refs/heads/main")  # clients match these words
    _delete(hub, caller, repo, "heads", name)


def delete_tag(hub: Hub, caller: Caller, repo: Repo, name: str) -> None:
    """Raises RevisionNotFound "Invalid rev id", also where the name is a branch's."""
    _delete(hub, caller, repo, "tags", name)


def _delete(hub: Hub, caller: Caller, repo: Repo, kind: str, name: str) -> None:
    with hub.writing() as connection:
        repo = find_in(connection, caller, repo.kind, repo.full_name, WRITE)
        where = ref.c.repo == repo.id, ref.c.kind == kind, ref.c.name == name.replace("\0", "\ufffd")
        if not connection.execute(delete(ref).where(*where)).rowcount:
            raise RevisionNotFound("Invalid rev id: " + printable(name))


def printable(text: str) -> str:
    """A client's text cut and made safe for messages and headers."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])
