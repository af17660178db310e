"""The side that dies: uploads, commits, proposes, merges, moves, squashes, purges and collects until it is killed.

Says on stdout what it is about to do and, once the hub has acknowledged it, that it is done; the other side compares
that with what it finds. Arguments: the hub's folder, the database's URL or nothing.
"""

import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from hfvision.hub import accounts, commits, large_files, pulls, purging, refs, repositories, upkeep
from hfvision.hub.commits import AddFile, AddLargeFile, DeleteFile
from hfvision.hub.errors import BadRequest
from hfvision.hub.instance import Hub, open_hub
from hfvision.hub.repositories import Repo
from hfvision.hub.settings import HubSettings

T = TypeVar("T")
TOKEN = "hf_" + "c" * 32
lock = threading.Lock()


def say(*words: object) -> None:
    with lock:
        os.write(1, (" ".join(map(str, words)) + "\n").encode())


def committing(hub: Hub, life: str, writer: int) -> None:
    """Commits of two files with the same content and a large one with it too: whole, or not there."""
    caller = accounts.authenticate(hub, TOKEN)
    repo = repositories.find(hub, caller, "model", "owner/x")
    for number in range(10**9):
        name = f"{life}-{writer}-{number}"
        data = name.encode() * 1000
        sha256 = hashlib.sha256(data).hexdigest()
        files = [AddFile(f"{writer}/a", name.encode()), AddFile(f"{writer}/b", name.encode())]
        say("try", "commit", name)
        made = with_large_file(
            hub,
            repo,
            data,
            lambda files=files, sha256=sha256, name=name: commits.apply(
                hub, caller, repo, "main", [*files, AddLargeFile(f"{writer}/large", sha256)], name
            ),
        )
        say("did", "commit", name, made.id)


def with_large_file(hub: Hub, repo: Repo, data: bytes, commit: Callable[[], T]) -> T:
    """Upload and commit, again where two seconds' grace were over before the commit came."""
    while True:
        try:
            blocks = (data[at : at + 4096] for at in range(0, len(data), 4096))
            large_files.receive(hub, repo.id, hashlib.sha256(data).hexdigest(), len(data), blocks)
            return commit()
        except (BadRequest, large_files.TryAgain):
            continue


def proposing(hub: Hub, life: str) -> None:
    """Pull requests with a commit of two files, each merged at once."""
    caller = accounts.authenticate(hub, TOKEN)
    repo = repositories.find(hub, caller, "model", "owner/pulled")
    for number in range(10**9):
        name = f"{life}-{number}"
        say("try", "propose", name)
        files = [AddFile(f"{name}/{one}", name.encode()) for one in "ab"]
        _, pull = pulls.propose(hub, caller, repo, "main", files, name)
        say("did", "propose", name, pull.number)
        say("did", "merge", name, pulls.merge(hub, caller, repo, pull.number).id)


def purging_away(hub: Hub, life: str) -> None:
    """Large files under new names, each taken out of all history again."""
    caller = accounts.authenticate(hub, TOKEN)
    repo = repositories.find(hub, caller, "model", "owner/purged")
    for number in range(10**9):
        data = f"{life} {number} purged".encode() * 500
        sha256 = hashlib.sha256(data).hexdigest()
        files = [AddLargeFile(f"d/{life}-{number}", sha256), AddFile("x", data[:20])]
        with_large_file(hub, repo, data, lambda files=files: commits.apply(hub, caller, repo, "main", files, "leak"))
        commits.apply(hub, caller, repo, "main", [AddFile("y", data[:20])], "on top")
        purging.purge(hub, caller, repo, [sha256], rewrite=True)
        say("did", "purge", f"d/{life}-{number}")


def moving(hub: Hub, life: str) -> None:
    """A repository that changes its name all the time."""
    caller = accounts.authenticate(hub, TOKEN)
    name = repositories.find(hub, caller, "model", "owner/moving").full_name
    for number in range(10**9):
        target = f"owner/moved-{life}-{number}"
        say("try", "move", target)
        repositories.move(hub, caller, "model", name, target)
        say("did", "move", target)
        name = target


def littering(hub: Hub, life: str) -> None:
    """Makes garbage of every kind."""
    caller = accounts.authenticate(hub, TOKEN)
    for number in range(10**9):
        repo = repositories.create(hub, caller, "dataset", f"garbage-{life}-{number}")
        data = f"{life} {number}".encode() * 5000
        sha256 = hashlib.sha256(data).hexdigest()
        with suppress(BadRequest, large_files.TryAgain):
            large_files.receive(hub, repo.id, sha256, len(data), [data])
            commits.apply(hub, caller, repo, "main", [AddLargeFile("w", sha256), AddFile("d/e", data)], "one")
        refs.create_branch(hub, caller, repo, "side")
        commits.apply(hub, caller, repo, "side", [DeleteFile(".gitattributes")], "two")
        commits.squash(hub, caller, repo, "main")
        repositories.delete(hub, caller, "dataset", repo.full_name)


def collecting(hub: Hub, life: str) -> None:
    """Collects it, also what former lives have left."""
    for number in range(10**9):
        upkeep.collect_garbage(hub)
        say("did", "collect", f"{life}-{number}")
        time.sleep(0.05)


def live(root: str, life: str, database: str) -> None:
    hub = open_hub(HubSettings(root=Path(root), database=database, grace_seconds=2))
    jobs = [(committing, (hub, life, writer)) for writer in range(2)]
    jobs += [(function, (hub, life)) for function in (moving, littering, collecting, proposing, purging_away)]
    say("alive", os.getpid())
    for function, arguments in jobs:
        threading.Thread(target=guarded, args=(function, *arguments), daemon=True).start()
    threading.Event().wait()


def guarded(function: Any, *arguments: Any) -> None:
    try:
        function(*arguments)
    except BaseException as error:
        say("failed", function.__name__, repr(error))
        raise


def lives(root: str, database: str = "") -> None:
    """One life for each line on stdin, in a fork of this process, which has imported everything and opened nothing."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            live(root, line.strip(), database)
        os.waitpid(child, 0)
        say("dead")


if __name__ == "__main__":
    lives(*sys.argv[1:])
