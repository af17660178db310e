"""Pages of pull requests: what they show, who may press which button, and what stands against it."""

import re
from html import unescape

import pytest

from hfvision.hub import commits, pulls, repositories
from hfvision.hub.commits import AddFile
from hfvision.hub.settings import HubSettings
from tests.hub.publishing import caller_of, publish
from tests.hub.server import add_users, running


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(HubSettings(root=tmp_path_factory.mktemp("pulls"))) as own:
        add_users(own.hub)
        yield own


def proposed(server, name, files, user="you", title="Better <b>words</b>", description="", **published):
    """A repository with one pull request."""
    repo = publish(server.hub, name, {"README.md": "# Old\n", "config.json": '{"a": 1}\n'}, **published)
    operations = [AddFile(path, content.encode()) for path, content in files.items()]
    pulls.propose(server.hub, caller_of(server.hub, user), repo, "main", operations, title, description)
    return repo


def status(server, repo, number=1):
    return pulls.find_pull(server.hub, repo, number).status


def test_a_pull_request_is_listed_shown_and_merged(server, me, nobody):
    description = "Look: [config](config.json) <script>alert(1)</script> **bold**"
    repo = proposed(server, "me/merging", {"config.json": '{"a": 2}\n', "b": "new"}, description=description)
    listed = nobody.get("/me/merging/discussions").text
    assert "Better &lt;b&gt;words&lt;/b&gt;" in listed and "#1 by you" in listed and "Open <small>1</small>" in listed
    shown = nobody.get("/me/merging/discussions/1").text
    assert "<strong>bold</strong>" in shown and "<script" not in shown and f"/blob/{repo.sha}/config.json" in shown
    assert '-{"a": 1}' in unescape(shown) and '+{"a": 2}' in unescape(shown) and "2 files changed" in shown
    assert 'href="/me/merging/blob/refs%2Fpr%2F1/b"' in shown and "<form class=" not in shown
    assert "Merge into main" in me.get("/me/merging/discussions/1").text
    answer = me.post("/me/merging/discussions/1/merge", data={"comment": "Thanks, *you*"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/me/merging/discussions/1")
    after = nobody.get("/me/merging/discussions/1").text
    assert "Merged as" in after and "Thanks, <em>you</em>" in after and "merged this" in after
    assert '{"a": 2}' in unescape(nobody.get("/me/merging/blob/main/config.json").text)
    assert "2 files changed" in after and "No pull requests are open" in nobody.get("/me/merging/discussions").text
    assert "Better" in nobody.get("/me/merging/discussions?status=merged").text


def test_conflicts_are_named_and_nothing_is_merged(server, me):
    repo = proposed(server, "me/clashing", {"config.json": '{"a": 2}'})
    commits.apply(server.hub, caller_of(server.hub), repo, "main", [AddFile("config.json", b"{}")], "Else")
    shown = me.get("/me/clashing/discussions/1").text
    assert "<li>config.json</li>" in shown and "Merge into" not in shown
    head = repositories.find(server.hub, caller_of(server.hub), "model", "me/clashing").sha
    answer = me.post("/me/clashing/discussions/1/merge")
    assert answer.status_code == 409 and "config.json" in answer.text and 'role="alert"' in answer.text
    assert repositories.find(server.hub, caller_of(server.hub), "model", "me/clashing").sha == head


def test_its_author_and_writers_close_and_reopen_it_and_others_talk(server, me, you):
    repo = proposed(server, "me/talked", {"b": "new"}, user="me", kind="dataset")
    address = "/datasets/me/talked/discussions/1"
    assert "formaction" not in you.get(address).text
    assert you.post(f"{address}/close").status_code == 403 and status(server, repo) == "open"
    assert you.post(f"{address}/merge").status_code == 403 and status(server, repo) == "open"
    assert you.post(f"{address}/comment", data={"comment": "Why? https://x.example/y"}).status_code == 303
    assert you.post(f"{address}/comment", data={"comment": " "}).status_code == 400
    assert me.post(f"{address}/close", data={"comment": "No."}).status_code == 303
    shown = me.get(address).text
    assert 'href="https://x.example/y"' in shown and "closed this" in shown and "Reopen" in shown
    assert me.post(f"{address}/merge").status_code == 409
    assert me.post(f"{address}/reopen").status_code == 303 and status(server, repo) == "open"
    mine = proposed(server, "me/own-close", {"b": "new"})
    assert you.post("/me/own-close/discussions/1/close").status_code == 303 and status(server, mine) == "closed"


def test_what_is_hidden_stays_hidden(server, me, you, nobody):
    proposed(server, "me/hidden", {"b": "new"}, user="me", private=True)
    for client in (you, nobody):
        for rest in ("/discussions", "/discussions/1"):
            hidden, missing = client.get(f"/me/hidden{rest}"), client.get(f"/me/absent{rest}")
            assert hidden.status_code == missing.status_code == 404
            assert hidden.text.replace("hidden", "absent") == missing.text
        for action in ("comment", "merge", "close", "reopen"):
            assert client.post(f"/me/hidden/discussions/1/{action}", data={"comment": "x"}).status_code == 404
    proposed(server, "me/gated", {"config.json": '{"inside": 1}'}, user="me")
    repositories.update_settings(server.hub, caller_of(server.hub), "model", "me/gated", gated="manual")
    shown = you.get("/me/gated/discussions/1").text
    assert "config.json" in shown and "inside" not in shown
    assert "inside" in me.get("/me/gated/discussions/1").text


@pytest.mark.parametrize("number", ["0", "2", "-1", "x", "1e3", "9" * 30, "%C2%B2"])
def test_a_number_that_none_has_is_not_found(server, me, number):
    proposed(server, "me/numbered", {"b": "new"}) if number == "0" else None
    for answer in (
        me.get(f"/me/numbered/discussions/{number}"),
        me.post(f"/me/numbered/discussions/{number}/merge"),
    ):
        assert answer.status_code == 404 and "<!doctype html>" in answer.text


def test_long_lists_of_pull_requests_have_pages(server, nobody):
    repo = publish(server.hub, "me/crowded", {"a": "a"})
    for number in range(53):
        pulls.open_pull(server.hub, caller_of(server.hub), repo, f"Proposal {number + 1}")
    first = nobody.get("/me/crowded/discussions").text
    rest = nobody.get("/me/crowded/discussions" + unescape(re.search(r'rel="next" href="[^?]*([^"]*)"', first)[1])).text
    titles = re.findall(r">Proposal (\d+)<", first + rest)
    assert titles == [str(number) for number in range(53, 0, -1)] and 'rel="next"' not in rest


def test_what_upload_prints_leads_to_the_page(server, me, nobody):
    publish(server.hub, "me/printed", {"a": "a"})
    body = {"title": "From a client", "description": "", "pullRequest": True}
    url = me.post("/api/models/me/printed/discussions", json=body).json()["url"]
    assert "From a client" in nobody.get("/" + url.removeprefix(server.endpoint).lstrip("/")).text
    repo = proposed(server, "me/linked", {"b": "new"})
    pushed = pulls.own_commits(server.hub, repo, 1)[0].id
    assert 'href="/me/linked/discussions/1"' in nobody.get(f"/me/linked/commit/{pushed}").text
