"""Models that readers try: their files laid out in a folder, and a process for each that stays warm for a while.

One image is answered at a time in each server process; a few readers may wait. Only configs and safetensors files are
handed to the process, so nothing that a repository holds is executed.
"""

import json
import logging
import re
import tempfile
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfvision.hub import files
from hfvision.hub.errors import TooLarge
from hfvision.hub.instance import Hub
from hfvision.hub.repositories import Repo
from hfvision.hub.try_it.process import Child, TrialFailed, Turns

log = logging.getLogger(__name__)

MODULE = "hfvision.pipelines.trial"
WANTED = re.compile(r"(config|preprocessor_config|processor_config)\.json|model([\w.-]*)\.safetensors(\.index\.json)?")
INDEX = ".safetensors.index.json"
INDEX_LIMIT = 16 << 20  # bytes
KEPT = 2  # models that stay loaded
IDLE_SECONDS = 120.0
MOST_WAITING = 4
PICTURE_LIMIT = 32 << 20  # bytes


@dataclass(frozen=True)
class Trial:
    """What a model said of an image. `kind`: labels, pixels, objects or segments; `picture`: PNG where there is one."""

    kind: str
    entries: list[dict[str, Any]]
    picture: bytes | None
    seconds: float


class ModelTrials:
    """The processes of one server process."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.turns = Turns(1, MOST_WAITING)
        self._warm: OrderedDict[tuple[int, str], _Warm] = OrderedDict()  # least recently used first
        self._timer: threading.Timer | None = None

    def answer(self, repo: Repo, commit: str, image: bytes) -> Trial:
        """Try a model.

        Raises TrialBusy, TrialFailed with a reason for the reader, TooLarge for a model over the limit.
        """
        with self.turns.turn():
            return self._answer(repo, commit, image)

    def _answer(self, repo: Repo, commit: str, image: bytes) -> Trial:
        settings = self._hub.settings
        key = (repo.id, commit)
        warm = self._warm.pop(key, None)
        if warm is None or not warm.child.running:
            if warm is not None:
                warm.close()
            while len(self._warm) >= KEPT:
                self._warm.popitem(last=False)[1].close()
            warm = _Warm(self._hub, repo, commit)
        try:
            trial = warm.answer(image, settings.try_seconds)
        except TrialFailed:
            if not warm.child.running:
                log.info("a trial ended: %s", warm.child.log(), extra={"repo": repo.full_name, "commit": commit})
                warm.close()
                raise
            self._warm[key] = warm
            raise
        self._warm[key] = warm
        self._expire_later()
        return trial

    def _expire_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(IDLE_SECONDS, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def _expire(self) -> None:
        """End the processes that have had nothing to do for a while."""
        with self.turns.free:
            for key, warm in list(self._warm.items()):
                if time.monotonic() - warm.used >= IDLE_SECONDS * 0.9:
                    self._warm.pop(key).close()
            if self._warm:
                self._expire_later()

    def close(self) -> None:
        """End all processes. One that is answering is ended, too."""
        if self._timer is not None:
            self._timer.cancel()
        for warm in list(self._warm.values()):
            warm.close()
        self._warm.clear()


class _Warm:
    """One loaded model: the folder with its files, and its process."""

    def __init__(self, hub: Hub, repo: Repo, commit: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hfvision-trial-")
        try:
            lay_out(hub, repo, commit, Path(self._folder.name))
            options = {
                "model": self._folder.name,
                "memory": hub.settings.try_memory,
                "pixels": hub.settings.try_pixels,
            }
            self.child = Child(MODULE, options)
        except BaseException:
            self._folder.cleanup()
            raise
        self.used = time.monotonic()

    def answer(self, image: bytes, seconds: float) -> Trial:
        given, drawn = self.child.home / "image", self.child.home / "picture.png"
        drawn.unlink(missing_ok=True)
        given.write_bytes(image)
        with self.child.deadline(seconds):
            self.child.say({"image": str(given), "picture": str(drawn)})
            answer = self.child.hear()
        self.used = time.monotonic()
        given.unlink(missing_ok=True)
        if "error" in answer:
            raise TrialFailed(str(answer["error"])[:500])
        picture = None
        if answer.get("picture"):
            with drawn.open("rb") as file:
                picture = file.read(PICTURE_LIMIT)
        try:
            return Trial(str(answer["kind"]), list(map(entry_of, answer["entries"])), picture, float(answer["seconds"]))
        except (KeyError, TypeError, ValueError):
            raise TrialFailed("The model's process gave no answer that can be shown.") from None

    def close(self) -> None:
        self.child.close()
        self._folder.cleanup()


def entry_of(row: dict[str, Any]) -> dict[str, Any]:
    """A label with its numbers, each of its kind: the process has read strangers' files. Raises ValueError and kin."""
    entry: dict[str, Any] = {"label": str(row["label"])[:200]}
    entry |= {name: float(row[name]) for name in ("score", "share") if name in row}
    if "box" in row:
        entry["box"] = {edge: int(row["box"][edge]) for edge in ("xmin", "ymin", "xmax", "ymax")}
    return entry


def lay_out(hub: Hub, repo: Repo, commit: str, folder: Path) -> None:
    """The files that a pipeline loads, from the root of a revision. Raises TrialFailed, TooLarge."""
    found = files.list_tree(hub, repo, commit, limit=1000).items
    chosen = [entry for entry in found if entry.kind == "file" and WANTED.fullmatch(entry.path)]
    names = {entry.path for entry in chosen}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise TrialFailed("Only models with config.json and safetensors files can be tried.")
    if "model.safetensors" in names:  # one file goes before shards, as it does for from_pretrained
        chosen = [entry for entry in chosen if "safetensors" not in entry.path or entry.path == "model.safetensors"]
    for entry in chosen:
        if entry.path.endswith(INDEX):
            _check_index(files.read_file(hub, repo, commit, entry.path, INDEX_LIMIT + 1), names)
    total = sum(entry.size for entry in chosen)
    if total > hub.settings.try_model_limit:
        most = hub.settings.try_model_limit
        raise TooLarge(f"The model has {total / 1e9:.1f} GB; models of up to {most / 1e9:.1f} GB can be tried.")
    for entry in chosen:
        opened = files.open_file(hub, repo, commit, entry.path)
        out = folder / entry.path
        here = hub.store.path(opened.key) if opened.key is not None else None
        if here is not None:
            out.symlink_to(here)
        elif opened.key is not None:
            with out.open("wb") as file:
                file.writelines(hub.store.stream(opened.key))
        else:
            out.write_bytes(opened.data or b"")


def _check_index(data: bytes, names: set[str]) -> None:
    """Raises TrialFailed for an index of shards that names others than the model's own: it could lead anywhere."""
    try:
        if len(data) > INDEX_LIMIT:
            raise ValueError
        own = names.issuperset(json.loads(data)["weight_map"].values())
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        own = False
    if not own:
        raise TrialFailed("The model's index of weights is damaged, or names files that are not the model's.")
