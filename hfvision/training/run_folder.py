"""The folder of one training run: claimed by one plan, resumable after a kill, finished in one go.

While training runs it holds `checkpoint-STEP/` folders and `training_run.json`, which says what is trained on what;
afterwards the model's files and the same record with the result. Nobody else's files are ever overwritten.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hfvision.errors import ConfigError, numbered
from hfvision.reporting import report
from hfvision.termination import uninterrupted

RECORD = "training_run.json"
CHECKPOINT = "checkpoint-"
LAST_FILE = "trainer_state.json"  # written last of a checkpoint's files
_SAVING = ".saving"


class RunFolder:
    """A run's folder; `check` early, then `claim` it for a plan: what must be equal for a run to be the same one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.plan: dict[str, Any] = {}

    def check(self, resume: bool) -> bool:
        """Whether a run is there to be resumed. Raises ConfigError unless the folder is new or empty, or `resume` is
        wanted and it holds a run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"output_dir is a folder; {self.path} is a file. Choose another name.")
        found = sorted(os.listdir(self.path)) if self.path.exists() else []
        if found and RECORD not in found:
            raise ConfigError(
                f"{self.path} is not empty ({len(found)} entries, {found[0]!r} for one) and holds no training run. "
                "Choose a new folder."
            )
        if found and not resume:
            state = "finished" if self.result() is not None else f"unfinished (step {self._last_step()})"
            raise ConfigError(
                f"{self.path} holds a training run, {state}. Continue it with resume=True (--resume), or choose "
                "another folder."
            )
        return bool(found)

    def claim(self, plan: Mapping[str, Any], resume: bool) -> None:
        """Take the folder for a plan of JSON values. Raises ConfigError as `check` does, and listing what differs from
        the plan of the run that is there.
        """
        self.plan = json.loads(json.dumps(plan))
        if self.check(resume):
            self._check_same(json.loads((self.path / RECORD).read_text(encoding="utf-8"))["plan"])
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_record({"plan": self.plan})

    def result(self) -> dict[str, Any] | None:
        """The result of a finished run."""
        return json.loads((self.path / RECORD).read_text(encoding="utf-8")).get("result")

    def last_checkpoint(self) -> Path | None:
        """The last complete checkpoint; incomplete ones, left by a kill, are removed and reported."""
        complete = [path for path in self._checkpoints() if _is_complete(path)]
        for path in set(self._checkpoints()) - set(complete):
            shutil.rmtree(path)
            report(f"{path} was left incomplete by an interrupted run and was removed.")
        return complete[-1] if complete else None

    def keep_last(self, best: str | None) -> None:
        """Remove all checkpoints but the last and the best."""
        for path in self._checkpoints()[:-1]:
            if best is None or path.name != Path(best).name:
                shutil.rmtree(path)

    def give_up(self) -> None:
        """After a failure: keep what can be resumed (reported), otherwise remove everything that this run wrote."""
        if self.last_checkpoint() is not None:
            report(f"{self.path} holds the run up to step {self._last_step()}: resume=True (--resume) continues it.")
        else:
            (self.path / RECORD).unlink(missing_ok=True)
            shutil.rmtree(self.path / _SAVING, ignore_errors=True)
            if not any(self.path.iterdir()):
                self.path.rmdir()

    def finish(
        self, save: Callable[[Path], None], result: Mapping[str, Any], further: Mapping[str, Any] | None = None
    ) -> None:
        """Write the final files by `save(folder)`, the result and `further` parts of the record, then remove the
        checkpoints.

        Files appear under their names when all of them are complete.
        """
        saving = self.path / _SAVING
        shutil.rmtree(saving, ignore_errors=True)
        saving.mkdir()
        try:
            save(saving)
        except BaseException:
            shutil.rmtree(saving)
            raise
        with uninterrupted():
            for path in sorted(saving.iterdir()):
                os.replace(path, self.path / path.name)
            saving.rmdir()
            self._write_record({"plan": self.plan, "result": dict(result), **(further or {})})
            for path in self._checkpoints():
                shutil.rmtree(path)

    def _checkpoints(self) -> list[Path]:
        """In the order of steps."""
        found = [path for path in self.path.glob(f"{CHECKPOINT}*") if path.name.removeprefix(CHECKPOINT).isdigit()]
        return sorted(found, key=lambda path: int(path.name.removeprefix(CHECKPOINT)))

    def _last_step(self) -> int:
        complete = [path for path in self._checkpoints() if _is_complete(path)]
        return int(complete[-1].name.removeprefix(CHECKPOINT)) if complete else 0

    def _check_same(self, other: Mapping[str, Any]) -> None:
        theirs, ours = _flat(other), _flat(self.plan)
        differing = [key for key in sorted(theirs.keys() | ours.keys()) if theirs.get(key) != ours.get(key)]
        if differing:
            lines = [f"{key}: it has {theirs.get(key)!r}, this call {ours.get(key)!r}" for key in differing]
            raise ConfigError(
                f"{self.path} holds another run; {numbered('difference', lines)}\n    Resume with the same settings, "
                "or choose another folder."
            )

    def _write_record(self, record: Mapping[str, Any]) -> None:
        partial = self.path / f"{RECORD}.partial"
        partial.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, self.path / RECORD)


def _is_complete(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / LAST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _flat(plan: Mapping[str, Any]) -> dict[str, Any]:
    """{"settings": {"seed": 0}} -> {"settings.seed": 0}"""
    flat: dict[str, Any] = {}
    for key, value in plan.items():
        nested = _flat(value) if isinstance(value, dict) else None
        flat.update({f"{key}.{name}": inner for name, inner in nested.items()} if nested else {key: value})
    return flat
