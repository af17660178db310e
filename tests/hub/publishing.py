"""Repositories made directly through the services, for tests of what is shown of them."""

import hashlib
import io

from PIL import Image

from hfvision.hub import accounts, commits, large_files, repositories
from hfvision.hub.commits import AddFile, AddLargeFile
from hfvision.hub.errors import RepoNotFound
from hfvision.starters import STARTERS
from tests.hub.server import TOKENS

LARGE = 100_000  # bytes from which on a file is published as a large one


def caller_of(hub, user="me"):
    return accounts.authenticate(hub, TOKENS[user])


def publish(hub, full_name, files, kind="model", private=False, message="Add files"):
    """Create the repository if need be and commit {path: text or bytes}; returns it as it then is."""
    me = caller_of(hub, full_name.split("/")[0])
    try:
        repo = repositories.find(hub, me, kind, full_name)
    except RepoNotFound:
        repo = repositories.create(hub, me, kind, full_name.split("/")[1], private=private)
    operations = []
    for path, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        if len(data) < LARGE:
            operations.append(AddFile(path, data))
        else:
            sha256 = hashlib.sha256(data).hexdigest()
            large_files.receive(hub, repo.id, sha256, len(data), [data])
            operations.append(AddLargeFile(path, sha256, len(data)))
    commits.apply(hub, me, repo, "main", operations, message)
    return repositories.find(hub, me, kind, full_name)


def publish_starter(hub, name, full_name):
    return publish(hub, full_name, {file.name: file.read_bytes() for file in STARTERS[name].iterdir()})


def png(width=16, height=16, colour=(200, 60, 20)):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, format="PNG")
    return buffer.getvalue()
