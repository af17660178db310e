"""Seeding and mirroring as what they are: ordinary clients, in processes of their own."""

import json
import subprocess
import sys

import pytest

from hfvision.hub import commits, files, repositories
from hfvision.hub.settings import HubSettings
from tests.hub.publishing import caller_of, png, publish
from tests.hub.server import TOKENS, add_users, running


def run(server, home, code, user="me", **variables):
    """What a fresh process that is a client of the server prints, as JSON; its last line if it ends in an error."""
    environment = server.environment(home, user, **variables)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


SEED = """
import json
from dataclasses import asdict
from hfvision.seeding import seed
print(json.dumps([asdict(row) for row in seed(namespace="{namespace}", only=["digits", "vit-digits"])]))
"""
USE = """
import json, hfvision
from datasets import load_dataset
from transformers import pipeline
digits = load_dataset("me/digits", split="test").select(range(40))
classify = pipeline("image-classification", model="me/vit-digits")
print(json.dumps([[row["label"], int(answer[0]["label"])] for row, answer in zip(digits, classify(digits["image"]))]))
"""


@pytest.mark.slow
def test_what_is_seeded_works_and_seeding_again_commits_nothing(server, tmp_path):
    first = run(server, tmp_path, SEED.format(namespace="me"))
    assert [(row["repo_id"], row["repo_type"], row["changed"]) for row in first] == [
        ("me/digits", "dataset", True),
        ("me/vit-digits", "model", True),
    ]
    assert run(server, tmp_path, SEED.format(namespace="me")) == [{**row, "changed": False} for row in first]
    answers = run(server, tmp_path, USE)
    assert sum(truth == answer for truth, answer in answers) >= 38
    model = repositories.find(server.hub, caller_of(server.hub), "model", "me/vit-digits")
    assert model.card["datasets"] == ["me/digits"] and model.pipeline_tag == "image-classification"


def test_seeding_where_the_token_may_not_write_says_where_it_may(server, tmp_path):
    error = run(server, tmp_path, SEED.format(namespace="hfvision"))
    assert "ConfigError" in error and "only as me" in error and "hfvision hub org add hfvision" in error


def test_seeding_something_unknown_lists_what_there_is():
    from hfvision.errors import UnknownNameError
    from hfvision.seeding import seed

    with pytest.raises(UnknownNameError, match="vit-digits"):
        seed(endpoint="http://127.0.0.1:9", only=["vit-digit"])


MIRROR = """
import json, os
from dataclasses import asdict
from hfvision import mirroring
{before}
done = mirroring.mirror("me/{name}", source=os.environ["SOURCE"], **json.loads(os.environ["OPTIONS"]))
print(json.dumps(asdict(done)))
"""
LARGE = bytes(range(256)) * 2000
FILES = {
    "README.md": "---\nlicense: mit\n---\n# Roofs",
    ".gitignore": "*.log\nbuild/\n",
    "kept.log": "ignored by name, in the repository all the same",
    "data/weird näme #1%?.txt": "é",
    "data/deep/er/one.png": png(),
    "model.bin": LARGE,
    "empty.txt": "",
}


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    with running(HubSettings(root=tmp_path_factory.mktemp("target"))) as other:
        add_users(other.hub)
        yield other


def mirrored(server, target, home, repo, before="", **options):
    variables = {"SOURCE": server.endpoint, "OPTIONS": json.dumps(options)}
    return run(target, home, MIRROR.format(name=repo, before=before), **variables)


def contents(server, full_name, revision="main"):
    repo = repositories.find(server.hub, caller_of(server.hub), "model", full_name)
    found = files.siblings(server.hub, repo, revision)
    return {entry.path: files.read_file(server.hub, repo, revision, entry.path, 1 << 30) for entry in found}


def history(server, full_name):
    repo = repositories.find(server.hub, caller_of(server.hub), "model", full_name)
    return commits.history(server.hub, repo, "main").items


def test_a_mirror_holds_the_same_files_in_one_commit(server, target, tmp_path):
    source = publish(server.hub, "me/to-mirror", FILES)
    done = mirrored(server, target, tmp_path, "to-mirror", name="me/copy")
    assert contents(target, "me/copy") == contents(server, "me/to-mirror")
    assert done["source_commit"] == source.sha and done["files"] == len(FILES) + 1
    first, *before = history(target, "me/copy")
    assert (first.id, first.title) == (done["commit"], f"Mirror of me/to-mirror at {source.sha[:12]}")
    assert source.sha in first.message and server.endpoint in first.message and len(before) == 1

    again = mirrored(server, target, tmp_path, "to-mirror", name="me/copy")
    # the picture is a large file on one hub only: that it is the same shows when it is here
    assert (again["copied"], again["commit"]) == (1, done["commit"])

    owner = caller_of(server.hub)
    changes = [commits.DeleteFile("empty.txt"), commits.AddFile("kept.log", b"changed")]
    commits.apply(server.hub, owner, source, "main", changes, "Change")
    after = mirrored(server, target, tmp_path, "to-mirror", name="me/copy")
    assert (after["copied"], after["deleted"]) == (2, ["empty.txt"])
    assert contents(target, "me/copy") == contents(server, "me/to-mirror")


def test_a_revision_and_patterns_choose_what_is_mirrored(server, target, tmp_path):
    old = publish(server.hub, "me/chosen", {"config.json": "{}", "a.txt": "old"})
    publish(server.hub, "me/chosen", {"a.txt": "new", "b.bin": LARGE})
    mirrored(server, target, tmp_path, "chosen", revision=old.sha[:10], include=["*.txt", "*.bin"])
    assert contents(target, "me/chosen").keys() - {".gitattributes"} == {"a.txt"}
    assert contents(target, "me/chosen")["a.txt"] == b"old"
    assert "None of the" in mirrored(server, target, tmp_path, "chosen", include=["*.none"])


DAMAGE = """
plain = mirroring._Origin.download
def download(self, path, folder):
    file = plain(self, path, folder)
    if path == {path!r}:
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return file
mirroring._Origin.download = download
"""


@pytest.mark.parametrize("path", ["model.bin", "README.md"])
def test_a_file_that_is_not_what_was_promised_stops_the_mirror(server, target, tmp_path, path):
    publish(server.hub, "me/damaged", {"model.bin": LARGE, "README.md": "# Whole"})
    error = mirrored(server, target, tmp_path, "damaged", before=DAMAGE.format(path=path), name=f"me/{path[:5]}")
    assert path in error and "Nothing was committed" in error
    assert list(contents(target, f"me/{path[:5]}")) == [".gitattributes"]


def test_names_that_leave_the_folder_are_refused():
    from hfvision.errors import HubAccessError
    from hfvision.mirroring import _check_paths

    _check_paths(["a/b.txt", "weird näme #1%?.txt", "..a/b..", ".gitattributes"], "hub")
    for bad in ("../a", "/etc/passwd", "a/../../b", "a//b", "./a", "C:/x", "a\\..\\b", "a\0b", ""):
        with pytest.raises(HubAccessError, match="1 unsafe file name"):
            _check_paths(["fine", bad], "hub")


def test_the_token_of_the_target_is_not_sent_to_the_source(server, target, tmp_path):
    publish(server.hub, "me/closed", {"a.txt": "private"}, private=True)  # the same token would open it
    error = mirrored(server, target, tmp_path, "closed")
    assert "HubAccessError" in error and "not found" in error.lower()
    mirrored(server, target, tmp_path, "closed", source_token=TOKENS["me"])
    assert repositories.find(target.hub, caller_of(target.hub), "model", "me/closed").private


def test_a_repository_is_no_mirror_of_itself(server, tmp_path):
    publish(server.hub, "me/itself", {"a.txt": "a"})
    assert "source and target at once" in mirrored(server, server, tmp_path, "itself")
