"""How a repository is found: by name in any case, under older names, and only by those who may (protocol section 2)."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, and_, select

from hfvision.hub.accounts import PREFIXES, Caller
from hfvision.hub.clock import to_datetime
from hfvision.hub.database import access, ref, repo, repo_alias
from hfvision.hub.errors import DisabledRepo, Forbidden, GatedRepo, LoginNeeded, RepoNotFound

MAIN = "main"
# What a caller wants to do; `find` checks it.
SEE = "see"  # name, card, list of files
CONTENT = "content"  # bytes of files: gated repositories ask for consent
PROPOSE = "propose"  # pull requests: whoever sees the repository, with a token that may write
WRITE = "write"
ADMIN = "admin"


@dataclass(frozen=True)
class Repo:
    """One repository as the database has it at the time of the call."""

    id: int
    kind: str  # model | dataset | space | kernel
    namespace: str
    name: str
    private: bool
    gated: str | None  # None | auto | manual
    disabled: bool
    created: datetime  # UTC
    modified: datetime
    downloads: int
    likes: int
    sha: str  # head of main
    meta: dict[str, Any]
    moved: bool = False  # found under an older name: answer with a redirect

    @property
    def full_name(self) -> str:
        """namespace/name in canonical case."""
        return f"{self.namespace}/{self.name}"

    @property
    def prefix(self) -> str:
        """What stands before the name in web and download paths: "" or "datasets/", ..."""
        return PREFIXES[self.kind]

    @property
    def url(self) -> str:
        """Relative to the endpoint, such as datasets/me/d."""
        return self.prefix + self.full_name

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(self.meta.get("tags", ()))

    @property
    def pipeline_tag(self) -> str | None:
        """The task: from the card, else inferred."""
        return self.meta.get("pipeline_tag")

    @property
    def library_name(self) -> str | None:
        """From the card, else inferred."""
        return self.meta.get("library_name")

    @property
    def card(self) -> dict[str, Any] | None:
        """YAML of README.md on main."""
        return self.meta.get("card")

    @property
    def config(self) -> dict[str, Any] | None:
        """The short values of config.json on main."""
        return self.meta.get("config")

    @property
    def safetensors(self) -> dict[str, Any] | None:
        """{"parameters": {dtype: n}, "total": n} of the weights on main."""
        return self.meta.get("safetensors")


@dataclass(frozen=True)
class Page:
    """One page of a list; `cursor` asks for the next one, None at the end."""

    items: list[Any]
    cursor: str | None


def query() -> Select[Any]:
    """Repositories with the head of their main branch, as `from_row` wants them."""
    main = and_(ref.c.repo == repo.c.id, ref.c.kind == "heads", ref.c.name == MAIN)
    return select(repo, ref.c.oid.label("sha")).join(ref, main)


def from_row(row: Any, moved: bool = False) -> Repo:
    return Repo(
        id=row.id,
        kind=row.kind,
        namespace=row.namespace,
        name=row.name,
        private=row.private,
        gated=row.gated,
        disabled=row.disabled,
        created=to_datetime(row.created),
        modified=to_datetime(row.modified),
        downloads=row.downloads,
        likes=row.likes,
        sha=row.sha,
        meta=row.meta,
        moved=moved,
    )


def find_in(connection: Connection, caller: Caller, kind: str, full_name: str, need: str = SEE) -> Repo:
    """The repository, within a transaction.

    Raises RepoNotFound (missing or hidden, never told apart), DisabledRepo, GatedRepo, LoginNeeded or Forbidden.
    """
    key = full_name.lower()
    row = connection.execute(query().where(repo.c.kind == kind, repo.c.name_ci == key)).first()
    moved = row is None
    if row is None:
        alias = repo_alias.c.kind == kind, repo_alias.c.name_ci == key
        row = connection.execute(query().join(repo_alias, repo_alias.c.repo == repo.c.id).where(*alias)).first()
    if row is None:
        raise RepoNotFound(caller.anonymous)
    found = from_row(row, moved)
    name = (found.kind, found.namespace, found.name)
    if found.private and not caller.may_read(*name):
        raise RepoNotFound(caller.anonymous)
    if need in (PROPOSE, WRITE, ADMIN):
        if caller.anonymous:
            raise LoginNeeded
        rights = {PROPOSE: caller.may_propose, WRITE: caller.may_write, ADMIN: caller.may_administer}
        if not rights[need](*name):
            raise Forbidden(f"You may not change {found.kind} {found.full_name}: it needs a token with the write role.")
    if found.disabled and need in (CONTENT, PROPOSE, WRITE):
        raise DisabledRepo
    if need == CONTENT and found.gated and not caller.may_read(*name) and not _let_in(connection, caller, found):
        raise GatedRepo(found.kind, found.full_name, caller.anonymous)
    return found


def _let_in(connection: Connection, caller: Caller, found: Repo) -> bool:
    if caller.account is None or not caller.reaches(found.kind, found.namespace, found.name):
        return False
    mine = select(access.c.status).where(access.c.repo == found.id, access.c.account == caller.account.id)
    return connection.scalar(mine) == "accepted"
