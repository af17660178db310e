"""Repositories: hidden, moved, listed, and what their files say of them, on SQLite and PostgreSQL."""

import hashlib

import pytest

from hfvision.hub import accounts, commits, files, large_files, metadata, repositories, uploads
from hfvision.hub.commits import AddFile, AddLargeFile, DeleteFile
from hfvision.hub.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    HubError,
    RepoNotFound,
)

LARGE = b"\0weights" * 1000
SHA256 = hashlib.sha256(LARGE).hexdigest()


def apply(hub, owner, repo, *operations, revision="main", **more):
    return commits.apply(hub, owner, repo, revision, operations, more.pop("summary", "a change"), **more)


def upload(hub, repo, data=LARGE):
    large_files.receive(hub, repo.id, hashlib.sha256(data).hexdigest(), len(data), [data])


def test_private_repositories_look_missing(hub, owner, other, repo):
    repositories.update_settings(hub, owner, "model", "owner/x", private=True)
    for name in ("owner/x", "owner/never-was"):
        for caller, status in ((other, 404), (accounts.ANONYMOUS, 401)):
            for need in ("see", "content", "write", "admin"):
                with pytest.raises(RepoNotFound) as found:
                    repositories.find(hub, caller, "model", name, need)
                assert (found.value.status, str(found.value)) == (status, "Repository not found")
    assert repositories.search(hub, other, "model").items == []
    assert [one.full_name for one in repositories.search(hub, owner, "model").items] == ["owner/x"]


def test_preupload_decides_by_rules_size_and_bytes(hub, owner, repo):
    upload(hub, repo)
    apply(hub, owner, repo, AddFile(".gitignore", b"*.log\n!keep.log\nbuild/\n"), AddLargeFile("w.bin", SHA256))
    big = hub.settings.regular_limit + 1
    asked = [
        ("a.txt", 1, b"x"),
        ("a.safetensors", 1, b"x"),
        ("a.dat", big, b"x"),
        ("b.dat", 9, b"x\0"),
        ("w.bin", 9, b"x"),
    ]
    asked += [("d/x.log", 1, b"x"), ("d/keep.log", 1, b"x"), ("build/keep.log", 1, b"x")]
    plans = uploads.plan(hub, repo, "main", [uploads.Candidate(*one) for one in asked])
    assert [one.mode for one in plans] == ["regular", "lfs", "lfs", "lfs", "lfs", "regular", "regular", "regular"]
    assert [one.ignored for one in plans] == [False] * 5 + [True, False, True]
    assert [one.oid for one in plans] == [None] * 4 + [SHA256] + [None] * 3
    sent = uploads.plan(hub, repo, "main", [uploads.Candidate("d/x.log", 1, b"x")], gitignore="a/**/b\n")
    assert not sent[0].ignored


def test_rules_that_are_written_to_take_for_ever_are_given_up(hub, owner, repo, monkeypatch):
    monkeypatch.setattr(uploads, "RULES_SECONDS", 0.1)
    slow = "\n".join(["**/" + "a/**/" * 40 + "b"] * 500)  # twenty seconds for one file
    deep = uploads.Candidate("/".join("a" * 500), 1, b"x")
    with pytest.raises(BadRequest, match="use fewer and shorter patterns"):
        uploads.plan(hub, repo, "main", [deep] * 1000, slow)


def test_metadata_follow_the_main_branch(hub, owner, repo):
    header = b'{"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, '
    header += b'"b": {"dtype": "F16", "shape": [], "data_offsets": [24, 26]}}'
    weights = len(header).to_bytes(8, "little") + header + b"\0" * 26
    upload(hub, repo, weights)
    config = b'{"architectures": ["ViTForImageClassification"], "model_type": "vit", "big": [%s0]}' % (b"1," * 5000)
    first = apply(
        hub,
        owner,
        repo,
        AddFile("README.md", b"---\nlicense: mit\ntags: [x, y]\ndate: 2026-01-01\n---\nhello"),
        AddFile("config.json", config),
        AddLargeFile("model.safetensors", hashlib.sha256(weights).hexdigest()),
    )
    found = repositories.find(hub, owner, "model", "OWNER/X")
    assert (found.library_name, found.pipeline_tag) == ("transformers", "image-classification")
    assert found.safetensors == {"parameters": {"F32": 6, "F16": 1}, "total": 7}
    assert found.card["date"] == "2026-01-01"
    assert found.config == {"architectures": ["ViTForImageClassification"], "model_type": "vit"}
    assert set(found.tags) >= {"transformers", "image-classification", "safetensors", "vit", "license:mit", "x", "y"}
    for filters, count in ((["x", "license:mit"], 1), (["x", "no"], 0)):
        assert (
            len(repositories.search(hub, owner, "model", filters=filters, pipeline_tag="image-classification").items)
            == count
        )
    apply(hub, owner, repo, DeleteFile("README.md"), DeleteFile("config.json"))
    found = repositories.find(hub, owner, "model", "owner/x")
    assert (found.card, found.config, found.pipeline_tag, "x" in found.tags) == (None, None, None, False)
    then = metadata.at_commit(hub, found, first.id)
    assert (then.sha, then.card["license"], then.pipeline_tag) == (first.id, "mit", "image-classification")
    assert (then.safetensors["total"], "x" in then.tags) == (7, True)


@pytest.mark.parametrize(
    "text",
    [
        b"---\na: &a [x,x]\nb: &b [*a,*a]\n" + b"".join(b"c%d: &c%d [*%s,*%s]\n" % (n, n, p, p) for n, p in
         ((n, b"c%d" % (n - 1) if n else b"b") for n in range(40))) + b"---\n",
        b"---\n" + b"[" * 100_000 + b"\n---\n",
        b"---\n!!python/object/apply:os.system ['true']\n---\n",
        b"---\nx: &x\n  y: *x\n---\n",
        b"---\n- a list\n---\n",
        b"---\nx: [1\n---\n",
        b"---\nx: 0x" + b"f" * 100_000 + b"\ny: .nan\nz: \"\\ud800\\0\"\n---\n",
        b"\xff\xfe---\n\0---",
    ],
)  # fmt: skip
def test_hostile_cards_are_stored_and_harmless(hub, owner, repo, text):
    apply(hub, owner, repo, AddFile("README.md", text), AddFile("config.json", b'{"a":' * 50_000))
    found = repositories.find(hub, owner, "model", "owner/x")
    assert found.config is None
    repr(found).encode()  # what was kept can be written out
    assert files.open_file(hub, repo, "main", "README.md").data == text


def test_moves_leave_a_trail(hub, owner, other, repo):
    repositories.move(hub, owner, "model", "owner/x", "owner/Y")
    repositories.move(hub, owner, "model", "owner/y", "owner/z")
    for old in ("owner/x", "OWNER/y"):
        found = repositories.find(hub, owner, "model", old)
        assert (found.full_name, found.moved) == ("owner/z", True)
    again = repositories.create(hub, owner, "model", "x")  # a new one takes the old name over
    assert not repositories.find(hub, owner, "model", "owner/x").moved
    with pytest.raises(Conflict, match="A model repository called owner/x already exists"):
        repositories.move(hub, owner, "model", "owner/z", "owner/x")
    with pytest.raises(Forbidden):
        repositories.move(hub, owner, "model", "owner/z", "other/z")
    repositories.delete(hub, owner, "model", "owner/z")
    with pytest.raises(RepoNotFound):
        repositories.find(hub, owner, "model", "owner/y")
    assert repositories.find(hub, owner, "model", "owner/x").id == again.id


def test_lists_have_pages_that_join_and_an_order(hub, owner, repo):
    for number in range(7):
        repositories.create(hub, owner, "model", f"list-{number}")
    ids = {one.full_name: one.id for one in repositories.search(hub, owner, "model").items}
    repositories.count_downloads(hub, {ids["owner/list-3"]: 5, ids["owner/list-1"]: 5, ids["owner/x"]: 9})
    for sort in (None, "createdAt", "downloads", "lastModified", "likes"):
        whole = repositories.search(hub, owner, "model", sort=sort).items
        cursor, joined = None, []
        while cursor is not None or not joined:
            page = repositories.search(hub, owner, "model", sort=sort, limit=3, cursor=cursor)
            joined, cursor = joined + page.items, page.cursor
        assert joined == whole
        assert len(whole) == 8
    assert [one.name for one in repositories.search(hub, owner, "model", sort="downloads").items][:3] == [
        "x",
        "list-3",
        "list-1",
    ]
    assert [one.name for one in repositories.search(hub, owner, "model", words=["ST-3"], author="OWNER").items] == [
        "list-3"
    ]
    assert repositories.search(hub, owner, "model", words=["%"]).items == []
    for bad in ({"sort": "no"}, {"cursor": "no"}, {"cursor": "e30="}):
        with pytest.raises(HubError):
            repositories.search(hub, owner, "model", **bad)
