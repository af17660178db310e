"""kill -9 at any instant: what was acknowledged is there, what was not is whole or absent, and fsck is clean.

HFVISION_KILLS says how often on each database (default 10; the full run is 200).
"""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from hfvision.hub import accounts, commits, files, pulls, repositories, upkeep
from hfvision.hub.instance import open_hub
from tests.hub import crash_side

KILLS = int(os.environ.get("HFVISION_KILLS", "10"))
JOBS = ("collect", "commit", "merge", "move", "propose", "purge")
SIDE = Path(crash_side.__file__)
PROJECT = Path(__file__).parents[2]


@contextmanager
def mortal(settings):
    """The other side: a process that lives once for each line it is given."""
    command = [sys.executable, str(SIDE), str(settings.root), settings.database]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with (settings.root / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
    with process:
        yield process
        process.stdin.close()


def life(process, number, dice):
    """One life, ended at a random instant after a random number of words: its words."""
    process.stdin.write(f"{number}\n")
    process.stdin.flush()
    alive, pid = process.stdout.readline().split()
    assert alive == "alive"
    said = [process.stdout.readline().split() for _ in range(dice.randint(0, 40))]
    time.sleep(dice.uniform(0, 0.02))
    os.kill(int(pid), signal.SIGKILL)
    while (words := process.stdout.readline().split()) != ["dead"]:
        said.append(words)
    assert not [words for words in said if words[0] == "failed"], said
    return said


def check(settings, said):
    """Compare what was said in all lives with what a fresh process finds."""
    hub = open_hub(settings)
    try:
        assert upkeep.fsck(hub) == []
        caller = accounts.authenticate(hub, crash_side.TOKEN)
        repo = repositories.find(hub, caller, "model", "owner/x")
        found = {commit.title: commit.id for commit in commits.history(hub, repo, "main", limit=10**6).items}
        done = {words[2]: words[3] for words in said if words[:2] == ["did", "commit"]}
        tried = {words[2] for words in said if words[:2] == ["try", "commit"]}
        assert done.items() <= found.items()
        assert found.keys() - {"initial commit"} <= tried
        for writer in range(2):  # the newest commits: the older ones were looked at after earlier lives
            newest = [title for title in found if title.split("-")[1:2] == [str(writer)]][:3]
            for title in newest:
                texts = {files.open_file(hub, repo, found[title], f"{writer}/{name}").data for name in "ab"}
                large = files.open_file(hub, repo, found[title], f"{writer}/large")
                assert texts == {title.encode()}
                assert hub.store.read(large.key) == title.encode() * 1000
        moves = ["owner/moving", *(words[2] for words in said if words[:2] == ["did", "move"])]
        moved = repositories.find(hub, caller, "model", "owner/moving")
        begun = {words[2] for words in said if words[:2] == ["try", "move"]}
        assert moved.full_name == moves[-1] or moved.full_name in begun - set(moves)
        assert all(repositories.find(hub, caller, "model", name).id == moved.id for name in moves)
        check_pulls(hub, repositories.find(hub, caller, "model", "owner/pulled"), said)
        check_purged(hub, repositories.find(hub, caller, "model", "owner/purged"), said)
    finally:
        hub.close()
    return len(done)


def check_pulls(hub, repo, said):
    """A pull request has its commit, and is merged exactly where main has what it changes."""
    found = {pull.title: pull for pull in pulls.pulls(hub, repo)}
    merged = {commit.title: commit.id for commit in commits.history(hub, repo, "main", limit=10**6).items}
    proposed = {words[2]: int(words[3]) for words in said if words[:2] == ["did", "propose"]}
    assert proposed.items() <= {title: pull.number for title, pull in found.items()}.items()
    assert found.keys() <= {words[2] for words in said if words[:2] == ["try", "propose"]}
    done = {words[2]: words[3] for words in said if words[:2] == ["did", "merge"]}
    known = {title: pull.merged_as for title, pull in found.items() if pull.status == "merged"}
    assert done.items() <= known.items()
    assert {f"{title} (#{found[title].number})": oid for title, oid in known.items()}.items() == {
        item for item in merged.items() if item[0] != "initial commit"
    }
    for pull in list(found.values())[:3]:
        assert [commit.title for commit in pulls.own_commits(hub, repo, pull.number)] == [pull.title]
        assert [change.path for change in pulls.changes(hub, repo, pull.number)] == [
            f"{pull.title}/a",
            f"{pull.title}/b",
        ]


def check_purged(hub, repo, said):
    """A large file is in the history with its bytes, or in no commit of it."""
    gone = {words[2] for words in said if words[:2] == ["did", "purge"]}
    for commit in commits.history(hub, repo, "main", limit=20).items:
        large = [entry for entry in files.siblings(hub, repo, commit.id) if entry.path.startswith("d/")]
        assert not gone & {entry.path for entry in large}
        assert all(entry.sha256 is not None for entry in large)


def test_nothing_is_lost_when_the_process_is_killed(hub, owner, tmp_path):
    settings = hub.settings
    accounts.create_token(hub, "owner", "crash", text=crash_side.TOKEN)
    for name in ("x", "moving", "pulled", "purged"):
        repositories.create(hub, owner, "model", name)
    hub.close()
    dice = random.Random(0)
    said, counted = [], 0
    with mortal(settings) as process:
        for number in range(KILLS):
            said += life(process, number, dice)
            counted = check(settings, said)
    assert counted >= KILLS  # the lives were long enough to commit something
    if KILLS >= 100:
        done = {what: sum(words[:2] == ["did", what] for words in said) for what in JOBS}
        assert all(done.values()), done
