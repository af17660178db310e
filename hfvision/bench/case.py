"""What is compared: a case, the two sides it builds, the goal it has, and the setting it runs in."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from hfvision.errors import ConfigError, numbered

if TYPE_CHECKING:
    from torch import Tensor

Call = Callable[[], Any]
Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "bfloat16", "float16"]
Peer = Literal["transformers", "timm"]
ClockName = Literal["wall", "cpu"]
Side = Literal["theirs", "ours"]

ROUNDING = {"float32": 1.0, "float16": 1e3, "bfloat16": 5e3}  # of a dtype, relative to float32's: widens tolerances


class Unavailable(Exception):
    """A case that cannot run here: a package or an option is missing. It is listed with the reason, not failed."""


@dataclass(frozen=True)
class Setting:
    """How a run is done. Raises ConfigError naming every value that cannot work."""

    device: Device = "cpu"
    dtype: Dtype = "float32"
    peer: Peer = "transformers"
    clock: ClockName = "wall"  # "cpu": processor time, of all threads together
    threads: int | None = None  # of torch; None: one for "cpu", else torch's own choice
    rounds: int = 5  # kept ones; each times both sides
    memory: bool = True  # whether peak memory is measured, in child processes
    channels_last: bool = False  # memory format of weights and images, for both sides
    tiny: bool = False  # small models and images: whether everything runs, not how fast it is

    def __post_init__(self) -> None:
        kinds = {"device": Device, "dtype": Dtype, "peer": Peer, "clock": ClockName}
        problems = [
            f"{name} is {' or '.join(get_args(kind))}; got {getattr(self, name)!r}"
            for name, kind in kinds.items()
            if getattr(self, name) not in get_args(kind)
        ]
        if self.rounds < 1:
            problems.append(f"rounds is at least 1; got {self.rounds}")
        if self.threads is not None and self.threads < 1:
            problems.append(f"threads is at least 1; got {self.threads}")
        if self.device == "cuda":
            if self.clock == "cpu":
                problems.append("clock 'cpu' does not see what a GPU does; use 'wall' with device 'cuda'")
            import torch

            if not torch.cuda.is_available():
                problems.append("device 'cuda' needs a GPU that torch can use; torch.cuda.is_available() is False")
        if self.peer == "timm" and importlib.util.find_spec("timm") is None:
            problems.append("peer 'timm' needs the package: pip install timm")
        if problems:
            raise ConfigError(numbered("problem", problems))

    def tensor(self, values: "Tensor") -> "Tensor":
        """Values or images as the models of this setting take them."""
        import torch

        values = values.to(self.device, getattr(torch, self.dtype))
        return values.to(memory_format=torch.channels_last) if self.channels_last and values.ndim == 4 else values


@dataclass(frozen=True)
class Goal:
    """What a case is to reach on a CPU in float32 against transformers; None where nothing is asked."""

    ratio: float | None = None  # theirs / ours, at least
    plain: float | None = None  # the same where linear layers run through torch's own product; None: no other
    memory_share: float | None = None  # ours / theirs, at most
    memory_mb: float | None = None  # ours, at most
    seconds: float | None = None  # ours, at most
    growth: float | None = None  # of our time per token from the first to the last case of a family, at most


@dataclass
class Pair:
    """Both sides of a case, ready to be called; each call does the same work and gives the answer."""

    theirs: Call
    ours: Call
    check: Callable[[], float] | None = None  # the difference, where it is not that of the two answers
    seconds: Callable[[Any], float] | None = None  # reads the time from an answer, where the call measures itself


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    build: Callable[[Setting], Pair]
    goal: Goal = field(default_factory=Goal)
    tolerance: float = 1e-5  # of the difference, in float32
    unit: str = "of the largest value"  # of the difference
    family: str = ""  # of cases that differ in the size of the image
    tokens: int = 0  # of such a case
    peers: tuple[Peer, ...] = ("transformers",)  # that it can be compared with
    counts_flops: bool = True  # whether products of matrices are what it does; else its dtype is its own
    measures_memory: bool = True

    def tolerance_in(self, setting: Setting) -> float:
        return min(self.tolerance * ROUNDING[setting.dtype], 0.1) if self.counts_flops else self.tolerance

    def reachable(self, setting: Setting) -> Goal:
        """The goal that holds in a setting."""
        comparable = setting.device == "cpu" and setting.dtype == "float32" and setting.peer == "transformers"
        return self.goal if comparable and not setting.tiny else Goal()
