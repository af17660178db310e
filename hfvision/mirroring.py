"""Copy a repository from one Hub to another: one commit with the files of a revision, every hash verified.

    mirror("google/vit-base-patch16-224", source="https://hub.example.org", endpoint="http://127.0.0.1:8000")

It is an ordinary client of both, through huggingface_hub. Each file's content is hashed after it was downloaded and
compared with what the source promised (sha256 of large files, git's blob hash of all others), before anything of it
goes to the target; after the commit the target's listing is compared once more. The history is flattened: the target
gets one commit whose message names the source and its commit.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Literal

from hfvision.errors import ConfigError, HubAccessError, numbered
from hfvision.hub_access import hub_errors, quiet_client

PUBLIC = "https://huggingface.co"
RepoType = Literal["model", "dataset"]
BATCH_FILES = 200  # that are downloaded, verified and sent on together
BATCH_BYTES = 2 << 30  # of which the larger ones are deleted here when they have been sent
BLOCK = 1 << 20
NOTHING_IGNORED = "# a mirror holds what its source holds\n"
ATTRIBUTES = ".gitattributes"  # every new repository has one


@dataclass(frozen=True)
class Promise:
    """What a Hub says of a file: its size in bytes, git's hash of it as a blob, its sha256 where it says so."""

    size: int
    blob: str | None  # None: the Hub's is that of a pointer, not of the content
    sha256: str | None

    def same(self, other: "Promise") -> bool:
        """Whether both are surely the same content."""
        if self.size != other.size:
            return False
        return (self.blob is not None and self.blob == other.blob) or (
            self.sha256 is not None and self.sha256 == other.sha256
        )


@dataclass(frozen=True)
class Mirrored:
    """What a mirror did; sizes in bytes."""

    repo_id: str
    repo_type: RepoType
    url: str
    commit: str  # on the target
    source_commit: str
    files: int
    size: int
    copied: int  # files that were transferred; the others were there already
    deleted: list[str] = field(default_factory=list)  # files of the target that the source has not


def mirror(
    repo_id: str,
    *,
    source: str = PUBLIC,
    revision: str | None = None,
    repo_type: RepoType = "model",
    name: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    source_token: str | None = None,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Mirrored:
    """Copy `repo_id` at `revision` (main) from the Hub at `source` to the one at `endpoint`, as `name` or the same id.

    endpoint and token default to HF_ENDPOINT and HF_TOKEN; the token is never sent to the source, which gets
    `source_token` or nothing. include and exclude are patterns of paths (`*.safetensors`): a pattern matches the
    whole path. A repository that is private or gated at its source becomes private on the target. A second mirror
    transfers what has changed (and what one Hub keeps as a large file and the other does not), as one more commit,
    and deletes what the source has no more.

    Raises HubAccessError where a Hub refuses or sends something else than it promised; then the target has no new
    commit. ConfigError where source and target are the same.
    """
    from huggingface_hub import HfApi

    there = HfApi(endpoint=source.rstrip("/"), token=source_token or False, library_name="hfvision")
    here = HfApi(endpoint=endpoint, token=token, library_name="hfvision")
    target_id = name or repo_id
    if there.endpoint == here.endpoint and target_id.lower() == repo_id.lower():
        raise ConfigError(f"{repo_id} on {there.endpoint} is source and target at once; give another name or source.")
    with hub_errors(there.endpoint):
        info = there.repo_info(repo_id, revision=revision, repo_type=repo_type)
        commit_there = _sha(info)
        promised = _listing(there, repo_id, repo_type, commit_there)
    _check_paths(promised, f"{there.endpoint}/{repo_id}")
    wanted = {path: promise for path, promise in promised.items() if _chosen(path, tuple(include), tuple(exclude))}
    if not wanted:
        raise ConfigError(f"None of the {len(promised)} files of {repo_id} is chosen by include and exclude.")
    closed = bool(info.private or info.gated)
    with hub_errors(here.endpoint):
        url = here.create_repo(target_id, repo_type=repo_type, private=closed, exist_ok=True)
        held = _listing(here, target_id, repo_type, None)
        head = _sha(here.repo_info(target_id, repo_type=repo_type))
    missing = {path: promise for path, promise in wanted.items() if path not in held or not promise.same(held[path])}
    gone = sorted(path for path in held if path not in wanted and path != ATTRIBUTES)
    say(f"{repo_id} at {commit_there[:12]}: {len(wanted)} files, {len(missing)} to copy, {len(gone)} to delete")
    if not missing and not gone:
        size = sum(promise.size for promise in wanted.values())
        return Mirrored(target_id, repo_type, str(url), head, commit_there, len(wanted), size, 0)
    origin = _Origin(there, repo_id, repo_type, commit_there)
    with TemporaryDirectory(prefix="hfvision-mirror-") as work, quiet_client():
        contents, commit = _transfer(origin, here, target_id, missing, gone, Path(work), say)
    _check_target(_listing(here, target_id, repo_type, commit), wanted, contents, f"{here.endpoint}/{target_id}")
    return Mirrored(
        target_id,
        repo_type,
        str(url),
        commit,
        commit_there,
        len(wanted),
        sum(promise.size for promise in wanted.values()),
        len(missing),
        gone,
    )


@dataclass(frozen=True)
class _Origin:
    """Where the files come from."""

    api: Any
    repo_id: str
    repo_type: RepoType
    commit: str

    def download(self, path: str, folder: Path) -> Path:
        with hub_errors(self.api.endpoint):
            found = self.api.hf_hub_download(
                self.repo_id, path, repo_type=self.repo_type, revision=self.commit, local_dir=folder
            )
        return Path(found)


def _transfer(
    origin: _Origin,
    here: Any,
    target_id: str,
    missing: Mapping[str, Promise],
    gone: Iterable[str],
    work: Path,
    say: Callable[[str], None],
) -> tuple[dict[str, Promise], str]:
    """Download, verify and send all missing files, then commit. Returns what the files hold, and the commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[Any] = [CommitOperationDelete(path, is_folder=False) for path in gone]
    contents: dict[str, Promise] = {}
    for batch in _batches(missing):
        additions = []
        for path in batch:
            file = origin.download(path, work)
            contents[path] = _verified(file, path, missing[path], f"{origin.api.endpoint}/{origin.repo_id}")
            additions.append(CommitOperationAdd(path, file))
        with hub_errors(here.endpoint):
            here.preupload_lfs_files(
                target_id, additions, repo_type=origin.repo_type, gitignore_content=NOTHING_IGNORED
            )
        for addition in additions:
            if addition.path_or_fileobj == b"":  # sent as a large file: the disk is free for the next ones
                (work / addition.path_in_repo).unlink()
        operations += additions
        say(f"    {len(contents)} of {len(missing)} files")
    with hub_errors(here.endpoint):
        commit = here.create_commit(
            target_id,
            operations,
            repo_type=origin.repo_type,
            commit_message=f"Mirror of {origin.repo_id} at {origin.commit[:12]}",
            commit_description=f"From {origin.api.endpoint}, commit {origin.commit}.",
        )
    return contents, commit.oid


def _sha(info: Any) -> str:
    """The commit that a Hub says a revision is. Raises HubAccessError for a Hub that does not say."""
    if not isinstance(info.sha, str):
        raise HubAccessError(f"The Hub does not say which commit {info.id} is at.")
    return info.sha


def _listing(api: Any, repo_id: str, repo_type: RepoType, revision: str | None) -> dict[str, Promise]:
    """What a Hub says of each file of a revision."""
    entries = api.list_repo_tree(repo_id, recursive=True, revision=revision, repo_type=repo_type)
    with hub_errors(api.endpoint):
        return {entry.path: _promise(entry) for entry in entries if hasattr(entry, "size")}


def _promise(entry: Any) -> Promise:
    if entry.lfs is not None:
        return Promise(entry.lfs.size, None, entry.lfs.sha256)
    return Promise(entry.size, entry.blob_id, None)


def _check_paths(paths: Iterable[str], where: str) -> None:
    """Raises HubAccessError for names that could leave the folder that files are downloaded to."""
    bad = [
        path
        for path in paths
        if PurePosixPath(path).is_absolute()
        or any(part in ("", ".", "..") for part in path.split("/"))
        or any(char in path for char in "\\\0\r\n")
        or ":" in path.split("/")[0][:2]
    ]
    if bad:
        raise HubAccessError(f"{where} is not copied. " + numbered("unsafe file name", map(repr, bad), most=5))


def _chosen(path: str, include: tuple[str, ...], exclude: tuple[str, ...]) -> bool:
    wanted = not include or any(fnmatchcase(path, pattern) for pattern in include)
    return wanted and not any(fnmatchcase(path, pattern) for pattern in exclude)


def _batches(files: Mapping[str, Promise]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for path, promise in files.items():
        if batch and (len(batch) == BATCH_FILES or size + promise.size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += promise.size
    if batch:
        yield batch


def _verified(file: Path, path: str, promise: Promise, where: str) -> Promise:
    """Size and both hashes of a downloaded file. Raises HubAccessError unless they are what was promised."""
    size = file.stat().st_size
    sha256 = hashlib.sha256()
    blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            sha256.update(block)
            blob.update(block)
    content = Promise(size, blob.hexdigest(), sha256.hexdigest())
    if not promise.same(content):
        wanted = promise.sha256 or promise.blob
        got = content.sha256 if promise.sha256 else content.blob
        raise HubAccessError(
            f"{where}: {path} should have {promise.size} bytes with hash {wanted}; what came has {size} with {got}. "
            "Nothing was committed."
        )
    return content


def _check_target(
    held: Mapping[str, Promise], wanted: Mapping[str, Promise], contents: Mapping[str, Promise], where: str
) -> None:
    """Raises HubAccessError unless the target lists every file with a hash of the content that was sent."""
    problems = [f"{path} is missing" for path in wanted if path not in held]
    problems += [
        f"{path} is listed with other content"
        for path, promise in wanted.items()
        if path in held and not contents.get(path, promise).same(held[path])
    ]
    if problems:
        raise HubAccessError(f"{where} does not hold what was sent. " + numbered("mismatch", problems, most=10))
