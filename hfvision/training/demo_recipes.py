"""What the demos of digit scenes share: how starters are trained, what their cards say, where a demo writes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfvision.data.scenes import NAME as SCENES
from hfvision.errors import ConfigError
from hfvision.training.arguments import NEW, OTHER_NAMES

LICENSE = "apache-2.0"
SCENES_MEASURED = 200  # the validation split
SCENES_SHOWN = 12


# What the command line calls by another name, and settings that are switches there.
OPTIONS = {"num_queries": "queries"}
SWITCHES = {
    ("keep_best", False): "--keep-last",
    ("keep_best", True): "--keep-best",
    ("flip", 0): "--no-flip",
    ("colour", False): "--no-colour",
}


@dataclass(frozen=True, kw_only=True)
class SceneRecipe:
    """How a starter is trained: what differs from the defaults for new weights, and what it is to reach."""

    task: str  # of `hfvision train`
    demo: str  # of `hfvision demo`
    required: float  # of the figure that decides, on the unseen scenes
    augmentation: Mapping[str, Any] | None  # fields of the standard recipe; None: the scenes vary enough by themselves
    settings: Mapping[str, Any] = field(default_factory=dict)  # by the short names of `hfvision.training.settings`
    further: Mapping[str, Any] = field(default_factory=dict)  # options of the task, such as "trunk", and settings
    dataset: str = SCENES
    start: str | None = None  # the model that it starts from; None: new weights

    def base(self, starter: str) -> str:
        """What the training of the starter starts from."""
        return self.start or NEW + starter

    def options(self) -> dict[str, Any]:
        """What of `further` are options of the task; the others are arguments of training by older names."""
        return {name: value for name, value in self.further.items() if name not in OTHER_NAMES}

    def command(self, name: str) -> str:
        """The command line that makes the starter of that name."""
        named = {"model": self.base(name), "dataset": self.dataset, "output": "FOLDER", **self.further}
        words = [f"hfvision train {self.task}", *(_option(*pair) for pair in named.items())]
        words += ["--no-augment"] if self.augmentation is None else [_option(*p) for p in self.augmentation.items()]
        words += [_option(*pair) for pair in self.settings.items()]
        return " ".join([*words, f"--license {LICENSE}"])

    def notes(self, name: str) -> tuple[str, ...]:
        """What the card of the starter of that name says beside the figures."""
        again = f"hfvision demo {self.demo} --model {name} --train"
        return (
            f"It ships with hfvision: `hfvision predict IMAGE --model {name} --output FOLDER`, or in Python the folder "
            f'`hfvision.starters.resolve("{name}")`. `hfvision demo {self.demo}` shows it on unseen scenes.',
            f"`{self.command(name)}` makes it anew, and so does `{again}`.",
            "It knows handwritten digits of one colour each, 40 to 60 pixels high on scenes of 96 x 96 pixels, and "
            "nothing else: it is for trying things out. The digits of both splits come from the same 13 writers.",
        )


def output_folder(output: str | os.PathLike[str], written: Sequence[str]) -> Path:
    """The folder of a demo. Raises ConfigError if it is a file, or holds what the demo would write."""
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output is a folder; {folder} is a file. Choose another name.")
    for name in written:
        if (folder / name).exists():
            raise ConfigError(f"{folder / name} is there and would be overwritten. Choose another folder.")
    return folder


def _option(name: str, value: Any) -> str:
    """An argument of Python as the command line has it."""
    if (name, value) in SWITCHES:
        return SWITCHES[name, value]
    values = value if isinstance(value, tuple) else (value,)
    return " ".join([f"--{OPTIONS.get(name, name).replace('_', '-')}", *map(str, values)])
