"""Large files taken out for good: without a trace in any history where that was asked, with pointers left otherwise."""

import hashlib

import pytest
from huggingface_hub import HfApi

from hfvision.hub import accounts, commits, files, large_files, pulls, purging, refs, repositories, upkeep
from hfvision.hub.commits import AddFile, AddLargeFile, CopyFile, DeleteFile
from hfvision.hub.errors import BadRequest, EntryNotFound, Forbidden, RevisionNotFound


def sha256(data):
    return hashlib.sha256(data).hexdigest()


SECRET, KEPT = b"secret" * 100, b"kept" * 100


@pytest.fixture
def history(hub, owner, repo):
    """Names of the commits of a repository whose past, tag, branch and pull request hold SECRET."""
    for data in (SECRET, KEPT):
        large_files.receive(hub, repo.id, sha256(data), len(data), [data])

    def apply(*operations, revision="main"):
        return commits.apply(hub, owner, repo, revision, operations, "a change").id

    made = {"before": apply(AddFile("card.md", b"1"), AddLargeFile("kept.bin", sha256(KEPT)))}
    made["leak"] = apply(AddLargeFile("only/here/secret.bin", sha256(SECRET)))
    refs.create_tag(hub, owner, repo, "v1", "main")
    made["copied"] = apply(CopyFile("only/here/secret.bin", "deep/secret.bin"), AddFile("deep/note", b"2"))
    refs.create_branch(hub, owner, repo, "side", made["before"])
    made["side"] = apply(AddLargeFile("secret.bin", sha256(SECRET)), revision="side")
    made["deleted"] = apply(DeleteFile("only/here/secret.bin"), DeleteFile("deep/secret.bin"))
    made["pull"] = pulls.propose(hub, owner, repo, "main", [AddLargeFile("p", sha256(SECRET))], "back again")[0].id
    pulls.propose(hub, owner, repo, "main", [AddFile("merged", b"")], "a merged one")
    made["merged"] = pulls.merge(hub, owner, repo, 2).id
    return made


def paths(hub, repo, revision):
    return [entry.path for entry in files.siblings(hub, repo, revision) if entry.path != ".gitattributes"]


def test_rewriting_takes_a_file_out_of_every_commit_of_every_reference(hub, owner, repo, history):
    copy = commits.duplicate(hub, owner, repositories.find(hub, owner, "model", "owner/x"), "model", "copy", "owner")
    old = {one.path: one.commit for one in refs.list_refs(hub, repo)}
    wanted = {
        name: [(one.title, one.date) for one in commits.history(hub, repo, name).items] for name in ("main", "side")
    }
    assert purging.purge(hub, owner, repo, [sha256(SECRET), "0" * 64], rewrite=True) == 7
    assert upkeep.fsck(hub) == []
    found = {one.path: one.commit for one in refs.list_refs(hub, repo)}
    assert found.keys() == old.keys() and not set(found.values()) & set(old.values())
    assert paths(hub, repo, "v1") == ["card.md", "kept.bin"]
    assert paths(hub, repo, "side") == ["card.md", "kept.bin"]
    assert paths(hub, repo, "main") == ["card.md", "deep/note", "kept.bin", "merged"]
    assert paths(hub, repo, "refs/pr/1") == ["card.md", "deep/note", "kept.bin"]
    for name, told in wanted.items():
        chain = commits.history(hub, repo, name).items
        assert [(one.title, one.date) for one in chain] == told
        assert all("secret" not in path for one in chain for path in paths(hub, repo, one.id))
        assert history["before"] in [one.id for one in chain]  # what came before the file keeps its hash
    assert pulls.find_pull(hub, repo, 2).merged_as == refs.resolve(hub, repo, "main")
    assert pulls.conflicts(hub, repo, 1) == pulls.changes(hub, repo, 1) == []
    for gone in set(history.values()) - {history["before"]}:
        with pytest.raises(RevisionNotFound):
            refs.resolve(hub, repo, gone)
    assert large_files.held(hub, repo, [sha256(SECRET), sha256(KEPT)]) == {sha256(KEPT): len(KEPT)}
    upkeep.collect_garbage(hub)
    assert upkeep.fsck(hub) == []
    with pytest.raises(BadRequest, match="upload it first"):
        commits.apply(hub, owner, repo, "main", [AddLargeFile("again", sha256(SECRET))], "again")
    assert large_files.held(hub, copy, [sha256(SECRET)]) == {sha256(SECRET): len(SECRET)}  # others keep theirs


def test_a_repository_may_lose_its_last_file(hub, owner, repo):
    large_files.receive(hub, repo.id, sha256(SECRET), len(SECRET), [SECRET])
    operations = [AddLargeFile("a/b/secret.bin", sha256(SECRET)), DeleteFile(".gitattributes")]
    commits.apply(hub, owner, repo, "main", operations, "all there is")
    assert purging.purge(hub, owner, repo, [sha256(SECRET)], rewrite=True) == 1
    assert (files.list_tree(hub, repo, "main").items, upkeep.fsck(hub)) == ([], [])
    commits.apply(hub, owner, repo, "main", [AddFile("new", b"")], "a fresh start")
    assert paths(hub, repo, "main") == ["new"]


def test_without_rewriting_history_stays_and_names_a_file_that_is_gone(hub, owner, repo, history):
    old = refs.list_refs(hub, repo)
    assert purging.purge(hub, owner, repo, [sha256(SECRET)]) == 0
    assert refs.list_refs(hub, repo) == old
    found = files.open_file(hub, repo, "v1", "only/here/secret.bin")
    assert (found.key, found.data[:7]) == (None, b"version")


def test_who_may_not_purge_and_what_is_too_long_changes_nothing(hub, owner, other, repo, history, monkeypatch):
    old = refs.list_refs(hub, repo)
    for rewrite in (True, False):
        with pytest.raises(Forbidden):
            purging.purge(hub, other, repo, [sha256(SECRET)], rewrite)
    monkeypatch.setattr(purging, "MOST_LINES", 20)
    with pytest.raises(BadRequest, match="squash its branches first"):
        purging.purge(hub, owner, repo, [sha256(SECRET)], rewrite=True)
    assert refs.list_refs(hub, repo) == old
    assert large_files.held(hub, repo, [sha256(SECRET)])


def test_weights_that_were_purged_are_no_longer_described(hub, owner, repo):
    header = b'{"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}'
    weights = len(header).to_bytes(8, "little") + header + b"\0" * 24
    for rewrite in (True, False):
        large_files.receive(hub, repo.id, sha256(weights), len(weights), [weights])
        add = AddLargeFile("model.safetensors", sha256(weights))
        commits.apply(hub, owner, repo, "main", [add, AddFile("x", b"%d" % rewrite)], "weights")
        assert repositories.find(hub, owner, "model", "owner/x").safetensors["total"] == 6
        purging.purge(hub, owner, repo, [sha256(weights)], rewrite)
        assert repositories.find(hub, owner, "model", "owner/x").safetensors is None


def test_the_client_deletes_large_files_permanently(server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    api = HfApi(server.endpoint, token=server.tokens["me"])
    repo = api.create_repo("me/purged").repo_id
    caller = accounts.authenticate(server.hub, server.tokens["me"])
    found = repositories.find(server.hub, caller, "model", repo)
    for data in (SECRET, KEPT, b"never committed"):
        large_files.receive(server.hub, found.id, sha256(data), len(data), [data])
    first = commits.apply(server.hub, caller, found, "main", [AddLargeFile("w.bin", sha256(SECRET))], "weights")
    refs.create_branch(server.hub, caller, found, "side")
    commits.apply(server.hub, caller, found, "side", [AddLargeFile("d/kept.bin", sha256(KEPT))], "more")
    listed = {one.filename: one for one in api.list_lfs_files(repo)}
    assert {name: one.ref for name, one in listed.items()} == {
        "w.bin": "main",
        "d/kept.bin": "side",
        sha256(b"never committed"): None,
    }
    api.permanently_delete_lfs_files(repo, [listed["w.bin"]])
    assert {one.filename for one in api.list_lfs_files(repo)} == listed.keys() - {"w.bin"}
    assert [api.list_repo_files(repo, revision=name) for name in ("main", "side")] == [
        [".gitattributes"],
        [".gitattributes", "d/kept.bin"],
    ]
    assert not api.revision_exists(repo, first.id)
    with pytest.raises(EntryNotFound):
        files.open_file(server.hub, found, "main", "w.bin")
