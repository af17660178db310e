"""Xet's bytes, taken in and handed out: built here by hand; the real client is in the tests of clients."""

import asyncio
import hashlib
import random

import pytest

from hfvision.hub import accounts, large_files, repositories, xet
from hfvision.hub.errors import BadRequest, BadToken, ChecksumMismatch, Forbidden, HubError, NotFound
from hfvision.hub.xet_format import hash_text, packed_chunks, parse_shard, unpack, xorb_hash
from tests.hub.calls import chunk, hash_bytes, shard, small_xorb

SIZES = (9000, 70_001, 131_072, 12_003)


@pytest.fixture
def chunks():
    dice = random.Random(0)
    return [bytes(dice.choices(b"abc\0", k=size)) for size in SIZES]


@pytest.fixture
def xorb(chunks):
    body = b"".join(chunk(data, scheme) for data, scheme in zip(chunks, (0, 1, 2, 2), strict=True))
    return xorb_hash(memoryview(body)), body


def send(hub, access, name, body):
    async def stream():
        yield body

    return asyncio.run(xet.receive_xorb(hub, access, name, stream()))


@pytest.fixture
def access(hub, owner, repo):
    return xet.grant(hub, repo.id, owner, "write")[1]


def test_hash_texts_lead_back():
    raw = bytes(range(32))
    assert hash_text(raw).startswith("0706050403020100")
    assert hash_bytes(hash_text(raw)) == raw


def test_chunks_of_every_scheme_unpack(chunks, xorb):
    found = [unpack(scheme, size, packed) for _, scheme, size, packed in packed_chunks(memoryview(xorb[1]))]
    assert found == chunks


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\1" * 20,
        chunk(b"x", 0)[:-1],
        chunk(b"x" * (128 * 1024 + 1), 1),
        chunk(b"", 0),
        chunk(b"x" * 100, 3),
        b"\0\5\0\0\1\5\0\0hello",
        chunk(b"x" * 100_000, 1)[:5] + b"\x10\0\0" + chunk(b"x" * 100_000, 1)[8:],  # unpacks to more than it says
        chunk(b"x" * 10, 1)[:5] + b"\0\0\1" + chunk(b"x" * 10, 1)[8:],  # and to less
    ],
)
def test_bad_xorbs_are_refused(body):
    with pytest.raises(BadRequest):
        xorb_hash(memoryview(body))


def test_a_shard_makes_files_of_the_senders_own_xorbs(hub, owner, repo, access, chunks, xorb):
    name, body = xorb
    assert send(hub, access, name, body) is True
    assert send(hub, access, name, body) is False
    data = chunks[1] + chunks[2] + chunks[0]
    sha256 = hashlib.sha256(data).hexdigest()
    whole = shard((sha256, [(name, len(chunks[1] + chunks[2]), 1, 3), (name, len(chunks[0]), 0, 1)]))
    assert [one.size for one in parse_shard(whole)] == [len(data)]
    assert xet.receive_shard(hub, access, whole) == 1
    assert xet.receive_shard(hub, access, whole) == 0
    assert large_files.held(hub, repo, [sha256]) == {sha256: len(data)}
    assert hub.store.read(large_files.key(sha256)) == data
    accounts.create_user(hub, "thief")
    thief = accounts.authenticate(hub, accounts.create_token(hub, "thief", "x"))
    target = repositories.create(hub, thief, "model", "loot")
    foreign = xet.grant(hub, target.id, thief, "write")[1]
    with pytest.raises(BadRequest, match="has not uploaded"):  # neither another's xorb ...
        xet.receive_shard(hub, foreign, whole)
    send(hub, foreign, *small_xorb(b"y" * 100))
    with pytest.raises(ChecksumMismatch):  # ... nor the hash of another's file is of any use
        xet.receive_shard(hub, foreign, shard((sha256, [(small_xorb(b"y" * 100)[0], 100, 0, 1)])))
    assert large_files.held(hub, target, [sha256]) == {}


def test_bad_shards_leave_nothing(hub, repo, access, chunks, xorb):
    name, body = xorb
    send(hub, access, name, body)
    sha256 = hashlib.sha256(chunks[0]).hexdigest()
    good = shard((sha256, [(name, len(chunks[0]), 0, 1)]))
    bad = [good[:-96], good[:60], b"", b"x" * 200, shard((None, [(name, len(chunks[0]), 0, 1)]))]
    bad += [
        shard((sha256, [(name, size, start, end)])) for size, start, end in ((1, 0, 1), (9000, 0, 99), (9000, 1, 1))
    ]
    for body in bad:
        with pytest.raises(HubError):
            xet.receive_shard(hub, access, body)
    with pytest.raises(BadRequest, match="has hash"):
        send(hub, access, "0" * 64, xorb[1])
    assert list(hub.store.listing("lfs/")) == []


def test_tokens_are_for_one_space_one_purpose_and_a_while(hub, owner, repo):
    text, access = xet.grant(hub, repo.id, owner, "read")
    assert xet.check(hub, text, access.space, "read") == access
    with pytest.raises(Forbidden):
        xet.check(hub, text, access.space, "write")
    for wrong in (text[:-1], text + "0", "x" + text, "", ".", "é.é"):
        with pytest.raises(BadToken):
            xet.check(hub, wrong, access.space, "read")
    with pytest.raises(BadToken):
        xet.check(hub, text, access.space + "1", "read")


def test_downloads_are_cut_from_the_file_itself(hub, owner, repo, access):
    data = random.Random(1).randbytes(33 * 1024 * 1024 + 12_345)  # more than one virtual xorb
    sha256 = hashlib.sha256(data).hexdigest()
    large_files.receive(hub, repo.id, sha256, len(data), [data])
    for start, end in ((0, None), (70_000, 70_001), (33_000_000, 34_000_000), (len(data) - 1, None)):
        answer = xet.reconstruction(hub, access, sha256, start, end)
        found = b""
        for term in answer["terms"]:
            part = answer["fetch_info"][term["hash"]][0]
            name, signature = part["url"].removeprefix("/virtual/").split("?sig=")
            span = part["url_range"]["start"], part["url_range"]["end"]
            framed = b"".join(xet.virtual_xorb(hub, access.space, name, signature, *span))
            assert len(framed) == span[1] - span[0] + 1
            plain = b"".join(
                unpack(scheme, size, packed) for _, scheme, size, packed in packed_chunks(memoryview(framed))
            )
            assert len(plain) == term["unpacked_length"]
            found += plain
        skip = answer["offset_into_first_range"]
        wanted = data[start:end]
        assert found[skip : skip + len(wanted)] == wanted
    with pytest.raises(Forbidden):
        xet.virtual_xorb(hub, access.space, name, "0" * 64, 0, 10)
    with pytest.raises(Forbidden):
        xet.virtual_xorb(hub, access.space + "0", name, signature, 0, 10)
    with pytest.raises(HubError) as beyond:
        xet.reconstruction(hub, access, sha256, len(data))
    assert beyond.value.status == 416
    with pytest.raises(NotFound):
        xet.reconstruction(hub, access, "0" * 64)
