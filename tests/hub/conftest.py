"""One hub for all tests that only need some hub: in a process of its own, with two users."""

import os

import pytest

from hfvision.hub import accounts, repositories
from hfvision.hub.instance import open_hub
from hfvision.hub.settings import HubSettings
from tests.hub import backends
from tests.hub.server import SMALL, add_users, running

os.environ["no_proxy"] = "127.0.0.1"


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    settings = HubSettings(root=tmp_path_factory.mktemp("hub"), **SMALL)
    with running(settings) as server:
        add_users(server.hub)
        yield server


@pytest.fixture
def me(server):
    """Plain HTTP as the user who owns what a test makes."""
    with server.client("me") as client:
        yield client


@pytest.fixture
def you(server):
    with server.client("you") as client:
        yield client


@pytest.fixture
def nobody(server):
    with server.client(None) as client:
        yield client


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory):
    with backends.postgres(tmp_path_factory.mktemp("postgres")) as url:
        yield url


@pytest.fixture(scope="session")
def s3_environment(tmp_path_factory):
    with backends.object_store(tmp_path_factory.mktemp("s3")) as environment:
        yield environment


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request):
    """A fresh database's URL; "" is SQLite in the hub's own folder."""
    return "" if request.param == "sqlite" else backends.new_database(request.getfixturevalue("postgres_url"))


@pytest.fixture
def hub(tmp_path, database):
    """A hub of this process, on each kind of database."""
    hub = open_hub(HubSettings(root=tmp_path / "hub", database=database))
    yield hub
    hub.close()


@pytest.fixture
def owner(hub):
    """The caller named owner, who may write."""
    accounts.create_user(hub, "owner", email="owner@example.org")
    return accounts.authenticate(hub, accounts.create_token(hub, "owner", "test"))


@pytest.fixture
def repo(hub, owner):
    return repositories.create(hub, owner, "model", "x")


@pytest.fixture
def other(hub):
    """A caller who owns nothing here."""
    accounts.create_user(hub, "other")
    return accounts.authenticate(hub, accounts.create_token(hub, "other", "test"))
