"""The result of a run: its rows and the machine they were measured on, as JSON and as Markdown tables."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from hfvision.bench.case import Goal, Setting
from hfvision.errors import ConfigError
from hfvision.writing import new_file

Status = Literal["measured", "unequal", "skipped", "failed"]
JSON_NAME, MARKDOWN_NAME = "benchmark.json", "benchmark.md"
HEADINGS = (
    "case",
    "ratio",
    "quartiles",
    "at least",
    "theirs, ms",
    "ours, ms",
    "of the peak",
    "memory, MB",
    "difference",
)


@dataclass(frozen=True)
class Peaks:
    """Rates of a product of square matrices, in GFLOP per second of the run's clock."""

    torch: float  # torch's own linear
    onednn: float | None  # oneDNN's operator, where this torch has it

    @property
    def best(self) -> float:
        return max(self.torch, self.onednn or 0.0)


@dataclass
class Row:
    """One case. Times are medians over the rounds; what was not measured is None."""

    suite: str
    case: str
    tolerance: float
    unit: str  # of difference and tolerance
    goal: Goal
    family: str = ""
    tokens: int = 0
    status: Status = "measured"
    reason: str = ""  # why it was not
    difference: float | None = None
    theirs_ms: float | None = None
    ours_ms: float | None = None
    ratio: float | None = None  # median of theirs / ours in the same round; above 1 ours is faster
    ratio_low: float | None = None  # quartiles
    ratio_high: float | None = None
    rounds: int = 0
    calls: int = 0  # of each side in a round
    theirs_gflop: float | None = None  # in one call
    ours_gflop: float | None = None
    theirs_mb: float | None = None  # peak of memory beyond what was held before the call
    ours_mb: float | None = None

    def rate(self) -> float | None:
        """Of ours, in GFLOP/s."""
        return self.ours_gflop / (self.ours_ms / 1e3) if self.ours_gflop and self.ours_ms else None

    def summary(self) -> str:
        """One line, for people who wait."""
        if self.status != "measured":
            return f"{self.suite}/{self.case}: {self.status}, {self.reason}"
        return f"{self.suite}/{self.case}: {self.theirs_ms:.4g} -> {self.ours_ms:.4g} ms, ratio {self.ratio:.2f}"

    def missed(self, plain: bool, growth: float | None = None) -> list[str]:
        """The goals that were measured and not reached. `plain`: linear layers run through torch's own product."""
        goal, missed = self.goal, []
        ratio = wanted_ratio(goal, plain)
        if ratio is not None and self.ratio is not None and self.ratio < ratio:
            missed.append(f"ratio {self.ratio:.2f} instead of {ratio:g}")
        if goal.memory_share is not None and self.theirs_mb and self.ours_mb is not None:
            share = self.ours_mb / self.theirs_mb
            if share > goal.memory_share:
                missed.append(f"{share:.2f} of their memory instead of {goal.memory_share:g}")
        if goal.memory_mb is not None and self.ours_mb is not None and self.ours_mb > goal.memory_mb:
            missed.append(f"{self.ours_mb:.0f} MB instead of {goal.memory_mb:g}")
        if goal.seconds is not None and self.ours_ms is not None and self.ours_ms > 1e3 * goal.seconds:
            missed.append(f"{self.ours_ms:.0f} ms instead of {1e3 * goal.seconds:g}")
        if goal.growth is not None and growth is not None and growth > goal.growth:
            missed.append(f"time per token grows by {growth:.2f} instead of {goal.growth:g}")
        return missed


def wanted_ratio(goal: Goal, plain: bool) -> float | None:
    return goal.plain if plain and goal.plain is not None else goal.ratio


@dataclass
class Report:
    """What `run` returns."""

    machine: dict[str, Any]
    setting: Setting
    threads: int
    peaks: Peaks
    linear_backend: str  # the kernel that our linear layers took
    rows: list[Row] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether no case failed and none differed. Times do not count: they are the machine's as well."""
        return all(row.status in ("measured", "skipped") for row in self.rows)

    @property
    def plain(self) -> bool:
        return self.linear_backend != "onednn"

    def missed(self) -> dict[str, list[str]]:
        """Per case, the goals that it did not reach."""
        growths = {row.case: growth for _, row, _, growth in self.families()}
        found = {f"{row.suite}/{row.case}": row.missed(self.plain, growths.get(row.case)) for row in self.rows}
        return {case: problems for case, problems in found.items() if problems}

    def families(self) -> list[tuple[str, Row, float, float]]:
        """For each family of cases that differ in image size: its name, the largest one, and by what the time per
        token grows up to it from the smallest, theirs and ours.
        """
        by_name: dict[str, list[Row]] = {}
        for row in self.rows:
            if row.family and row.tokens and row.theirs_ms and row.ours_ms:
                by_name.setdefault(row.family, []).append(row)
        grown = []
        for name, rows in by_name.items():
            small, large = (pick(rows, key=lambda row: row.tokens) for pick in (min, max))
            more = large.tokens / small.tokens
            if more > 1:
                assert large.theirs_ms and small.theirs_ms and large.ours_ms and small.ours_ms
                theirs, ours = large.theirs_ms / small.theirs_ms / more, large.ours_ms / small.ours_ms / more
                grown.append((name, large, theirs, ours))
        return grown

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "missed": self.missed()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The report that `to_dict` describes."""
        rows = [Row(**{**row, "goal": Goal(**row["goal"])}) for row in values["rows"]]
        return cls(
            machine=values["machine"],
            setting=Setting(**values["setting"]),
            threads=values["threads"],
            peaks=Peaks(**values["peaks"]),
            linear_backend=values["linear_backend"],
            rows=rows,
        )

    def save(self, folder: str | Path) -> tuple[Path, Path]:
        """Writes benchmark.json and benchmark.md; returns their paths. Raises ConfigError where it cannot."""
        paths = Path(folder) / JSON_NAME, Path(folder) / MARKDOWN_NAME
        texts = json.dumps(self.to_dict(), indent=2, ensure_ascii=False), self.to_markdown()
        for path, text in zip(paths, texts, strict=True):
            with new_file(path, ConfigError) as work:
                work.write_text(text + "\n", encoding="utf-8")
        return paths

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """From benchmark.json or the folder it lies in. Raises ConfigError for a file that is not one."""
        path = Path(path)
        path = path / JSON_NAME if path.is_dir() else path
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is not a report of hfvision bench: {error}") from error

    def to_markdown(self) -> str:
        lines = [f"# hfvision against {self.setting.peer}", "", *self._about(), ""]
        for suite in dict.fromkeys(row.suite for row in self.rows):
            lines += [f"## {suite}", "", *_table([HEADINGS, *(self._cells(r) for r in self.rows if r.suite == suite)])]
            lines.append("")
        if grown := self.families():
            lines += ["## Growth of the time per token, from the smallest image to the largest", ""]
            rows: list[tuple[str, ...]] = [("model", "theirs", "ours", "at most")]
            for name, row, theirs, ours in grown:
                goal = f"{row.goal.growth:g}" if row.goal.growth else ""
                rows.append((name, f"{theirs:.2f}", f"{ours:.2f}", goal))
            lines += [*_table(rows), ""]
        if missed := self.missed():
            lines += ["## Goals not reached", ""]
            lines += [f"- {case}: {', '.join(problems)}" for case, problems in missed.items()]
            lines.append("")
        return "\n".join(lines).rstrip()

    def _about(self) -> list[str]:
        """The machine and the setting, as a list."""
        machine, setting = self.machine, self.setting
        peaks = f"torch's linear {self.peaks.torch:.0f} GFLOP/s"
        if self.peaks.onednn is not None:
            peaks += f", oneDNN {self.peaks.onednn:.0f} GFLOP/s"
        clock = (
            "GPU events" if setting.device == "cuda" else {"wall": "wall time", "cpu": "processor time"}[setting.clock]
        )
        names = ("torch", "transformers", "timm", "numpy", "pillow", "hfvision", "python")
        versions = ", ".join(f"{name} {machine[name]}" for name in names if machine.get(name))
        return [
            f"- {machine['date']}, {machine['cpu']} ({', '.join(machine['flags'])}), {machine['cores']} cores, "
            f"load {machine['load']}" + (f"; {machine['gpu']}, CUDA {machine['cuda']}" if machine.get("gpu") else ""),
            f"- {versions}, {machine['system']}",
            f"- {setting.device}, {setting.dtype}, {self.threads} threads, {clock}, {setting.rounds} rounds"
            + (", channels last" if setting.channels_last else "")
            + (", tiny models: the times mean nothing" if setting.tiny else ""),
            f"- products of matrices: {peaks}; our linear layers take {self.linear_backend}",
        ]

    def _cells(self, row: Row) -> tuple[str, ...]:
        if row.status != "measured" or row.ratio is None:
            return (row.case, row.status, *[""] * (len(HEADINGS) - 3), row.reason)
        rate = row.rate()
        memory = "" if row.ours_mb is None or row.theirs_mb is None else f"{row.theirs_mb:.0f} → {row.ours_mb:.0f}"
        return (
            row.case,
            f"**{row.ratio:.2f}**",
            f"{row.ratio_low:.2f} to {row.ratio_high:.2f}",
            _goal_text(row.goal, self.plain),
            _milliseconds(row.theirs_ms),
            _milliseconds(row.ours_ms),
            "" if rate is None else f"{100 * rate / self.peaks.best:.0f} %",
            memory,
            "0" if not row.difference else f"{row.difference:.0e} {row.unit}",
        )


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _goal_text(goal: Goal, plain: bool) -> str:
    ratio = wanted_ratio(goal, plain)
    parts = [] if ratio is None else [f"{ratio:g}"]
    if goal.memory_share is not None:
        parts.append(f"{goal.memory_share:g} of the memory")
    if goal.memory_mb is not None:
        parts.append(f"at most {goal.memory_mb:g} MB")
    if goal.seconds is not None:
        parts.append(f"at most {1e3 * goal.seconds:g} ms")
    return "; ".join(parts)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Markdown; the first row is the heading, the first column is left-aligned."""
    cells = [tuple(cell.replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows]
    ruler = "| --- |" + " ---: |" * (len(cells[0]) - 1)
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return [lines[0], ruler, *lines[1:]]
