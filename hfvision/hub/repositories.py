"""Repositories: create, delete, move, settings; what finds and lists them is offered here, too (protocol section 4)."""

from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update
from sqlalchemy import delete as delete_from

from hfvision.hub import objects
from hfvision.hub.accounts import KINDS, Caller
from hfvision.hub.clock import now_ms
from hfvision.hub.database import account, lfs, ref, repo, repo_alias, repo_commit, repo_lfs
from hfvision.hub.errors import BadRequest, Conflict, Forbidden, LoginNeeded, NotFound
from hfvision.hub.gates import access_requests, access_status, answer_access, request_access
from hfvision.hub.gitobjects import FILE_MODE, TreeItem, encode_tree, object_id
from hfvision.hub.instance import Hub
from hfvision.hub.lists import owned, search, tag_counts
from hfvision.hub.lookup import ADMIN, CONTENT, MAIN, PROPOSE, SEE, WRITE, Page, Repo, find_in, from_row, query
from hfvision.hub.names import check_name, split_full_name

__all__ = [
    "ADMIN",
    "CONTENT",
    "KINDS",
    "MAIN",
    "PROPOSE",
    "SEE",
    "WRITE",
    "Page",
    "Repo",
    "access_requests",
    "access_status",
    "answer_access",
    "count_downloads",
    "create",
    "delete",
    "find",
    "move",
    "owned",
    "request_access",
    "search",
    "set_disabled",
    "tag_counts",
    "update_settings",
    "used_storage",
]

# files that always go to the store as large ones; anything else does by its size or its bytes
LARGE = (
    "7z arrow bin bz2 ckpt ftz gz h5 joblib lz4 mlmodel model msgpack npy npz onnx ot parquet pb pickle pkl pt pth rar "
    "safetensors tar tflite tgz wasm xz zip zst"
)
LARGE_IN_DATASETS = "aac avi bmp flac gif jpeg jpg m4a mkv mov mp3 mp4 ogg png tif tiff wav webm webp"


def find(hub: Hub, caller: Caller, kind: str, full_name: str, need: str = SEE) -> Repo:
    """The repository, in any case and under older names.

    Raises RepoNotFound (missing or hidden, never told apart), DisabledRepo, GatedRepo, LoginNeeded or Forbidden.
    """
    with hub.reading() as connection:
        return find_in(connection, caller, kind, full_name, need)


def create(
    hub: Hub,
    caller: Caller,
    kind: str,
    name: str,
    namespace: str | None = None,
    private: bool | None = None,
) -> Repo:
    """A new repository with its initial commit. `namespace` None: the caller's own; `private` None: its default.

    Raises BadRequest (name), Forbidden, LoginNeeded, Conflict with `url` if the name is taken.
    """
    check_kind(kind)
    if caller.anonymous:
        raise LoginNeeded
    namespace = namespace or caller.name
    check_name(name, "repository")
    try:
        with hub.writing() as connection:
            return create_in(connection, caller, kind, namespace, name, private)
    except Conflict as error:
        if error.url is not None:
            raise
    with hub.writing() as connection:  # somebody else was a moment earlier: now it can be told where it is
        return create_in(connection, caller, kind, namespace, name, private)


def create_in(
    connection: Connection, caller: Caller, kind: str, namespace: str, name: str, private: bool | None
) -> Repo:
    """As `create`, within a transaction."""
    owner = connection.execute(select(account).where(account.c.name_ci == namespace.lower())).first()
    if owner is None or not caller.may_write(kind, owner.name, name):
        raise Forbidden(f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"')
    full_name = f"{owner.name}/{name}"
    taken = connection.execute(query().where(repo.c.kind == kind, repo.c.name_ci == full_name.lower())).first()
    if taken is not None:
        raise Conflict(f"You already created this {kind} repo", url=from_row(taken).url)
    now = now_ms()
    values: dict[str, Any] = {
        "kind": kind,
        "owner": owner.id,
        "namespace": owner.name,
        "name": name,
        "name_ci": full_name.lower(),
        "private": owner.private_by_default if private is None else private,
        "created": now,
        "modified": now,
        "meta": {"tags": []},
    }
    repo_id = connection.execute(insert(repo).values(**values).returning(repo.c.id)).scalar_one()
    connection.execute(
        delete_from(repo_alias).where(repo_alias.c.kind == kind, repo_alias.c.name_ci == full_name.lower())
    )
    blob = default_attributes(kind)
    blob_id = object_id("blob", blob)
    tree = encode_tree({".gitattributes": TreeItem(FILE_MODE, blob_id)})
    tree_id = object_id("tree", tree)
    objects.insert_objects(connection, "blob", {blob_id: blob})
    objects.insert_objects(connection, "tree", {tree_id: tree})
    commit, _ = objects.insert_commit(connection, tree_id, None, caller.name, email(caller), "initial commit")
    connection.execute(insert(repo_commit).values(repo=repo_id, oid=commit))
    connection.execute(insert(ref).values(repo=repo_id, kind="heads", name=MAIN, oid=commit))
    return from_row(connection.execute(query().where(repo.c.id == repo_id)).one())


def default_attributes(kind: str) -> bytes:
    """The .gitattributes of a new repository."""
    endings = sorted(f"{LARGE} {LARGE_IN_DATASETS if kind == 'dataset' else ''}".split())
    return "".join(f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in endings).encode()


def email(caller: Caller) -> str:
    """For commits: the account's, or one that says that there is none."""
    return (caller.account.email if caller.account else "") or f"{caller.name}@users.noreply.invalid"


def check_kind(kind: str) -> str:
    if kind not in KINDS:
        raise BadRequest(f"{kind!r} is no kind of repository; there are {', '.join(KINDS)}")
    return kind


def delete(hub: Hub, caller: Caller, kind: str, full_name: str) -> None:
    """Its files go with the next garbage collection, unless other repositories have them too."""
    with hub.writing() as connection:
        found = find_in(connection, caller, kind, full_name, ADMIN)
        connection.execute(delete_from(repo).where(repo.c.id == found.id))


def move(hub: Hub, caller: Caller, kind: str, source: str, target: str) -> Repo:
    """Rename; the old name keeps leading to it. Raises Conflict "A model repository called X already exists"."""
    namespace, name = split_full_name(target)
    with hub.writing() as connection:
        found = find_in(connection, caller, kind, source, ADMIN)
        owner = connection.execute(select(account).where(account.c.name_ci == namespace.lower())).first()
        if owner is None or not caller.may_write(kind, owner.name, name):
            raise Forbidden(f"You may not create repositories under the namespace {namespace}")
        new, old = f"{owner.name}/{name}".lower(), found.full_name.lower()
        holder = connection.scalar(select(repo.c.id).where(repo.c.kind == kind, repo.c.name_ci == new))
        if holder is not None and holder != found.id:
            raise Conflict(
                f"A {kind} repository called {owner.name}/{name} already exists"
            )  # clients match these words
        connection.execute(delete_from(repo_alias).where(repo_alias.c.kind == kind, repo_alias.c.name_ci == new))
        if new != old:
            connection.execute(insert(repo_alias).values(kind=kind, name_ci=old, repo=found.id))
        values = {"owner": owner.id, "namespace": owner.name, "name": name, "name_ci": new}
        connection.execute(update(repo).where(repo.c.id == found.id).values(**values))
        return replace(found, namespace=owner.name, name=name, moved=False)


def update_settings(
    hub: Hub,
    caller: Caller,
    kind: str,
    full_name: str,
    private: bool | None = None,
    gated: str | bool | None = None,
) -> Repo:
    """`gated` is "auto", "manual" or False; None leaves a setting as it is."""
    if gated not in (None, False, "auto", "manual"):
        raise BadRequest(f'gated is "auto", "manual" or false; got {gated!r}')
    given: dict[str, Any] = {"private": private, "gated": gated or None}
    values = {name: given[name] for name, asked in (("private", private), ("gated", gated)) if asked is not None}
    with hub.writing() as connection:
        found = find_in(connection, caller, kind, full_name, ADMIN)
        if values:
            connection.execute(update(repo).where(repo.c.id == found.id).values(**values))
        return replace(found, **values)


def set_disabled(hub: Hub, kind: str, full_name: str, disabled: bool) -> None:
    """Switch a repository off or on again: an administrator's act, with no caller. Raises NotFound."""
    key = repo.c.kind == check_kind(kind), repo.c.name_ci == full_name.lower()
    with hub.writing() as connection:
        if not connection.execute(update(repo).where(*key).values(disabled=disabled)).rowcount:
            raise NotFound(f"there is no {kind} named {full_name}")


def used_storage(hub: Hub, found: Repo) -> int:
    """Bytes of the large files that the repository links to."""
    total = select(func.sum(lfs.c.size)).join(repo_lfs, lfs.c.sha256 == repo_lfs.c.sha256)
    with hub.reading() as connection:
        return int(connection.scalar(total.where(repo_lfs.c.repo == found.id)) or 0)


def count_downloads(hub: Hub, counts: dict[int, int]) -> None:
    """Add downloads to repositories by id; callers gather some seconds' worth first."""
    if counts:
        add = update(repo).where(repo.c.id == bindparam("one")).values(downloads=repo.c.downloads + bindparam("count"))
        with hub.writing() as connection:
            connection.execute(add, [{"one": one, "count": count} for one, count in sorted(counts.items())])
