"""Commits: what operations do to a branch, who may, and that nothing is lost, on SQLite and PostgreSQL."""

import asyncio
import hashlib
import threading
from dataclasses import replace

import pytest

from hfvision.hub import accounts, commits, files, large_files, pulls, refs, repositories
from hfvision.hub.commits import AddFile, AddLargeFile, CopyFile, DeleteFile, DeleteFolder
from hfvision.hub.errors import (
    BadPath,
    BadRequest,
    ChecksumMismatch,
    Conflict,
    EntryNotFound,
    Forbidden,
    LoginNeeded,
    NotFound,
    ParentMismatch,
    RepoNotFound,
    RevisionNotFound,
)

LARGE = b"\0weights" * 1000
SHA256 = hashlib.sha256(LARGE).hexdigest()


def apply(hub, owner, repo, *operations, revision="main", **more):
    return commits.apply(hub, owner, repo, revision, operations, more.pop("summary", "a change"), **more)


def paths(hub, repo, revision="main"):
    return [entry.path for entry in files.siblings(hub, repo, revision) if entry.path != ".gitattributes"]


def upload(hub, repo, data=LARGE):
    large_files.receive(hub, repo.id, hashlib.sha256(data).hexdigest(), len(data), [data])


def test_operations_apply_in_order(hub, owner, repo):
    upload(hub, repo)
    first = apply(
        hub,
        owner,
        repo,
        AddFile("a/b.txt", b"1"),
        AddFile("a/c.txt", b"2"),
        AddLargeFile("w.bin", SHA256),
        AddFile("gone", b""),
    )
    assert paths(hub, repo) == ["a/b.txt", "a/c.txt", "gone", "w.bin"]
    second = apply(
        hub,
        owner,
        repo,
        CopyFile("a", "copies/a"),
        CopyFile("w.bin", "copies/w.bin"),
        DeleteFolder("a/"),
        DeleteFile("gone"),
        AddFile("w.bin/inside", b"a file became a folder"),
        CopyFile("gone", "back", revision=first.id),
        parent=first.id[:7],
    )
    assert second.parent == first.id
    assert paths(hub, repo) == ["back", "copies/a/b.txt", "copies/a/c.txt", "copies/w.bin", "w.bin/inside"]
    found = files.open_file(hub, repo, "main", "copies/w.bin")
    assert (found.entry.size, found.entry.sha256, hub.store.read(found.key)) == (len(LARGE), SHA256, LARGE)
    assert files.open_file(hub, repo, "main", "copies/w.bin", pointer=True).data.startswith(b"version https://git-lfs")
    assert files.open_file(hub, repo, first.id, "gone").data == b""
    apply(hub, owner, repo, DeleteFile("copies"), AddFile("w.bin", b"a folder became a file"))
    assert paths(hub, repo) == ["back", "w.bin"]


@pytest.mark.parametrize(
    "operations, error",
    [
        ([DeleteFile("no")], EntryNotFound),
        ([DeleteFolder("a.txt")], EntryNotFound),
        ([DeleteFolder("/")], BadPath),
        ([CopyFile("no", "x")], EntryNotFound),
        ([CopyFile("a.txt", "x", "nowhere")], RevisionNotFound),
        ([AddLargeFile("w.bin", "0" * 64)], BadRequest),
        ([AddLargeFile("w.bin", SHA256, size=1)], BadRequest),
        ([AddFile("a/../b", b"")], BadPath),
    ],
)
def test_a_commit_that_fails_half_way_leaves_nothing(hub, owner, repo, operations, error):
    upload(hub, repo)
    head = apply(hub, owner, repo, AddFile("a.txt", b""))
    with pytest.raises(error):
        apply(hub, owner, repo, AddFile("first", b"good"), *operations)
    assert refs.resolve(hub, repo, "main") == head.id
    assert paths(hub, repo) == ["a.txt"]


@pytest.mark.parametrize(
    "path",
    [
        *("", "/a", "a//b", "a/", "./a", "a/.", "..", "a/../b", "a\0b", "a\nb", "\\..\\x", "a/..\\..\\b", "C:\\x"),
        *("c:/x", ".git/config", "a/.GIT/x", "x" * 256, "/".join(["y" * 200] * 6), "a\ud800", "\x7f"),
    ],
)
def test_bad_paths_are_refused(path):
    with pytest.raises(BadPath):
        commits.check_path(path)


def test_odd_but_good_paths_come_back(hub, owner, repo):
    odd = ["weird näme #1%?:.txt", "日本/ 語", ".gitignore", "a..b", "...", "back\\slash", "x" * 255, "'\"`$()"]
    apply(hub, owner, repo, *(AddFile(path, path.encode()) for path in odd))
    assert sorted(paths(hub, repo)) == sorted(odd)
    assert [files.open_file(hub, repo, "main", path).data for path in odd] == [path.encode() for path in odd]


def test_sixteen_writers_on_one_branch_lose_nothing(hub, owner, repo):
    """Without a parent all succeed, each on top of another; with the same parent exactly one does."""
    head = refs.resolve(hub, repo, "main")
    done, refused = [], []

    def write(number, parent, barrier):
        barrier.wait()
        try:
            done.append(apply(hub, owner, repo, AddFile(f"{parent}/{number}", b"%d" % number), parent=parent).id)
        except ParentMismatch as error:
            refused.append(error)

    for parent in (head, None):
        barrier = threading.Barrier(16)
        threads = [threading.Thread(target=write, args=(number, parent, barrier)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(done), len(refused)) == (17, 15)
    chain = [commit.id for commit in commits.history(hub, repo, "main").items]
    assert sorted(chain[:-1]) == sorted(done)
    assert len(paths(hub, repo)) == 17


def test_the_same_large_file_sent_by_many_at_once_is_stored_once(hub, owner, repo):
    repos = [repo, *(repositories.create(hub, owner, "model", f"x{number}") for number in range(3))]
    barrier, failed = threading.Barrier(8), []

    def send(target):
        barrier.wait()
        try:
            upload(hub, target)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=send, args=(target,)) for target in repos * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert [large_files.held(hub, target, [SHA256]) for target in repos] == [{SHA256: len(LARGE)}] * 4
    assert [(one.key, one.size) for one in hub.store.listing("")] == [(large_files.key(SHA256), len(LARGE))]


def test_a_parent_is_a_prefix_of_the_head(hub, owner, repo):
    head = refs.resolve(hub, repo, "main")
    for wrong in ("0" * 40, head[:4], head + "0", ""):
        with pytest.raises(ParentMismatch):
            apply(hub, owner, repo, AddFile("x", b""), parent=wrong)
    apply(hub, owner, repo, AddFile("x", b""), parent=head[:5].upper())


def test_large_files_are_had_not_known(hub, owner, other, repo):
    """Naming the hash of somebody else's file gives nothing: not by commit, nor by pointer text, nor by copying."""
    secret = repositories.create(hub, owner, "model", "secret", private=True)
    upload(hub, secret)
    thief = repositories.create(hub, other, "model", "mine")
    with pytest.raises(BadRequest, match="upload it first"):
        apply(hub, other, thief, AddLargeFile("w.bin", SHA256, len(LARGE)))
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (SHA256.encode(), len(LARGE))
    apply(hub, other, thief, AddFile("w.bin", pointer))
    found = files.open_file(hub, thief, "main", "w.bin")
    assert (found.data, found.key, found.entry.size) == (pointer, None, len(pointer))
    with pytest.raises(RepoNotFound):
        large_files.copy_links(hub, other, secret, thief, [SHA256])
    with pytest.raises(ChecksumMismatch):
        large_files.receive(hub, thief.id, SHA256, len(LARGE), [b"x" * len(LARGE)])
    assert large_files.held(hub, thief, [SHA256]) == {}
    upload(hub, thief)  # whoever has the bytes may have them here, too: stored once
    assert files.open_file(hub, thief, "main", "w.bin").key is not None
    liar = pointer.replace(b"size %d" % len(LARGE), b"size 5")
    apply(hub, other, thief, AddFile("w.bin", liar))
    assert files.open_file(hub, thief, "main", "w.bin").data == liar


def test_uploads_in_parts_are_joined_and_checked(hub, owner, repo):
    async def body(data):
        yield data

    object.__setattr__(hub, "settings", replace(hub.settings, part_size=3000))
    pieces = [LARGE[at : at + 3000] for at in range(0, len(LARGE), 3000)]
    for wrong in (True, False):
        session = large_files.begin_parts(hub, repo.id, SHA256, len(LARGE))
        sent = [b"\1" + one[1:] if wrong else one for one in pieces]
        parts = [asyncio.run(large_files.receive_part(hub, session, n, body(one))) for n, one in enumerate(sent, 1)]
        listed = [(part.number, f'"{part.etag}"') for part in parts]
        with pytest.raises(BadRequest):
            large_files.complete_parts(hub, session, SHA256, listed[:-1])
        for number in (0, len(pieces) + 1):
            with pytest.raises(BadRequest):
                asyncio.run(large_files.receive_part(hub, session, number, body(b"x")))
        if wrong:
            with pytest.raises(ChecksumMismatch):
                large_files.complete_parts(hub, session, SHA256, listed)
            assert large_files.held(hub, repo, [SHA256]) == {}
    large_files.complete_parts(hub, session, SHA256, listed)
    large_files.complete_parts(hub, session, SHA256, listed)  # asked again because the answer got lost
    assert large_files.held(hub, repo, [SHA256]) == {SHA256: len(LARGE)}
    with pytest.raises(NotFound):
        large_files.complete_parts(hub, "0" * 40, SHA256, listed)


def test_revisions_resolve_as_the_protocol_orders_them(hub, owner, repo):
    first = refs.resolve(hub, repo, "main")
    second = apply(hub, owner, repo, AddFile("x", b"")).id
    refs.create_tag(hub, owner, repo, "both", first)
    refs.create_branch(hub, owner, repo, "both")
    refs.create_branch(hub, owner, repo, "feat/x", first)
    pull = pulls.open_pull(hub, owner, repo, "a pull request")
    wanted = {
        "both": second,
        "refs/tags/both": first,
        "refs/heads/both": second,
        "feat/x": first,
        f"refs/pr/{pull.number}": second,
        first: first,
        first[:7]: first,
    }
    assert {name: refs.resolve(hub, repo, name) for name in wanted} == wanted
    stranger = repositories.create(hub, owner, "model", "stranger")
    apply(hub, owner, stranger, AddFile("unlike", b""))
    for bad in ("nowhere", first[:6], "0" * 40, "", "refs/heads/", "both\0", "a" * 500):
        with pytest.raises(RevisionNotFound):
            refs.resolve(hub, repo, bad)
    with pytest.raises(RevisionNotFound):  # a hash means nothing in a repository that has not got it
        refs.resolve(hub, stranger, second)
    with pytest.raises(Forbidden, match="Cannot delete refs/heads/main"):
        refs.delete_branch(hub, owner, repo, "main")
    with pytest.raises(Conflict):
        refs.create_tag(hub, owner, repo, "both", "main")
    for name in ("a b", "x..y", "-x", ".x", "x.lock", "a//b", "/a", "a~1", "é\x01", "@", "refs/heads/x", "a@{b"):
        with pytest.raises(BadRequest):
            refs.create_branch(hub, owner, repo, name)
    for tag in ("refs/tags/both", first):
        with pytest.raises(BadRequest, match="no branch"):
            apply(hub, owner, repo, AddFile("x", b"1"), revision=tag)


def test_history_pages_and_last_commits(hub, owner, repo):
    made = [apply(hub, owner, repo, AddFile(f"d{n % 3}/f", b"%d" % n), summary=f"change {n}\nx").id for n in range(7)]
    first = commits.history(hub, repo, "main", limit=3)
    second = commits.history(hub, repo, made[-1], limit=3, cursor=first.cursor)
    third = commits.history(hub, repo, "main", limit=3, cursor=second.cursor)
    assert [one.id for one in first.items + second.items + third.items][:-1] == made[::-1]
    assert (third.cursor, len(commits.history(hub, repo, "main").items)) == (None, 8)
    assert first.items[0].title == "change 6 x"
    for _ in range(2):  # the second time from memory
        page = files.list_tree(hub, repo, "main", expand=True)
        last = {entry.path: entry.last_commit.id for entry in page.items}
        assert [last[f"d{n}"] for n in range(3)] == [made[6], made[4], made[5]]
        inner = files.list_tree(hub, repo, "main", "d1", expand=True).items[0]
        assert (inner.path, inner.last_commit.id) == ("d1/f", made[4])
    old = files.entries(hub, repo, made[2], ["d0/f", "no", "d0"], expand=True)
    assert [(one.path, one.kind, one.last_commit.id) for one in old] == [
        ("d0/f", "file", made[0]),
        ("d0", "directory", made[0]),
    ]
    assert [(c.path, c.status) for c in commits.diff(hub, repo, made[1], "main")] == [
        ("d0/f", "modified"),
        ("d1/f", "modified"),
        ("d2/f", "added"),
    ]


def test_pages_of_a_tree_join_to_the_whole(hub, owner, repo):
    apply(hub, owner, repo, *(AddFile(f"d{n // 5}/e{n % 2}/f{n}", b"%d" % n) for n in range(30)), AddFile("d1.x", b""))
    for folder, recursive in (("", True), ("", False), ("d1", True)):
        whole = files.list_tree(hub, repo, "main", folder, recursive=recursive).items
        cursor, joined = None, []
        while cursor is not None or not joined:
            page = files.list_tree(hub, repo, "main", folder, recursive=recursive, limit=4, cursor=cursor)
            joined, cursor = joined + page.items, page.cursor
        assert joined == whole
    for missing in ("no", "d1/no", "d1.x"):
        with pytest.raises(EntryNotFound) as found:
            files.list_tree(hub, repo, "main", missing)
        assert found.value.headers["X-Repo-Commit"] == refs.resolve(hub, repo, "main")


def test_squash_keeps_the_files_and_other_refs(hub, owner, repo):
    old = apply(hub, owner, repo, AddFile("x", b"1"))
    refs.create_tag(hub, owner, repo, "v1", "main")
    apply(hub, owner, repo, AddFile("x", b"2"))
    squashed = commits.squash(hub, owner, repo, "main", "one commit")
    assert commits.history(hub, repo, "main").items == [squashed]
    assert (squashed.parent, squashed.title) == (None, "one commit")
    assert files.open_file(hub, repo, "main", "x").data == b"2"
    assert refs.resolve(hub, repo, "v1") == old.id


def test_duplicate_brings_large_files(hub, owner, other, repo):
    upload(hub, repo)
    apply(hub, owner, repo, AddLargeFile("w.bin", SHA256), AddFile("README.md", b"---\nlicense: mit\n---\n"))
    copy = commits.duplicate(hub, other, repo, "model", "copy", "other")
    assert paths(hub, copy) == paths(hub, repo)
    assert files.open_file(hub, copy, "main", "w.bin").entry.sha256 == SHA256
    assert copy.card == {"license": "mit"}
    with pytest.raises(Conflict):
        commits.duplicate(hub, other, repo, "model", "copy", "other")


def test_who_may_write(hub, owner, other, repo):
    reader = accounts.authenticate(hub, accounts.create_token(hub, "owner", "reads", role="read"))
    for caller, error in ((accounts.ANONYMOUS, LoginNeeded), (other, Forbidden), (reader, Forbidden)):
        with pytest.raises(error):
            apply(hub, caller, repo, AddFile("x", b""))
        with pytest.raises(error):
            refs.create_branch(hub, caller, repo, "x")
        with pytest.raises(error):
            repositories.delete(hub, caller, "model", "owner/x")
    pull = pulls.open_pull(hub, other, repo, "let me in")
    apply(hub, other, repo, AddFile("proposed", b""), revision=f"refs/pr/{pull.number}")
    assert (paths(hub, repo), paths(hub, repo, "refs/pr/1")) == ([], ["proposed"])
    mine = pulls.open_pull(hub, owner, repo, "mine")
    with pytest.raises(Forbidden):
        apply(hub, other, repo, AddFile("x", b""), revision=f"refs/pr/{mine.number}")
