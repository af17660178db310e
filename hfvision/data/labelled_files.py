"""Image files with their labels, as the readers of lists, tables and class folders find them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import datasets

from hfvision.data.cells import shown
from hfvision.data.dataset_report import LeftOut
from hfvision.errors import DatasetError

Labels: TypeAlias = tuple[str, ...]
UNLABELLED = -1  # in a ClassLabel


@dataclass(frozen=True)
class LabelledFiles:
    """Files of each split, each with the names of its classes: none where nobody labelled it, several where it has."""

    layout: str  # in words
    splits: dict[str, list[tuple[str, Labels]]]  # path (or address in an archive) and labels
    classes: Sequence[str]  # in the order of their numbers
    conclusions: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelledSource:
    """Splits of any source of labelled images, and what was concluded and left out."""

    splits: Mapping[str, datasets.Dataset]
    layout: str = "columns"
    conclusions: tuple[str, ...] = ()
    left_out: Mapping[str, tuple[LeftOut, ...]] = field(default_factory=dict)  # by split
    faults: tuple[str, ...] = ()


def labelled_source(found: LabelledFiles, several: str = "error") -> LabelledSource:
    """The files as columns "image" and "label", one class for each image.

    Images without a label are left out, unless a whole split has none. Those of several classes are a fault, or left
    out where `several` is "drop". Raises DatasetError where no image has a label.
    """
    if not any(labels for rows in found.splits.values() for _, labels in rows):
        raise DatasetError(f"{found.layout}: none of the {sum(map(len, found.splits.values()))} images has a label.")
    number = {name: place for place, name in enumerate(found.classes)}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(found.classes))})
    splits: dict[str, datasets.Dataset] = {}
    left_out: dict[str, tuple[LeftOut, ...]] = {}
    faults = list(found.faults)
    for split, rows in found.splits.items():
        is_hidden = not any(labels for _, labels in rows)  # a published test split
        kept = [(path, labels) for path, labels in rows if len(labels) == 1 or is_hidden]
        left_out[split] = tuple(_left_out(rows, is_hidden, several == "drop"))
        plural = [path for path, labels in rows if len(labels) > 1]
        if plural and several != "drop":
            faults.append(
                f"{len(plural)} of {len(rows)} images in split {split!r} are of several classes, and classification "
                f"learns one for each image ({shown(map(Path, plural))}). Correct them, or leave these images out: "
                "several_classes='drop' (--several-classes drop)"
            )
        columns: dict[str, list[Any]] = {
            "image": [path for path, _ in kept],
            "label": [number[labels[0]] if labels else UNLABELLED for _, labels in kept],
        }
        splits[split] = datasets.Dataset.from_dict(columns, features, split=datasets.NamedSplit(split))
    return LabelledSource(splits, found.layout, found.conclusions, left_out, tuple(faults))


def files_of(paths: Mapping[str, Path | None], where: str) -> tuple[dict[str, Path], list[str]]:
    """The names whose file is there, and one fault that counts the others."""
    found = {name: path for name, path in paths.items() if path is not None}
    lost = [name for name, path in paths.items() if path is None]
    return found, [f"{where} lists {len(lost)} images that are not there: {shown(lost)}"] if lost else []


def _left_out(rows: Sequence[tuple[str, Labels]], is_hidden: bool, drops: bool) -> Iterator[LeftOut]:
    bare = [path for path, labels in rows if not labels]
    plural = [path for path, labels in rows if len(labels) > 1]
    if bare and not is_hidden:
        yield LeftOut(len(bare), f"image{'s' * (len(bare) > 1)} without a label", shown(map(Path, bare)))
    if plural and drops:
        yield LeftOut(len(plural), f"image{'s' * (len(plural) > 1)} of several classes", shown(map(Path, plural)))
