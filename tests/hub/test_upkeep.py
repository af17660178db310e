"""Garbage collection removes what nothing reaches and nothing else; fsck sees every fault; backups are hubs."""

import asyncio
import hashlib
import os
import threading
import time
from dataclasses import replace

import pytest
from sqlalchemy import delete, func, select, update

from hfvision.errors import ConfigError
from hfvision.hub import accounts, commits, files, large_files, refs, repositories, upkeep
from hfvision.hub.commits import AddFile, AddLargeFile, DeleteFile
from hfvision.hub.database import lfs, obj, ref, repo_commit, repo_lfs, session
from hfvision.hub.errors import RevisionNotFound
from hfvision.hub.instance import open_hub
from hfvision.hub.settings import HubSettings
from hfvision.hub.store import Check
from tests.hub import backends


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def upload(hub, repo, data):
    large_files.receive(hub, repo.id, sha256(data), len(data), [data])
    return sha256(data)


def age(hub, days=2):
    """Let all that was uploaded so far be days old."""
    past = int((time.time() - days * 86400) * 1000)
    with hub.writing() as connection:
        connection.execute(update(lfs).values(uploaded=past))
        connection.execute(update(repo_lfs).values(linked=past))
        connection.execute(update(session).values(created=past))
    for folder, _, names in os.walk(hub.store.local):
        for name in names:
            os.utime(os.path.join(folder, name), (past / 1000, past / 1000))


def rows(hub, table):
    with hub.reading() as connection:
        return connection.scalar(select(func.count()).select_from(table))


@pytest.fixture
def filled(hub, owner, repo):
    """A repository with large files in its head, in its past, under a tag and nowhere."""
    for name in ("head", "past", "tagged", "loose"):
        upload(hub, repo, name.encode() * 100)
    data = {name: sha256(name.encode() * 100) for name in ("head", "past", "tagged", "loose")}
    commits.apply(hub, owner, repo, "main", [AddLargeFile("past", data["past"]), AddFile("d/x", b"1")], "one")
    refs.create_branch(hub, owner, repo, "side")
    commits.apply(hub, owner, repo, "side", [AddLargeFile("t", data["tagged"])], "two")
    refs.create_tag(hub, owner, repo, "v1", "side")
    refs.delete_branch(hub, owner, repo, "side")
    commits.apply(hub, owner, repo, "main", [DeleteFile("past"), AddLargeFile("head", data["head"])], "three")
    return data


def stored(hub):
    return {one.key.rpartition("/")[2] for one in hub.store.listing("lfs/")}


def test_collection_keeps_everything_that_a_reference_reaches(hub, owner, repo, filled):
    commit = refs.resolve(hub, repo, "main")
    before = rows(hub, obj)
    assert upkeep.collect_garbage(hub).stored_objects == 0  # the loose one is too young
    age(hub)
    found = upkeep.collect_garbage(hub)
    assert (found.links, found.large_files, found.stored_objects, found.stored_bytes) == (1, 1, 1, 500)
    assert rows(hub, obj) == before
    assert stored(hub) == {filled["head"], filled["past"], filled["tagged"]}
    assert upkeep.fsck(hub) == []
    assert hub.store.read(files.open_file(hub, repo, "v1", "t").key) == b"tagged" * 100
    assert len(commits.history(hub, repo, commit).items) == 3


def test_collection_after_a_squash_and_a_deletion(hub, owner, repo, filled):
    old = refs.resolve(hub, repo, "main")
    other = repositories.create(hub, owner, "model", "other")
    upload(hub, other, b"head" * 100)
    commits.apply(hub, owner, other, "main", [AddLargeFile("same", filled["head"])], "shared")
    commits.squash(hub, owner, repo, "main")
    refs.delete_tag(hub, owner, repo, "v1")
    age(hub)
    upkeep.collect_garbage(hub)
    assert stored(hub) == {filled["head"]}
    with pytest.raises(RevisionNotFound):
        refs.resolve(hub, repo, old)
    assert upkeep.fsck(hub) == []
    repositories.delete(hub, owner, "model", "owner/x")
    age(hub)
    upkeep.collect_garbage(hub)
    assert stored(hub) == {filled["head"]}  # the other repository has it, too
    repositories.delete(hub, owner, "model", "owner/other")
    age(hub)
    upkeep.collect_garbage(hub)
    assert (stored(hub), rows(hub, obj), rows(hub, lfs), rows(hub, repo_commit)) == (set(), 0, 0, 0)


def test_a_sweeper_gets_its_turn_among_writers_who_never_pause(postgres_url, tmp_path):
    hub = open_hub(HubSettings(root=tmp_path / "hub", database=backends.new_database(postgres_url)))
    swept, kept_out = threading.Event(), []

    def write(number):
        time.sleep(number / 200)
        for _ in range(150):
            with hub.writing() as connection:
                connection.execute(select(func.pg_sleep(0.02)))
            if swept.is_set():
                return
        kept_out.append(number)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for writer in writers:
        writer.start()
    time.sleep(0.05)
    with hub.writing(sweeping=True):
        swept.set()
    for writer in writers:
        writer.join()
    hub.close()
    assert kept_out == []


def test_collection_clears_what_died_half_way(hub, owner, repo):
    async def body():
        yield b"part"

    session_id = large_files.begin_parts(hub, repo.id, "0" * 64, 4)
    asyncio.run(large_files.receive_part(hub, session_id, 1, body()))
    this_month = f"xorb/{hub.instance_id}-{time.strftime('%Y%m', time.gmtime())}-1/a"
    for key in (f"xorb/{hub.instance_id}-202001-1/a", "xorb/other-209901-1/a", this_month, large_files.key("1" * 64)):
        hub.store.put(key, [b"x"], Check(None, None))
    (hub.store.local / "partial").mkdir(exist_ok=True)
    (hub.store.local / "partial" / "x").write_bytes(b"x")
    upkeep.collect_garbage(hub)
    assert len([name for _, _, names in os.walk(hub.store.local) for name in names]) == 6  # all too young
    age(hub)
    upkeep.collect_garbage(hub)
    left = [name for _, _, names in os.walk(hub.store.local) for name in names]
    assert left == ["a"]
    assert hub.store.size(this_month) == 1
    assert rows(hub, session) == 0


def test_an_upload_whose_bytes_were_collected_can_be_sent_again(hub, owner, repo):
    """The store loses the file between the upload of the bytes and the link: an error that says to try again."""
    hub.store.put(large_files.key(sha256(b"x")), [b"x"], Check(None, None))
    age(hub)
    upkeep.collect_garbage(hub)
    with pytest.raises(large_files.TryAgain):
        large_files.link(hub, repo.id, sha256(b"x"), 1)
    upload(hub, repo, b"x")
    assert upkeep.fsck(hub) == []


def test_a_collection_that_dies_when_the_bytes_are_gone_leaves_no_link_to_them(hub, owner, repo, monkeypatch):
    upload(hub, repo, b"loose")
    age(hub)
    delete_bytes = hub.store.delete

    def die(keys):
        delete_bytes(keys)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(hub.store, "delete", die)
        with pytest.raises(KeyboardInterrupt):
            upkeep.collect_garbage(hub)
    assert hub.store.size(large_files.key(sha256(b"loose"))) is None
    assert upkeep.fsck(hub) == [] and large_files.held(hub, repo, [sha256(b"loose")]) == {}
    assert upkeep.collect_garbage(hub).large_files == 1


def test_fsck_names_every_fault(hub, owner, repo, filled):
    commits.apply(hub, owner, repo, "main", [AddFile("broken", b"right"), AddFile("e/missing", b"gone")], "more")
    blob = {entry.path: entry.oid for entry in files.siblings(hub, repo, "main")}
    with hub.writing() as connection:
        connection.execute(update(obj).where(obj.c.oid == blob["broken"]).values(data=b"wrong"))
        connection.execute(delete(obj).where(obj.c.oid == blob["e/missing"]))
        connection.execute(update(ref).where(ref.c.kind == "tags").values(oid="0" * 40))
        connection.execute(update(ref).where(ref.c.kind == "heads").values(name="not-main"))
    path = hub.store.path(large_files.key(filled["head"]))
    path.write_bytes(b"HEAD" * 100)
    hub.store.path(large_files.key(filled["past"])).unlink()
    problems = "\n".join(upkeep.fsck(hub))
    for sign in (
        f"blob {blob['broken']} has other bytes",
        f"(missing) names blob {blob['e/missing']}, which is missing",
        "refs/tags/v1 of model owner/x names commit 0000",
        "has no main branch",
        f"large file {filled['head']} has other bytes",
        f"large file {filled['past']} has None bytes",
    ):
        assert sign in problems
    assert f"large file {filled['head']}" not in "\n".join(upkeep.fsck(hub, contents=False))


def test_a_backup_is_a_hub_and_can_be_restored(hub, owner, repo, filled, tmp_path, request):
    token = accounts.create_token(hub, "owner", "kept")
    size = upkeep.backup(hub, tmp_path / "backup")
    assert size == sum(len(name) * 100 for name in filled)
    with pytest.raises(ConfigError, match="exists already"):
        upkeep.backup(hub, tmp_path / "backup")
    target = HubSettings(root=tmp_path / "restored")
    if hub.settings.database:
        target = replace(target, database=backends.new_database(request.getfixturevalue("postgres_url")))
    upkeep.restore(tmp_path / "backup", target)
    for settings in (HubSettings(root=tmp_path / "backup"), target):
        copy = open_hub(settings)
        assert upkeep.fsck(copy) == []
        caller = accounts.authenticate(copy, token)
        assert refs.list_refs(copy, repo) == refs.list_refs(hub, repo)
        assert copy.store.read(files.open_file(copy, repo, "main", "head").key) == b"head" * 100
        assert repositories.create(copy, caller, "model", "next").id > repo.id
        assert accounts.create_user(copy, "newer").id > caller.account.id
        copy.close()
    with pytest.raises(ConfigError, match="has accounts already"):
        upkeep.restore(tmp_path / "backup", target)
    with pytest.raises(ConfigError, match="no backup"):
        upkeep.restore(tmp_path / "nothing", target)


def test_a_backup_that_fails_leaves_nothing(hub, owner, repo, filled, tmp_path):
    hub.store.path(large_files.key(filled["past"])).unlink()
    with pytest.raises(ConfigError, match="left the store"):
        upkeep.backup(hub, tmp_path / "backup")
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]


def test_a_grown_up_hub_keeps_its_files_in_a_bucket(s3_environment, postgres_url, monkeypatch, tmp_path):
    """PostgreSQL and S3 by configuration alone; two openings stand for two processes."""
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    settings = HubSettings(
        root=tmp_path / "hub", database=backends.new_database(postgres_url), store=backends.new_bucket(s3_environment)
    )
    hub, second = open_hub(settings), open_hub(settings)
    accounts.create_user(hub, "owner")
    caller = accounts.authenticate(second, accounts.create_token(hub, "owner", "x"))
    repo = repositories.create(second, caller, "model", "x")
    data = os.urandom(9_000_000)
    upload(hub, repo, data)
    upload(hub, repo, b"never committed")
    commits.apply(second, caller, repo, "main", [AddLargeFile("w", sha256(data))], "large")
    found = files.open_file(hub, repo, "main", "w")
    assert hub.store.read(found.key, 1_000_000, 1_000_010) == data[1_000_000:1_000_010]
    with hub.writing() as connection:
        connection.execute(update(lfs).values(uploaded=0))
        connection.execute(update(repo_lfs).values(linked=0))
    assert upkeep.collect_garbage(second).large_files == 1
    assert upkeep.fsck(hub) == []
    assert upkeep.backup(hub, tmp_path / "backup") == len(data)
    embedded = open_hub(HubSettings(root=tmp_path / "backup"))
    assert upkeep.fsck(embedded) == []
    for one in (hub, second, embedded):
        one.close()
