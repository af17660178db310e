"""Files in and out: downloads, lists, commits, large files (sections 4.3, 5 and 6 of the protocol)."""

import hashlib
import io
import json
import time
from contextlib import ExitStack
from urllib.parse import quote

import pytest

from hfvision.hub.settings import HubSettings
from tests.hub.backends import new_database, postgres
from tests.hub.calls import (
    batch,
    commit,
    delete_line,
    file_line,
    fresh,
    head_of,
    large_line,
    pages,
    upload,
)
from tests.hub.server import SMALL, add_users, running


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def server(request, tmp_path_factory):
    """As everywhere, and once more on PostgreSQL where the machine has it."""
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("hub")
        database = new_database(stack.enter_context(postgres(folder))) if request.param == "postgres" else ""
        settings = HubSettings(root=folder / "hub", database=database, **SMALL)
        server = stack.enter_context(running(settings))
        add_users(server.hub)
        yield server


def blob_id(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def test_a_download_carries_what_clients_live_on(me, nobody):
    repo, content = fresh(me), b"0123456789"
    sha = commit(me, repo, file_line("data.txt", content)).json()["commitOid"]
    address = f"/{repo}/resolve/main/data.txt"
    head = nobody.head(address)
    assert head.headers["x-repo-commit"] == sha
    assert head.headers["etag"] == f'"{blob_id(content)}"'
    assert head.headers["content-length"] == "10"
    assert head.headers["accept-ranges"] == "bytes"
    assert "x-xet-hash" not in head.headers
    assert nobody.get(address).content == content
    part = nobody.get(address, headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    past = nobody.get(address, headers={"Range": "bytes=10-"})
    assert (past.status_code, past.headers["content-range"]) == (416, "bytes */10")


def test_what_is_missing_says_which_part_is_missing(me):
    repo = fresh(me)
    sha = head_of(me, repo)
    missing = me.head(f"/{repo}/resolve/main/nosuch.txt")
    assert (missing.status_code, missing.headers["x-error-code"]) == (404, "EntryNotFound")
    assert missing.headers["x-repo-commit"] == sha
    for address in (f"/{repo}/resolve/nosuch/a", f"/api/models/{repo}/tree/nosuch", f"/api/models/{repo}/revision/n"):
        answer = me.get(address)
        assert (answer.status_code, answer.headers["x-error-code"]) == (404, "RevisionNotFound")
    commit(me, repo, file_line("folder/a.txt", b"a"))
    for path in ("nosuch", "folder/a.txt"):
        answer = me.get(f"/api/models/{repo}/tree/main/{quote(path, safe='')}")
        assert (answer.status_code, answer.headers["x-error-code"]) == (404, "EntryNotFound")


def test_users_files_run_nothing_in_a_browser(me):
    repo = fresh(me)
    commit(me, repo, file_line("page.html", b"<script>alert(1)</script>"), file_line("p.svg", b"<svg/>"))
    for name in ("page.html", "p.svg"):
        answer = me.get(f"/{repo}/resolve/main/{name}")
        assert answer.headers["content-type"].startswith("text/plain")
        assert "sandbox" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["weird näme #1%?.txt", "a b/c:d, e.txt", "数/图.png", "50%25.txt", "a+b&c=d;e.txt", "..a/...b", "%2e%2e/x"]
)
def test_odd_names_go_in_and_come_out(me, path):
    repo, content = fresh(me), path.encode()
    assert commit(me, repo, file_line(path, content)).status_code == 200
    assert me.get(f"/{repo}/resolve/main/{quote(path)}").content == content
    (entry,) = me.post(f"/api/models/{repo}/paths-info/main", data={"paths": [path]}).json()
    assert (entry["path"], entry["oid"], entry["size"]) == (path, blob_id(content), len(content))
    listed, _ = pages(me, f"/api/models/{repo}/tree/main?recursive=true")
    assert path in [entry["path"] for entry in listed]


def test_a_revision_with_slashes_is_one_segment(me):
    repo = fresh(me)
    assert me.post(f"/api/models/{repo}/branch/feat%2Fx", json={}).status_code == 200
    assert commit(me, repo, file_line("a.txt", b"on the branch"), revision="feat%2Fx").status_code == 200
    assert me.get(f"/{repo}/resolve/feat%2Fx/a.txt").content == b"on the branch"
    assert me.get(f"/{repo}/resolve/refs%2Fheads%2Ffeat%2Fx/a.txt").content == b"on the branch"
    assert me.get(f"/{repo}/resolve/main/a.txt").status_code == 404


def test_information_about_a_revision_is_that_revisions(me):
    repo = fresh(me)
    card = b"---\nlicense: %s\n---\n"
    commit(me, repo, file_line("README.md", card % b"mit"), file_line("config.json", b'{"model_type": "vit"}'))
    old = head_of(me, repo)
    commit(me, repo, file_line("README.md", card % b"apache-2.0"), delete_line("config.json"))
    found = [me.get(f"/api/models/{repo}/revision/{revision}").json() for revision in (old, "main")]
    assert [row["cardData"] for row in found] == [{"license": "mit"}, {"license": "apache-2.0"}]
    assert [row.get("config") for row in found] == [{"model_type": "vit"}, None]
    assert ["license:mit" in row["tags"] for row in found] == [True, False]
    assert [row["sha"] for row in found] == [old, head_of(me, repo)]


def test_lists_have_pages_that_show_one_state(me):
    repo = fresh(me)
    commit(me, repo, *(file_line(f"f/{number:02}.txt", b"x") for number in range(8)))
    first = me.get(f"/api/models/{repo}/tree/main/f")
    assert len(first.json()) == 3
    commit(me, repo, delete_line("f/07.txt"))
    rest, count = pages(me, first.links["next"]["url"])
    assert [row["path"] for row in first.json() + rest] == [f"f/{number:02}.txt" for number in range(8)]
    assert count == 2
    for number in range(4):
        commit(me, repo, file_line("g.txt", str(number).encode()), summary=f"step {number}")
    history, count = pages(me, f"/api/models/{repo}/commits/main")
    assert [row["title"] for row in history[:4]] == ["step 3", "step 2", "step 1", "step 0"]
    assert count == 3


def test_lists_of_repositories_filter_sort_and_hide(me, you):
    names = [fresh(me, "dataset") for _ in range(4)]
    hidden = fresh(me, "dataset", visibility="private")
    card = b"---\ntags: [pages-test]\nlicense: mit\n---\n# Card\n"
    for name in (*names, hidden):
        assert commit(me, name, file_line("README.md", card), kinds="datasets").status_code == 200
    mine, count = pages(me, "/api/datasets?filter=pages-test&author=me&sort=lastModified")
    assert [row["id"] for row in mine] == [hidden, *names[::-1]]
    assert count == 2
    theirs, _ = pages(you, "/api/datasets?filter=pages-test&filter=license:mit&full=true")
    assert {row["id"] for row in theirs} == set(names)
    assert all(row["cardData"]["license"] == "mit" and row["sha"] for row in theirs)
    assert pages(you, f"/api/datasets?search={names[0].split('/')[1]}&filter=nosuch")[0] == []
    assert you.get("/api/datasets?sort=nosuch").status_code == 400
    assert you.get("/api/datasets?limit=x").status_code == 400


def test_commits_answer_with_an_address_that_the_client_used(server, me):
    repo = fresh(me)
    answer = commit(me, repo, file_line("a", b"a")).json()
    assert answer["success"] is True
    assert answer["commitUrl"] == f"{server.endpoint}/{repo}/commit/{answer['commitOid']}"


def test_an_old_name_leads_to_the_new_one(me):
    repo = fresh(me)
    commit(me, repo, file_line("a b.txt", b"a"))
    new = f"{repo}-renamed"
    body = {"fromRepo": repo, "toRepo": new, "type": "model"}
    assert me.post("/api/repos/move", json=body).status_code == 200
    for old in (f"/api/models/{repo}?full=true", f"/{repo}/resolve/main/a%20b.txt"):
        answer = me.get(old)
        assert answer.status_code == 307
        assert answer.headers["location"] == old.replace(repo, new)
        assert me.get(answer.headers["location"]).status_code == 200
    assert commit(me, repo, file_line("b", b"b")).status_code == 200


def test_a_large_file_goes_up_whole_and_comes_down_in_parts(me, nobody):
    repo, content = fresh(me), bytes(range(256)) * 5000
    upload(me, nobody, repo, content)
    assert commit(me, repo, large_line("w.bin", content)).status_code == 200
    oid = hashlib.sha256(content).hexdigest()
    head = me.head(f"/{repo}/resolve/main/w.bin")
    assert head.headers["x-linked-etag"] == head.headers["etag"] == f'"{oid}"'
    assert head.headers["x-linked-size"] == head.headers["content-length"] == str(len(content))
    assert me.get(f"/{repo}/resolve/main/w.bin").content == content
    part = me.get(f"/{repo}/resolve/main/w.bin", headers={"Range": "bytes=1000000-1000009"})
    assert part.content == content[1000000:1000010]
    assert f"oid sha256:{oid}" in me.get(f"/{repo}/raw/main/w.bin").text
    (entry,) = me.post(f"/api/models/{repo}/paths-info/main", json={"paths": ["w.bin"]}).json()
    assert entry["lfs"]["oid"] == oid
    assert entry["oid"] == blob_id(me.get(f"/{repo}/raw/main/w.bin").content)
    (row,) = batch(me, repo, content, operation="download").json()["objects"]
    assert nobody.get(row["actions"]["download"]["href"]).content == content


def test_a_large_file_goes_up_in_parts(me, nobody):
    repo, content = fresh(me), bytes(range(250)) * 13000  # 3.25 MB in parts of 1 MiB
    (row,) = batch(me, repo, content).json()["objects"]
    upload_action = row["actions"]["upload"]
    size = int(upload_action["header"].pop("chunk_size"))
    addresses = [upload_action["header"][key] for key in sorted(upload_action["header"])]
    assert len(addresses) == -(-len(content) // size) == 4
    parts = []
    for number, address in enumerate(addresses):
        put = nobody.put(address, content=content[number * size : (number + 1) * size])
        parts.append({"partNumber": number + 1, "etag": put.headers["etag"]})
    missing = nobody.post(upload_action["href"], json={"oid": row["oid"], "parts": parts[:-1]})
    assert missing.status_code == 400
    assert nobody.post(upload_action["href"], json={"oid": row["oid"], "parts": parts}).status_code == 200
    verified = me.post(row["actions"]["verify"]["href"], json={"oid": row["oid"], "size": len(content)})
    assert verified.status_code == 200
    assert commit(me, repo, large_line("w.bin", content)).status_code == 200
    assert me.get(f"/{repo}/resolve/main/w.bin").content == content


def test_bytes_that_are_not_what_was_promised_are_not_kept(me, nobody):
    repo, content = fresh(me), b"promised" * 1000
    (row,) = batch(me, repo, content).json()["objects"]
    address = row["actions"]["upload"]["href"]
    for wrong in (b"x" * len(content), content[:-1], content + b"more"):
        assert nobody.put(address, content=wrong).status_code in (400, 413)
    assert "actions" in batch(me, repo, content).json()["objects"][0]
    assert commit(me, repo, large_line("w.bin", content)).status_code == 400


def test_a_signed_address_is_good_for_itself_only(me, nobody):
    repo, content = fresh(me), b"signed" * 1000
    other = hashlib.sha256(b"other").hexdigest()
    (row,) = batch(me, repo, content).json()["objects"]
    address = row["actions"]["upload"]["href"]
    assert nobody.put(address.replace(row["oid"], other), content=b"other").status_code == 403
    assert nobody.put(address.replace("sig=", "sig=9"), content=content).status_code == 403
    assert nobody.put(address.partition("?")[0], content=content).status_code == 403
    assert nobody.put(address, content=content).status_code == 200


def test_knowing_the_hash_of_a_file_elsewhere_gives_nothing(me, you, nobody):
    secret = b"only mine" * 1000
    repo = fresh(me, visibility="private")
    upload(me, nobody, repo, secret)
    assert commit(me, repo, large_line("w.bin", secret)).status_code == 200
    theirs = fresh(you).replace("me/", "you/")
    assert "actions" in batch(you, theirs, secret).json()["objects"][0]
    assert commit(you, theirs, large_line("w.bin", secret)).status_code == 400
    (row,) = batch(you, theirs, secret, operation="download").json()["objects"]
    assert row["error"]["code"] == 404
    copied = you.post(
        f"/api/models/{repo}/lfs-files/duplicate",
        json={
            "target": {"type": "model", "name": theirs},
            "files": [{"sha256": hashlib.sha256(secret).hexdigest(), "filename": "w.bin"}],
        },
    )
    assert copied.status_code == 404


def test_preupload_says_how_to_send_each_file(me):
    repo = fresh(me)
    commit(me, repo, file_line(".gitignore", b"*.log\n"), file_line("same.txt", b"same"))
    files = [
        {"path": "same.txt", "sample": "c2FtZQ==", "size": 4},
        {"path": "model.safetensors", "sample": "AAAA", "size": 3},
        {"path": "nul.txt", "sample": "AAAA", "size": 3},
        {"path": "big.txt", "sample": "c2FtZQ==", "size": 1 << 30},
        {"path": "x.log", "sample": "c2FtZQ==", "size": 4},
    ]
    rows = me.post(f"/api/models/{repo}/preupload/main", json={"files": files}).json()["files"]
    assert [(row["path"], row["uploadMode"], row["shouldIgnore"], row["oid"]) for row in rows] == [
        ("same.txt", "regular", False, blob_id(b"same")),
        ("model.safetensors", "lfs", False, None),
        ("nul.txt", "lfs", False, None),
        ("big.txt", "lfs", False, None),
        ("x.log", "regular", True, None),
    ]


def test_a_pull_request_takes_commits_beside_main(me, you):
    repo = fresh(me)
    before = head_of(me, repo)
    answer = commit(you, repo, file_line("theirs.txt", b"theirs"), query="?create_pr=1").json()
    assert answer["pullRequestUrl"].endswith(f"/{repo}/discussions/1")
    assert me.get(f"/{repo}/resolve/refs%2Fpr%2F1/theirs.txt").content == b"theirs"
    assert head_of(me, repo) == before
    details = me.get(f"/api/models/{repo}/discussions/1").json()
    assert (details["author"]["name"], details["status"], details["isPullRequest"]) == ("you", "open", True)
    refs = me.get(f"/api/models/{repo}/refs?include_prs=1").json()
    assert [ref["ref"] for ref in refs["pullRequests"]] == ["refs/pr/1"]


def test_a_pull_request_whose_commit_is_refused_is_not_left_behind(me, you):
    repo = fresh(me)
    assert commit(you, repo, delete_line("nosuch"), query="?create_pr=1").status_code == 404
    assert me.get(f"/api/models/{repo}/refs?include_prs=1").json()["pullRequests"] == []
    assert me.get(f"/api/models/{repo}/discussions").json()["count"] == 0


def test_downloads_are_counted_once_for_a_client_that_takes_many_files(me):
    repo = fresh(me)
    commit(me, repo, *(file_line(f"{number}.txt", b"x") for number in range(5)))
    for number in range(5):
        me.get(f"/{repo}/resolve/main/{number}.txt", headers={"X-HF-Download-Counter": "1"})
        me.get(f"/{repo}/resolve/main/{number}.txt")
    end = time.monotonic() + 60
    while me.get(f"/api/models/{repo}").json()["downloads"] == 0 and time.monotonic() < end:
        time.sleep(0.2)  # counts are written every few seconds
    assert me.get(f"/api/models/{repo}").json()["downloads"] == 1


def test_xet_tokens_are_good_for_their_own_space_only(me, you):
    mine, theirs = fresh(me), fresh(you).replace("me/", "you/")
    token = me.get(f"/api/models/{mine}/xet-write-token/main")
    other = you.get(f"/api/models/{theirs}/xet-write-token/main").json()
    body = token.json()
    assert token.headers["x-xet-access-token"] == body["accessToken"]
    assert token.headers["x-xet-cas-url"] == body["casUrl"]
    headers = {"Authorization": f"Bearer {other['accessToken']}"}
    assert me.post(f"{body['casUrl']}/v1/shards", content=b"", headers=headers).status_code in (401, 403)
    read = me.get(f"/api/models/{mine}/xet-read-token/main").json()
    headers = {"Authorization": f"Bearer {read['accessToken']}"}
    assert me.post(f"{read['casUrl']}/v1/shards", content=b"", headers=headers).status_code == 403
    assert me.get(f"{body['casUrl']}/v1/chunks/default/{'0' * 64}").status_code == 404
    for wrong in (b"", b"x" * 100, b"HFRepoMetaData"):
        headers = {"Authorization": f"Bearer {body['accessToken']}"}
        assert me.post(f"{body['casUrl']}/v1/shards", content=wrong, headers=headers).status_code == 400
        address = f"{body['casUrl']}/v1/xorbs/default/{'0' * 64}"
        assert me.post(address, content=wrong, headers=headers).status_code == 400


def test_a_public_address_with_a_prefix_is_in_every_link(tmp_path):
    settings = HubSettings(root=tmp_path / "hub", public_url="http://hub.example/models-of/us", page_size=1)
    with running(settings) as server:
        add_users(server.hub)
        with server.client("me") as me:
            created = me.post("/models-of/us/api/repos/create", json={"name": "x"}).json()
            assert created["url"] == "http://hub.example/models-of/us/me/x"
            listed = me.get("/models-of/us/api/models/me/x/commits/main")
            assert listed.status_code == 200
            me.post("/api/repos/create", json={"name": "y"})
            link = me.get("/models-of/us/api/models").links["next"]["url"]
            assert link.startswith("http://hub.example/models-of/us/api/models?")
            me.post("/api/repos/move", json={"fromRepo": "me/x", "toRepo": "me/z", "type": "model"})
            moved = me.get("/models-of/us/api/models/me/x")
            assert moved.headers["location"] == "/models-of/us/api/models/me/z"


def test_the_body_of_a_commit_may_be_long(me):
    repo = fresh(me)
    content = io.BytesIO()
    for line in (
        {"key": "header", "value": {"summary": "long"}},
        *(file_line(f"{n}.txt", b"a" * (1 << 20)) for n in range(20)),
    ):
        content.write(json.dumps(line).encode() + b"\n")
    answer = me.post(f"/api/models/{repo}/commit/main", content=content.getvalue())
    assert answer.status_code == 200
    assert me.head(f"/{repo}/resolve/main/19.txt").headers["content-length"] == str(1 << 20)
