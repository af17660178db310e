"""Branches, tags, pull request heads, and what a revision means (protocol section 4.3)."""

import re
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from hfvision.hub.accounts import Caller
from hfvision.hub.clock import now_ms, to_datetime
from hfvision.hub.database import insert_new, pull, ref, repo_commit
from hfvision.hub.database import repo as repo_table
from hfvision.hub.errors import Conflict, Forbidden, LoginNeeded, NotFound, RevisionNotFound
from hfvision.hub.instance import Hub
from hfvision.hub.lookup import MAIN, WRITE, Repo, find_in
from hfvision.hub.names import check_ref

MOST_TITLE = 500
MOST_DESCRIPTION = 65_536
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


@dataclass(frozen=True)
class Pull:
    """A pull request: a branch of its own at refs/pr/<number>, with a title."""

    number: int
    title: str
    description: str
    author: str
    base: str  # branch it was opened against
    status: str  # open | merged | closed
    created: datetime


def list_refs(hub: Hub, repo: Repo) -> list[Ref]:
    """All refs, by kind and name; main comes first among the branches."""
    with hub.reading() as connection:
        rows = connection.execute(select(ref).where(ref.c.repo == repo.id)).all()
    found = [Ref(row.kind, row.name, row.oid) for row in rows]
    return sorted(found, key=lambda one: (one.kind, one.name != MAIN, one.name))


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


def open_pull(hub: Hub, caller: Caller, repo: Repo, title: str, description: str = "", base: str = MAIN) -> Pull:
    """A new pull request whose head is the base's; anyone who sees the repository and has a write token may open one.

    Raises LoginNeeded, Forbidden (a token that only reads), RevisionNotFound.
    """
    if caller.anonymous:
        raise LoginNeeded
    if not caller.may_propose(repo.kind, repo.namespace, repo.name):
        raise Forbidden("Opening a pull request needs a token with the write role.")
    with hub.writing() as connection:
        repo = find_in(connection, caller, repo.kind, repo.full_name)
        # two pull requests opened at once take turns at the repository's row and get different numbers
        connection.execute(select(repo_table.c.id).where(repo_table.c.id == repo.id).with_for_update())
        found = find_ref(connection, repo, base)
        if found is None or found.kind != "heads":
            raise RevisionNotFound(f"Invalid rev id: {printable(base)} is no branch")
        head = found.commit
        number = 1 + (connection.scalar(select(func.max(pull.c.number)).where(pull.c.repo == repo.id)) or 0)
        now = now_ms()
        made = Pull(
            number, title[:MOST_TITLE], description[:MOST_DESCRIPTION], caller.name, base, "open", to_datetime(now)
        )
        connection.execute(insert(pull).values(**{**asdict(made), "repo": repo.id, "created": now}))
        connection.execute(insert(ref).values(repo=repo.id, kind="pr", name=str(number), oid=head))
        return made


def withdraw_pull(hub: Hub, repo: Repo, number: int) -> None:
    """Take back a pull request whose first commit was refused; one that has moved on stays."""
    with hub.writing() as connection:
        where = pull.c.repo == repo.id, pull.c.number == number
        base = connection.scalar(select(pull.c.base).where(*where))
        head = find_ref(connection, repo, f"refs/pr/{number}")
        start = None if base is None else find_ref(connection, repo, f"refs/heads/{base}")
        if head is not None and start is not None and head.commit == start.commit:
            connection.execute(delete(ref).where(ref.c.repo == repo.id, ref.c.kind == "pr", ref.c.name == str(number)))
            connection.execute(delete(pull).where(*where))


def pulls(hub: Hub, repo: Repo) -> list[Pull]:
    """All pull requests, newest first."""
    with hub.reading() as connection:
        rows = connection.execute(select(pull).where(pull.c.repo == repo.id).order_by(pull.c.number.desc()))
        return [_pull(row) for row in rows]


def find_pull(hub: Hub, repo: Repo, number: int) -> Pull:
    """Raises NotFound."""
    with hub.reading() as connection:
        row = connection.execute(select(pull).where(pull.c.repo == repo.id, pull.c.number == number)).first()
    if row is None:
        raise NotFound(f"{repo.full_name} has no pull request {number}")
    return _pull(row)


def _pull(row: Any) -> Pull:
    return Pull(row.number, row.title, row.description, row.author, row.base, row.status, to_datetime(row.created))


def printable(text: str) -> str:
    """A client's text cut and made safe for messages and headers."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])
