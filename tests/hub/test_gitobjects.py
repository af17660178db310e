"""Git objects: the same bytes and hashes as git's own, and trees edited without reading what does not change."""

import os
import random
import shutil
import subprocess
from datetime import UTC, datetime

import pytest

from hfvision.hub.gitobjects import (
    FILE_MODE,
    CommitObject,
    TreeEditor,
    TreeItem,
    changes,
    decode_commit,
    decode_pointer,
    decode_tree,
    encode_commit,
    encode_pointer,
    encode_tree,
    object_id,
    walk,
)

BLOB = TreeItem(FILE_MODE, object_id("blob", b"one"))


class Trees:
    """Stored trees, and how often one was read."""

    def __init__(self):
        self.stored = {}
        self.reads = 0

    def read(self, oid):
        self.reads += 1
        return decode_tree(self.stored[oid])

    def edit(self, root, **files):
        """Put and delete (None) files; names write `/` as `__`."""
        editor = TreeEditor(self.read, root)
        for path, item in files.items():
            path = path.replace("__", "/")
            editor.delete(path) if item is None else editor.put(path, item)
        oid, new = editor.write()
        self.stored.update(new)
        return oid

    def paths(self, root):
        return [path for path, item in walk(self.read, root) if not item.is_tree]


@pytest.fixture
def git(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("no git on this machine")
    quiet = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}

    def run(*arguments, data=None, **environment):
        done = subprocess.run(
            ["git", *arguments],
            cwd=tmp_path,
            input=data,
            capture_output=True,
            check=True,
            env=os.environ | quiet | environment,
        )
        return done.stdout

    run("init", "-q")
    return run


def test_trees_and_commits_hash_as_git_hashes_them(git, tmp_path):
    """Names whose order depends on git's rule for folders, and letters beyond ASCII."""
    paths = ["a", "a.b", "a0", "b/c", "b-d", "b.e/f", "z/y/x", "ünï cödé #1%?.txt", "a-/q", "Z"]
    trees, editor_files = Trees(), {}
    for number, path in enumerate(paths):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"%d\n" % number)
        editor_files[path] = TreeItem(FILE_MODE, object_id("blob", b"%d\n" % number))
    git("add", "-A")
    root = trees.edit(None, **editor_files)
    assert root == git("write-tree").decode().strip()
    date = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    commit = CommitObject(root, (), "Jo Ö", "jo@example.org", date, "Title\n\nText é\nmore")
    who = {
        f"GIT_{role}_{what}": value
        for role in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "Jo Ö"), ("EMAIL", "jo@example.org"), ("DATE", "1767323045 +0000"))
    }
    theirs = git("commit-tree", root, data=b"Title\n\nText \xc3\xa9\nmore\n", **who).decode().strip()
    assert object_id("commit", encode_commit(commit)) == theirs
    assert decode_commit(git("cat-file", "commit", theirs)) == commit


def test_git_accepts_every_object_that_is_written(git, tmp_path):
    trees = Trees()
    blob = git("hash-object", "-w", "--stdin", data=b"one").decode().strip()
    assert blob == BLOB.oid
    root = trees.edit(None, a__b=BLOB, c=BLOB)
    for data in trees.stored.values():
        git("hash-object", "-w", "-t", "tree", "--stdin", data=data)
    evil = CommitObject(root, (), "a <b>\n c", "x>\ny", datetime(2026, 1, 1, tzinfo=UTC), "m\0essage")
    oid = git("hash-object", "-w", "-t", "commit", "--stdin", data=encode_commit(evil)).decode().strip()
    git("update-ref", "refs/heads/main", oid)
    git("fsck", "--strict")
    assert decode_commit(encode_commit(evil)).author == "a b c"


def test_edits_give_the_tree_that_a_fresh_start_gives():
    """Random puts and deletes, files over folders and folders over files included, against a plain dict."""
    dice = random.Random(0)
    names = ["a", "b", "c"]
    trees, root, files = Trees(), None, {}
    for step in range(400):
        path = "/".join(dice.choice(names) for _ in range(dice.randint(1, 4)))
        editor = TreeEditor(trees.read, root)
        if dice.random() < 0.6:
            item = TreeItem(FILE_MODE, object_id("blob", str(step).encode()))
            editor.put(path, item)
            parts = path.split("/")
            above = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
            files = {p: i for p, i in files.items() if p not in above and not p.startswith(path + "/")} | {path: item}
        else:
            there = {p for p in files if p == path or p.startswith(path + "/")}
            assert editor.delete(path) == bool(there)
            files = {p: i for p, i in files.items() if p not in there}
        root, new = editor.write()
        trees.stored.update(new)
        assert root == Trees().edit(None, **files)
    assert files  # the walk did not end in an empty tree


def test_an_edit_reads_only_the_folders_on_its_way():
    trees = Trees()
    root = trees.edit(None, **{f"d{i}__e{i}__f": BLOB for i in range(50)})
    trees.reads = 0
    trees.edit(root, d7__e7__g=BLOB)
    assert trees.reads == 3  # root, d7, d7/e7


def test_a_walk_can_go_on_after_any_entry():
    trees = Trees()
    root = trees.edit(None, **dict.fromkeys(["a", "a.b", "a0", "b__c", "b__d__e", "b-d", "b0"], BLOB))
    whole = [path + "/" * item.is_tree for path, item in walk(trees.read, root)]
    for number, path in enumerate(whole):
        rest = [one + "/" * item.is_tree for one, item in walk(trees.read, root, after=path)]
        assert rest == whole[number + 1 :], path
    flat = [path for path, _ in walk(trees.read, root, after="b/", recursive=False)]
    assert flat == [path for path, _ in walk(trees.read, root, recursive=False)][-1:] == ["b0"]


def test_changes_name_each_differing_file_once():
    trees = Trees()
    old = trees.edit(None, same__x=BLOB, a=BLOB, b__c=BLOB, d=BLOB)
    other = TreeItem(FILE_MODE, object_id("blob", b"two"))
    new = trees.edit(old, a=other, b__c=None, d=None, d__e=BLOB)
    found = [(path, one is None, two is None) for path, one, two in changes(trees.read, old, new)]
    assert found == [("a", False, False), ("b/c", False, True), ("d", False, True), ("d/e", True, False)]


@pytest.mark.parametrize(
    "text", [b"", b"version x", encode_pointer("0" * 64, 1)[:-1], encode_pointer("0" * 64, 1) + b"\n", b"x" * 10**6]
)
def test_only_exact_pointers_are_pointers(text):
    assert decode_pointer(text) is None
    assert decode_pointer(encode_pointer("ab" * 32, 12345)) == ("ab" * 32, 12345)


def test_encoding_is_the_inverse_of_decoding():
    tree = {"b": TreeItem("40000", BLOB.oid), "b.x": BLOB, "a": TreeItem("100755", BLOB.oid)}
    assert list(decode_tree(encode_tree(tree)).items()) == [(n, tree[n]) for n in ("a", "b.x", "b")]
