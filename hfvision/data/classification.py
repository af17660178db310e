"""A data set made ready to train a classifier: splits chosen, labels numbered, every fault found before training.

Shapes: N images of a split, K classes.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import datasets
import numpy as np

from hfvision.data.cells import (
    cases,
    check_number_of_images,
    decoded,
    digest_cells,
    in_threads,
    left_out,
    rows_to_check,
    shown,
    shown_rows,
)
from hfvision.data.dataset_report import ClassCounts, DatasetReport, LeftOut, SplitReport, images_left_out
from hfvision.data.held_out import hold_out
from hfvision.data.labelled_sources import open_labelled
from hfvision.data.same_images import Digests, image_digests, set_apart
from hfvision.data.sources import Source, name_of
from hfvision.data.splits import choose_splits, held_out_name
from hfvision.errors import DatasetError, ImageReadError, numbered
from hfvision.reading_options import CLASSIFICATION, ReadingOptions, takes_reading_options
from hfvision.reporting import report


@dataclass(frozen=True)
class LabelledImages:
    """The images of one split and the number of each one's class."""

    split: str
    images: datasets.Dataset  # one column "image": encoded images, paths or arrays
    labels: np.ndarray  # (N,) int64
    digests: Digests | None = None  # (N,) of the images; None where nothing was looked at

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def data(self) -> datasets.Dataset:
        """The images by the name that other tasks' splits have for them."""
        return self.images

    @cached_property
    def feature(self) -> Any:
        """That of the images; a data set copies its own at every look."""
        return self.images.features["image"]

    def read(self, row: int) -> Any:
        """The image as PIL (upright, whatever EXIF says) or array. Raises DatasetError naming row and file."""
        try:
            return decoded(self.images[row]["image"], self.feature)
        except ImageReadError as error:
            raise DatasetError(f"image {row} of split {self.split!r}: {error}") from error

    def take(self, rows: Sequence[int] | np.ndarray, split: str) -> "LabelledImages":
        """Some rows under another name."""
        digests = None if self.digests is None else self.digests[rows]
        return LabelledImages(split, self.images.select(rows), self.labels[rows], digests)


@dataclass(frozen=True)
class ClassificationData:
    """What a classifier is trained on and measured with.

    Example:
        >>> import hfvision
        >>> data = hfvision.prepare_classification("digits")
        >>> type(data).__name__, len(data.names)
        ('ClassificationData', 10)
    """

    name: str
    train: LabelledImages
    evaluation: LabelledImages
    names: list[str]  # (K,) of the classes
    citation: str = ""  # of the data set, where it gives them
    license: str = ""
    reading: ReadingOptions = ReadingOptions()  # how it was read
    report: DatasetReport | None = None  # contents, and what was left out

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of the class names, all labels and the first images, to tell data sets apart."""
        digest = hashlib.sha256("\0".join(self.names).encode())
        for part in (self.train, self.evaluation):
            digest.update(part.labels.tobytes())
            digest_cells(digest, part.images, "image")
        return digest.hexdigest()[:16]


@takes_reading_options(CLASSIFICATION)
def prepare_classification(
    source: Source, *, options: ReadingOptions, evaluate_only: bool = False
) -> ClassificationData:
    """Read a source (those of `load_image_dataset`), choose splits, number the labels, and check everything.

    Keywords are the fields of `ReadingOptions` that classification has.

    Evaluation takes the split `eval_split`, or else the first labelled one of validation and test, or else a share
    `held_out` of the training split, cut off by class with a fixed seed and reported. Classes are a ClassLabel's own;
    text and whole numbers are sorted. Up to `check_images` images of each split are decoded beforehand, evenly spread
    if there are more (reported); 0 decodes none, and a bad one then stops the training when its turn comes.

    With `evaluate_only` nothing is trained on: the classes and all checks are of the split to measure with, and nothing
    is held out.

    Raises DatasetError listing all of: missing labels, classes that occur in evaluation but not in training, classes
    without a training image (`drop_empty_classes` takes them out instead), fewer than two classes, unreadable images.

    Example:
        >>> import hfvision
        >>> data = hfvision.prepare_classification("digits")
        >>> len(data.train), data.names[:3]
        (1437, ['0', '1', '2'])
    """
    check_number_of_images(options.check_images)
    opened, name = open_labelled(source, options), name_of(source)
    splits = opened.splits
    train, evaluation = choose_splits(
        name,
        splits,
        options.train_split,
        options.eval_split,
        lambda split: _is_labelled(splits, split),
        evaluate_only,
    )
    names = _class_names(splits[train])
    problems = list(opened.faults)
    parts = {split: _numbered_labels(split, splits[split], names, problems) for split in (train, evaluation) if split}
    gone = {split: tuple(opened.left_out.get(split, ())) for split in parts}
    if options.skip_unreadable:
        whole, parts = parts, {split: _readable(part) for split, part in parts.items()}
        for split, part in parts.items():
            gone[split] += images_left_out(len(whole[split]), len(part), "unreadable", "skip_unreadable")
    if not problems and not evaluate_only:
        names = _check_classes(parts, train, names, options.drop_empty_classes, problems)
    for part in parts.values() if options.check_images and not options.skip_unreadable else ():
        problems.extend(_unreadable(part, options.check_images))
    if problems:
        raise DatasetError(f"{name}: " + numbered("problem", problems))
    info = splits[train].info
    if options.check_images:
        parts = {split: replace(part, digests=image_digests(part.images, split)) for split, part in parts.items()}
    if evaluation is None:
        train_part, evaluation_part = _cut_off(parts[train], options.held_out, names)
    else:
        train_part, evaluation_part = parts[train], parts[evaluation]
    if not evaluate_only:
        before = len(train_part)
        train_part = set_apart(name, train_part, evaluation_part, options.overlap)
        gone[train] += images_left_out(before, len(train_part), "repeated", "measured with, too")
    read = {part.split: _report_of(part, names, gone.get(part.split, ())) for part in (train_part, evaluation_part)}
    contents = DatasetReport(name, "classification", opened.layout, tuple(read.values()), opened.conclusions)
    contents.say()
    return ClassificationData(
        name,
        train_part,
        evaluation_part,
        names,
        citation=info.citation or "",
        license=info.license or "",
        reading=options,
        report=contents,
    )


def _report_of(part: LabelledImages, names: Sequence[str], left_out: tuple[LeftOut, ...]) -> SplitReport:
    """Images of each class in a split."""
    counts = np.bincount(part.labels, minlength=len(names)).tolist()
    classes = [ClassCounts(one, images=count) for one, count in zip(names, counts, strict=True)]
    return SplitReport(part.split, len(part), tuple(classes), left_out=left_out)


def _is_labelled(splits: Mapping[str, datasets.Dataset], split: str) -> bool:
    """Whether the split has any label; published test splits often hide theirs."""
    if all(value is None for value in _labels(splits[split])):
        report(f"split {split!r} has no labels and was passed over.")
        return False
    return True


def _class_names(train: datasets.Dataset) -> list[str]:
    """The classes in the order of their numbers."""
    feature = train.features["label"]
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    kind = getattr(feature, "dtype", "")
    if kind not in ("string", "large_string", "bool") and not kind.startswith(("int", "uint")):
        raise DatasetError(
            f"labels are one class per image: a ClassLabel, text or whole numbers; got {kind or feature}. "
            "Lists of labels (multi-label) and measured values (regression) are other tasks."
        )
    return [str(value) for value in sorted({value for value in _labels(train) if value is not None})]


def _labels(data: datasets.Dataset) -> list[Any]:
    """The labels; None where one is missing: nothing, blank text, or -1 in a ClassLabel (the Hub's "unlabelled")."""
    values = data.select_columns(["label"]).with_format("arrow")[:]["label"].to_pylist()
    if isinstance(data.features["label"], datasets.ClassLabel):
        return [None if value == -1 else value for value in values]
    return [None if isinstance(value, str) and not value.strip() else value for value in values]


def _numbered_labels(split: str, data: datasets.Dataset, names: list[str], problems: list[str]) -> LabelledImages:
    """The split with its labels as numbers of classes; what has none becomes a problem."""
    values = _labels(data)
    called = _what_values_are_called(data, values)
    number = {name: position for position, name in enumerate(names)}
    if not values:
        problems.append(f"split {split!r} is empty")
    missing = [row for row, value in enumerate(values) if value is None]
    if missing:
        problems.append(
            f"{len(missing)} of {len(values)} images in split {split!r} have no label, {shown_rows(missing)}"
        )
    unseen = [called[value] for value in values if value is not None and called[value] not in number]
    if unseen:
        problems.append(_unseen(split, len(unseen), len(values), sorted(set(unseen))))
    labels = np.array([-1 if value is None else number.get(called[value], -1) for value in values], dtype=np.int64)
    return LabelledImages(split, data.select_columns(["image"]), labels)


def _what_values_are_called(data: datasets.Dataset, values: list[Any]) -> dict[Any, str]:
    """Label as stored -> class name. Splits are matched by name: they may number the same names differently."""
    feature = data.features["label"]
    names = feature.names if isinstance(feature, datasets.ClassLabel) else []
    known = dict(enumerate(names))
    return {value: known.get(value, str(value)) for value in set(values) - {None}}


def _check_classes(
    parts: dict[str, LabelledImages], train: str, names: list[str], drop_empty: bool, problems: list[str]
) -> list[str]:
    """The classes to train; renumbers `parts` when classes are dropped."""
    counts = np.bincount(parts[train].labels, minlength=len(names))
    empty = set(np.flatnonzero(counts == 0).tolist())
    for split, part in parts.items():
        unseen = np.isin(part.labels, sorted(empty))
        if unseen.any():
            kinds = [names[label] for label in np.unique(part.labels[unseen])]
            problems.append(_unseen(split, int(unseen.sum()), len(part), kinds))
    if empty and not drop_empty:
        without = shown(names[label] for label in sorted(empty))
        problems.append(
            f"{len(empty)} of {len(names)} classes have no image in split {train!r}: {without}. "
            "Add images, or leave these classes out: drop_empty_classes=True, --drop-empty-classes"
        )
    if len(names) - len(empty) < 2:
        present = [name for label, name in enumerate(names) if label not in empty]
        problems.append(f"training needs images of at least 2 classes, got {len(present)}: {shown(present) or 'none'}")
    if problems or not empty:
        return names
    kept = [label for label in range(len(names)) if label not in empty]
    report(f"{len(empty)} classes without a training image were left out: {shown([names[i] for i in sorted(empty)])}.")
    new_number = np.full(len(names), -1)
    new_number[kept] = np.arange(len(kept))
    for split, part in parts.items():
        parts[split] = replace(part, labels=new_number[part.labels])
    return [names[label] for label in kept]


def _faults(part: LabelledImages, at_most: int) -> dict[int, str]:
    """Row -> reason, of the images that cannot be decoded."""
    rows = rows_to_check(part.split, len(part), at_most)

    def fault(row: int) -> str | None:
        try:
            part.read(row)
        except DatasetError as error:
            return str(error)
        return None

    return {row: message for row, message in zip(rows, in_threads(fault, rows, part.split), strict=True) if message}


def _unreadable(part: LabelledImages, at_most: int) -> Iterator[str]:
    """One problem naming the images of a split that cannot be decoded."""
    if faults := _faults(part, at_most):
        what = f"unreadable images in split {part.split!r} ({len(faults)} of {min(at_most, len(part))})"
        yield cases(f"{what}; skip_unreadable=True (--skip-unreadable) leaves them out", list(faults.values()))


def _readable(part: LabelledImages) -> LabelledImages:
    """The images that can be decoded; the others are reported."""
    faults = _faults(part, len(part))
    if not faults:
        return part
    report(left_out(f"unreadable images in split {part.split!r}", list(faults.values()), len(part)))
    return part.take(np.setdiff1d(np.arange(len(part)), list(faults)), part.split)


def _cut_off(part: LabelledImages, share: float, names: Sequence[str]) -> tuple[LabelledImages, LabelledImages]:
    """Training and held-out images; of each class the same share, at least one where it has two images."""
    labels = np.unique(part.labels)
    groups = [np.flatnonzero(part.labels == label) for label in labels]
    rows, held = hold_out(part.split, groups, share, "class", digests=part.digests)
    missing = [names[label] for label in np.setdiff1d(labels, part.labels[held])]
    if missing:
        report(
            f"the images held out of {part.split!r} hold none of {len(missing)} classes that have too few: "
            f"{shown(missing)}. They are trained on and not measured."
        )
    return part.take(rows, part.split), part.take(held, held_out_name(part.split, share))


def _unseen(split: str, images: int, total: int, kinds: list[str]) -> str:
    return (
        f"{images} of {total} images in split {split!r} have labels unseen in training ({len(kinds)}): {shown(kinds)}"
    )
