"""The hub's tables on SQLite and PostgreSQL (protocol section 13) and the engine.

Times are whole milliseconds since 1970 UTC. Git objects are immutable rows under their own hash; a reference is one
row, and moving it is what makes a commit.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from hfvision.errors import ConfigError

BUSY_SECONDS = 60  # how long a writer waits for its turn in SQLite
MIGRATION, WRITERS = 823740211, 823740212  # PostgreSQL's advisory locks that the hub takes
IN_LIMIT = 500  # values in one IN (...)

metadata = MetaData()  # a change of it goes with a revision in migrations/versions

setting = Table("setting", metadata, Column("key", String(64), primary_key=True), Column("value", Text, nullable=False))

account = Table(
    "account",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(96), nullable=False),
    Column("name_ci", String(96), nullable=False, unique=True),
    Column("kind", String(8), nullable=False),  # user | org
    Column("fullname", Text, nullable=False, default=""),
    Column("email", Text, nullable=False, default=""),
    Column("private_by_default", Boolean, nullable=False, default=False),
    Column("created", BigInteger, nullable=False),
    sqlite_autoincrement=True,  # here and below: signed addresses name ids, so none is ever given twice
)

member = Table(
    "member",
    metadata,
    Column("org", ForeignKey("account.id", ondelete="CASCADE"), primary_key=True),
    Column("user", ForeignKey("account.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("role", String(8), nullable=False),  # read | write | admin
)

token = Table(
    "token",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("hash", String(64), nullable=False, unique=True),  # sha256 of the text
    Column("account", ForeignKey("account.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", String(96), nullable=False),
    Column("role", String(12), nullable=False),  # read | write | fineGrained
    Column("scope", JSON, nullable=False),  # [[target, role], ...]
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger),
    UniqueConstraint("account", "name"),
    sqlite_autoincrement=True,
)

repo = Table(
    "repo",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String(8), nullable=False),
    Column("owner", ForeignKey("account.id"), nullable=False, index=True),
    Column("namespace", String(96), nullable=False),
    Column("name", String(96), nullable=False),
    Column("name_ci", String(200), nullable=False),
    Column("private", Boolean, nullable=False),
    Column("gated", String(8)),
    Column("disabled", Boolean, nullable=False, default=False),
    Column("created", BigInteger, nullable=False),
    Column("modified", BigInteger, nullable=False),
    Column("downloads", BigInteger, nullable=False, default=0),
    Column("likes", BigInteger, nullable=False, default=0),
    Column("parameters", BigInteger),  # of its safetensors files, for filters
    Column("meta", JSON, nullable=False),  # what `cards.describe` found on main
    UniqueConstraint("kind", "name_ci"),
    Index("repo_modified", "kind", "modified", "id"),
    Index("repo_downloads", "kind", "downloads", "id"),
    sqlite_autoincrement=True,
)

repo_alias = Table(
    "repo_alias",
    metadata,
    Column("kind", String(8), primary_key=True),
    Column("name_ci", String(200), primary_key=True),
    Column("repo", ForeignKey("repo.id", ondelete="CASCADE"), nullable=False, index=True),
)

tag = Table(
    "tag",
    metadata,
    Column("repo", ForeignKey("repo.id", ondelete="CASCADE"), primary_key=True),
    Column("tag", String(200), primary_key=True, index=True),
)

access = Table(
    "access",
    metadata,
    Column("repo", ForeignKey("repo.id", ondelete="CASCADE"), primary_key=True),
    Column("account", ForeignKey("account.id", ondelete="CASCADE"), primary_key=True),
    Column("status", String(8), nullable=False),  # pending | accepted | rejected
    Column("asked", BigInteger, nullable=False),
)

ref = Table(
    "ref",
    metadata,
    Column("repo", ForeignKey("repo.id", ondelete="CASCADE"), primary_key=True),
    Column("kind", String(8), primary_key=True),  # heads | tags | pr
    Column("name", String(250), primary_key=True),
    Column("oid", String(40), nullable=False),
)

pull = Table(
    "pull",
    metadata,
    Column("repo", ForeignKey("repo.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("title", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("author", String(96), nullable=False),
    Column("base", String(250), nullable=False),
    Column("status", String(8), nullable=False),  # open | merged | closed
    Column("created", BigInteger, nullable=False),
    Column("merged_as", String(40)),  # the commit on its base
)

pull_event = Table(
    "pull_event",
    metadata,
    Column("repo", ForeignKey("repo.id", ondelete="CASCADE"), primary_key=True),
    Column("pull", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False),  # comment | status-change
    Column("author", String(96), nullable=False),
    Column("text", Text, nullable=False),  # of the comment, or the new status
    Column("created", BigInteger, nullable=False),
)

obj = Table(
    "obj",
    metadata,
    Column("oid", String(40), primary_key=True),
    Column("kind", String(6), nullable=False),  # blob | tree | commit
    Column("size", BigInteger, nullable=False),
    Column("parent", String(40)),  # of commits: the first one, so that the database itself can walk a history
    Column("data", LargeBinary, nullable=False),
)

repo_commit = Table(
    "repo_commit",
    metadata,
    Column("repo", ForeignKey("repo.id", ondelete="CASCADE"), primary_key=True),
    Column("oid", String(40), primary_key=True),  # a hash means something only in repositories that have it
)

lfs = Table(
    "lfs",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("uploaded", BigInteger, nullable=False),  # last time
    Column("tensors", JSON),  # {dtype: parameters} of a safetensors file, once it was asked for
)

repo_lfs = Table(
    "repo_lfs",
    metadata,
    Column("repo", ForeignKey("repo.id", ondelete="CASCADE"), primary_key=True),
    Column("sha256", ForeignKey("lfs.sha256"), primary_key=True, index=True),
    Column("linked", BigInteger, nullable=False),
)

session = Table(
    "session",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("repo", ForeignKey("repo.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("sha256", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("part_size", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
)

part = Table(
    "part",
    metadata,
    Column("session", ForeignKey("session.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("size", BigInteger, nullable=False),
    Column("etag", String(64), nullable=False),
)

lock = Table(
    "lock",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("repo", ForeignKey("repo.id", ondelete="CASCADE"), nullable=False),
    Column("path", Text, nullable=False),
    Column("owner", String(96), nullable=False),
    Column("created", BigInteger, nullable=False),
    UniqueConstraint("repo", "path"),
)


def open_engine(url: str) -> Engine:
    """A pool of connections for threads. Raises ConfigError for an address that cannot be used."""
    try:
        kind = make_url(url).get_backend_name()
        if kind == "sqlite":
            return _sqlite(url)
        if kind == "postgresql":
            return create_engine(url, pool_size=20, max_overflow=30, pool_pre_ping=True)
    except (SQLAlchemyError, ImportError) as error:
        raise ConfigError(f"the hub's database cannot be opened: {error}") from error
    raise ConfigError(f"a hub keeps its database in SQLite or PostgreSQL, not in {kind}")


def _sqlite(url: str) -> Engine:
    engine = create_engine(
        url, pool_size=20, max_overflow=30, connect_args={"timeout": BUSY_SECONDS, "isolation_level": None}
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-65536"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # a writer takes its turn at once: upgrading a reader would fail instead of waiting
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> int:
    """Insert rows whose key is not there yet, and leave the others alone; returns how many were new."""
    if not rows:
        return 0
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table).on_conflict_do_nothing()
    # without the option the count of an INSERT is lost on PostgreSQL
    return connection.execute(statement, list(rows), execution_options={"preserve_rowcount": True}).rowcount


def batches(values: Iterable[Any], size: int = IN_LIMIT) -> Iterable[list[Any]]:
    """Lists of at most `size` values: databases bound what one statement may carry."""
    values = list(values)
    for start in range(0, len(values), size):
        yield values[start : start + size]
