"""Two servers on one PostgreSQL and one store: what begins at one of them goes on at the other."""

import hashlib
import threading
from dataclasses import replace

import pytest

from hfvision.hub import upkeep
from hfvision.hub.settings import HubSettings
from tests.hub import backends
from tests.hub.calls import batch, commit, file_line, fresh, large_line, pages, shard, small_xorb
from tests.hub.server import SMALL, add_users, running


@pytest.fixture(scope="module")
def both(postgres_url, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    settings = HubSettings(database=backends.new_database(postgres_url), store=str(folder / "store"), **SMALL)
    with running(replace(settings, root=folder / "one")) as one, running(replace(settings, root=folder / "two")) as two:
        add_users(one.hub)
        yield one, two


@pytest.fixture
def clients(both):
    one, two = both
    with one.client("me") as first, two.client("me") as second:
        yield first, second
    assert upkeep.fsck(one.hub) == []


def path(address):
    """The address without its server, for a client of any of them."""
    return "/" + address.split("/", 3)[3]


def test_an_upload_in_parts_goes_on_at_the_other_server(clients):
    first, second = clients
    repo, content = fresh(first), bytes(range(249)) * 13000
    (row,) = batch(first, repo, content).json()["objects"]
    action = row["actions"]["upload"]
    size = int(action["header"].pop("chunk_size"))
    parts = []
    for number, key in enumerate(sorted(action["header"])):
        client = clients[number % 2]
        put = client.put(path(action["header"][key]), content=content[number * size : (number + 1) * size])
        parts.append({"partNumber": number + 1, "etag": put.headers["etag"]})
    done = second.post(path(action["href"]), json={"oid": row["oid"], "parts": parts})
    assert (done.status_code, len(parts)) == (200, 4), done.text
    assert commit(first, repo, large_line("w.bin", content)).status_code == 200
    assert second.get(f"/{repo}/resolve/main/w.bin").content == content


def test_xorbs_of_both_servers_make_one_file(clients):
    first, second = clients
    repo, halves = fresh(first), (b"a" * 100_000, b"b" * 50_000)
    token = first.get(f"/api/models/{repo}/xet-write-token/main").json()
    headers = {"Authorization": f"Bearer {token['accessToken']}"}
    segments = []
    for client, data in zip(clients, halves, strict=True):
        name, body = small_xorb(data)
        sent = client.post(path(f"{token['casUrl']}/v1/xorbs/default/{name}"), content=body, headers=headers)
        assert sent.json() == {"was_inserted": True}
        segments.append((name, len(data), 0, 1))
    content = b"".join(halves)
    body = shard((hashlib.sha256(content).hexdigest(), segments))
    sent = second.post(path(f"{token['casUrl']}/v1/shards"), content=body, headers=headers)
    assert sent.json() == {"result": 1}
    assert commit(second, repo, large_line("w.bin", content)).status_code == 200
    assert first.get(f"/{repo}/resolve/main/w.bin").content == content


def test_sixteen_writers_at_both_servers_lose_nothing(both, clients):
    first, second = clients
    repo, done = fresh(first), []
    head = first.get(f"/api/models/{repo}").json()["sha"]
    barrier = threading.Barrier(16)

    def write(number):
        with both[number % 2].client("me") as client:
            barrier.wait()
            for _ in range(3):
                answer = commit(client, repo, file_line(f"{number}.txt", b"%d" % len(done)))
                done.append((answer.status_code, answer.json().get("commitOid")))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {status for status, _ in done} == {200} and len(done) == 48
    chain = [row["id"] for row in pages(second, f"/api/models/{repo}/commits/main")[0]]
    assert chain[-1] == head and sorted(chain[:-1]) == sorted(oid for _, oid in done)
    names = {row["path"] for row in pages(first, f"/api/models/{repo}/tree/main")[0]}
    assert names == {".gitattributes", *(f"{number}.txt" for number in range(16))}
