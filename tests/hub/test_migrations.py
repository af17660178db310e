"""Databases of other releases: those of 0.4.0 open and are whole, older ones are migrated once, newer ones refused."""

import shutil
import sqlite3
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from hfvision.errors import ConfigError
from hfvision.hub import accounts, backups, commits, files, migrations, repositories, upkeep
from hfvision.hub.commits import AddFile
from hfvision.hub.database import metadata
from hfvision.hub.instance import open_hub
from hfvision.hub.settings import HubSettings

STORE = Path(__file__).parents[1] / "data" / "hub_0_4_0"  # written by the code of 0.4.0: hub.sql is its database
TOKEN = "hf_e7f7aeb7259e452d6d21302492e8a13542ac59b4"  # issued there
SECOND = """
from alembic import op
from sqlalchemy import Column, Integer

revision, down_revision = "0002", "0001"


def upgrade():
    op.add_column("account", Column("seen", Integer))
"""


@pytest.fixture
def old(tmp_path):
    """A hub's folder as 0.4.0 left it."""
    root = tmp_path / "old"
    shutil.copytree(STORE / "store", root / "store")
    with sqlite3.connect(root / "hub.sqlite3") as database:
        database.executescript((STORE / "hub.sql").read_text(encoding="utf-8"))
    database.close()
    return root


@pytest.fixture
def second(tmp_path, monkeypatch):
    """One more revision than this release has."""
    versions = tmp_path / "versions"
    shutil.copytree(migrations.VERSIONS, versions, ignore=shutil.ignore_patterns("__pycache__"))
    (versions / "r0002.py").write_text(SECOND, encoding="utf-8")
    monkeypatch.setattr(migrations, "VERSIONS", versions)


def version(hub):
    with hub.reading() as connection:
        return connection.scalar(text("SELECT version_num FROM alembic_version"))


def columns(hub):
    with hub.reading() as connection:
        return [column["name"] for column in inspect(connection).get_columns("account")]


def forget(hub, value=None):
    """Make the database one without a version, as 0.4.0's are, or of another version."""
    with hub.writing() as connection:
        if value is None:
            connection.execute(text("DROP TABLE alembic_version"))
        else:
            connection.execute(text("UPDATE alembic_version SET version_num = :value"), {"value": value})


def check_whole(hub):
    caller = accounts.authenticate(hub, TOKEN)
    repo = repositories.find(hub, caller, "model", "me/digits")
    assert [entry.path for entry in files.siblings(hub, repo, "main")] == [".gitattributes", "README.md", "w.bin"]
    assert upkeep.fsck(hub) == []
    commits.apply(hub, caller, repo, "main", [AddFile("new", b"1")], "goes on")


def test_a_hub_of_0_4_0_opens_is_whole_and_its_tokens_stay_valid(old):
    hub = open_hub(HubSettings(root=old))
    assert version(hub) == "0001"
    check_whole(hub)
    again = open_hub(HubSettings(root=old))  # stamped now: it opens as any other
    assert version(again) == "0001" and upkeep.fsck(again) == []
    again.close()
    hub.close()


def test_a_backup_of_0_4_0_is_restored_and_stays_as_it_was(old, tmp_path, database):
    before = (old / "hub.sqlite3").read_bytes()
    settings = HubSettings(root=tmp_path / "hub", database=database)
    backups.restore(old, settings)
    assert (old / "hub.sqlite3").read_bytes() == before
    hub = open_hub(settings)
    check_whole(hub)
    hub.close()


def test_a_new_database_has_the_newest_version_and_the_tables_of_the_code(hub):
    assert version(hub) == "0001"
    with hub.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_an_older_database_is_migrated_and_keeps_its_rows(hub, owner, second):
    forget(hub)
    again = open_hub(hub.settings)
    assert version(again) == "0002" and columns(again)[-1] == "seen"
    assert [account.name for account in accounts.list_accounts(again)] == ["owner"]
    again.close()


def test_servers_that_start_together_migrate_once(hub, second):
    problems, opened = [], []

    def start():
        try:
            opened.append(open_hub(hub.settings))
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in opened:
        one.close()
    assert not problems and columns(hub).count("seen") == 1


def test_a_migration_that_fails_leaves_the_database_as_it_was(hub, second):
    broken = migrations.VERSIONS / "r0002.py"
    broken.write_text(SECOND + '    op.drop_table("no_such_table")\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"cannot be prepared.*no_such_table"):
        open_hub(hub.settings)
    assert version(hub) == "0001" and "seen" not in columns(hub)


def test_a_database_of_a_newer_hub_is_left_alone(hub):
    forget(hub, "9999")
    with pytest.raises(ConfigError, match="schema 9999 and this hfvision knows 0001: upgrade hfvision"):
        open_hub(hub.settings)
    assert version(hub) == "9999"


@pytest.mark.parametrize("schema", ["0", "999"])
def test_a_schema_that_no_release_made_is_refused(hub, schema):
    forget(hub)
    with hub.writing() as connection:
        connection.execute(text("UPDATE setting SET value = :value WHERE key = 'schema'"), {"value": schema})
    with pytest.raises(ConfigError, match=f"schema {schema}, which"):
        open_hub(hub.settings)
