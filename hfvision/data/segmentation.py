"""A data set made ready to train semantic segmentation: images with masks, every fault found before training.

Shapes: N images of a split, H x W pixels of an image, K classes.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt

from hfvision.data.cells import (
    cases,
    check_number_of_images,
    digest_cells,
    in_threads,
    left_out,
    missing_rows,
    rows_to_check,
    shown,
)
from hfvision.data.class_files import BACKGROUND
from hfvision.data.class_names import list_of_names, names_in_file
from hfvision.data.dataset_report import ClassCounts, DatasetReport, LeftOut, SplitReport, images_left_out
from hfvision.data.held_out import Contents, Rows, hold_out
from hfvision.data.mask_values import MaskCoding, ValueCounts, counts_of, label_map_given
from hfvision.data.same_images import image_digests, set_apart
from hfvision.data.scenes import SCENE_CLASSES, SCENE_SETS
from hfvision.data.segmentation_sources import open_masks
from hfvision.data.segmented_images import SegmentedImages
from hfvision.data.sources import Source, name_of
from hfvision.data.splits import choose_splits, held_out_name
from hfvision.errors import DatasetError, HfvisionError, ImageValueError, numbered
from hfvision.processing.label_map import LabelMap
from hfvision.reading_options import SEGMENTATION, ReadingOptions, takes_reading_options
from hfvision.reporting import report

BUILT_IN_CLASSES = dict.fromkeys(SCENE_SETS, SCENE_CLASSES)
MAYBE = ": were outlines left out where they were exported?"
MOST_UNNAMED = 1000  # classes; a mask with larger values holds something else than classes


@dataclass(frozen=True)
class SegmentationData:
    """What a model of semantic segmentation is trained on and measured with.

    Example:
        >>> import hfvision
        >>> scenes = hfvision.load_digit_scenes(train=2, validation=1)
        >>> data = hfvision.prepare_segmentation(scenes, mask_column="mask")
        >>> type(data).__name__, data.ignore_index
        ('SegmentationData', 255)
    """

    name: str
    train: SegmentedImages
    evaluation: SegmentedImages
    names: list[str]  # (K,) of the classes
    pixel_counts: npt.NDArray[np.int64]  # (K,) in the training masks that were checked; (2,) without and with one class
    ignore_index: int = 255
    label_map: LabelMap | None = None  # what stored values mean; `read` gives train ids, not to be mapped again
    citation: str = ""  # of the data set, where it gives them
    license: str = ""
    report: DatasetReport | None = None  # contents, and what was left out
    reading: ReadingOptions = ReadingOptions()  # how it was read

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of classes, label map, numbers of images, first images and masks, to tell data apart."""
        coded = json.dumps([self.label_map and self.label_map.to_dict(), self.ignore_index])
        digest = hashlib.sha256("\0".join([*self.names, coded]).encode())
        for part in (self.train, self.evaluation):
            digest.update(str(len(part)).encode())
            for column in ("image", "mask"):
                digest_cells(digest, part.data, column)
        return digest.hexdigest()[:16]


@takes_reading_options(SEGMENTATION)
def prepare_segmentation(source: Source, *, options: ReadingOptions, evaluate_only: bool = False) -> SegmentationData:
    """Read a source of images and masks, choose splits, find the classes, and check everything.

    Keywords are the fields of `ReadingOptions` that segmentation has.

    Sources: a Hub id; a folder in a layout of `hfvision.data.mask_folder`; parquet files; a folder written by
    `save_to_disk` or with a metadata file; a `Dataset` or dict of splits in memory; the name "digit-scenes" (2,000
    scenes to train on) or "digit-scenes-large" (8,000). The columns are found by their names where there are several of
    images. Evaluation takes the split `eval_split`, or else the first of validation and test that has masks, or else a
    share `held_out` of the training split, chosen with a fixed seed and reported.

    Masks hold one whole number for each pixel, in any mode or integer type; `ignore_index` counts for nothing.
    `label_map` says what other values mean: {stored: class or None}, a data set's name ("ade20k-150",
    "cityscapes-19", "pascal-context-60"), a JSON file, or whatever else `LabelMap.of` takes; with colours in it, masks
    may be pictures in colour. Folders laid out as Cityscapes, VOC or ADE20K bring theirs (reported).

    `names` of the classes are a list, {number: name}, or a text or JSON file. Without them the label map's are taken,
    or those of classes.txt, id2label.json or labels.json in the folder, or "class 0", "class 1", ... as far as the
    masks go (reported). One name is a binary task: 1 where the class is, 0 elsewhere.

    With `evaluate_only` nothing is trained on: the classes and all checks are of the split to measure with, and nothing
    is held out.

    Up to `check_images` pairs of each split are decoded beforehand, evenly spread if there are more (reported); 0
    decodes none, and a bad one then stops the training when its turn comes. Classes that occur in no training mask
    are reported. Raises DatasetError listing all of: images without masks, masks without images, unreadable ones,
    masks of another size than their image, values that stand for no class, training masks where all is ignored.

    Example:
        >>> import hfvision
        >>> scenes = hfvision.load_digit_scenes(train=2, validation=1)
        >>> data = hfvision.prepare_segmentation(scenes, mask_column="mask")
        >>> len(data.train), len(data.evaluation)
        (2, 1)
    """
    check_number_of_images(options.check_images)
    name = name_of(source)
    given = _names_given(options.names)
    label_map = None if options.label_map is None else label_map_given(options.label_map)
    opened = open_masks(source, options, given)
    if opened.is_drawn and label_map is not None:
        raise DatasetError(
            f"{name}: label_map=... says what stored values mean; here the masks are drawn from {opened.layout}, whose "
            "categories are the classes. Leave it out."
        )
    coding = MaskCoding(label_map or opened.label_map, options.ignore_index)
    splits = opened.splits
    train, evaluation = choose_splits(
        name,
        splits,
        options.train_split,
        options.eval_split,
        lambda split: _has_masks(splits, split),
        evaluate_only,
    )
    problems = list(opened.faults)
    parts = [
        _complete(SegmentedImages(split, splits[split], coding), problems)
        for split in dict.fromkeys((train, evaluation))
        if split
    ]
    left_out = {part.split: opened.left_out.get(part.split, ()) for part in parts}
    if options.skip_unreadable:
        whole, parts = parts, [_readable(part) for part in parts]
        for part, before in zip(parts, whole, strict=True):
            left_out[part.split] += images_left_out(len(before), len(part), "unreadable", "skip_unreadable")
    if options.check_images:
        parts = [replace(part, digests=image_digests(part.data, part.split)) for part in parts]
    looked_at = [_inspect(part, options.check_images, problems) for part in parts]
    counts = [counts_of(found.values(), coding.ignore_index) for found in looked_at]
    named = given if label_map is not None or opened.names is None else opened.names
    classes = _class_names(named, coding, name, counts, problems)
    rows = [np.arange(len(part)) for part in parts]
    if len(parts) == 1 and not evaluate_only and (len(parts[0]) > 1 or not problems):
        rows = list(_cut_off(parts[0], options.held_out, looked_at[0], classes))
        held = held_out_name(parts[0].split, options.held_out)
        parts = [parts[0].take(rows[0], parts[0].split), parts[0].take(rows[1], held)]
        looked_at *= 2
    if len(parts) > 1 and not evaluate_only:
        train_part = set_apart(name, parts[0], parts[-1], options.overlap)
        left_out[train] += images_left_out(len(parts[0]), len(train_part), "repeated", "measured with, too")
        earlier, later = parts[0].digests, train_part.digests
        if train_part is not parts[0] and earlier is not None and later is not None:
            rows[0] = rows[0][np.isin(earlier, later)]
        parts[0] = train_part
    counts = [
        counts_of([found[row] for row in chosen.tolist() if row in found], coding.ignore_index)
        for chosen, found in zip(rows, looked_at, strict=True)
    ]
    coding = replace(coding, classes=len(classes))
    if classes[0] == BACKGROUND and not evaluate_only and counts[0].decoded and not set(counts[0].images) - {0}:
        problems.append(f"in the masks of split {parts[0].split!r} nothing but {BACKGROUND} is marked{MAYBE}")
    for part, count in zip(parts, counts, strict=True):
        problems.extend(coding.faults(count, part.split, part is parts[0]))
    if problems:
        raise DatasetError(f"{name}: " + numbered("problem", problems))
    pixel_counts = np.array([counts[0].classes[number] for number in range(coding.values)])
    if options.check_images:
        _report_unseen(pixel_counts, classes, parts[0].split)
    info = splits[train].info
    parts = [replace(part, coding=coding) for part in parts]
    contents = DatasetReport(
        name,
        "segmentation",
        opened.layout,
        tuple(
            _report_of(part, count, classes, left_out.get(part.split, ()))
            for part, count in zip(parts, counts, strict=True)
        ),
        opened.conclusions,
    )
    contents.say()
    return SegmentationData(
        name,
        parts[0],
        parts[-1],
        classes,
        pixel_counts,
        options.ignore_index,
        coding.label_map,
        citation=info.citation or "",
        license=info.license or "",
        report=contents,
        reading=options,
    )


def _report_of(
    part: SegmentedImages, count: ValueCounts, classes: Sequence[str], left_out: tuple[LeftOut, ...]
) -> SplitReport:
    """Pixels and images of each class in a split."""
    unmarked = [0] if classes[0] == BACKGROUND else []
    counted = [
        ClassCounts(one, images=count.images[number], pixels=count.classes[number])
        for number, one in enumerate(classes)
    ]
    return SplitReport(
        part.split,
        len(part),
        tuple(counted) if count.decoded else (),
        images_without_objects=sum(count.alone[number] for number in [None, *unmarked]),
        ignored_pixels=count.classes[part.coding.ignore_index],
        decoded_images=count.decoded or None,
        left_out=left_out,
    )


def _has_masks(splits: Mapping[str, datasets.Dataset], split: str) -> bool:
    """Whether the split has any mask; published test splits often hide theirs."""
    if len(missing_rows(splits[split], "mask")) == len(splits[split]):
        report(f"split {split!r} has no masks and was passed over.")
        return False
    return True


def _complete(part: SegmentedImages, problems: list[str]) -> SegmentedImages:
    """The rows that have both image and mask; the others become problems."""
    if not len(part):
        problems.append(f"split {part.split!r} is empty")
    missing = {column: missing_rows(part.data, column) for column in ("mask", "image")}
    for column, rows in missing.items():
        if rows:
            kind = "images without a mask" if column == "mask" else "masks without an image"
            problems.append(f"{kind} in split {part.split!r} ({len(rows)}): {shown(map(part.file_of, rows))}")
    complete = np.setdiff1d(np.arange(len(part)), missing["mask"] + missing["image"])
    return part if len(complete) == len(part) else part.take(complete, part.split)


def _readable(part: SegmentedImages) -> SegmentedImages:
    """The rows whose image and mask can be read; the others are reported."""

    def fault(row: int) -> str | None:
        try:
            part.read_stored(row)
        except DatasetError as error:
            return str(error)
        except HfvisionError:
            pass  # said when the values are counted
        return None

    rows = range(len(part))
    faults = {row: said for row, said in zip(rows, in_threads(fault, rows, part.split), strict=True) if said}
    if not faults:
        return part
    report(left_out(f"unreadable images or masks in split {part.split!r}", list(faults.values()), len(part)))
    return part.take(np.setdiff1d(np.arange(len(part)), list(faults)), part.split)


def _cut_off(
    part: SegmentedImages, share: float, looked_at: Mapping[int, ValueCounts], names: Sequence[str]
) -> tuple[Rows, Rows]:
    """Rows to train on and rows held out, which hold the classes as far as masks were looked at."""
    pairs = [
        (row, number)
        for row, counts in looked_at.items()
        for number, pixels in counts.classes.items()
        if pixels and 0 <= number < len(names) and number != part.coding.ignore_index
    ]
    images, classes = np.array(pairs, np.int64).reshape(-1, 2).T
    contents = Contents.of_pairs(images, classes, names)
    several = contents if len(np.unique(contents.images)) > 1 else None
    return hold_out(part.split, [np.arange(len(part))], share, contents=several, digests=part.digests)


def _inspect(part: SegmentedImages, at_most: int, problems: list[str]) -> dict[int, ValueCounts]:
    """Row -> how often each value occurs in its mask; what cannot be counted becomes a problem."""
    rows = rows_to_check(part.split, len(part), at_most) if at_most else []
    counts: dict[int, ValueCounts] = {}
    unreadable: list[str] = []
    sizes: list[str] = []
    strange: list[str] = []

    def inspect(row: int) -> ValueCounts | tuple[list[str], str]:
        try:
            image, stored = part.read_stored(row)
        except DatasetError as error:
            return unreadable, str(error)
        try:
            part.check_size(image, stored)
            return part.coding.count(stored)
        except DatasetError as error:
            return sizes, f"{part.file_of(row)}: {error}"
        except ImageValueError as error:
            return strange, f"{part.file_of(row)}: {str(error).splitlines()[0]}"

    for row, outcome in zip(rows, in_threads(inspect, rows, part.split), strict=True):
        if isinstance(outcome, ValueCounts):
            counts[row] = outcome
        else:
            kind, message = outcome
            kind.append(message)
    for what, faults in (
        ("unreadable images or masks (skip_unreadable=True, --skip-unreadable leaves them out)", unreadable),
        ("masks of another size than their image", sizes),
        ("masks with colours that are not declared", strange),
    ):
        if faults:
            problems.append(cases(f"{what} in split {part.split!r} ({len(faults)} of {len(rows)})", faults))
    return counts


def _class_names(
    given: Sequence[str] | None,
    coding: MaskCoding,
    name: str,
    counts: Sequence[ValueCounts],
    problems: list[str],
) -> list[str]:
    """The classes by number, from where they are named; numbered as far as the masks go where they are not."""
    mapped = 0 if coding.label_map is None else coding.label_map.num_labels
    named = given or _names_of_map(coding.label_map) or BUILT_IN_CLASSES.get(name)
    if named:
        if mapped > max(2, len(named)):
            problems.append(f"the label map has {mapped} classes, {len(named)} are named: {shown(named)}")
        return list(named)
    found = {value for count in counts for value in count.classes if value != coding.ignore_index}
    classes = mapped or max(found, default=-1) + 1
    if classes < 2 or classes > MOST_UNNAMED:
        reason = f"the masks hold values up to {classes - 1}" if found else "no mask was read that says"
        problems.append(
            f"the classes are not known: {reason}. Name them (names=...), or say what values mean (label_map=...)"
        )
        return [f"class {number}" for number in range(2)]
    report(
        f"the classes of {name} have no names: they are called class 0 to class {classes - 1}; names=... names them."
    )
    return [f"class {number}" for number in range(classes)]


def _names_given(given: Any) -> list[str] | None:
    if given is None:
        return None
    is_file = isinstance(given, str | os.PathLike)
    return names_in_file(Path(given)) if is_file else list_of_names(given, "names")


def _names_of_map(label_map: LabelMap | None) -> list[str] | None:
    if label_map is None or all(label.name is None for label in label_map.labels if label.train_id is not None):
        return None
    named = label_map.id2label
    return [named.get(number, f"class {number}") for number in range(label_map.num_labels)]


def _report_unseen(pixel_counts: npt.NDArray[np.int64], names: Sequence[str], split: str) -> None:
    unseen = [name for name, pixels in zip(names, pixel_counts, strict=False) if not pixels]
    if unseen and len(names) > 1:
        report(f"{len(unseen)} of {len(names)} classes occur in no checked mask of split {split!r}: {shown(unseen)}.")
