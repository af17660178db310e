"""Accounts, tokens and what they let through, on SQLite and PostgreSQL; settings and the commands."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from hfvision.cli import build_app
from hfvision.errors import ConfigError
from hfvision.hub import accounts, repositories
from hfvision.hub.accounts import ANONYMOUS, Grant
from hfvision.hub.database import metadata
from hfvision.hub.errors import BadRequest, BadToken, Conflict, Forbidden, GatedRepo, NotFound, RepoNotFound
from hfvision.hub.instance import open_hub
from hfvision.hub.settings import HubSettings


@pytest.fixture
def people(hub):
    """Callers with a write token each: an organisation with an admin, a writer, a reader, and somebody outside."""
    accounts.create_org(hub, "lab", "The Lab")
    callers = {}
    for name, role in (("admin", "admin"), ("writer", "write"), ("reader", "read"), ("outside", None)):
        accounts.create_user(hub, name)
        accounts.set_member(hub, "lab", name, role)
        callers[name] = accounts.authenticate(hub, accounts.create_token(hub, name, "test"))
    return callers


def test_a_token_is_known_by_its_hash_alone(hub):
    accounts.create_user(hub, "Me", "My Name", "me@example.org")
    text = accounts.create_token(hub, "me", "laptop")
    caller = accounts.authenticate(hub, text)
    assert (caller.name, caller.token_name, caller.token_role) == ("Me", "laptop", "write")
    assert text.startswith("hf_")
    assert len(text) >= 35
    with hub.reading() as connection:
        for table in metadata.sorted_tables:
            assert text not in str(connection.execute(select(table)).all())
    assert text not in repr(caller)
    for wrong in (text[:-1], text + "x", text.upper(), "x", "\0", "é" * 40):
        with pytest.raises(BadToken, match="Invalid credentials in Authorization header"):
            accounts.authenticate(hub, wrong)
    assert accounts.authenticate(hub, None) is accounts.authenticate(hub, "") is ANONYMOUS
    accounts.delete_token(hub, "me", "laptop")
    with pytest.raises(BadToken):
        accounts.authenticate(hub, text)


def test_tokens_expire(hub, owner):
    now = datetime.now(UTC)
    old = accounts.create_token(hub, "owner", "old", expires=now - timedelta(seconds=1))
    new = accounts.create_token(hub, "owner", "new", expires=now + timedelta(hours=1))
    with pytest.raises(BadToken):
        accounts.authenticate(hub, old)
    assert accounts.authenticate(hub, new).name == "owner"


def test_names_are_unique_in_any_case_and_some_are_reserved(hub, owner):
    with pytest.raises(Conflict):
        accounts.create_org(hub, "OWNER")
    for bad in ("api", "Datasets", "", "a--b", "a..b", "-a", "a.git", "a/b", "x" * 97, "é", "a b", "a\n"):
        with pytest.raises(BadRequest):
            accounts.create_user(hub, bad)
    for wrong in ({"name": "test"}, {"name": "x", "role": "admin"}, {"name": ""}, {"name": "y", "role": "fineGrained"}):
        with pytest.raises((BadRequest, Conflict)):
            accounts.create_token(hub, "owner", **wrong)
    with pytest.raises(NotFound):
        accounts.create_token(hub, "nobody", "x")
    repositories.create(hub, owner, "model", "x")
    with pytest.raises(Conflict, match="owns 1 repositories"):
        accounts.delete_account(hub, "owner")


def test_roles_in_an_organisation(hub, people):
    private = repositories.create(hub, people["admin"], "model", "m", namespace="LAB", private=True)
    assert private.full_name == "lab/m"
    allowed = {name: [] for name in people}
    for name, caller in people.items():
        for need in ("see", "content", "write", "admin"):
            try:
                repositories.find(hub, caller, "model", "lab/m", need)
                allowed[name].append(need)
            except (Forbidden, RepoNotFound):
                pass
    assert allowed == {
        "admin": ["see", "content", "write", "admin"],
        "writer": ["see", "content", "write"],
        "reader": ["see", "content"],
        "outside": [],
    }
    for name in ("reader", "outside"):
        with pytest.raises(Forbidden):
            repositories.create(hub, people[name], "model", "n", namespace="lab")
    repositories.create(hub, people["writer"], "dataset", "n", namespace="lab")
    accounts.set_member(hub, "lab", "writer", None)
    assert [account.name for account, _ in accounts.members(hub, "lab")] == ["admin", "reader"]


def test_fine_grained_tokens_reach_no_further_than_their_lines(hub, people):
    for name in ("a", "b"):
        repositories.create(hub, people["admin"], "model", name, private=True)
    repositories.create(hub, people["admin"], "model", "c", namespace="lab", private=True)
    scope = (Grant("models/admin/a", "write"), Grant("lab", "read"), Grant("models/outside/x", "write"))
    narrow = accounts.authenticate(hub, accounts.create_token(hub, "admin", "narrow", "fineGrained", scope))
    assert {one.full_name for one in repositories.search(hub, narrow, "model").items} == {"admin/a", "lab/c"}
    repositories.find(hub, narrow, "model", "admin/a", "write")
    repositories.find(hub, narrow, "model", "lab/c", "content")
    with pytest.raises(Forbidden):
        repositories.find(hub, narrow, "model", "lab/c", "write")
    with pytest.raises(RepoNotFound):
        repositories.find(hub, narrow, "model", "admin/b")
    for target in ({"name": "new"}, {"name": "x", "namespace": "outside"}):  # a line gives no right the user lacks
        with pytest.raises(Forbidden):
            repositories.create(hub, narrow, "model", **target)


def test_gated_repositories_let_in_who_was_accepted(hub, people):
    repo = repositories.create(hub, people["admin"], "model", "g")
    repositories.update_settings(hub, people["admin"], "model", "admin/g", gated="manual")
    outside = people["outside"]
    assert repositories.find(hub, outside, "model", "admin/g").gated == "manual"
    with pytest.raises(GatedRepo, match="Access to model admin/g is restricted and you are not in the authorized list"):
        repositories.find(hub, outside, "model", "admin/g", "content")
    repo = repositories.find(hub, outside, "model", "admin/g")
    assert repositories.request_access(hub, outside, repo) == "pending"
    with pytest.raises(Forbidden):
        repositories.answer_access(hub, outside, repo, "outside", "accepted")
    repositories.answer_access(hub, people["admin"], repo, "outside", "accepted")
    repositories.find(hub, outside, "model", "admin/g", "content")
    assert repositories.request_access(hub, outside, repo) == "accepted"
    repositories.find(hub, people["admin"], "model", "admin/g", "content")


def test_organisations_can_create_private_by_default(hub, people):
    accounts.create_org(hub, "closed", private_by_default=True)
    accounts.set_member(hub, "closed", "admin", "admin")
    caller = accounts.authenticate(hub, accounts.create_token(hub, "admin", "again"))
    assert repositories.create(hub, caller, "model", "m", namespace="closed").private
    assert not repositories.create(hub, caller, "model", "n", namespace="closed", private=False).private


def test_a_hub_opened_twice_is_the_same_hub(hub):
    again = open_hub(hub.settings)
    assert (again.instance_id, again.secret) == (hub.instance_id, hub.secret)
    again.close()


def test_settings_come_from_variables_and_arguments_win(tmp_path):
    variables = {"HFVISION_HUB_ROOT": "elsewhere", "HFVISION_HUB_PAGE_SIZE": "7", "HFVISION_HUB_XET_DOWNLOADS": "0"}
    found = HubSettings.from_environment(variables, root=tmp_path, public_url="http://x/hub/")
    assert (found.root, found.page_size, found.xet_downloads) == (tmp_path, 7, False)
    assert found.public_url == "http://x/hub"
    assert found.database_url == f"sqlite:///{tmp_path}/hub.sqlite3"
    assert HubSettings(database="postgresql://u@h/d").database_url == "postgresql+psycopg://u@h/d"
    wrong = {"HFVISION_HUB_PAGE_SIZ": "7", "HFVISION_HUB_PART_SIZE": "x", "HFVISION_HUB_XET_DOWNLOADS": "maybe"}
    with pytest.raises(ConfigError) as error:
        HubSettings.from_environment(wrong)
    assert all(name in str(error.value) for name in wrong)
    for bad in ({"part_size": 0}, {"secret": "short"}):
        with pytest.raises(ConfigError):
            HubSettings(**bad)
    for url in ("mysql://x/y", "nonsense"):
        with pytest.raises(ConfigError):
            open_hub(HubSettings(root=tmp_path, database=url))


def test_the_commands_manage_accounts(tmp_path):
    def run(*arguments, code=0):
        done = CliRunner().invoke(build_app(), ["hub", *arguments, "--root", str(tmp_path / "hub")])
        assert done.exit_code == code, done.output
        return done

    assert "There is no hub" in str(run("user", "list", code=1).exception)
    open_hub(HubSettings(root=tmp_path / "hub")).close()
    token = json.loads(run("user", "add", "me", "--json").stdout)["token"]
    run("org", "add", "lab")
    run("org", "member", "lab", "me", "--role", "admin")
    narrow = run("token", "add", "me", "--name", "ci", "--scope", "models/me/x=write", "--days", "3").stdout.strip()
    hub = open_hub(HubSettings(root=tmp_path / "hub"))
    assert accounts.authenticate(hub, token).role_in("lab") == "admin"
    assert accounts.authenticate(hub, narrow).scope == (Grant("models/me/x", "write"),)
    listed = run("token", "list", "--json").stdout
    assert token not in listed
    assert [row["name"] for row in json.loads(listed)] == ["ci", "first"]
    run("token", "remove", "me", "ci")
    with pytest.raises(BadToken):
        accounts.authenticate(hub, narrow)
    assert "everything is as it should be" in run("fsck").stdout
    assert json.loads(run("gc", "--json").stdout)["git_objects"] == 0
    assert accounts.set_up(hub, "second") is None  # a hub with tokens is not set up again
    run("user", "remove", "me")
    hub.close()


def test_the_first_start_makes_a_user_who_may_seed(hub):
    caller = accounts.authenticate(hub, accounts.set_up(hub, "me"))
    assert (caller.name, caller.role_in("hfvision")) == ("me", "admin")
    assert accounts.set_up(hub, "me") is None
