"""The Hub's side of a push: what is there, what went wrong, and whether it holds what was sent.

Through huggingface_hub's public API, against any endpoint; nothing here changes a repository.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from huggingface_hub import HfApi, get_session, get_token, is_offline_mode
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, for all that

from hfvision.errors import PublishError
from hfvision.publishing.code import CONFIG, read_json

SMALL = 2**20  # bytes up to which a file is downloaded again after a push
MAIN = "main"
TAG = "hfvision"  # of the cards that hfvision writes
FRESH = {".gitattributes", "README.md"}  # what a repository may hold that has no model yet


@dataclass(frozen=True)
class Remote:
    """A repository as it was found, at the head of a revision."""

    exists: bool
    private: bool = False
    sha: str | None = None
    files: Mapping[str, RepoFile] = field(default_factory=dict)
    model_type: str | None = None
    by_hfvision: bool = False


def open_hub(repo_id: str, token: str | None, endpoint: str | None) -> HfApi:
    """A client that is logged in. Raises PublishError for a name that no repository can have, offline mode, and where
    there is no token or the endpoint does not know it.
    """
    try:
        validate_repo_id(repo_id)
        if repo_id.count("/") != 1:
            raise HFValidationError("an owner and a name are wanted")
    except HFValidationError as error:
        raise PublishError(
            f"{repo_id!r} names no repository ({str(error).splitlines()[0]}); write OWNER/NAME, like me/my-model."
        ) from None
    if is_offline_mode():
        raise PublishError("HF_HUB_OFFLINE is set, so nothing can be pushed; unset it and push again.")
    api = HfApi(endpoint=endpoint, token=token or get_token())
    if api.token is None:
        raise PublishError(
            f"There is no token for {api.endpoint}; log in with `hf auth login`, set HF_TOKEN, or give one (--token)."
        )
    try:
        api.whoami()
    except Exception as error:
        if _status(error) not in (401, 403):
            raise explained(error, repo_id, api) from error
        raise PublishError(
            f"{api.endpoint} does not accept this token; make one with write access in the account's settings there."
        ) from error
    return api


def look(api: HfApi, repo_id: str, revision: str) -> Remote:
    """What is on the Hub now. Raises PublishError, for a revision that is not there too."""
    try:
        info = api.model_info(repo_id, revision=revision)
        found = api.list_repo_tree(repo_id, recursive=True, revision=info.sha)
        files = {entry.path: entry for entry in found if isinstance(entry, RepoFile)}
        model_type = _remote_model_type(api, repo_id, info.sha) if CONFIG in files else None
    except GatedRepoError as error:
        raise explained(error, repo_id, api) from error
    except RepositoryNotFoundError:
        if revision != MAIN:
            raise PublishError(
                f"{repo_id} does not exist yet, so it has no revision {revision!r}; push without --revision first."
            ) from None
        return Remote(exists=False)
    except RevisionNotFoundError as error:
        raise PublishError(
            f"{repo_id} has no revision {revision!r}; it has {', '.join(_branches(api, repo_id))}. Create it with "
            f"`hf repos branch create {repo_id} {revision}`, or push to another."
        ) from error
    except Exception as error:
        raise explained(error, repo_id, api) from error
    card = info.card_data
    tags = [*(info.tags or ()), *((card.get("tags") or ()) if card else ())]
    return Remote(True, bool(info.private), info.sha, files, model_type, TAG in tags)


def differing(local: Mapping[str, Path], remote: Mapping[str, RepoFile]) -> list[str]:
    """The files that are not on the Hub with this content, by the hashes that it keeps."""
    return [path for path, file in local.items() if path not in remote or not _same(file, remote[path])]


def read_back(api: HfApi, repo_id: str, commit: str, local: Mapping[str, Path]) -> list[str]:
    """What was compared, at that commit. Raises PublishError for files that are not there as they were sent."""
    try:
        found = api.list_repo_tree(repo_id, recursive=True, revision=commit)
        bad = differing(local, {entry.path: entry for entry in found if isinstance(entry, RepoFile)})
        small = [path for path, file in local.items() if file.stat().st_size <= SMALL]
        bad += [path for path in small if _download(api, repo_id, commit, path) != local[path].read_bytes()]
    except Exception as error:
        raise PublishError(
            f"Commit {commit} of {repo_id} was made, but could not be read again to compare it ("
            f"{explained(error, repo_id, api)}). The same push again compares it."
        ) from error
    if bad:
        names = ", ".join(dict.fromkeys(bad))
        raise PublishError(
            f"Commit {commit} of {repo_id} was made, and holds other bytes than were sent: {names}. Push again with "
            "--overwrite; if that does not help, the endpoint or something between damages files."
        )
    large = len(local) - len(small)
    lines = [f"{len(small)} files were downloaded again and have the bytes that were sent"]
    return lines + ([f"the sha256 of {large} large files is that of what was sent"] if large else [])


def offers_xet(api: HfApi, repo_id: str, revision: str) -> bool:
    """Whether large files can go up by the protocol that today's client takes for all; else by git-LFS's."""
    url = f"{api.endpoint}/api/models/{repo_id}/xet-write-token/{quote(revision, safe='')}"
    status = get_session().get(url, headers=_headers(api)).status_code
    return status not in (404, 405, 501)


def explained(error: Exception, repo_id: str, api: HfApi) -> PublishError:
    """An error of huggingface_hub in our words: what is the matter with whom, and what to do."""
    while error.__cause__ is not None and _status(error) is None:  # uploads wrap what happened
        if not isinstance(error.__cause__, Exception):
            break
        error = error.__cause__
    status, said = _status(error), (str(error).strip().splitlines() or ["no message"])
    said += [server] if (server := getattr(error, "server_message", None)) else []
    where = f"{api.endpoint}/{repo_id}"
    if isinstance(error, GatedRepoError):
        return PublishError(f"{repo_id} is gated, and this token has no access to it: ask for it at {where}.")
    if isinstance(error, RepositoryNotFoundError):
        return PublishError(f"{repo_id} does not exist at {api.endpoint}, or this token may not see it.")
    if status in (401, 403):
        return PublishError(
            f"This token may not write to {repo_id} ({said[-1]}); use one with write access, or a name of your own."
        )
    if status == 409:
        return PublishError(f"{repo_id} exists, but this token may not see it; choose another name, or another token.")
    if status == 412:
        return PublishError(f"{repo_id} was changed by somebody else meanwhile; look at {where}, then push again.")
    if status is not None:
        return PublishError(f"{api.endpoint} answered {status} for {repo_id}: {said[-1]}")
    return PublishError(f"{api.endpoint} cannot be reached, or broke off: {type(error).__name__}: {said[0]}")


def digest(path: Path, start: bytes = b"", kind: str = "sha256") -> str:
    """The hash of `start` and a file's content, in hexadecimal."""
    found = hashlib.new(kind, start, usedforsecurity=kind != "sha1")
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            found.update(block)
    return found.hexdigest()


def _same(file: Path, remote: RepoFile) -> bool:
    size = file.stat().st_size
    if size != remote.size:
        return False
    if remote.lfs is not None:
        return digest(file) == remote.lfs.sha256
    return digest(file, f"blob {size}\0".encode(), "sha1") == remote.blob_id  # as git names contents


def _download(api: HfApi, repo_id: str, commit: str, path: str) -> bytes:
    """The bytes of a small file, past every cache."""
    url = f"{api.endpoint}/{repo_id}/resolve/{commit}/{quote(path)}"
    response = get_session().get(url, headers=_headers(api))
    if response.status_code != 200:
        raise OSError(f"{path}: answered {response.status_code}")
    content: bytes = response.content
    return content


def _headers(api: HfApi) -> dict[str, str]:
    return {"authorization": f"Bearer {api.token}"}


def _remote_model_type(api: HfApi, repo_id: str, commit: str | None) -> str | None:
    with TemporaryDirectory() as folder:
        try:
            path = api.hf_hub_download(repo_id, CONFIG, revision=commit, local_dir=folder)
            return str(read_json(Path(path)).get("model_type"))
        except (EntryNotFoundError, PublishError):  # no JSON: whatever it is, it is no model of ours
            return None


def _branches(api: HfApi, repo_id: str) -> list[str]:
    try:
        return [branch.name for branch in api.list_repo_refs(repo_id).branches]
    except (HfHubHTTPError, OSError):
        return [MAIN]


def _status(error: Exception) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None
