"""What clients send, as small functions on a plain HTTP client."""

import base64
import hashlib
import itertools
import json
import struct

import lz4.frame

from hfvision.hub.xet_format import xorb_hash

NUMBERS = itertools.count()
BOOKEND = b"\xff" * 32 + b"\0" * 16


def fresh(client, kind="model", **more):
    """A new repository of the client's user, by a name not used before."""
    name = f"repo{next(NUMBERS)}"
    answer = client.post("/api/repos/create", json={"name": name, "organization": None, "type": kind, **more})
    assert answer.status_code == 200, answer.text
    return f"me/{name}"


def file_line(path, content):
    return {"key": "file", "value": {"path": path, "content": base64.b64encode(content).decode(), "encoding": "base64"}}


def large_line(path, content):
    oid = hashlib.sha256(content).hexdigest()
    return {"key": "lfsFile", "value": {"path": path, "algo": "sha256", "oid": oid, "size": len(content)}}


def delete_line(path):
    return {"key": "deletedFile", "value": {"path": path}}


def commit(client, repo, *lines, revision="main", kinds="models", query="", **header):
    """Send a commit; the answer as it comes."""
    lines = ({"key": "header", "value": {"summary": "a commit", "description": "", **header}}, *lines)
    body = "\n".join(json.dumps(line) for line in lines)
    return client.post(
        f"/api/{kinds}/{repo}/commit/{revision}{query}",
        content=body.encode(),
        headers={"content-type": "application/x-ndjson"},
    )


def batch(client, repo, *contents, operation="upload", transfers=("basic", "multipart")):
    objects = [{"oid": hashlib.sha256(content).hexdigest(), "size": len(content)} for content in contents]
    body = {"operation": operation, "transfers": transfers, "objects": objects, "hash_algo": "sha256"}
    return client.post(f"/{repo}.git/info/lfs/objects/batch", json=body)


def upload(client, nobody, repo, content):
    """A large file by the basic transfer; signed addresses need no token."""
    (row,) = batch(client, repo, content).json()["objects"]
    if "actions" in row:
        assert nobody.put(row["actions"]["upload"]["href"], content=content).status_code == 200
        verified = client.post(row["actions"]["verify"]["href"], json={"oid": row["oid"], "size": row["size"]})
        assert verified.status_code == 200, verified.text


def head_of(client, repo, revision="main"):
    return client.get(f"/api/models/{repo}/revision/{revision}").json()["sha"]


def pages(client, address):
    """All rows of a list, following its links; and how many pages there were."""
    rows, count = [], 0
    while address:
        answer = client.get(address)
        assert answer.status_code == 200, answer.text
        rows += answer.json()
        count += 1
        address = answer.links.get("next", {}).get("url")
    return rows, count


def chunk(data, scheme):
    """A chunk of a xorb, packed in one of the three ways."""
    packed = data
    if scheme == 2:
        packed = b"".join(data[plane::4] for plane in range(4))
    if scheme:
        packed = lz4.frame.compress(packed)
    return b"\0" + len(packed).to_bytes(3, "little") + bytes([scheme]) + len(data).to_bytes(3, "little") + packed


def hash_bytes(text):
    """The 32 bytes behind Xet's text of a hash, or of a sha256."""
    return struct.pack("<4Q", *(int(text[at : at + 16], 16) for at in range(0, 64, 16)))


def small_xorb(data):
    """Name and bytes of a xorb of one chunk."""
    body = chunk(data, 0)
    return xorb_hash(memoryview(body)), body


def shard(*files):
    """A shard as clients upload it. Files are (sha256 or None, [(xorb, bytes, first chunk, end)])."""
    body = b"HFRepoMetaData".ljust(32, b"\0") + struct.pack("<QQ", 2, 0)
    for sha256, segments in files:
        flags = (1 << 31) | ((1 << 30) if sha256 else 0)
        body += b"\1" * 32 + struct.pack("<IIQ", flags, len(segments), 0)
        body += b"".join(hash_bytes(xorb) + struct.pack("<4I", 0, *rest) for xorb, *rest in segments)
        body += b"\2" * 48 * len(segments) + ((hash_bytes(sha256) + b"\0" * 16) if sha256 else b"")
    return body + BOOKEND + BOOKEND
