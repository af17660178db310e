"""The report that every reader ends in, before training: contents of each split, and all that was left out of it.

A reader fills a `SplitReport` for each split; `DatasetReport.text` is said once through `hfvision.reporting`, and
`DatasetReport.to_dict` is the JSON of `hfvision check`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hfvision.reporting import report

LISTED = 20  # classes of a split that the text writes out
SPLIT, DETAIL = "\n    ", "\n        "


@dataclass(frozen=True)
class LeftOut:
    """Things that a reader did not take over, of one kind and for one reason."""

    count: int
    what: str  # in the plural: "boxes without area"
    reason: str = ""  # with the option that changes it, where there is one

    def __str__(self) -> str:
        return f"{self.count:,} {self.what}" + (f" ({self.reason})" if self.reason else "")


def images_left_out(before: int, after: int, kind: str, reason: str) -> tuple[LeftOut, ...]:
    """The images that a step took away; () where it took none."""
    lost = before - after
    return (LeftOut(lost, f"{kind} image{'s' * (lost != 1)}", reason),) if lost else ()


@dataclass(frozen=True)
class ClassCounts:
    """One class in one split; None where a task has no such number."""

    name: str
    images: int | None = None  # that hold it
    objects: int | None = None  # without crowds
    pixels: int | None = None  # of the images that were decoded, see SplitReport.decoded_images


@dataclass(frozen=True)
class SplitReport:
    """Contents of one split, as it is trained on or measured with."""

    split: str
    images: int
    classes: tuple[ClassCounts, ...] = ()  # in the order of their numbers
    crowds: int | None = None  # objects that are neither learned nor measured; None for tasks without objects
    difficult: int | None = None  # objects that the source marks so, among the crowds or not
    images_without_objects: int | None = None  # of no class at all; they are kept
    ignored_pixels: int | None = None  # of the images that were decoded
    decoded_images: int | None = None  # those whose pixels were counted; None: no pixels are counted
    left_out: tuple[LeftOut, ...] = ()

    @property
    def objects(self) -> int | None:
        """All objects but crowds; None for tasks without objects."""
        counts = [one.objects for one in self.classes if one.objects is not None]
        return sum(counts) if counts or self.crowds is not None else None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, text, lists and dicts."""
        return asdict(self) | {
            "classes": {one.name: {k: v for k, v in asdict(one).items() if k != "name"} for one in self.classes},
            "objects": self.objects,
            "left_out": [asdict(kind) for kind in self.left_out],
        }

    def lines(self) -> list[str]:
        """The numbers in words: one line for the split, then one for each thing to know about it."""
        head = f"{self.split}: {self.images:,} image{'s' * (self.images != 1)}"
        if self.images_without_objects:
            head += f", {self.images_without_objects:,} of them without objects (kept)"
        if self.objects is not None:
            head += f"; {self.objects:,} object{'s' * (self.objects != 1)}"
        lines = [head + _listed(self.classes)]
        pixels = [(one.name, one.pixels) for one in self.classes if one.pixels is not None]
        if pixels and self.decoded_images is not None:
            ignored = f"; {self.ignored_pixels:,} ignored" if self.ignored_pixels else ""
            of = "" if self.decoded_images == self.images else f" of the {self.decoded_images:,} images decoded"
            lines.append(f"pixels{of}: {_cut([f'{name} {count:,}' for name, count in pixels])}{ignored}")
        if self.crowds:
            lines.append(f"crowds, neither learned nor measured: {self.crowds:,}")
        if self.difficult:
            lines.append(f"marked as difficult: {self.difficult:,}")
        return lines + [f"left out: {kind}" for kind in self.left_out]


@dataclass(frozen=True)
class DatasetReport:
    """A whole data set, as training and evaluation see it."""

    dataset: str  # its name
    task: str  # classification, segmentation, detection, panoptic
    layout: str  # the format that it was read as, in words: "COCO", "class folders"
    splits: tuple[SplitReport, ...]
    conclusions: tuple[str, ...] = ()  # what the reader decided from the files, and the option that says otherwise

    @property
    def left_out(self) -> int:
        """All that was left out, of whatever kind, in all splits."""
        return sum(kind.count for split in self.splits for kind in split.left_out)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, text, lists and dicts, for JSON."""
        return {
            "dataset": self.dataset,
            "task": self.task,
            "layout": self.layout,
            "conclusions": list(self.conclusions),
            "splits": {split.split: split.to_dict() for split in self.splits},
        }

    def text(self) -> str:
        """Several lines for people."""
        classes = len(self.splits[0].classes) if self.splits else 0
        head = f"{self.dataset}, read for {self.task} as {self.layout}: {classes:,} class{'es' * (classes != 1)}"
        decided = [SPLIT + said for said in self.conclusions]
        counted = [
            (DETAIL if place else SPLIT) + line for split in self.splits for place, line in enumerate(split.lines())
        ]
        return "".join([head, *decided, *counted])

    def say(self) -> None:
        """Report the text, as all that hfvision says by itself."""
        report(self.text())


def _listed(classes: Sequence[ClassCounts]) -> str:
    """ ": cat 5, dog 3", by objects or else by images; then the classes that have none."""
    counts = [(one.name, one.images if one.objects is None else one.objects) for one in classes]
    known = [(name, count) for name, count in counts if count is not None]
    present = [f"{name} {count:,}" for name, count in known if count]
    absent = [name for name, count in known if not count]
    said = f": {_cut(present)}" if present else ""
    return said + (f"; none of {_cut(absent)}" if absent else "")


def _cut(parts: Sequence[str]) -> str:
    more = f" and {len(parts) - LISTED:,} more" if len(parts) > LISTED else ""
    return ", ".join(parts[:LISTED]) + more
