"""Pages that change something: settings, requests for access, tokens; who may, and what a form cannot do."""

import re
from datetime import UTC, datetime, timedelta
from html import unescape

import pytest

from hfvision.hub import accounts, repositories
from hfvision.hub.settings import HubSettings
from tests.hub.publishing import caller_of, publish
from tests.hub.server import TOKENS, add_users, running

DAY = timedelta(days=1)
READING = "hf_" + "r" * 32


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(HubSettings(root=tmp_path_factory.mktemp("settings"))) as own:
        add_users(own.hub)
        accounts.create_token(own.hub, "me", "reading", role="read", text=READING)
        yield own


@pytest.fixture
def reading(server):
    """Someone who signed in as the owner, with a token that only reads."""
    with server.client(None) as client:
        assert client.post("/login", data={"token": READING}).status_code == 303
        yield client


def found(server, name, kind="model"):
    return repositories.find(server.hub, caller_of(server.hub), kind, name)


def state(server, name, user="you"):
    return repositories.access_status(server.hub, caller_of(server.hub, user), found(server, name))


def test_the_owner_changes_who_sees_it_and_its_name_and_deletes_it(server, me, nobody):
    publish(server.hub, "me/settled", {"README.md": "# Settled"}, "dataset")
    page = me.get("/datasets/me/settled/settings").text
    assert 'value="public" checked' in page and 'href="/datasets/me/settled/settings"' in page
    answer = me.post("/datasets/me/settled/settings/visibility", data={"visibility": "private"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/datasets/me/settled/settings")
    assert nobody.get("/datasets/me/settled").status_code == 404
    answer = me.post("/datasets/me/settled/settings/rename", data={"name": "me/moved"})
    assert answer.headers["location"] == "/datasets/me/moved/settings"
    answer = me.post("/datasets/me/moved/settings/delete", data={"name": "moved"})
    assert answer.status_code == 400 and "Type me/moved to delete it" in answer.text
    answer = me.post("/datasets/me/moved/settings/delete", data={"name": "me/moved"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/me")
    assert me.get("/datasets/me/moved").status_code == 404


def test_a_reader_asks_and_the_owner_lets_in(server, me, you, nobody):
    publish(server.hub, "me/asked", {"README.md": "# Ask", "config.json": '{"inside": 1}'})
    assert me.post("/me/asked/settings/gate", data={"gated": "manual"}).status_code == 303
    assert "Sign in</a> to ask" in nobody.get("/me/asked").text and "Ask for access" in you.get("/me/asked").text
    refused = you.get("/me/asked/blob/main/config.json")
    assert refused.status_code == 403 and 'href="/me/asked"' in refused.text
    assert you.post("/me/asked/access").headers["location"] == "/me/asked"
    assert "You have asked" in you.get("/me/asked").text and state(server, "me/asked") == "pending"
    assert ">pending<" in me.get("/me/asked/settings").text
    me.post("/me/asked/settings/access", data={"user": "you", "answer": "reject"})
    assert "Your request was rejected" in you.get("/me/asked").text
    you.post("/me/asked/access")
    assert state(server, "me/asked") == "rejected"
    me.post("/me/asked/settings/access", data={"user": "you", "answer": "accept"})
    assert "You have been let in" in you.get("/me/asked").text
    assert "inside" in you.get("/me/asked/blob/main/config.json").text


def test_whoever_asks_is_let_in_where_the_gate_is_automatic(server, me, you):
    publish(server.hub, "me/auto", {"README.md": "# Auto"})
    me.post("/me/auto/settings/gate", data={"gated": "manual"})
    you.post("/me/auto/access")
    me.post("/me/auto/settings/gate", data={"gated": "auto"})
    assert state(server, "me/auto") == "pending" and "Ask for access" in you.get("/me/auto").text
    you.post("/me/auto/access")
    assert state(server, "me/auto") == "accepted"


CHANGES = [
    ("visibility", {"visibility": "private"}),
    ("gate", {"gated": "manual"}),
    ("access", {"user": "you", "answer": "accept"}),
    ("rename", {"name": "me/taken-over"}),
    ("delete", {"name": "me/kept"}),
]


@pytest.mark.parametrize(("action", "data"), CHANGES)
def test_nobody_else_changes_settings(server, me, you, nobody, reading, action, data):
    publish(server.hub, "me/kept", {"README.md": "# Kept"})
    publish(server.hub, "me/kept-secret", {"README.md": "# Kept"}, private=True)
    before = found(server, "me/kept")
    address = f"/me/kept/settings/{action}"
    assert nobody.post(address, data=data).status_code == 401
    assert you.post(address, data=data).status_code == 403
    assert reading.post(address, data=data).status_code == 403
    for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "same-site"}):
        assert me.post(address, data=data, headers=headers).status_code == 403
    for client in (you, nobody):
        assert client.post(f"/me/kept-secret/settings/{action}", data=data).status_code == 404
        assert client.get("/me/kept-secret/settings").status_code == 404
    assert found(server, "me/kept") == before and state(server, "me/kept") is None


@pytest.mark.parametrize(
    ("action", "data", "words"),
    [
        ("visibility", {"visibility": "protected"}, "public, private"),
        ("gate", {}, "no, auto, manual"),
        ("access", {"user": "none", "answer": "accept"}, "no user named none"),
        ("access", {"user": "a\0", "answer": "accept"}, "NUL"),
        ("rename", {"name": "me/a b"}, "cannot name a repository"),
        ("rename", {"name": "you/x"}, "may not create"),
        ("delete", {"name": "me/KEPT"}, "Type me/kept"),
        ("nothing", {}, "Nothing is at this address"),
    ],
)
def test_a_form_that_cannot_be_done_says_why(server, me, action, data, words):
    before = publish(server.hub, "me/kept", {"README.md": "# Kept"})
    answer = me.post(f"/me/kept/settings/{action}", data=data)
    assert 400 <= answer.status_code < 500 and words in unescape(answer.text)
    assert found(server, "me/kept") == before


def test_tokens_are_made_shown_once_and_removed(server, nobody):
    nobody.post("/login", data={"token": TOKENS["you"]})
    answer = nobody.post("/settings/tokens", data={"name": "la<ptop", "role": "read", "days": "3"})
    text = re.search(r"hf_[0-9a-f]{40}", answer.text)[0]
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    again = nobody.get("/settings/tokens").text
    assert text not in again and "la&lt;ptop" in again
    caller = accounts.authenticate(server.hub, text)
    (row,) = [row for row in accounts.list_tokens(server.hub, "you") if row.name == "la<ptop"]
    assert (caller.name, caller.token_role, round((row.expires - row.created) / DAY)) == ("you", "read", 3)
    assert "already" in nobody.post("/settings/tokens", data={"name": "la<ptop", "role": "read"}).text
    assert nobody.post("/settings/tokens/remove", data={"name": "la<ptop"}).status_code == 303
    assert "la&lt;ptop" not in nobody.get("/settings/tokens").text


@pytest.mark.parametrize(
    "data",
    [
        {"role": "fineGrained"},
        {"role": "write", "days": "0"},
        {"role": "read", "days": "1e9"},
        {"role": "read", "name": "a\nb"},
        {"role": "read", "name": ""},
    ],
)
def test_a_token_that_cannot_be_is_not_made(server, you, data):
    before = accounts.list_tokens(server.hub, "you")
    assert you.post("/settings/tokens", data={"name": "n", **data}).status_code == 400
    assert accounts.list_tokens(server.hub, "you") == before


def test_only_a_session_that_writes_everywhere_sees_tokens(server, nobody, reading):
    scope = (accounts.Grant("you", "write"),)
    fine = accounts.create_token(server.hub, "you", "fine", role="fineGrained", scope=scope)
    with server.client(None) as client:
        client.post("/login", data={"token": fine})
        clients = [(nobody, 401), (reading, 403), (client, 403)]
        for someone, status in clients:
            assert someone.get("/settings/tokens").status_code == status
            assert someone.post("/settings/tokens", data={"name": "x", "role": "write"}).status_code == status
            assert someone.post("/settings/tokens/remove", data={"name": "test"}).status_code == status
    assert accounts.authenticate(server.hub, TOKENS["you"]).name == "you"


def test_a_token_ends_no_later_than_the_one_that_made_it(server, nobody):
    soon = datetime.now(UTC) + timedelta(hours=5)
    lent = accounts.create_token(server.hub, "you", "lent", expires=soon)
    nobody.post("/login", data={"token": lent})
    for name, days in (("forever", ""), ("longer", "30")):
        nobody.post("/settings/tokens", data={"name": name, "role": "write", "days": days})
    rows = {row.name: row.expires for row in accounts.list_tokens(server.hub, "you")}
    assert rows["forever"] == rows["longer"] == rows["lent"]
