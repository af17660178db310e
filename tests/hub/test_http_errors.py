"""Who sees what, and what a refusal looks like (sections 2 and 12 of the protocol)."""

import asyncio
import base64
import os

import httpx2
import pytest

from hfvision.hub import accounts, large_files, repositories, xet
from hfvision.hub.app import DRAINED, HubApp, api_routes
from hfvision.hub.errors import TooLarge
from hfvision.hub.http.callers import TRIES, WINDOW
from hfvision.hub.http.signing import signed
from hfvision.hub.instance import open_hub
from hfvision.hub.settings import HubSettings
from hfvision.hub.web.pages import Pages
from tests.hub.calls import batch, commit, delete_line, file_line, fresh, head_of, large_line
from tests.hub.server import TOKENS, add_users

CAP = 1 << 20  # bytes

# What a route wants in a body before it looks for the repository, by what follows the repository's name.
BODIES = {
    "/commit/{revision}": {"content": b'{"key": "header", "value": {"summary": "s"}}'},
    "/discussions": {"json": {"title": "title", "pullRequest": True}},
    "/discussions/{number}/comment": {"json": {"comment": "c"}},
    "/discussions/{number}/status": {"json": {"status": "closed"}},
    "/duplicate": {"json": {"repository": "you/copy"}},
    "/info/lfs/locks": {"json": {"path": "a"}},
    "/info/lfs/objects/batch": {"json": {"operation": "upload", "objects": []}},
    "/info/lfs/objects/verify": {"json": {"oid": "0" * 64, "size": 1}},
    "/lfs-files/batch": {"json": {"deletions": {"sha": [], "rewriteHistory": True}}},
    "/lfs-files/duplicate": {"json": {"target": {"type": "model", "name": "you/x"}}},
    "/paths-info/{revision}": {"json": {"paths": ["a"]}},
    "/preupload/{revision}": {"json": {"files": []}},
    "/tag/{revision}": {"json": {"tag": "t"}},
    "/user-access-request/grant": {"json": {"user": "you"}},
    "/user-access-request/handle": {"json": {"user": "you", "status": "accepted"}},
}
HOLES = {
    **{
        "kinds": "models",
        "namespace": "me",
        "revision": "main",
        "path...": "config.json",
        "branch": "b",
        "number": "1",
    },
    **{"status": "pending", "lock": "1", "action": "delete"},
}
# Other ways to name a repository: in the body, or with a query that changes what is allowed.
OTHER_WAYS = [
    ("POST", "/api/models/me/{name}/preupload/main?create_pr=1", {"json": {"files": []}}),
    ("POST", "/api/models/me/{name}/commit/main?create_pr=1", BODIES["/commit/{revision}"]),
    ("POST", "/api/models/me/{name}/commit/refs%2Fpr%2F1", BODIES["/commit/{revision}"]),
    ("GET", "/api/models/me/{name}/xet-write-token/None?create_pr=1", {}),
    ("GET", "/api/models/me/{name}/discussions/1?diff=1", {}),
    ("POST", "/me/{name}.git/info/lfs/objects/batch", {"json": {"operation": "download", "objects": []}}),
    ("DELETE", "/api/repos/delete", {"json": {"name": "me/{name}"}}),
    ("DELETE", "/api/repos/delete", {"json": {"name": "{name}", "organization": "me"}}),
    ("POST", "/api/repos/move", {"json": {"fromRepo": "me/{name}", "toRepo": "you/mine", "type": "model"}}),
]


def with_name(value, name):
    if isinstance(value, str):
        return value.replace("{name}", name)
    if isinstance(value, dict):
        return {key: with_name(entry, name) for key, entry in value.items()}
    return value


def ways_to_a_repository(hub):
    """(method, path, body) of each route of the table that names a repository, and of the other ways."""
    pages = Pages(hub)
    for route in (*api_routes(), *pages.routes()):
        _, found, after = route.pattern.partition("/{namespace}/{name}")
        if not found or route.fallback:
            continue
        after = after.removeprefix(".git")
        path = route.pattern
        for hole, value in HOLES.items():
            path = path.replace(f"{{{hole}}}", value)
        assert "{" not in path.replace("{name}", ""), f"{path}: give its holes values above"
        for method in sorted(route.methods):
            yield method, path, BODIES.get(after, {}) if method not in ("GET", "HEAD") else {}
    yield from OTHER_WAYS
    pages.close()


@pytest.fixture(scope="module")
def hidden(server):
    """The name of a private model and of a private dataset of the same name, each with a pull request."""
    with server.client("me") as me:
        name = fresh(me, visibility="private").removeprefix("me/")
        me.post("/api/repos/create", json={"name": name, "type": "dataset", "visibility": "private"})
        for kinds in ("models", "datasets"):
            done = commit(me, f"me/{name}", file_line("config.json", b"{}"), kinds=kinds)
            pulled = me.post(f"/api/{kinds}/me/{name}/discussions", json={"title": "title", "pullRequest": True})
            assert (done.status_code, pulled.status_code) == (200, 200)
        return name


@pytest.mark.parametrize("accept", ["*/*", "text/html"])
@pytest.mark.parametrize("who", ["you", "nobody"])
def test_a_private_repository_looks_like_a_missing_one_on_every_route(request, server, who, hidden, accept):
    client = request.getfixturevalue(who)
    ways = list(ways_to_a_repository(server.hub))
    assert len(ways) > 100
    for method, path, more in ways:
        seen = []
        for name in (hidden, "nosuch"):
            headers = {"Accept": accept, "X-Amzn-Trace-Id": "same"}
            answer = client.request(method, with_name(path, name), headers=headers, **with_name(more, name))
            told = {key: value for key, value in answer.headers.items() if key not in ("date", "content-length")}
            told = {key: value.replace(name, "NAME") for key, value in told.items()}
            seen.append((answer.status_code, told, answer.text.replace(name, "NAME")))
        assert seen[0] == seen[1], (method, path)
        assert seen[0][0] in ((404,) if who == "you" else (401, 404)), (method, path, *seen[0])


def test_a_bad_token_is_told_in_the_words_that_clients_know(nobody):
    answer = nobody.get("/api/models", headers={"Authorization": "Bearer hf_wrong"})
    assert answer.status_code == 401
    assert answer.json()["error"] == "Invalid credentials in Authorization header"
    assert "x-error-code" not in answer.headers


def test_guessing_tokens_is_held_off_and_known_good_ones_keep_working(server):
    """From one address; other addresses and anonymous callers do not notice."""
    other = accounts.create_token(server.hub, "me", "not used yet")

    async def statuses(address, *tokens):
        transport = httpx2.ASGITransport(app, client=(address, 1))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            headers = [{"Authorization": f"Bearer {token}"} if token else {} for token in tokens]
            answers = [await client.get("/api/models", headers=one) for one in headers]
            return [answer.status_code for answer in answers], answers[-1].headers.get("retry-after")

    async def run():
        assert (await statuses("192.0.2.1", server.tokens["me"]))[0] == [200]
        guesses = [f"hf_{number:032}" for number in range(TRIES + 5)]
        assert (await statuses("192.0.2.1", *guesses))[0] == [401] * TRIES + [429] * 5
        found, wait = await statuses("192.0.2.1", server.tokens["me"], None, other)
        assert found == [200, 200, 429] and 0 < int(wait) <= WINDOW
        assert (await statuses("192.0.2.2", other, guesses[0]))[0] == [200, 401]

    app = HubApp(server.hub, api_routes())
    asyncio.run(run())


def test_basic_authorization_takes_the_token_as_password(server, nobody):
    assert nobody.get(f"/api/whoami-v2?token={server.tokens['me']}").status_code == 401  # never in an address
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


@pytest.mark.parametrize("who", ["you", "nobody"])
def test_no_route_shows_outsiders_what_is_in_the_files_of_a_gated_repository(request, server, me, who):
    repo = fresh(me)
    name, secret = repo.removeprefix("me/"), "what is inside"
    for content in (f"{secret} 1\n", f"{secret} 2\n"):
        commit(me, repo, file_line("config.json", content.encode()), file_line("README.md", b"# Open"))
    commit(me, repo, file_line("config.json", f"{secret} 3\n".encode()), query="?create_pr=1")
    me.put(f"/api/models/{repo}/settings", json={"gated": "manual"})
    seen = {}
    for client in (request.getfixturevalue(who), me):
        ways = [way for way in ways_to_a_repository(server.hub) if client is not me or way[0] == "GET"]
        answers = [(path, client.request(method, with_name(path, name), **with_name(more, name)).text)
                   for method, path, more in ways]  # fmt: skip
        seen[client is me] = {path for path, text in answers if secret in text}
    assert seen[False] == set()
    assert seen[True] >= {"/me/{name}/resolve/main/config.json", "/api/models/me/{name}/discussions/1?diff=1"}


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


def test_bodies_over_their_cap_are_refused_while_they_stream(tmp_path):
    """Bodies without end: each is given up at its cap, what is drained besides is bounded, and nothing stays."""
    limits = dict.fromkeys(("preupload_limit", "commit_limit", "xorb_limit", "shard_limit", "part_size"), CAP)
    hub = open_hub(HubSettings(root=tmp_path / "hub", multipart_above=CAP, file_limit=10 * CAP, **limits))
    add_users(hub)
    caller = accounts.authenticate(hub, TOKENS["me"])
    repo = repositories.create(hub, caller, "model", "x")
    app = HubApp(hub, api_routes())
    xet_token, access = xet.grant(hub, repo.id, caller, "write")
    session = large_files.begin_parts(hub, repo.id, "0" * 64, 3 * CAP)
    capped = [
        *(("POST", path, TOKENS["me"]) for path in ("/api/repos/create", "/api/validate-yaml")),
        *(("POST", f"/api/models/me/x/{what}/main", TOKENS["me"]) for what in ("preupload", "commit", "paths-info")),
        *(("POST", f"/cas/{access.space}/v1/{what}", xet_token) for what in (f"xorbs/default/{'0' * 64}", "shards")),
        ("PUT", signed(hub, "PUT", f"/api/lfs/uploads/{repo.id}/{'0' * 64}/{CAP}"), None),
        ("PUT", signed(hub, "PUT", f"/api/lfs/parts/{session}/{'0' * 64}/1"), None),
        ("POST", signed(hub, "POST", f"/api/lfs/parts/{session}/{'0' * 64}"), None),
    ]
    assert asyncio.run(all_endless(app, capped)) == [413] * len(capped)
    left = [name for _, _, names in os.walk(hub.settings.root) for name in names if not name.startswith("hub.sqlite3")]
    assert left == []
    with pytest.raises(TooLarge):
        large_files.begin_parts(hub, repo.id, "0" * 64, 10 * CAP + 1)
    hub.close()


async def all_endless(app, requests):
    return [await endless(app, *one) for one in requests]


async def endless(app, method, address, token):
    """The status for a body that never ends; fails if the hub goes on taking it."""
    path, _, query = address.partition("?")
    taken, sent = 0, []

    async def receive():
        nonlocal taken
        taken += 1 << 18
        assert taken < 8 * CAP + DRAINED, "the body is taken in for ever"
        return {"type": "http.request", "body": b" " * (1 << 18), "more_body": True}

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"127.0.0.1")] + ([(b"authorization", f"Bearer {token}".encode())] if token else [])
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode()}
    await app({**scope, "headers": headers, "client": ("127.0.0.1", 1), "scheme": "http"}, receive, send)
    return sent[0]["status"]


def test_the_request_id_of_the_client_comes_back(me):
    assert me.get("/api/models", headers={"X-Amzn-Trace-Id": "abc-123"}).headers["x-request-id"] == "abc-123"
    other = me.get("/api/models", headers={"X-Amzn-Trace-Id": "a b"}).headers["x-request-id"]
    assert other != "a b"


def test_a_host_header_that_cannot_be_echoed_is_refused_before_anything_is_done(me):
    for number, host in enumerate(('a"><b', "a b", "evil.example/x", "a,b")):
        body = {"name": f"by-host-{number}"}
        assert me.post("/api/repos/create", json=body, headers={"Host": host}).status_code == 400
        assert me.get(f"/api/models/me/by-host-{number}").status_code == 404
