"""Checkpoints of a training run, `checkpoint-STEP/`: their order, which are complete, which are kept.

Their names say in which order they were written; the times of files, which a copy or another clock changes, do not.
"""

import json
import shutil
from collections.abc import Collection
from pathlib import Path

CHECKPOINT = "checkpoint-"
LAST_FILE = "trainer_state.json"  # written last of a checkpoint's files


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a folder in the order of steps."""
    found = [path for path in folder.glob(f"{CHECKPOINT}*") if path.name.removeprefix(CHECKPOINT).isdigit()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix(CHECKPOINT))


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end."""
    try:
        json.loads((checkpoint / LAST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def last_complete(folder: Path) -> Path | None:
    """The last checkpoint of a folder that was written to its end."""
    complete = [path for path in checkpoints_in(folder) if is_complete(path)]
    return complete[-1] if complete else None


def remove_old(newest: Path, limit: int | None, kept: Collection[str]) -> None:
    """Remove what a checkpoint that was just written replaces: all before it but `limit` with itself, and those kept.

    Incomplete ones, left by a kill, go, too. limit: None keeps all. kept: names of folders, such as the best one's.
    """
    before = []
    for path in checkpoints_in(newest.parent):
        if not is_complete(path):
            shutil.rmtree(path)
        elif step_of(path) < step_of(newest) and path.name not in kept:
            before.append(path)
    for path in [] if limit is None else before[: len(before) - limit + 1]:
        shutil.rmtree(path)
