"""Backups: one state of a hub as a folder that is itself a hub, whatever the hub's own database and store are.

The database is copied row by row in one transaction, so the copy is a state that was; large files follow, and are
immutable. `hfvision hub serve --root BACKUP` serves it, `restore` copies it into an empty hub.
"""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection, func, insert, select, text

from hfvision.errors import ConfigError
from hfvision.hub.database import account, lfs, metadata, repo, repo_lfs, setting, token
from hfvision.hub.instance import Hub, open_hub
from hfvision.hub.large_files import key
from hfvision.hub.settings import HubSettings
from hfvision.hub.store import Check

ROWS = 500


def backup(hub: Hub, folder: Path) -> int:
    """Copy a hub into a new folder, which appears whole or not at all; returns the bytes of large files.

    Every large file is hashed on the way. Raises ConfigError if the folder exists or cannot be written.
    """
    folder = folder.absolute()
    if folder.exists():
        raise ConfigError(f"{folder} exists already; a backup makes a new folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as work:
            root = Path(work, folder.name)
            root.mkdir(mode=0o700)  # it holds hashes of tokens and the hub's secret
            target = open_hub(HubSettings(root=root))
            try:
                size = _copy(hub, target)
            finally:
                target.close()
            root.rename(folder)
    except OSError as error:
        raise ConfigError(f"the backup {folder} cannot be written: {error}. Nothing was kept.") from error
    return size


def restore(folder: Path, settings: HubSettings) -> int:
    """Copy a backup into an empty hub, which becomes that hub; returns the bytes of large files.

    Raises ConfigError if the folder is no backup, or the hub has accounts already.
    """
    if not (folder / "hub.sqlite3").is_file():
        raise ConfigError(f"{folder} is no backup of a hub: it has no hub.sqlite3")
    target = open_hub(settings)
    # a copy of the backup's database is opened, as opening may migrate it and a backup stays as it is
    with tempfile.TemporaryDirectory() as work:
        shutil.copyfile(folder / "hub.sqlite3", Path(work, "hub.sqlite3"))
        source = open_hub(replace(HubSettings(root=Path(work)), store=str(folder.absolute() / "store")))
        try:
            return _copy(source, target)
        finally:
            source.close()
            target.close()


def _copy(source: Hub, target: Hub) -> int:
    total = 0
    with target.writing() as there:
        if there.scalar(select(func.count()).select_from(account)):
            raise ConfigError("the hub to copy into has accounts already; it must be a new one")
        there.execute(setting.delete())
        with source.reading() as here:
            for table in metadata.sorted_tables:
                rows = here.execution_options(yield_per=ROWS).execute(select(table))
                for batch in rows.mappings().partitions(ROWS):
                    there.execute(insert(table), [dict(row) for row in batch])
            held = here.execute(select(lfs).where(lfs.c.sha256.in_(select(repo_lfs.c.sha256)))).all()
        _advance_ids(there)
        # before the rows are kept: a hub whose rows name files that never came would not be whole
        for row in held:
            try:
                blocks = source.store.stream(key(row.sha256))
                target.store.put(key(row.sha256), blocks, Check(row.sha256, row.size), row.size)
            except FileNotFoundError as error:
                raise ConfigError(f"large file {row.sha256} left the store meanwhile; run it again") from error
            total += row.size
    return total


def _advance_ids(connection: Connection) -> None:
    """PostgreSQL counts ids apart from rows: let it go on behind those that were copied."""
    if connection.dialect.name == "postgresql":
        for table in (account, repo, token):
            last = select(func.coalesce(func.max(table.c.id), 0)).scalar_subquery()
            sequence = func.pg_get_serial_sequence(text(f"'{table.name}'"), text("'id'"))
            connection.execute(select(func.setval(sequence, last + 1, False)))
