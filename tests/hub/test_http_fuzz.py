"""Random paths, headers, queries and bodies: nothing of it ends in a 5xx, and nothing leaves the store.

1,500 requests to the API and as many to the pages by default; HFVISION_HUB_FUZZ=100000 says how many instead.
"""

import asyncio
import json
import os
import random
from contextlib import suppress
from urllib.parse import urlencode

import pytest

from hfvision.hub import pulls, repositories
from hfvision.hub.accounts import authenticate
from hfvision.hub.app import HubApp, api_routes
from hfvision.hub.commits import AddFile
from hfvision.hub.errors import Conflict
from hfvision.hub.http.signing import signed
from hfvision.hub.instance import open_hub
from hfvision.hub.settings import HubSettings
from hfvision.hub.web.pages import Pages
from tests.hub.server import TOKENS, add_users

REQUESTS = int(os.environ.get("HFVISION_HUB_FUZZ", "1500"))
SECRET = b"nothing that a client sends may reach this file"
ODD = [
    "..", ".", "", "%2e%2e", "%2F", "..%2f..%2fsecret", "%2e%2e%2fsecret.txt", "%00", "%ff%fe", "%c0%ae", "~", "*",
    "a%0ab", "a%0d%0aX: y", "%F0%9F%98%80", "x" * 300, "-1", "0", "1e9", "null", "main", "refs%2Fpr%2F1", "'",
    "HEAD", "0" * 40, "0" * 64, "f" * 7, "me", "x", "models", "datasets", "spaces", "api", "README.md", ".git", "a..b",
    "%25", "%", "%zz", "{}", "$(id)", "\\..\\..\\secret.txt", "C:%5C", "..\\secret.txt", "%E2%80%AE", "%7F", "a;b",
]  # fmt: skip
VALUES = [None, True, -1, 0, 2**70, 1.5, "", "x", "..", "\0", "me/x", "main", "a" * 2000, [], {}, [1], {"a": 1}, "🙂"]
KEYS = [
    "name", "organization", "type", "visibility", "fromRepo", "toRepo", "gated", "message", "tag", "startingPoint",
    "files", "gitIgnore", "paths", "expand", "operation", "objects", "oid", "size", "transfers", "ref", "parts",
    "title", "description", "pullRequest", "content", "repoType", "deletions", "target", "repository", "user",
    "status", "path", "comment", "sha", "rewriteHistory",
]  # fmt: skip
HEADERS = [
    "range", "authorization", "host", "content-type", "x-amzn-trace-id", "if-none-match", "content-length", "cookie",
]  # fmt: skip
HEADER_VALUES = [
    b"", b"bytes=0-", b"bytes=-1", b"bytes=99999999999999999999-", b"bytes=a-b", b"Bearer x", b"Basic eDp5",
    b"Basic %", b"Bearer " + b"\xff" * 9, b"application/x-www-form-urlencoded", b"text/plain", b"a" * 3000,
    b"\xff\xfe", b"-1", b"0", b"999999999999", b'"x"', b"*", b"evil.example", b"[::1]:80", b"a b",
]  # fmt: skip
QUERIES = [
    "limit", "cursor", "expand", "search", "filter", "sort", "author", "num_parameters", "create_pr", "recursive",
    "p", "blobs", "full", "gated", "expires", "sig", "path", "id", "include_prs", "status", "before", "row", "file",
    "old", "new", "revision", "next",
]  # fmt: skip
FORMS = {
    "visibility": ["public", "private"],
    "gated": ["no", "auto", "manual"],
    "user": ["you", "me"],
    "answer": ["accept", "reject"],
    "name": ["me/x", "me/y", "a token"],
    "comment": ["> [!NOTE]\n> *x* <b onx=1>"],
    "role": ["read", "write"],
    "days": ["3"],
    "token": [TOKENS["you"]],
    "next": ["/me/x"],
}
GOOD = {
    "{kinds}": "models",
    "{namespace}": "me",
    "{name}": "x",
    "{name}.git": "x.git",
    "{revision}": "main",
    "{path...}": ".gitattributes",
    "{number}": "1",
    "{branch}": "main side",
    "{action}": "merge close reopen comment visibility gate access rename delete",
}


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "secret.txt").write_bytes(SECRET)
    hub = open_hub(HubSettings(root=folder / "hub"))
    add_users(hub)
    pages = Pages(hub)
    app = HubApp(hub, [*api_routes(), *pages.routes()])
    yield app
    pages.close()
    hub.close()


def random_value(random, depth=0):
    value = random.choice(VALUES)
    if depth < 3 and random.random() < 0.4:
        many = {random.choice(KEYS): random_value(random, depth + 1) for _ in range(3)}
        value = many if random.random() < 0.5 else [many, many]
    return value


def random_path(random, pattern):
    """A pattern with its holes filled with anything, mostly with what exists; sometimes it is no pattern any more."""
    segments = []
    for part in pattern.split("/")[1:]:
        if not part.startswith("{"):
            segments.append(part if random.random() > 0.02 else random.choice(ODD))
        elif part in GOOD and random.random() < 0.85:
            segments.append(random.choice(GOOD[part].split()))
        elif part.endswith("...}"):
            segments += [random.choice(ODD) for _ in range(random.randrange(4))]
        else:
            segments.append(random.choice(ODD))
    return "/" + "/".join(segments)


def random_commit(random):
    rows = [{"key": "header", "value": {"summary": random_value(random)}}]
    for _ in range(random.randrange(3)):
        value = {"path": random.choice([*ODD, "a/b"]), "content": "YQ==", "encoding": "base64"}
        value |= {"oid": "0" * 64, "srcPath": random.choice(ODD)}
        keys = ["file", "lfsFile", "deletedFile", "deletedFolder", "copyFile", "x"]
        rows.append({"key": random.choice(keys), "value": value})
    return b"\n".join(json.dumps(row).encode() for row in rows)


def random_form(random):
    """What a page's form sends, mostly choices that it offers."""
    names = random.sample(sorted(FORMS), random.randrange(len(FORMS)))
    return urlencode([(name, random.choice([*FORMS[name] * 9, *ODD])) for name in names]).encode()


def random_request(random, app, area):
    in_area = [route for route in app.router.routes if (".hub.web." in route.handler.__module__) == (area == "pages")]
    route = random.choice([route for route in in_area if not route.fallback or random.random() < 0.1])
    path = random_path(random, route.pattern)
    method = random.choice(sorted(route.methods) if random.random() < 0.9 else ["PATCH", "OPTIONS", "DELETE", "POST"])
    query = "&".join(f"{random.choice(QUERIES)}={random.choice(ODD)}" for _ in range(random.randrange(3)))
    if random.random() < 0.3:  # addresses that the hub itself would have signed, whatever is in them
        path, _, query = signed(app.hub, method, path).partition("?")
    body = json.dumps({random.choice(KEYS): random_value(random) for _ in range(random.randrange(6))}).encode()
    if "/commit/" in path and random.random() < 0.7:
        body = random_commit(random)
    if random.random() < 0.1:
        body = random.randbytes(random.randrange(200))
    form = area == "pages" and random.random() < 0.8
    body = random_form(random) if form else body
    headers = [(random.choice(HEADERS).encode(), random.choice(HEADER_VALUES)) for _ in range(random.randrange(3))]
    names = [name for name, _ in headers]
    if b"authorization" not in names and random.random() < 0.7:
        headers.append((b"authorization", f"Bearer {TOKENS[random.choice(['me', 'me', 'you'])]}".encode()))
    if form and b"content-type" not in names:
        headers.append((b"content-type", b"application/x-www-form-urlencoded"))
    if b"host" not in names:
        headers.append((b"host", b"127.0.0.1:80"))
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "scheme": "http",
        "query_string": query.encode(),
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "root_path": "",
    }
    return scope, body


async def ask(app, scope, body):
    """Status and body of the answer to one request."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    answers = []

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message):
        answers.append(message)

    await app(scope, receive, send)
    return answers[0]["status"], b"".join(message.get("body", b"") for message in answers[1:])


@pytest.mark.parametrize("area", ["api", "pages"])
def test_no_request_breaks_the_hub_or_leaves_its_store(app, caplog, area):
    chance = random.Random(8)
    folder = app.hub.settings.root.parent

    async def run():
        good = 0
        for number in range(REQUESTS):
            if number % 200 == 0:  # the requests themselves may delete, move or lock it
                with suppress(Conflict):
                    me = authenticate(app.hub, TOKENS["me"])
                    made = repositories.create(app.hub, me, "model", "x")
                    pulls.propose(app.hub, me, made, "main", [AddFile("a/b", b"b")], "A proposal")
            app.bad_tokens.forget()
            scope, body = random_request(chance, app, area)
            status, answer = await ask(app, scope, body)
            shown = (number, scope["method"], scope["path"], scope["query_string"], scope["headers"], body)
            assert status < 500, (status, shown, caplog.text[-3000:])
            assert SECRET not in answer, shown
            good += status < 300

        return good

    assert asyncio.run(run()) > REQUESTS / 20, "too few requests got past the checks to say anything"
    assert sorted(path.name for path in folder.iterdir()) == ["hub", "secret.txt"]
    assert (folder / "secret.txt").read_bytes() == SECRET
    known = {"hub.sqlite3", "hub.sqlite3-wal", "hub.sqlite3-shm", "store"}
    assert {path.name for path in (folder / "hub").iterdir()} <= known
