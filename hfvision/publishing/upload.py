"""A model folder goes to the Hub: checked first, as one commit, and compared with what arrived."""

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants

import hfvision
from hfvision.errors import PublishError, numbered
from hfvision.publishing.folder import Staged, staged
from hfvision.publishing.hub import FRESH, MAIN, Remote, differing, explained, look, offers_xet, open_hub, read_back
from hfvision.publishing.report import PushReport
from hfvision.termination import sigterm_exits

# What from_pretrained would take of a former model; variants that people name otherwise are left alone.
SHARD = "-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9]"
WEIGHTS = tuple(
    f"{start}{part}"
    for start, end in (("model", ".safetensors"), ("pytorch_model", ".bin"))
    for part in (end, f"{SHARD}{end}", f"{end}.index.json")
)


@sigterm_exits()
def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    with_code: bool = False,
    message: str | None = None,
    token: str | None = None,
    overwrite: bool = False,
    endpoint: str | None = None,
) -> PushReport:
    """Push the model in `folder` to the model repository `repo_id`, which is created if it is not there.

    `revision` is an existing branch, `create_pr` opens a pull request instead; `with_code` adds what
    `trust_remote_code=True` needs (`hfvision.publishing.code`); `endpoint` is HF_ENDPOINT by default. A repository
    that holds something else than a model of this type is left alone without `overwrite`.

    Raises PublishError. Before anything is sent: a folder that is not ready (all problems listed), a name, token or
    revision that does not work, other content. After that: whether the commit landed. A commit lands whole or not at
    all; what arrived is read again and compared.

    Example:
        >>> import tempfile, hfvision
        >>> try:
        ...     hfvision.push(tempfile.mkdtemp(), "me/my-model")
        ... except hfvision.PublishError as error:
        ...     print(type(error).__name__)
        PublishError
    """
    branch = revision or MAIN
    with staged(folder, repo_id, with_code) as stage:
        api = open_hub(repo_id, token, endpoint)
        remote = look(api, repo_id, branch)
        _allowed(remote, stage, repo_id, private, overwrite)
        local = stage.files()
        sent = differing(local, remote.files)
        obsolete = [path for path in remote.files if path not in local and any(fnmatch(path, one) for one in WEIGHTS)]
        if not remote.exists:
            _create(api, repo_id, private)
        notes: list[str] = []
        commit, request, head = remote.sha or "", None, branch
        if sent or obsolete:
            operations = [CommitOperationAdd(path, local[path]) for path in sent]
            deletions = [CommitOperationDelete(path) for path in obsolete]
            text = message or f"Upload {stage.model_class} with hfvision {hfvision.__version__}"
            try:
                with _protocol(api, repo_id, branch, notes):
                    made: Any = api.create_commit(
                        repo_id,
                        [*operations, *deletions],
                        commit_message=text,
                        revision=branch,
                        create_pr=create_pr,
                        parent_commit=remote.sha,  # what somebody else commits in between is not written over
                    )
                commit, request, head = made.oid, made.pr_url, made.pr_revision or branch
            except Exception as error:  # of huggingface_hub, its HTTP client, the Xet client, the disk
                commit = _landed_all_the_same(api, repo_id, branch, remote, stage, create_pr, error)
                notes.append("the connection broke off before the Hub's answer came; the commit had landed")
        return PushReport(
            repo_id=repo_id,
            url=f"{api.endpoint}/{repo_id}" + ("" if head == MAIN else f"/tree/{head}"),
            revision=head,
            commit=commit,
            model_class=stage.model_class,
            licence=stage.licence.licence.key,
            created=not remote.exists,
            private=remote.private if remote.exists else private,
            pull_request=request,
            sent={path: local[path].stat().st_size for path in sent},
            replaced=tuple(path for path in sent if path in remote.files),
            unchanged=tuple(path for path in local if path not in sent),
            removed=tuple(obsolete),
            kept=tuple(path for path in remote.files if path not in local and path not in obsolete),
            left_out=stage.left_out,
            changed=tuple(stage.changed),
            notes=tuple(notes),
            checked=(
                f"{stage.model_class} was loaded through the Auto classes and answered for one image",
                *read_back(api, repo_id, commit, local),
            ),
        )


def _allowed(remote: Remote, stage: Staged, repo_id: str, private: bool, overwrite: bool) -> None:
    """Raises PublishError for a repository that is not this model's, or that is public where it was not to be."""
    if remote.exists and private and not remote.private:
        raise PublishError(
            f"{repo_id} exists and is public; make it private in its settings first, or push without --private. "
            "Nothing was sent."
        )
    ours = remote.by_hfvision or remote.model_type == stage.model_type or set(remote.files) <= FRESH
    if not remote.exists or ours or overwrite:
        return
    local = stage.files()
    there = [
        f"{path} ({file.size:,} bytes): {'would be replaced' if path in local else 'would stay beside the model'}"
        for path, file in remote.files.items()
        if path not in FRESH
    ]
    holds = f"a model of type {remote.model_type}" if remote.model_type else "other files"
    raise PublishError(
        f"{repo_id} holds {holds}, not one of type {stage.model_type}; {numbered('file', there, most=20)}\n"
        "Push to another name, or write over it with --overwrite. Nothing was sent."
    )


def _create(api: HfApi, repo_id: str, private: bool) -> None:
    try:
        api.create_repo(repo_id, private=private)
    except Exception as error:
        raise PublishError(f"{repo_id} could not be created: {explained(error, repo_id, api)}") from error


@contextmanager
def _protocol(api: HfApi, repo_id: str, branch: str, notes: list[str]) -> Iterator[None]:
    """Large files go up through Xet where the endpoint has it; today's client does not ask, so this does."""
    if constants.HF_HUB_DISABLE_XET or offers_xet(api, repo_id, branch):
        yield
        return
    notes.append(f"{api.endpoint} offers no Xet: large files go up by git-LFS's protocol")
    constants.HF_HUB_DISABLE_XET = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = False


def _landed_all_the_same(
    api: HfApi, repo_id: str, branch: str, before: Remote, stage: Staged, create_pr: bool, error: Exception
) -> str:
    """The sha of the commit, if it landed although no answer came; else PublishError, saying what is known."""
    reason = explained(error, repo_id, api)
    again = f"the same push again continues{'' if before.exists else f' ({repo_id} was created, and is empty)'}"
    if create_pr:
        raise PublishError(
            f"{reason}\nThe branch {branch} is as it was. Whether a pull request was opened, {api.endpoint}/{repo_id}"
            f"/discussions shows; if not, push again."
        ) from error
    try:
        after = look(api, repo_id, branch)
    except PublishError as second:
        raise PublishError(
            f"{reason}\nWhether the commit landed is not known, as the Hub does not answer now ({second}). It landed "
            f"whole or not at all; {again} or finds it there."
        ) from error
    if after.sha != before.sha and not differing(stage.files(), after.files):
        return str(after.sha)
    elsewhere = before.exists and after.sha != before.sha
    state = "was changed by somebody else" if elsewhere else "is as it was"
    raise PublishError(f"{reason}\nThe commit did not land: {repo_id} ({branch}) {state}; {again}.") from error
