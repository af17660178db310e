"""What a revision's files say of their repository: `cards` applied to them; main's is kept, with tags for lists."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, delete, select, update

from hfvision.hub import cards, objects
from hfvision.hub.database import insert_new, lfs, repo, tag
from hfvision.hub.gitobjects import Tree, walk
from hfvision.hub.instance import Hub
from hfvision.hub.lookup import Repo

CARD = "README.md"
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
MOST_FILES = 2000  # of a dataset that are looked at for its format
MOST_SHARDS = 500


def concerns(kind: str, paths: list[str]) -> bool:
    """Whether a change of these paths can change what is kept."""
    if kind == "dataset":
        return True
    return any(
        path in (CARD, CONFIG, INDEX, "model_index.json") or ("/" not in path and path.endswith(".safetensors"))
        for path in paths
    )


def prepare(hub: Hub, path: str, oid: str, data: bytes) -> None:
    """Parse a file before the transaction that stores it, which then finds it in the process's memory."""
    if len(data) <= hub.settings.card_limit and path in (CARD, CONFIG, INDEX):
        _parsed(hub, path, oid, lambda: data)


def prepare_tensors(hub: Hub, sha256: str, key: str) -> None:
    """Read the header of a large safetensors file, once, and keep its counts; others count nothing."""
    with hub.reading() as connection:
        row = connection.execute(select(lfs.c.size, lfs.c.tensors).where(lfs.c.sha256 == sha256)).first()
    if row is None or row.tensors is not None:
        return
    try:
        counts = cards.tensor_counts(cards.read_safetensors_header(lambda a, b: hub.store.read(key, a, b), row.size))
    except FileNotFoundError:
        return
    except ValueError:
        counts = {}
    with hub.writing() as connection:
        connection.execute(update(lfs).where(lfs.c.sha256 == sha256).values(tensors=counts))


def refresh(hub: Hub, connection: Connection, repo_id: int, kind: str, tree_id: str) -> None:
    """Work out and keep what main's tree says about its repository; part of the commit's transaction."""
    meta = _describe(hub, connection, repo_id, kind, tree_id)
    total = (meta["safetensors"] or {"total": 0})["total"]
    values = {"meta": meta, "parameters": total if 0 < total < 2**62 else None}
    connection.execute(update(repo).where(repo.c.id == repo_id).values(**values))
    connection.execute(delete(tag).where(tag.c.repo == repo_id))
    insert_new(connection, tag, [{"repo": repo_id, "tag": one} for one in meta["tags"]])


def at_commit(hub: Hub, found: Repo, commit: str) -> Repo:
    """The repository as the files of one of its commits describe it: card, config, tags, weights."""
    if commit == found.sha:
        return found
    with hub.reading() as connection:
        tree = objects.read_commit(connection, commit).tree
        return replace(found, sha=commit, meta=_describe(hub, connection, found.id, found.kind, tree))


def _describe(hub: Hub, connection: Connection, repo_id: int, kind: str, tree_id: str) -> dict[str, Any]:
    read = objects.tree_reader(hub, connection)
    root = read(tree_id)
    card = _read(hub, connection, repo_id, root, CARD) or cards.Card()
    config = cards.brief_config(_read(hub, connection, repo_id, root, CONFIG))
    files = [path for path, item in root.items() if not item.is_tree]
    if kind == "dataset":
        files = []
        for path, item in walk(read, tree_id):
            if not item.is_tree:
                files.append(path)
            if len(files) >= MOST_FILES:
                break
    library = task = None
    if kind == "model":
        library = cards.infer_library(card.data, config, files)
        task = cards.infer_task(card.data, config, library)
    counts = _tensors(hub, connection, repo_id, root) if kind == "model" else {}
    return {
        "card": card.data or None,
        "config": config,
        "library_name": library,
        "pipeline_tag": task,
        "safetensors": {"parameters": counts, "total": sum(counts.values())} if counts else None,
        "tags": cards.tags(kind, card.data, config, library, task, files),
    }


def _tensors(hub: Hub, connection: Connection, repo_id: int, root: Tree) -> dict[str, int]:
    """{dtype: parameters} of model.safetensors, or of the shards that its index names."""
    names = ["model.safetensors"] if "model.safetensors" in root else []
    index = _read(hub, connection, repo_id, root, INDEX) if not names else None
    if isinstance(index, dict) and isinstance(index.get("weight_map"), dict):
        names = sorted({name for name in index["weight_map"].values() if isinstance(name, str) and name in root})
    items = [root[name] for name in names[:MOST_SHARDS] if not root[name].is_tree]
    blobs = objects.blobs(connection, repo_id, [item.oid for item in items])
    total: dict[str, int] = {}
    for item in items:
        blob = blobs[item.oid]
        if blob.sha256 is not None:
            counts = connection.scalar(select(lfs.c.tensors).where(lfs.c.sha256 == blob.sha256)) or {}
        else:
            counts = _small_tensors(objects.read_object(connection, item.oid))
        for dtype, count in counts.items():
            total[dtype] = total.get(dtype, 0) + count
    return total


def _small_tensors(data: bytes) -> dict[str, int]:
    try:
        return cards.tensor_counts(cards.read_safetensors_header(lambda a, b: data[a:b], len(data)))
    except ValueError:
        return {}


def _read(hub: Hub, connection: Connection, repo_id: int, root: Tree, name: str) -> Any:
    item = root.get(name)
    if item is None or item.is_tree:
        return None
    blob = objects.blobs(connection, repo_id, [item.oid])[item.oid]
    if blob.sha256 is not None or blob.size > hub.settings.card_limit:
        return None
    return _parsed(hub, name, item.oid, lambda: objects.read_object(connection, item.oid))


def _parsed(hub: Hub, name: str, oid: str, read: Callable[[], bytes]) -> Any:
    """The card, or the JSON of another file; from the process's memory where its content was parsed before."""
    kept = f"{name} {oid}"
    found = hub.parsed.get(kept)
    if found is None:
        text = read()
        if name == CARD:
            found = cards.parse_card(text.decode("utf-8", "replace"), hub.settings.card_limit)
        else:
            found = cards.parse_json(text)
        hub.parsed.put(kept, found)
    return found
