"""A data set made ready to train detection or panoptic segmentation: every fault of images and objects found before.

Shapes: N images of a split, M objects of all of them together, n of one image, H x W pixels of an image, K classes.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hfvision.data.annotation_files import Faults
from hfvision.data.cells import (
    check_number_of_images,
    decoded,
    digest_cells,
    in_threads,
    left_out,
    missing_rows,
    rows_to_check,
    shown,
)
from hfvision.data.dataset_report import DatasetReport, LeftOut
from hfvision.data.detected_images import DetectedImages
from hfvision.data.detection_checks import BoxCheck, check_ids
from hfvision.data.detection_classes import class_set, with_train_ids
from hfvision.data.detection_report import SplitPixels, crowds_only, report_of
from hfvision.data.detection_sources import Wanted, open_objects
from hfvision.data.held_out import Contents, hold_out
from hfvision.data.image_sizes import size_of_cell
from hfvision.data.object_table import IMAGE, SEGMENTS, Floats, Integers, Key, ObjectTable, StoredSplit
from hfvision.data.same_images import image_digests, set_apart
from hfvision.data.sources import Source, name_of
from hfvision.data.splits import choose_splits, held_out_name
from hfvision.errors import DatasetError, HfvisionError, ImageReadError, numbered
from hfvision.objects import SegmentMasks
from hfvision.objects.id_maps import read_id_map
from hfvision.reading_options import DETECTION, PANOPTIC, ReadingOptions, takes_reading_options
from hfvision.reporting import report

__all__ = ["DetectedImages", "DetectionData", "prepare_detection"]

UNREADABLE = "unreadable images (skip_unreadable=True, --skip-unreadable, leaves them out)"


@dataclass(frozen=True)
class DetectionData:
    """What a detector is trained on and measured with.

    Example:
        >>> import hfvision
        >>> scenes = hfvision.load_digit_scenes(train=2, validation=1)
        >>> data = hfvision.prepare_detection(scenes)
        >>> type(data).__name__, int(data.object_counts.sum())
        ('DetectionData', 3)
    """

    name: str
    train: DetectedImages
    evaluation: DetectedImages
    names: list[str]  # (K,) of the classes
    object_counts: npt.NDArray[np.int64]  # (K,) in the training split, without crowds
    things: tuple[int, ...] | None = None  # the classes of countable objects; None where all are, or nothing says so
    citation: str = ""  # of the data set, where it gives them
    license: str = ""
    reading: ReadingOptions = ReadingOptions()  # how it was read
    report: DatasetReport | None = None  # contents, and what was left out

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of classes, numbers of images, objects and first images, to tell data apart."""
        digest = hashlib.sha256("\0".join([*self.names, json.dumps(self.things)]).encode())
        for part in (self.train, self.evaluation):
            digest.update(str(len(part)).encode())
            for column in (part.objects.starts, part.objects.boxes, part.objects.classes, part.objects.crowd):
                digest.update(np.ascontiguousarray(column).tobytes())
            digest_cells(digest, part.data, IMAGE)
        return digest.hexdigest()[:16]


@takes_reading_options(DETECTION, PANOPTIC)
def prepare_detection(
    source: Source,
    *,
    options: ReadingOptions,
    masks: bool = False,
    panoptic: bool = False,
    evaluate_only: bool = False,
) -> DetectionData:
    """Read a source of images and objects, choose splits, number the classes, and check everything.

    Keywords are the fields of `ReadingOptions` that detection and panoptic segmentation have.

    Sources: a folder in one of `hfvision.data.detection_sources.FORMATS` (COCO, Pascal VOC, YOLO, CVAT, labelme, ...),
    which `layout` names where several fit, or one of its annotation files; a Hub id, parquet files, a folder written by
    `save_to_disk` or with a metadata file; a `Dataset` or dict of splits in memory; the name "digit-scenes" or
    "digit-scenes-large". Columns are found by what they hold and by their names (see
    `hfvision.data.detection_columns`); `image_column`, `objects_column` and `map_column` (of segment ids) name them.
    Evaluation takes the split `eval_split`, or else the first of validation and test that has objects, or else a share
    `held_out` of the training images, chosen with a fixed seed and reported.

    `box_form` is xyxy, xywh or cxcywh and `relative` says that boxes are shares of the image, 0 to 1; without them a
    format's own rule holds, and of columns "bbox" is xywh and "boxes" xyxy. Classes are those that the source declares,
    in its order; else the texts that occur in the training split, sorted, or whole numbers from 0. `names` is
    {category as stored: name of its class}, which also numbers the classes; or a list of names by number, which for
    classes that have names already says their order; or a file of either.

    With `masks`, objects have masks; with `panoptic`, every segment is an object with a mask, stuff too, and `things`
    names the classes that are countable where the source does not say it. Crowds are neither learned nor measured
    unless `crowd` is "object"; VOC's difficult objects are crowds, too, unless `difficult` is "object". `voc_boxes`
    says whether VOC's numbers are those of pixels, counted from 1, or edges. Boxes without area are dropped or kept
    (`empty`); boxes that stick out by more than rounding are an error or are cut (`outside="clip"`). All that is in the
    report, which is said once: `DetectionData.report`.

    With `evaluate_only` nothing is trained on: the classes and all checks are of the split to measure with, and nothing
    is held out.

    Boxes of all images are checked. Up to `check_images` images of each split are decoded beforehand, with their
    masks if they are wanted, evenly spread if there are more (reported); 0 decodes none. Raises DatasetError with all
    that is wrong: files that are missing or cannot be read, annotations without image, ids given twice, boxes that are
    NaN, outside their image or read in the wrong form or unit, categories of no class, masks of another size.

    Example:
        >>> import hfvision
        >>> scenes = hfvision.load_digit_scenes(train=2, validation=1)
        >>> data = hfvision.prepare_detection(scenes)
        >>> len(data.train), data.names[:2]
        (2, ['digit 0', 'digit 1'])
    """
    check_number_of_images(options.check_images)
    name = name_of(source)
    wanted = Wanted(options, masks, panoptic)
    opened = open_objects(source, wanted)
    stored: dict[str, StoredSplit] = {}

    def has_objects(split: str) -> bool:
        stored[split] = opened[split]()
        if not len(stored[split].objects) and not stored[split].faults:
            report(f"split {split!r} has no objects and was passed over.")
            return False
        return True

    train, evaluation = choose_splits(name, opened, options.train_split, options.eval_split, has_objects, evaluate_only)
    problems: list[str] = []
    for split in (train, evaluation):
        if split and split not in stored:
            stored[split] = opened[split]()
    splits = {split: stored[split] for split in (train, evaluation) if split}
    sources = list(splits.values())
    unreadable: dict[str, int] = {}
    for split, found in splits.items():
        problems.extend(found.faults)
        splits[split] = _with_images(split, found, problems)
        if options.skip_unreadable:
            images = len(splits[split])
            splits[split] = _readable(split, splits[split])
            if len(splits[split]) < images:
                unreadable[split] = images - len(splits[split])
    digests = {split: image_digests(found.data, split) for split, found in splits.items() if options.check_images}
    if len(splits) == 1 and not evaluate_only and (len(splits[train]) > 1 or not problems):
        whole, known, name_held = splits[train], digests.get(train), held_out_name(train, options.held_out)
        rows, held = hold_out(
            train, [np.arange(len(whole))], options.held_out, contents=_contents(whole), digests=known
        )
        splits = {train: whole.take_images(rows), name_held: whole.take_images(held)}
        digests = {} if known is None else {train: known[rows], name_held: known[held]}
    dropped: dict[str, list[LeftOut]] = {split: [] for split in splits}
    for split, count in unreadable.items():
        dropped[split].append(LeftOut(count, "unreadable images", "--skip-unreadable"))
    conclusions = list(dict.fromkeys(said for source in sources for said in source.conclusions))
    parts = [_checked(split, found, options, problems, dropped[split], conclusions) for split, found in splits.items()]
    checked = {part.split: replace(splits[part.split], objects=part.objects) for part in parts}
    labels, mapping = class_set(name, checked, options.names, problems)
    parts = [
        replace(part, objects=replace(part.objects, classes=with_train_ids(part.objects, mapping), keys=()))
        for part in parts
    ]
    parts = [replace(part, digests=digests.get(part.split)) for part in parts]
    if not evaluate_only:
        images = len(parts[0])
        parts[0] = set_apart(name, parts[0], parts[-1], options.overlap)
        if len(parts[0]) < images:
            count = images - len(parts[0])
            dropped[parts[0].split].append(LeftOut(count, "images that are measured with, too", "overlap='drop'"))
    pixels = [SplitPixels(len(labels)) for _ in parts]
    for part, counted in zip(parts, pixels, strict=True):
        _inspect(part, options.check_images, panoptic, problems, counted)
        if not len(part.objects) and not problems:
            problems.append(f"split {part.split!r} has no object at all")
        if only := crowds_only(part):
            problems.append(only)
    things_named = _things(options.things, splits[train], mapping, labels, problems) if panoptic else None
    if problems:
        raise DatasetError(f"{name}: " + numbered("problem", problems))
    counts = np.bincount(parts[0].objects.classes[~parts[0].objects.crowd], minlength=len(labels))
    task = "panoptic" if panoptic else "detection"
    contents = report_of(name, task, sources, parts, pixels, dropped, labels, conclusions)
    contents.say()
    info = splits[train].data.info
    return DetectionData(
        name,
        parts[0],
        parts[-1],
        labels,
        counts,
        things_named,
        citation=info.citation or "",
        license=info.license or "",
        reading=options,
        report=contents,
    )


def _with_images(split: str, stored: StoredSplit, problems: list[str]) -> StoredSplit:
    """The rows that have an image, and a map of segments if they are wanted; the others become problems."""
    if not len(stored):
        problems.append(f"split {split!r} has no images")
    missing: set[int] = set()
    for column, kind in ((IMAGE, "no image"), (SEGMENTS, "no map of segments")):
        rows = missing_rows(stored.data, column) if column in stored.data.features else []
        if rows:
            problems.append(f"rows with {kind} in split {split!r} ({len(rows)}): {shown(map(str, rows))}")
            missing.update(rows)
    return stored.take_images([row for row in range(len(stored)) if row not in missing]) if missing else stored


def _readable(split: str, stored: StoredSplit) -> StoredSplit:
    """The rows whose image, and map of segments where there is one, can be read; the others are reported."""
    features = stored.data.features

    def fault(row: int) -> str | None:
        cells = stored.data[row]
        try:
            for column in (IMAGE, SEGMENTS):
                if column in features:
                    decoded(cells[column], features[column])
        except ImageReadError as error:
            return f"image {row}: {error}"
        return None

    rows = range(len(stored))
    faults = {row: said for row, said in zip(rows, in_threads(fault, rows, split), strict=True) if said}
    if not faults:
        return stored
    report(left_out(f"unreadable images in split {split!r}", list(faults.values()), len(stored)))
    return stored.take_images([row for row in rows if row not in faults])


def _contents(stored: StoredSplit) -> Contents:
    """Which categories the images hold, crowds aside."""
    objects, named = stored.objects, stored.categories or {}
    one = ~objects.crowd
    names = [str(named.get(key, key)) for key in objects.keys]
    return Contents.of_pairs(objects.images[one], objects.classes[one], names)


def _checked(
    split: str,
    stored: StoredSplit,
    options: ReadingOptions,
    problems: list[str],
    dropped: list[LeftOut],
    conclusions: list[str],
) -> DetectedImages:
    """The split with all sizes, and with boxes as xyxy in pixels; what is wrong becomes problems."""
    part = DetectedImages(
        split,
        stored.data,
        stored.objects,
        stored.sizes,
        stored.image_ids,
        stored.relative_masks or options.relative is True,
        stored.masks_field,
    )
    part = replace(part, known_sizes=_all_sizes(part, problems))
    check_ids(split, part.objects, part.file_of, problems)
    if stored.image_ids is not None and len(set(stored.image_ids)) < len(part):
        twice = [str(key) for key, times in Counter(stored.image_ids).items() if times > 1]
        problems.append(f"image ids that stand twice in split {split!r} ({len(twice)}): {shown(twice)}")
    form, relative = options.box_form or stored.box_form, options.relative
    if stored.box_form is None:
        part = replace(part, objects=_with_boxes_of_segments(part))
        form, relative = "xyxy", False
    check = BoxCheck(
        split,
        part.objects,
        part.known_sizes,
        part.file_of,
        problems,
        empty=options.empty,
        outside=options.outside,
    )
    unit = stored.relative if relative is None else relative
    part = replace(part, objects=check.in_pixels(form or "xyxy", unit))
    dropped.extend(check.left_out)
    conclusions.extend(check.conclusions)
    return part


def _all_sizes(part: DetectedImages, problems: list[str]) -> Integers:
    """(N, 2): as recorded, else out of the headers of the images; 0 for those that cannot be read."""
    sizes = part.known_sizes.copy()
    unknown = np.flatnonzero((sizes <= 0).any(1)).tolist()
    faults = Faults(f"split {part.split!r}")

    def measure(row: int) -> tuple[int, int] | str:
        try:
            return size_of_cell(part.data[row][IMAGE], part.features[IMAGE])
        except ImageReadError as error:
            return str(error)

    for row, found in zip(unknown, in_threads(measure, unknown, part.split), strict=True):
        if isinstance(found, str):
            faults.add(UNREADABLE, found)
        else:
            sizes[row] = found
    problems.extend(faults.problems())
    return sizes


def _with_boxes_of_segments(part: DetectedImages) -> ObjectTable:
    """Boxes and areas out of the maps of segments; zeros where those cannot be read."""
    boxes, areas = np.zeros((len(part.objects), 4)), np.full(len(part.objects), np.nan)

    def measure(row: int) -> SegmentMasks | None:
        size = tuple(part.known_sizes[row].tolist())
        try:
            ids = read_id_map(part.data[row][SEGMENTS], (size[0], size[1]))
        except DatasetError:
            return None  # said when the map is checked
        return SegmentMasks.of_ids(ids, np.asarray(part.objects.ids)[part.objects.of_image(row)])

    for row, masks in enumerate(in_threads(measure, range(len(part)), part.split)):
        if masks is not None:
            rows = part.objects.of_image(row)
            boxes[rows], areas[rows] = masks.boxes(), masks.areas()
    return replace(part.objects, boxes=boxes, areas=areas)


def _inspect(part: DetectedImages, at_most: int, panoptic: bool, problems: list[str], counted: SplitPixels) -> None:
    """Decode images and masks, and count the pixels of these; what does not fit becomes a problem, what belongs to no
    segment is reported."""
    good = np.flatnonzero((part.known_sizes > 0).all(1))
    places = rows_to_check(part.split, len(good), at_most) if at_most and len(good) else []
    faults = Faults(f"split {part.split!r}")
    unlisted = 0  # pixels of segments that no list names

    def inspect(place: int) -> tuple[str, str] | tuple[int, Floats | None, int]:
        row = int(good[place])
        try:
            image, cells = part.image_and_cells(row)
        except DatasetError as error:
            return UNREADABLE, str(error)
        try:
            part.check_size(row, image)
        except DatasetError as error:
            return "images of another size than their annotation", f"{part.file_of(row)}: {error}"
        try:
            masks = part.objects_of(row, cells).masks
            areas = None if masks is None else masks.areas()
            empty = [] if areas is None else np.flatnonzero(areas == 0).tolist()
        except HfvisionError as error:
            return "masks that do not fit", f"{part.file_of(row)}: {error}"
        if empty:
            first = part.objects.name_of(part.objects.of_image(row).start + empty[0])
            return "objects whose mask has no pixel", f"{part.file_of(row)}: {len(empty)}, the first {first}"
        if panoptic and isinstance(masks, SegmentMasks) and not masks.places.all():
            lost = int(np.count_nonzero(read_id_map(cells[SEGMENTS], masks.size)[masks.places == 0]))
            return row, areas, lost
        return row, areas, 0

    for outcome in in_threads(inspect, places, part.split):
        if len(outcome) == 2:
            faults.add(*outcome)
            continue
        row, areas, lost = outcome
        unlisted += lost
        if areas is not None:
            counted.add(part.objects.classes[part.objects.of_image(row)], areas)
    if unlisted:
        report(f"{unlisted:,} pixels of split {part.split!r} are of segments that no list names: they have no object.")
    problems.extend(faults.problems())


def _things(
    given: Sequence[str] | None,
    stored: StoredSplit,
    mapping: dict[Key, int],
    names: Sequence[str],
    problems: list[str],
) -> tuple[int, ...] | None:
    """Class numbers of countable objects, by what the user or else the source says."""
    if given is not None:
        if unknown := [name for name in given if name not in names]:
            problems.append(f"things are among the classes; {shown(map(str, unknown))} is none of {shown(names)}")
        return tuple(number for number, name in enumerate(names) if name in given)
    if stored.things is None:
        return None
    return tuple(sorted({mapping[key] for key in stored.things if key in mapping}))
