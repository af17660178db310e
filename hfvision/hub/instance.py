"""One opened hub: settings, database, store, and what a process remembers of immutable things."""

import hashlib
import secrets
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from itsdangerous import TimestampSigner, URLSafeTimedSerializer
from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import IntegrityError

from hfvision.errors import ConfigError
from hfvision.hub.database import WRITERS, open_engine
from hfvision.hub.errors import Conflict
from hfvision.hub.gitobjects import Tree
from hfvision.hub.migrations import migrate
from hfvision.hub.settings import HubSettings
from hfvision.hub.store import Store

K = TypeVar("K")
V = TypeVar("V")

TREE_MEMORY = 200_000  # lines of trees that a process remembers: about 50 MB
COMMIT_MEMORY = 50_000
PARSED_MEMORY = 256
WORKERS = 2
DERIVATION: dict[str, Any] = {
    "key_derivation": "hmac",
    "digest_method": hashlib.sha256,
}  # of keys: one for each purpose


class Memory(Generic[K, V]):
    """The values used last, up to a total weight. Only for what never changes, so nothing is ever invalidated."""

    def __init__(self, most: int, weigh: Callable[[V], int] = lambda _: 1) -> None:
        self._most, self._weigh = most, weigh
        self._values: OrderedDict[K, V] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        with self._lock:
            if key in self._values:
                return
            self._values[key] = value
            self._weight += self._weigh(value)
            while self._weight > self._most and len(self._values) > 1:
                self._weight -= self._weigh(self._values.popitem(last=False)[1])


@dataclass(frozen=True)
class Hub:
    """What every service takes first. Safe to share between threads; open one per process with `open_hub`."""

    settings: HubSettings
    engine: Engine
    store: Store
    instance_id: str  # made when the database was: part of Xet addresses (protocol section 7.4)
    secret: bytes  # signs addresses; the same in all processes
    workers: ThreadPoolExecutor  # for the heavy steps of uploads: few at a time, whatever the number of requests
    turn: threading.Lock = field(default_factory=threading.Lock)  # to write, where the database is SQLite
    trees: Memory[str, Tree] = field(default_factory=lambda: Memory(TREE_MEMORY, lambda tree: len(tree) + 1))
    last_commits: Memory[tuple[str, str], str] = field(default_factory=lambda: Memory(COMMIT_MEMORY))
    parsed: Memory[str, Any] = field(default_factory=lambda: Memory(PARSED_MEMORY))  # cards, configs: by blob

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One transaction that sees one state of the database."""
        level = {"isolation_level": "REPEATABLE READ"} if self._postgres else {}
        with self.engine.connect().execution_options(**level) as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self, sweeping: bool = False) -> Iterator[Connection]:
        """One transaction that is kept whole when the block ends well, and leaves nothing otherwise.

        `sweeping` runs alone: no other writer can meanwhile come to rely on what is being thrown away. Raises Conflict
        where a new row is there already, or belongs to one that has just gone, such as a deleted repository's.
        """
        # SQLite has one writer at a time and lets others poll for their turn, sleeping: those of this process queue up
        turn = nullcontext() if self._postgres else self.turn
        with turn, self.engine.connect().execution_options(writes=True) as connection, connection.begin():
            if self._postgres:
                # a queue, unlike locks on a row: writers who come later cannot keep a sweeper waiting for ever
                lock = func.pg_advisory_xact_lock if sweeping else func.pg_advisory_xact_lock_shared
                connection.execute(select(lock(WRITERS)))
            try:
                yield connection
            except IntegrityError as error:
                raise Conflict("What this would change has just been changed or deleted by others.") from error

    def signer(self, purpose: str) -> TimestampSigner:
        """A signer of text for one purpose: what it signed is valid in all processes, and for no other purpose."""
        return TimestampSigner(self.secret, salt=purpose.encode("utf-8", "replace"), **DERIVATION)

    def serializer(self, purpose: str) -> URLSafeTimedSerializer:
        """The same for JSON values, as text that fits into addresses, headers and cookies."""
        return URLSafeTimedSerializer(self.secret, salt=purpose.encode(), signer_kwargs=DERIVATION)

    @property
    def _postgres(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    def close(self) -> None:
        self.workers.shutdown(cancel_futures=True)
        self.engine.dispose()


def open_hub(settings: HubSettings) -> Hub:
    """Open the hub, making or migrating its database and store. Raises ConfigError if it cannot be reached."""
    try:
        settings.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the hub's folder {settings.root} cannot be made: {error}") from error
    engine = open_engine(settings.database_url)
    try:
        kept = migrate(engine, {"instance": str(uuid.uuid4()), "secret": secrets.token_hex(32)})
        store = Store(settings.store_url)
    except BaseException:
        engine.dispose()
        raise
    return Hub(
        settings=settings,
        engine=engine,
        store=store,
        instance_id=kept["instance"],
        secret=(settings.secret or kept["secret"]).encode(),
        workers=ThreadPoolExecutor(WORKERS, thread_name_prefix="hub"),
    )
