"""The database brought up to date by Alembic when a hub is opened: revisions are in `versions`, one step a file.

A change of `database.metadata` goes with a revision `versions/r0002.py`: `revision`, `down_revision`, and an `upgrade`
of Alembic's operations that works on SQLite and PostgreSQL. A new database gets the newest tables at once.
"""

from collections.abc import Mapping
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, func, inspect, select
from sqlalchemy.exc import SQLAlchemyError

from hfvision.errors import ConfigError
from hfvision.hub.database import MIGRATION, insert_new, metadata, setting

VERSIONS = Path(__file__).parent / "versions"
FIRST = "0001"
FIRST_SCHEMA = "1"  # the setting by which 0.4.0 knows its tables, and those with which it can work


def migrate(engine: Engine, new: Mapping[str, str]) -> dict[str, str]:
    """Make the tables, or bring them up to date, whole or not at all; returns the settings kept in the database.

    `new` are settings to store where a key is missing. Processes that open a hub together take turns. Raises
    ConfigError if the database is newer than this code, or not a hub's.
    """
    try:
        with engine.connect().execution_options(writes=True) as connection, connection.begin():
            if engine.dialect.name == "postgresql":  # SQLite has one writer at a time, so this one
                connection.execute(select(func.pg_advisory_xact_lock(MIGRATION)))
            _upgrade(connection)
            insert_new(connection, setting, [{"key": key, "value": value} for key, value in new.items()])
            return {row.key: row.value for row in connection.execute(setting.select())}
    except (SQLAlchemyError, CommandError) as error:
        raise ConfigError(f"the hub's database cannot be prepared: {error}") from error


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.set_main_option("version_locations", str(VERSIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    if not inspect(connection).has_table(setting.name):
        metadata.create_all(connection)
        insert_new(connection, setting, [{"key": "schema", "value": FIRST_SCHEMA}])
        command.stamp(config, "head")
        return
    script = ScriptDirectory.from_config(config)
    known = [one.revision for one in script.walk_revisions()]
    found = MigrationContext.configure(connection).get_current_revision()
    if found is None:
        schema = connection.scalar(select(setting.c.value).where(setting.c.key == "schema"))
        if schema != FIRST_SCHEMA:
            raise ConfigError(f"the hub's database has schema {schema}, which no hfvision has made; restore a backup")
        command.stamp(config, FIRST)
    elif found not in known:
        raise ConfigError(f"the hub's database has schema {found} and this hfvision knows {known[0]}: upgrade hfvision")
    if found != known[0]:
        command.upgrade(config, "head")
