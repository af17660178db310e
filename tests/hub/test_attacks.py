"""What somebody who means harm tries: files of others, bytes that fill memory or time, tokens beyond their use."""

import base64
import hashlib
import json
import threading

import pytest

from hfvision.hub import accounts, cards, commits, files, gates, large_files, pulls, refs, repositories, xet
from hfvision.hub.accounts import Grant
from hfvision.hub.commits import MOST_COPIED, AddFile, AddLargeFile, CopyFile
from hfvision.hub.errors import BadPath, BadRequest, Conflict, Forbidden, GatedRepo
from hfvision.hub.http import commit as http_commit
from hfvision.hub.http.lfs import PARTS
from hfvision.hub.try_it.models import lay_out
from hfvision.hub.try_it.process import TrialFailed
from tests.hub.calls import commit as send
from tests.hub.calls import file_line, fresh
from tests.hub.publishing import publish
from tests.hub.server import TOKENS

SECRET = b"what is inside " * 1000
SHA256 = hashlib.sha256(SECRET).hexdigest()
LIMIT = 1 << 20


@pytest.fixture
def gated(hub, owner, repo):
    """A public repository whose files, one small and one large, are for those who were let in."""
    large_files.receive(hub, repo.id, SHA256, len(SECRET), [SECRET])
    commits.apply(hub, owner, repo, "main", [AddFile("a.txt", b"small"), AddLargeFile("b.txt", SHA256)], "add")
    repositories.update_settings(hub, owner, "model", repo.full_name, gated="manual")
    return repositories.find(hub, owner, "model", repo.full_name)


@pytest.mark.parametrize("operation", [CopyFile("a.txt", "README.md"), AddLargeFile("README.md", SHA256)], ids=str)
def test_a_proposal_cannot_show_a_gated_file_as_the_card(hub, owner, other, gated, operation):
    """Cards are shown to all, also those of proposals: proposing is for those who may read."""
    with pytest.raises(GatedRepo):
        pulls.propose(hub, other, gated, "main", [operation], "look")
    pulls.open_pull(hub, other, gated, "look")
    with pytest.raises(GatedRepo):
        commits.apply(hub, other, gated, "refs/pr/1", [operation], "look")
    assert [one.path for one in refs.list_refs(hub, gated) if one.kind == "pr"] == ["refs/pr/1"]
    assert "README.md" not in [entry.path for entry in files.siblings(hub, gated, "refs/pr/1")]
    gates.request_access(hub, other, gated)
    gates.answer_access(hub, owner, gated, "other", "accepted")
    commits.apply(hub, other, gated, "refs/pr/1", [operation], "look")


def test_a_xet_token_that_writes_does_not_read(hub, other, gated):
    text, access = xet.grant(hub, gated.id, other, "write")
    assert xet.check(hub, text, access.space, "write") == access
    with pytest.raises(Forbidden):
        xet.check(hub, text, access.space, "read")


def test_a_fine_grained_token_is_not_let_into_gated_repositories_of_others(hub, owner, other, gated):
    gates.request_access(hub, other, gated)
    gates.answer_access(hub, owner, gated, "other", "accepted")
    repositories.find(hub, other, "model", gated.full_name, "content")
    for target, reads in (("models/other/y", False), (f"models/{gated.full_name}", True)):
        token = accounts.create_token(hub, "other", target[-9:], "fineGrained", (Grant(target, "read"),))
        narrow = accounts.authenticate(hub, token)
        if reads:
            repositories.find(hub, narrow, "model", gated.full_name, "content")
        else:
            with pytest.raises(GatedRepo):
                repositories.find(hub, narrow, "model", gated.full_name, "content")


def test_a_token_that_only_reads_asks_for_nothing(server, me):
    repo = fresh(me)
    me.put(f"/api/models/{repo}/settings", json={"gated": "auto"})
    reading = accounts.create_token(server.hub, "you", "asks", "read")
    with server.client(None) as client:
        headers = {"Authorization": f"Bearer {reading}"}
        assert client.post(f"/api/models/{repo}/ask-access", headers=headers).status_code == 403
        assert client.get(f"/api/models/{repo}/auth-check", headers=headers).status_code == 403


def test_nobody_learns_whether_the_store_has_what_they_send(hub, owner, other, repo):
    theirs = repositories.create(hub, other, "model", "mine")
    large_files.receive(hub, repo.id, SHA256, len(SECRET), [SECRET])
    assert large_files.receive(hub, theirs.id, SHA256, len(SECRET), [SECRET]) is True
    assert large_files.receive(hub, theirs.id, SHA256, len(SECRET), [SECRET]) is False


def test_what_a_model_loads_is_its_own(server, tmp_path):
    """An index of shards may name any file of the machine, such as another repository's weights in the store."""
    for number, name in enumerate(("/etc/passwd", "../model.safetensors", "./model-1.safetensors", 3)):
        index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": name}})
        made = {"config.json": "{}", "model-1.safetensors": b"1", "model.safetensors.index.json": index}
        repo = publish(server.hub, f"me/roams{number}", made)
        (folder := tmp_path / str(number)).mkdir()
        with pytest.raises(TrialFailed, match="not the model's"):
            lay_out(server.hub, repo, repo.sha, folder)
        assert list(folder.iterdir()) == []


def test_copies_of_copies_do_not_make_more_files_than_can_be_listed(hub, owner, repo, monkeypatch):
    assert MOST_COPIED <= 100_000
    monkeypatch.setattr(commits, "MOST_COPIED", 50)
    commits.apply(hub, owner, repo, "main", [AddFile(f"a/{n}", b"") for n in range(9)], "a")
    commits.apply(hub, owner, repo, "main", [CopyFile("a", f"b/{n}") for n in range(5)], "50 with their folders")
    with pytest.raises(BadRequest, match="copies at most 50"):
        commits.apply(hub, owner, repo, "main", [CopyFile("a", f"c/{n}") for n in range(6)], "60")
    with pytest.raises(BadRequest, match="copies at most 50"):
        commits.apply(hub, owner, repo, "main", [CopyFile("b", "d")], "51")


def test_copies_lie_no_deeper_than_paths_reach(hub, owner, repo):
    deep = "/".join("x" * 400)
    commits.apply(hub, owner, repo, "main", [AddFile(f"a/{deep}", b"")], "deep")
    with pytest.raises(BadPath, match="more than 1024 bytes"):
        commits.apply(hub, owner, repo, "main", [CopyFile("a", f"b/{deep}")], "deeper")


MERGES = "a0: &a0 {k: v}\n" + "".join(f"a{n}: &a{n} {{<<: [{f'*a{n - 1},' * 9}]}}\n" for n in range(1, 30))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(MERGES, id="merges"),
        pytest.param("a: !!merge x", id="merge by its tag"),
        pytest.param("a: 1" + ":59" * 300_000, id="base 60"),
        pytest.param(f"a: !!int '1{': 59' * 200_000}'", id="base 60 by its tag"),
    ],
)
def test_yaml_that_grows_is_refused_before_it_is_built(text):
    card = cards.parse_card(f"---\n{text}\n---\n", LIMIT)
    assert card.errors and not card.data


def test_yaml_that_only_looks_odd_is_read():
    assert cards.parse_card("---\ntokens: ['<<', a]\ntime: 1:30\n---\n", LIMIT).data == {
        "tokens": ["<<", "a"],
        "time": 90,
    }


def test_json_of_more_values_than_anyone_needs_is_refused_unread(me, monkeypatch):
    def header(values):
        text = b'{"a": [' + b"[]," * values + b"1]}"
        body = len(text).to_bytes(8, "little") + text
        return lambda: cards.read_safetensors_header(lambda start, end: body[start:end], len(body))

    assert header(10)()["a"][0] == []
    with pytest.raises(ValueError, match="more values"):
        header(cards.HEADER_PARTS)()
    assert http_commit.LINE_PARTS <= 2_000_000
    line = file_line("a", b"") | {"more": [0] * http_commit.LINE_PARTS}
    answer = send(me, fresh(me), line)
    assert answer.status_code == 400 and "too many values" in answer.text


def test_a_repository_that_was_switched_off_shows_no_card(server, nobody):
    publish(server.hub, "me/off", {"README.md": "# Not for anybody any more"})
    repositories.set_disabled(server.hub, "model", "me/off", True)
    shown = nobody.get("/me/off")
    assert shown.status_code == 403 and "Not for anybody" not in shown.text


@pytest.mark.parametrize("target", ["//[", "//[::1", "/["])
def test_a_broken_way_back_is_no_failure(nobody, target):
    assert nobody.get("/login", params={"next": target}).status_code == 200


@pytest.mark.parametrize("origin", ["http://[", "null", ""])
def test_a_form_with_a_broken_origin_is_refused(nobody, origin):
    assert nobody.post("/login", data={"token": TOKENS["me"]}, headers={"Origin": origin}).status_code == 403


def test_configs_nested_as_deep_as_json_goes_are_compared_or_said_to_be_too_deep(server, nobody):
    old = publish(server.hub, "me/nested", {"config.json": "{}"}).sha
    deep = ["[" * depth + "]" * depth for depth in range(900, 1000, 1)]
    shas = [publish(server.hub, "me/nested", {"config.json": f'{{"a": {one}}}'}).sha for one in deep]
    assert {nobody.get(f"/me/nested/compare?old={old}&new={sha}").status_code for sha in shas} == {200}


def test_what_goes_away_meanwhile_is_a_conflict(hub, owner, other, repo):
    repositories.delete(hub, owner, "model", repo.full_name)
    with pytest.raises(Conflict):
        gates.request_access(hub, other, repo)
    with pytest.raises(Conflict):
        large_files.begin_parts(hub, repo.id, SHA256, len(SECRET))


def test_of_many_who_create_a_repository_at_once_one_does_and_the_others_are_told_where_it_is(hub, owner):
    told = []
    start = threading.Barrier(8)

    def create():
        start.wait()
        try:
            told.append(repositories.create(hub, owner, "model", "same").full_name)
        except Conflict as error:
            told.append(error.url)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == ["owner/same"] * 8


@pytest.mark.parametrize("path", ["/api/models", "/api/settings/repositories", "/models"])
@pytest.mark.parametrize("cursor", [b"5", b"null", b"[" * 5000], ids=["number", "null", "deep"])
def test_a_made_up_cursor_is_refused(me, path, cursor):
    assert me.get(path, params={"cursor": base64.urlsafe_b64encode(cursor).decode()}).status_code == 400


@pytest.mark.parametrize("path", ["/api/models", "/models"])
def test_a_word_that_databases_do_not_look_for_is_refused(nobody, path):
    assert nobody.get(path, params={"search": "a" * 60_000}).status_code == 400


def test_one_batch_signs_a_bounded_number_of_addresses(me):
    sizes = [(PARTS - 3) << 20, 3 << 20, 3 << 20, 1 << 20]  # the test server's parts have a mebibyte
    objects = [{"oid": f"{number:064x}", "size": size} for number, size in enumerate(sizes)]
    body = {"operation": "upload", "transfers": ["multipart"], "objects": objects}
    rows = me.post(f"/{fresh(me)}.git/info/lfs/objects/batch", json=body).json()["objects"]
    assert ["actions" in row for row in rows] == [True, True, False, True]
    assert "fewer at once" in rows[2]["error"]["message"]
