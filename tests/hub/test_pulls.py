"""Pull requests: opened whole, merged once, never over somebody else's change, on SQLite and PostgreSQL."""

import hashlib
import threading

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from hfvision.hub import accounts, commits, diffs, files, large_files, pulls, refs, repositories, upkeep
from hfvision.hub.commits import AddFile, AddLargeFile, DeleteFile, DeleteFolder
from hfvision.hub.errors import (
    BadRequest,
    Conflict,
    EntryNotFound,
    Forbidden,
    LoginNeeded,
    NotFound,
    ParentMismatch,
    RepoNotFound,
    RevisionNotFound,
)


def apply(hub, caller, repo, *operations, revision="main"):
    return commits.apply(hub, caller, repo, revision, operations, "a change")


def propose(hub, caller, repo, *operations, base="main", **more):
    return pulls.propose(hub, caller, repo, base, operations, "better", **more)


def contents(hub, repo, revision="main"):
    paths = [entry.path for entry in files.siblings(hub, repo, revision) if entry.path != ".gitattributes"]
    return {path: files.open_file(hub, repo, revision, path).data.decode() for path in paths}


def changed(hub, repo, number):
    return [(change.path, change.status) for change in pulls.changes(hub, repo, number)]


def test_a_pull_request_comes_with_its_first_commit_or_not_at_all(hub, owner, other, repo):
    head = refs.resolve(hub, repo, "main")
    refused = (
        ({"operations": [DeleteFile("no")]}, EntryNotFound),
        ({"operations": [AddLargeFile("w", "0" * 64)]}, BadRequest),
        ({"operations": [AddFile("x", b"")], "parent": "0" * 40}, ParentMismatch),
        ({"operations": [AddFile("x", b"")], "base": "nowhere"}, RevisionNotFound),
        ({"operations": [AddFile("x", b"")], "base": head}, RevisionNotFound),
    )
    for more, error in refused:
        with pytest.raises(error):
            pulls.propose(hub, other, repo, summary="s", **{"base": "main", **more})
    assert pulls.pulls(hub, repo) == []
    assert [one.path for one in refs.list_refs(hub, repo)] == ["refs/heads/main"]
    made, pull = propose(hub, other, repo, AddFile("x", b"1"), description="why", parent=head)
    assert (pull.number, pull.author, pull.base, pull.status, pull.title) == (1, "other", "main", "open", "better")
    assert (made.parent, refs.resolve(hub, repo, "refs/pr/1")) == (head, made.id)
    assert (changed(hub, repo, 1), pulls.conflicts(hub, repo, 1)) == ([("x", "added")], [])
    assert contents(hub, repo) == {}


def test_merging_puts_just_its_changes_on_the_base(hub, owner, other, repo):
    apply(hub, owner, repo, AddFile("a/one", b"1"), AddFile("a/two", b"2"), AddFile("gone", b""), AddFile("file", b"f"))
    data = b"weights" * 100
    large_files.receive(hub, repo.id, hashlib.sha256(data).hexdigest(), len(data), [data])
    large = AddLargeFile("w.bin", hashlib.sha256(data).hexdigest())
    _, pull = propose(hub, other, repo, AddFile("a/one", b"better"), DeleteFile("gone"), large, description="why")
    apply(hub, other, repo, AddFile("file/below", b"a folder now"), revision="refs/pr/1")
    card = AddFile("README.md", b"---\nlicense: mit\n---\n")
    apply(hub, other, repo, card, revision="refs/pr/1")
    before = apply(hub, owner, repo, AddFile("a/two", b"theirs"), AddFile("a/three", b"3"))
    assert [name for name, _ in changed(hub, repo, 1)] == ["README.md", "a/one", "file", "file/below", "gone", "w.bin"]
    assert [commit.title for commit in pulls.own_commits(hub, repo, 1)] == ["better", "a change", "a change"]
    with pytest.raises(Forbidden):
        pulls.merge(hub, other, repo, 1)
    made = pulls.merge(hub, owner, repo, 1, "thank you")
    assert (made.parent, made.author, made.title, made.message) == (before.id, "owner", "better (#1)", "why")
    paths = [entry.path for entry in files.siblings(hub, repo, "main")]
    assert paths == [".gitattributes", "README.md", "a/one", "a/three", "a/two", "file/below", "w.bin"]
    texts = {path: files.open_file(hub, repo, "main", path).data for path in ("a/one", "a/two", "file/below")}
    assert texts == {"a/one": b"better", "a/two": b"theirs", "file/below": b"a folder now"}
    assert files.open_file(hub, repo, "main", "w.bin").entry.sha256 == hashlib.sha256(data).hexdigest()
    assert repositories.find(hub, owner, "model", "owner/x").card == {"license": "mit"}
    pull = pulls.find_pull(hub, repo, 1)
    assert (pull.status, pull.merged_as) == ("merged", made.id)
    told = [(event.kind, event.author, event.text) for event in pulls.events(hub, repo, 1)]
    assert told == [("comment", "owner", "thank you"), ("status-change", "owner", "merged")]
    assert upkeep.fsck(hub) == []


CLASHES = [
    ([AddFile("a/x", b"mine")], [AddFile("a/x", b"theirs")], ["a/x"]),
    ([AddFile("a/x", b"same")], [AddFile("a/x", b"same")], []),
    ([DeleteFile("a/x")], [DeleteFile("a/x")], []),
    ([DeleteFile("a/x")], [AddFile("a/x", b"theirs")], ["a/x"]),
    ([AddFile("a/x", b"mine")], [DeleteFolder("a")], ["a/x"]),
    ([AddFile("new", b"mine")], [AddFile("new/below", b"theirs")], ["new"]),
    ([AddFile("new/deep/below", b"mine")], [AddFile("new", b"theirs")], ["new/deep/below"]),
    ([DeleteFolder("a"), AddFile("a", b"mine")], [AddFile("a/z", b"theirs")], ["a"]),
    ([DeleteFolder("a"), AddFile("a", b"mine")], [AddFile("other", b"theirs")], []),
    ([DeleteFolder("a")], [AddFile("a/z", b"theirs")], []),
]


@pytest.mark.parametrize(("mine", "theirs", "paths"), CLASHES, ids=range(len(CLASHES)))
def test_what_both_sides_changed_differently_is_a_conflict_and_changes_nothing(hub, owner, repo, mine, theirs, paths):
    apply(hub, owner, repo, AddFile("a/x", b""), AddFile("a/y", b""))
    propose(hub, owner, repo, *mine)
    head = apply(hub, owner, repo, *theirs).id
    assert pulls.conflicts(hub, repo, 1) == paths
    wanted = contents(hub, repo, "refs/pr/1")
    if paths:
        with pytest.raises(Conflict, match=", ".join(paths)):
            pulls.merge(hub, owner, repo, 1)
        assert (refs.resolve(hub, repo, "main"), pulls.find_pull(hub, repo, 1).status) == (head, "open")
    else:
        pulls.merge(hub, owner, repo, 1)
        merged = contents(hub, repo)
        assert {path: merged.get(path) for path, _ in changed(hub, repo, 1)} == {
            path: wanted.get(path) for path, _ in changed(hub, repo, 1)
        }
    assert upkeep.fsck(hub) == []


def test_after_a_squash_of_the_base_nothing_is_common(hub, owner, repo):
    apply(hub, owner, repo, AddFile("same", b"1"), AddFile("both", b"1"))
    propose(hub, owner, repo, AddFile("both", b"2"))
    commits.squash(hub, owner, repo, "main")
    assert changed(hub, repo, 1) == [(".gitattributes", "added"), ("both", "added"), ("same", "added")]
    assert pulls.conflicts(hub, repo, 1) == ["both"]
    refs.create_branch(hub, owner, repo, "side")
    propose(hub, owner, repo, AddFile("z", b""), base="side")
    refs.delete_branch(hub, owner, repo, "side")
    with pytest.raises(Conflict, match="side, which pull request 2 was opened against, is gone"):
        pulls.merge(hub, owner, repo, 2)


def test_who_may_close_and_what_a_closed_one_still_takes(hub, owner, other, repo):
    pull = pulls.open_pull(hub, other, repo, "empty as yet")
    with pytest.raises(Conflict, match="changes nothing"):
        pulls.merge(hub, owner, repo, 1)
    accounts.create_user(hub, "third")
    third = accounts.authenticate(hub, accounts.create_token(hub, "third", "t"))
    for caller, error in ((third, Forbidden), (accounts.ANONYMOUS, LoginNeeded)):
        with pytest.raises(error):
            pulls.set_status(hub, caller, repo, 1, "closed")
    with pytest.raises(BadRequest, match='"open" or "closed"'):
        pulls.set_status(hub, other, repo, 1, "merged")
    assert pulls.set_status(hub, other, repo, 1, "closed").text == "closed"
    with pytest.raises(Conflict, match="not open"):
        apply(hub, other, repo, AddFile("x", b""), revision="refs/pr/1")
    with pytest.raises(Conflict, match="closed already"):
        pulls.merge(hub, owner, repo, 1)
    pulls.set_status(hub, owner, repo, 1, "open")
    apply(hub, other, repo, AddFile("x", b""), revision="refs/pr/1")
    pulls.merge(hub, owner, repo, 1)
    for caller, status in ((other, "open"), (owner, "closed")):
        with pytest.raises(Conflict, match="stays so"):
            pulls.set_status(hub, caller, repo, 1, status)
    with pytest.raises(Conflict, match="not open"):
        apply(hub, other, repo, AddFile("x", b"1"), revision="refs/pr/1")
    pulls.comment(hub, third, repo, 1, "well done")
    assert pulls.events(hub, repo, 1)[-1].text == "well done"
    with pytest.raises(NotFound):
        pulls.comment(hub, third, repo, 2, "?")
    repositories.update_settings(hub, owner, "model", "owner/x", private=True)
    for call in (pulls.comment, pulls.set_status):
        with pytest.raises(RepoNotFound):
            call(hub, third, repo, 1, "open")
    assert pull.created == pulls.find_pull(hub, repo, 1).created


def test_pull_requests_and_merges_at_once_lose_nothing(hub, owner, repo):
    """Eight proposals get eight numbers; their merges, two for each, succeed once each while others commit."""
    done, refused, barrier = [], [], threading.Barrier(8)

    def work(number):
        barrier.wait()
        pull = propose(hub, owner, repo, AddFile(f"p/{number}", b"%d" % number))[1]
        merging = [threading.Thread(target=merge, args=(pull.number,)) for _ in range(2)]
        for thread in merging:
            thread.start()
        done.append(apply(hub, owner, repo, AddFile(f"c/{number}", b"%d" % number)).id)
        for thread in merging:
            thread.join()

    def merge(number):
        try:
            done.append(pulls.merge(hub, owner, repo, number).id)
        except Conflict as error:
            refused.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(done), len(refused)) == (16, 8)
    assert sorted(pull.number for pull in pulls.pulls(hub, repo)) == list(range(1, 9))
    assert sorted(contents(hub, repo)) == sorted(f"{kind}/{number}" for kind in "cp" for number in range(8))
    chain = [commit.id for commit in commits.history(hub, repo, "main").items]
    assert sorted(chain[:-1]) == sorted(done)
    assert upkeep.fsck(hub) == []


@pytest.fixture
def clients(server, monkeypatch):
    """Unmodified clients of two users; other tests run offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return [HfApi(server.endpoint, token=server.tokens[name]) for name in ("me", "you")]


def test_the_client_opens_discusses_and_merges(clients):
    mine, yours = clients
    repo = mine.create_repo("me/pulled").repo_id
    mine.upload_file(path_or_fileobj=b"one\ntwo\n", path_in_repo="a.txt", repo_id=repo)
    add = CommitOperationAdd("a.txt", b"one\n2\n")
    made = yours.create_commit(repo, [add], commit_message="digits", commit_description="why", create_pr=True)
    assert made.pr_num == 1
    details = mine.get_discussion_details(repo, 1)
    assert (details.status, details.conflicting_files, details.target_branch) == ("open", [], "refs/heads/main")
    assert (details.author, details.merge_commit_oid, details.git_reference) == ("you", None, "refs/pr/1")
    assert details.diff.splitlines()[2:] == [
        *("--- a/a.txt", "+++ b/a.txt", "@@ -1,2 +1,2 @@", " one", "-two", "+2")
    ]  # after "diff --git" and "index"
    assert [(event.type, event.author) for event in details.events] == [("comment", "you"), ("commit", "you")]
    assert details.events[1].oid == made.oid
    assert mine.comment_discussion(repo, 1, "a word").content == "a word"
    changed = yours.change_discussion_status(repo, 1, "closed", comment="not yet")
    assert (changed.new_status, changed.author) == ("closed", "you")
    with pytest.raises(HfHubHTTPError, match="closed already"):
        mine.merge_pull_request(repo, 1)
    yours.change_discussion_status(repo, 1, "open")
    with pytest.raises(HfHubHTTPError, match="403"):
        yours.merge_pull_request(repo, 1)
    mine.merge_pull_request(repo, 1, comment="good")
    details = yours.get_discussion_details(repo, 1)
    assert (details.status, details.merge_commit_oid) == ("merged", mine.repo_info(repo).sha)
    events = [getattr(event, "content", None) or getattr(event, "new_status", None) for event in details.events]
    assert [said for said in events if said] == ["why", "a word", "not yet", "closed", "open", "good", "merged"]
    assert [one.num for one in mine.get_repo_discussions(repo, discussion_status="closed")] == [1]
    assert mine.list_repo_commits(repo)[0].title == "digits (#1)"


def test_a_gated_repository_shows_no_diff_to_those_outside(clients):
    mine, yours = clients
    repo = mine.create_repo("me/gated-pulls").repo_id
    mine.create_commit(repo, [CommitOperationAdd("a.txt", b"secret\n")], commit_message="digits", create_pr=True)
    mine.update_repo_settings(repo, gated="manual")
    assert "+secret" in mine.get_discussion_details(repo, 1).diff
    assert yours.get_discussion_details(repo, 1).diff is None


def test_a_diff_reads_as_git_writes_it(hub, owner, repo, monkeypatch):
    apply(hub, owner, repo, AddFile("a", b"1\n2"), AddFile("b", b"\0"), AddFile("c", b"old\n"), AddFile("d", b"d\n"))
    changed = [AddFile("a", b"1\n3"), AddFile("b", b"\0\0"), DeleteFile("c"), AddFile("d", b"e\n"), AddFile("n", b"")]
    propose(hub, owner, repo, *changed)
    found = diffs.text(hub, pulls.changes(hub, repo, 1))
    assert [line for line in found.splitlines() if not line.startswith("index ")] == [
        *("diff --git a/a b/a", "--- a/a", "+++ b/a", "@@ -1,2 +1,2 @@", " 1", "-2", "\\ No newline at end of file"),
        *("+3", "\\ No newline at end of file", "diff --git a/b b/b", "Binary files a/b and b/b differ"),
        *("diff --git a/c b/c", "deleted file mode 100644", "--- a/c", "+++ /dev/null", "@@ -1 +0,0 @@", "-old"),
        *("diff --git a/d b/d", "--- a/d", "+++ b/d", "@@ -1 +1 @@", "-d", "+e"),
        *("diff --git a/n b/n", "new file mode 100644"),
    ]
    monkeypatch.setattr(diffs, "MOST_WORK", 4)  # enough for the first file, and for what is added or deleted
    shown = diffs.compared(hub, pulls.changes(hub, repo, 1))
    assert [lines is None for lines in shown] == [False, True, False, True, False]
