"""The store: whole and verified objects or none, on a folder and on an S3-compatible server."""

import asyncio
import hashlib
import os
import urllib.request

import pytest

from hfvision.errors import ConfigError
from hfvision.hub.errors import ChecksumMismatch, TooLarge
from hfvision.hub.store import Check, Store
from tests.hub import backends

KEY = "lfs/ab/cd/name"
DATA = bytes(range(256)) * 80_000  # 20 MB: more than one part of an upload
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(params=["folder", "s3"])
def store(request, tmp_path, monkeypatch):
    if request.param == "folder":
        return Store(str(tmp_path / "store"))
    environment = request.getfixturevalue("s3_environment")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Store(backends.new_bucket(environment))


def blocks(data, size=1_000_003):
    return (data[at : at + size] for at in range(0, len(data), size))


async def stream(data):
    for block in blocks(data):
        yield block


def put(store, data, check, how):
    if how == "whole":
        store.put(KEY, blocks(data), check, len(data))
    else:
        asyncio.run(store.put_stream(KEY, stream(data), check, len(data)))


@pytest.mark.parametrize("how", ["whole", "stream"])
@pytest.mark.parametrize("data", [DATA, b"", b"x"])
def test_what_was_put_comes_back(store, data, how):
    put(store, data, Check(hashlib.sha256(data).hexdigest(), len(data)), how)
    assert store.size(KEY) == len(data)
    assert store.read(KEY) == data == b"".join(store.stream(KEY))
    assert store.read(KEY, 3, 1_500_000) == data[3:1_500_000]
    assert b"".join(store.stream(KEY, 1_999_999, 5_000_000)) == data[1_999_999:5_000_000]
    assert [(one.key, one.size) for one in store.listing("lfs/")] == [(KEY, len(data))]


@pytest.mark.parametrize("how", ["whole", "stream"])
@pytest.mark.parametrize(
    "check", [Check("0" * 64, len(DATA)), Check(SHA256, len(DATA) - 1), Check(SHA256, len(DATA) + 1)]
)
def test_a_wrong_hash_or_length_leaves_nothing(store, how, check):
    check = Check(check._sha256, check._size)  # a fresh one: parameters are shared between the two stores
    with pytest.raises(ChecksumMismatch, match="nothing was kept"):
        put(store, DATA, check, how)
    assert store.size(KEY) is None
    assert list(store.listing("lfs/")) == []


@pytest.mark.parametrize("how", ["whole", "stream"])
def test_a_limit_ends_an_upload_of_unknown_length(store, how):
    with pytest.raises(TooLarge):
        put(store, DATA, Check(None, None, limit=1_000_000), how)
    assert store.size(KEY) is None


def test_a_source_that_fails_leaves_nothing_and_its_error_is_the_one_raised(store):
    def broken():
        yield DATA
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.put(KEY, broken(), Check(None, None))
    assert store.size(KEY) is None


def test_a_source_may_itself_read_from_the_store(store):
    """Joining parts and building files from xorbs do."""
    store.put("tmp/1", blocks(DATA), Check(SHA256, len(DATA)))
    store.put(KEY, store.stream("tmp/1"), Check(SHA256, len(DATA)), len(DATA))
    store.delete(["tmp/1", "tmp/never was"])
    assert store.size("tmp/1") is None
    assert hashlib.sha256(store.read(KEY)).hexdigest() == SHA256


def test_reading_what_is_not_there_says_so(store):
    for read in (
        lambda: store.read("lfs/no"),
        lambda: store.read("lfs/no", 0, 5),
        lambda: list(store.stream("lfs/no")),
    ):
        with pytest.raises(FileNotFoundError):
            read()


def test_a_signed_address_reads_without_credentials(store):
    store.put(KEY, [b"content"], Check(None, None))
    address = store.sign(KEY, 60)
    if store.local is not None:
        assert address is None
        assert store.path(KEY).read_bytes() == b"content"
        return
    with urllib.request.urlopen(address, timeout=10) as answer:
        assert answer.read() == b"content"


def test_a_folder_holds_no_half_written_files(tmp_path):
    store = Store(str(tmp_path / "store"))
    with pytest.raises(ChecksumMismatch):
        store.put(KEY, blocks(DATA), Check("0" * 64, None))
    assert [name for _, _, names in os.walk(tmp_path) for name in names] == []


def test_a_store_that_cannot_be_opened_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    for url in (str(tmp_path / "file"), "unknown://x"):
        with pytest.raises(ConfigError, match="cannot be opened"):
            Store(url)
