"""Who sees what, and what a refusal looks like (sections 2 and 12 of the protocol)."""

import base64

import pytest

from hfvision.hub import accounts
from tests.hub.calls import batch, commit, delete_line, file_line, fresh, head_of, large_line

# Every route that names a repository; {} is its name.
ROUTES = [
    ("GET", "/api/models/{}", {}),
    ("GET", "/api/models/{}/revision/main", {}),
    ("GET", "/api/models/{}/tree/main", {}),
    ("GET", "/api/models/{}/refs", {}),
    ("GET", "/api/models/{}/commits/main", {}),
    ("POST", "/api/models/{}/paths-info/main", {"json": {"paths": ["a"]}}),
    ("POST", "/api/models/{}/preupload/main", {"json": {"files": []}}),
    ("POST", "/api/models/{}/preupload/main?create_pr=1", {"json": {"files": []}}),
    ("POST", "/api/models/{}/commit/main", {"content": b'{"key": "header", "value": {"summary": "s"}}'}),
    ("POST", "/api/models/{}/branch/b", {"json": {}}),
    ("DELETE", "/api/models/{}/branch/b", {}),
    ("POST", "/api/models/{}/tag/main", {"json": {"tag": "t"}}),
    ("DELETE", "/api/models/{}/tag/t", {}),
    ("POST", "/api/models/{}/super-squash/main", {"json": {}}),
    ("POST", "/api/models/{}/duplicate", {"json": {"repository": "you/copy"}}),
    ("PUT", "/api/models/{}/settings", {"json": {"visibility": "public"}}),
    ("GET", "/api/models/{}/auth-check", {}),
    ("GET", "/api/models/{}/lfs-files", {}),
    ("POST", "/api/models/{}/lfs-files/batch", {"json": {"deletions": {"sha": []}}}),
    ("POST", "/api/models/{}/lfs-files/duplicate", {"json": {"target": {"type": "model", "name": "you/x"}}}),
    ("GET", "/api/models/{}/xet-write-token/main", {}),
    ("GET", "/api/models/{}/xet-read-token/main", {}),
    ("GET", "/api/models/{}/discussions", {}),
    ("POST", "/api/models/{}/discussions", {"json": {"title": "title", "pullRequest": True}}),
    ("GET", "/api/models/{}/discussions/1", {}),
    ("POST", "/api/models/{}/ask-access", {}),
    ("GET", "/{}/resolve/main/config.json", {}),
    ("GET", "/{}/raw/main/config.json", {}),
    ("POST", "/{}.git/info/lfs/objects/batch", {"json": {"operation": "download", "objects": []}}),
    ("POST", "/{}.git/info/lfs/objects/batch", {"json": {"operation": "upload", "objects": []}}),
    ("POST", "/{}.git/info/lfs/objects/verify", {"json": {"oid": "0" * 64, "size": 1}}),
    ("GET", "/{}.git/info/lfs/locks", {}),
    ("DELETE", "/api/repos/delete", {"json": {"name": "{}"}}),
    ("POST", "/api/repos/move", {"json": {"fromRepo": "{}", "toRepo": "you/mine", "type": "model"}}),
]


def filled(value, repo):
    if isinstance(value, str):
        return value.replace("{}", repo)
    if isinstance(value, dict):
        return {key: filled(entry, repo) for key, entry in value.items()}
    return value


@pytest.fixture(scope="module")
def hidden(server):
    with server.client("me") as me:
        repo = fresh(me, visibility="private")
        assert commit(me, repo, file_line("config.json", b"{}")).status_code == 200
        return repo


@pytest.mark.parametrize("who", ["you", "nobody"])
@pytest.mark.parametrize(("method", "path", "more"), ROUTES, ids=[f"{m} {p}" for m, p, _ in ROUTES])
def test_a_private_repository_looks_like_a_missing_one(request, who, hidden, method, path, more):
    client = request.getfixturevalue(who)
    missing = "me/nosuch"
    answers = [client.request(method, filled(path, repo), **filled(more, repo)) for repo in (hidden, missing)]
    seen = [
        (
            answer.status_code,
            answer.headers.get("x-error-code"),
            answer.headers.get("x-error-message"),
            answer.text.replace(repo, "REPO"),
        )
        for answer, repo in zip(answers, (hidden, missing), strict=True)
    ]
    assert seen[0] == seen[1]
    assert answers[0].status_code in ((404,) if who == "you" else (401, 404))


def test_a_bad_token_is_told_in_the_words_that_clients_know(nobody):
    answer = nobody.get("/api/models", headers={"Authorization": "Bearer hf_wrong"})
    assert answer.status_code == 401
    assert answer.json()["error"] == "Invalid credentials in Authorization header"
    assert "x-error-code" not in answer.headers


def test_basic_authorization_takes_the_token_as_password(server, nobody):
    text = base64.b64encode(f"me:{server.tokens['me']}".encode()).decode()
    assert nobody.get("/api/whoami-v2", headers={"Authorization": f"Basic {text}"}).json()["name"] == "me"


def test_a_token_that_only_reads_changes_nothing(server, me, nobody):
    repo = fresh(me)
    token = accounts.create_token(server.hub, "me", f"reads {repo}", role="read")
    before = head_of(me, repo)
    headers = {"Authorization": f"Bearer {token}"}
    nobody.headers.update(headers)
    assert commit(nobody, repo, file_line("a", b"a")).status_code == 403
    assert nobody.post(f"/api/models/{repo}/branch/b", json={}).status_code == 403
    assert batch(nobody, repo, b"large").status_code == 403
    assert nobody.post("/api/repos/create", json={"name": "other"}).status_code == 403
    assert nobody.get(f"/api/models/{repo}").json()["sha"] == head_of(me, repo) == before


def test_a_stranger_may_read_a_public_repository_but_not_write(me, you):
    repo = fresh(me)
    assert you.get(f"/api/models/{repo}").status_code == 200
    assert commit(you, repo, file_line("a", b"a")).status_code == 403
    assert batch(you, repo, b"large").status_code == 403
    assert you.put(f"/api/models/{repo}/settings", json={"visibility": "private"}).status_code == 403


def test_a_gated_repository_shows_its_card_but_not_its_files(me, you, nobody):
    repo = fresh(me)
    commit(me, repo, file_line("config.json", b"{}"))
    me.put(f"/api/models/{repo}/settings", json={"gated": "manual"})
    assert you.get(f"/api/models/{repo}").json()["gated"] == "manual"
    refused = you.get(f"/{repo}/resolve/main/config.json")
    assert (refused.status_code, refused.headers["x-error-code"]) == (403, "GatedRepo")
    assert "is restricted and you are not in the authorized list" in refused.headers["x-error-message"]
    assert nobody.get(f"/{repo}/resolve/main/config.json").status_code == 401
    assert you.get(f"/api/models/{repo}/xet-read-token/main").status_code == 403
    assert you.post(f"/api/models/{repo}/ask-access").json() == {"status": "pending"}
    handled = me.post(f"/api/models/{repo}/user-access-request/handle", json={"user": "you", "status": "accepted"})
    assert handled.status_code == 200
    assert you.get(f"/{repo}/resolve/main/config.json").status_code == 200


BROKEN = [
    (b"", 400),
    (b"{", 400),
    (b"[]", 400),
    (b'{"key": "file", "value": {"path": "a", "content": "", "encoding": "base64"}}', 400),
    (b'{"key": "header", "value": {"summary": "s"}}\n{"key": "what", "value": {}}', 400),
    (b'{"key": "header", "value": {"summary": "s"}}\n{"key": "file", "value": {"path": "a", "content": "%"}}\nx', 400),
    (b'{"key": "header", "value": {"summary": "\\ud800"}}', 400),
    (b'{"key": "header", "value": ' + b"[" * 100_000, 400),
    (b'{"key": "header", "value": {"summary": NaN}}', 400),
]


@pytest.mark.parametrize(("body", "status"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_commit_changes_nothing(me, body, status):
    repo = fresh(me)
    before = head_of(me, repo)
    assert me.post(f"/api/models/{repo}/commit/main", content=body).status_code == status
    assert head_of(me, repo) == before


def test_a_commit_whose_last_line_fails_leaves_nothing_of_the_others(me):
    repo = fresh(me)
    before = head_of(me, repo)
    assert commit(me, repo, file_line("a", b"a"), delete_line("nosuch")).status_code == 404
    assert commit(me, repo, file_line("a", b"a"), large_line("b", b"never sent")).status_code == 400
    for path in ("../a", ".git/config", "a//b", "a/./b", "a\0b", "folder/..\\..\\file", "/etc/passwd", "x" * 300):
        assert commit(me, repo, file_line("a", b"a"), file_line(path, b"b")).status_code == 422, path
    assert commit(me, repo, file_line("a", b"a"), parentCommit="0" * 40).status_code == 412
    assert head_of(me, repo) == before


def test_bodies_over_their_cap_are_refused_while_they_stream(me):
    repo = fresh(me)

    def endless():
        for _ in range(64):
            yield b" " * (1 << 20)

    assert me.post("/api/repos/create", content=b" " * (2 << 20)).status_code == 413
    assert me.post(f"/api/models/{repo}/preupload/main", content=b" " * (3 << 20)).status_code == 413


def test_the_request_id_of_the_client_comes_back(me):
    assert me.get("/api/models", headers={"X-Amzn-Trace-Id": "abc-123"}).headers["x-request-id"] == "abc-123"
    other = me.get("/api/models", headers={"X-Amzn-Trace-Id": "a b"}).headers["x-request-id"]
    assert other != "a b"


def test_a_host_header_that_cannot_be_echoed_is_refused_before_anything_is_done(me):
    for number, host in enumerate(('a"><b', "a b", "evil.example/x", "a,b")):
        body = {"name": f"by-host-{number}"}
        assert me.post("/api/repos/create", json=body, headers={"Host": host}).status_code == 400
        assert me.get(f"/api/models/me/by-host-{number}").status_code == 404
