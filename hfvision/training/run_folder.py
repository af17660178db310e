"""The folder of one training run: claimed by one plan, resumable after a kill, finished in one go.

While training runs it holds `checkpoint-STEP/` folders and `training_run.json`, which says what is trained on what;
afterwards the model's files and the same record with the result. Nobody else's files are ever overwritten.

A plan that differs by being longer continues the run. An interrupted one goes on with the rest of the longer plan's
schedule ("stretched"); a finished one, whose optimizer is gone, starts a schedule of its own for what is added
("restarted"), and its model stays in the folder until a better known one takes its place.
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
from hfvision.training.run_checkpoints import checkpoints_in, is_complete, last_complete, step_of

RECORD = "training_run.json"
LENGTH = ("settings.epochs", "settings.max_steps")  # of a plan: what may grow
RESTARTED, STRETCHED = "restarted", "stretched"
LOGS = "runs"  # of TensorBoard, by transformers
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
        """Take the folder for a plan of JSON values; a longer plan than that of the run which is there is reported.

        Raises ConfigError as `check` does, and listing what else differs from that plan.
        """
        self.plan = json.loads(json.dumps(plan))
        if not self.check(resume):
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_record({"plan": self.plan})
        elif self._is_same_but_longer(self._record()):
            self._lengthen(self._record())

    def _lengthen(self, record: Mapping[str, Any]) -> None:
        entries, result = record.get("lengthened", []), record.get("result")
        if result is not None:
            kept = {name: value for name, value in record.items() if name != "result"}
            entry = {"step": result["steps"], "schedule": RESTARTED}
            self._write_record({**kept, "plan": self.plan, "before": dict(record), "lengthened": [*entries, entry]})
            report(
                f"{self.path} holds this run, finished after {result['steps']:,} steps: it is lengthened. The learning "
                "rate starts anew, with a warm-up and a schedule for what is added; the optimizer's state was not kept."
            )
            return
        step = self._last_step()
        added = [{"step": step + self._steps_before(record), "schedule": STRETCHED}] if step else []
        self._write_record({**record, "plan": self.plan, "lengthened": [*entries, *added]})
        if step:
            report(
                f"{self.path} holds this run up to step {step:,}: it is lengthened, and goes on at that place of the "
                "longer schedule, so the learning rate rises where it had begun to fall."
            )

    def result(self) -> dict[str, Any] | None:
        """The result of a finished run."""
        return self._record().get("result")

    def before(self) -> dict[str, Any] | None:
        """The result of the finished run that is being lengthened."""
        found = self._record().get("before")
        return None if found is None else found["result"]

    def lengthened(self) -> list[dict[str, Any]]:
        """Of every time that the run was lengthened {"step", "schedule": "restarted" or "stretched"}."""
        return list(self._record().get("lengthened", []))

    @staticmethod
    def _steps_before(record: Mapping[str, Any]) -> int:
        return int(record["before"]["result"]["steps"]) if "before" in record else 0

    def _record(self) -> dict[str, Any]:
        return dict(json.loads((self.path / RECORD).read_text(encoding="utf-8")))

    def last_checkpoint(self) -> Path | None:
        """The last complete checkpoint; incomplete ones, left by a kill, are removed and reported."""
        for path in checkpoints_in(self.path):
            if not is_complete(path):
                shutil.rmtree(path)
                report(f"{path} was left incomplete by an interrupted run and was removed.")
        return last_complete(self.path)

    def give_up(self) -> None:
        """After a failure: keep what can be resumed (reported), otherwise remove everything that this run wrote."""
        if self.last_checkpoint() is not None:
            report(f"{self.path} holds the run up to step {self._last_step()}: resume=True (--resume) continues it.")
        elif (self.path / RECORD).exists() and (before := self._record().get("before")) is not None:
            self._write_record(before)
            shutil.rmtree(self.path / _SAVING, ignore_errors=True)
        else:
            (self.path / RECORD).unlink(missing_ok=True)
            for name in (_SAVING, LOGS):
                shutil.rmtree(self.path / name, ignore_errors=True)
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
            entries = {"lengthened": found} if (found := self.lengthened()) else {}
            self._write_record({"plan": self.plan, "result": dict(result), **entries, **(further or {})})
            for path in checkpoints_in(self.path):
                shutil.rmtree(path)

    def _last_step(self) -> int:
        last = last_complete(self.path)
        return 0 if last is None else step_of(last)

    def _is_same_but_longer(self, record: Mapping[str, Any]) -> bool:
        """Whether the plan is that of the record but longer. Raises ConfigError where more differs.

        What a plan does not name is None: an older version had less to name.
        """
        theirs, ours = _flat(record["plan"]), _flat(self.plan)
        differing = [key for key in sorted(theirs.keys() | ours.keys()) if theirs.get(key) != ours.get(key)]
        if not differing:
            return False
        if not set(differing) <= set(LENGTH) or not _is_longer(theirs, ours, record.get("result")):
            lines = [f"{key}: it has {theirs.get(key)!r}, this call {ours.get(key)!r}" for key in differing]
            raise ConfigError(
                f"{self.path} holds another run; {numbered('difference', lines)}\n    Resume with the same settings "
                "(more epochs or steps lengthen a run), or choose another folder."
            )
        return True

    def _write_record(self, record: Mapping[str, Any]) -> None:
        partial = self.path / f"{RECORD}.partial"
        partial.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, self.path / RECORD)


def _is_longer(theirs: Mapping[str, Any], ours: Mapping[str, Any], result: Mapping[str, Any] | None) -> bool:
    """Whether a plan goes beyond another, or beyond what came of it."""
    epochs, steps = LENGTH
    if ours[steps] is not None:
        done = theirs[steps] if result is None else result["steps"]
        return bool(ours[steps] > (done or 0))
    if result is not None:
        return bool(ours[epochs] > result["epochs"])
    return theirs[steps] is None and bool(ours[epochs] > theirs[epochs])


def _flat(plan: Mapping[str, Any]) -> dict[str, Any]:
    """{"settings": {"seed": 0}} -> {"settings.seed": 0}"""
    flat: dict[str, Any] = {}
    for key, value in plan.items():
        nested = _flat(value) if isinstance(value, dict) else None
        flat.update({f"{key}.{name}": inner for name, inner in nested.items()} if nested else {key: value})
    return flat
