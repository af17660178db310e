"""A data set made ready to train a classifier: splits chosen, labels numbered, every fault found before training.

Shapes: N images of a split, K classes.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
from PIL.Image import Image

from hfvision.data.readers import Source, load_image_dataset, name_of
from hfvision.errors import DatasetError, ImageReadError, numbered
from hfvision.processing.reading import read_image
from hfvision.reporting import report

TRAIN_SPLITS = ("train", "training")
EVALUATION_SPLITS = ("validation", "valid", "val", "dev", "test", "testing")  # the first that exists
HELD_OUT_SEED = 0
FINGERPRINT_IMAGES = 64  # of each split
EXAMPLES = 5  # shown of each kind of fault


@dataclass(frozen=True)
class LabelledImages:
    """The images of one split and the number of each one's class."""

    split: str
    images: datasets.Dataset  # one column "image": encoded images, paths or arrays
    labels: np.ndarray  # (N,) int64

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, row: int) -> Any:
        """The image as PIL (upright, whatever EXIF says) or array. Raises DatasetError naming row and file."""
        feature = self.images.features["image"]
        value = self.images[row]["image"]
        try:
            if value is None:
                raise ImageReadError("there is no image")
            if not isinstance(feature, datasets.Image):
                return np.asarray(value, dtype=feature.dtype)
            image = read_image(value)
            return image.convert(feature.mode) if feature.mode and isinstance(image, Image) else image
        except ImageReadError as error:
            raise DatasetError(f"image {row} of split {self.split!r}: {error}") from error

    def take(self, rows: Sequence[int] | np.ndarray, split: str) -> "LabelledImages":
        """Some rows under another name."""
        return LabelledImages(split, self.images.select(rows), self.labels[rows])


@dataclass(frozen=True)
class ClassificationData:
    """What a classifier is trained on and measured with."""

    name: str
    train: LabelledImages
    evaluation: LabelledImages
    names: list[str]  # (K,) of the classes
    citation: str = ""  # of the data set, where it gives them
    license: str = ""

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of the class names, all labels and the first images, to tell data sets apart."""
        digest = hashlib.sha256("\0".join(self.names).encode())
        for part in (self.train, self.evaluation):
            digest.update(part.labels.tobytes())
            for row in range(min(FINGERPRINT_IMAGES, len(part))):
                value = part.images[row]["image"]
                content = value.get("bytes") or str(value.get("path")) if isinstance(value, dict) else str(value)
                digest.update(content if isinstance(content, bytes) else content.rsplit("/", 1)[-1].encode())
        return digest.hexdigest()[:16]


def prepare_classification(
    source: Source,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    config_name: str | None = None,
    train_split: str | None = None,
    eval_split: str | None = None,
    held_out: float = 0.1,
    drop_empty_classes: bool = False,
    check_images: int = 20_000,
) -> ClassificationData:
    """Read a source (see `load_image_dataset`), choose splits, number the labels, and check everything.

    Evaluation takes the split `eval_split`, or else the first labelled one of validation and test, or else a share
    `held_out` of the training split, cut off by class with a fixed seed and reported. Classes are a ClassLabel's own;
    text and whole numbers are sorted. Up to `check_images` images of each split are decoded beforehand, evenly spread
    if there are more (reported); 0 decodes none, and a bad one then stops the training when its turn comes.

    Raises DatasetError listing all of: missing labels, classes that occur in evaluation but not in training, classes
    without a training image (`drop_empty_classes` takes them out instead), fewer than two classes, unreadable images.
    """
    if check_images < 0:
        raise DatasetError(f"check_images is a number of images to decode, 0 for none; got {check_images}.")
    splits = load_image_dataset(source, image_column=image_column, label_column=label_column, config_name=config_name)
    name = name_of(source)
    train, evaluation = _choose_splits(name, splits, train_split, eval_split)
    names = _class_names(splits[train])
    problems: list[str] = []
    parts = {split: _numbered_labels(split, splits[split], names, problems) for split in (train, evaluation) if split}
    if not problems:
        names = _check_classes(parts, train, names, drop_empty_classes, problems)
    for part in parts.values() if check_images else ():
        problems.extend(_unreadable(part, check_images))
    if problems:
        raise DatasetError(f"{name}: " + numbered("problem", problems))
    info = splits[train].info
    if evaluation is None:
        train_part, evaluation_part = _cut_off(parts[train], held_out)
    else:
        train_part, evaluation_part = parts[train], parts[evaluation]
    return ClassificationData(
        name, train_part, evaluation_part, names, citation=info.citation or "", license=info.license or ""
    )


def _choose_splits(
    name: str, splits: datasets.DatasetDict, train: str | None, evaluation: str | None
) -> tuple[str, str | None]:
    wrong = [
        f"{what}={split!r}"
        for what, split in (("train_split", train), ("eval_split", evaluation))
        if split is not None and split not in splits
    ]
    if wrong:
        raise DatasetError(f"{name} has no split for {' and '.join(wrong)}; it has {', '.join(splits)}.")
    if train is None:
        candidates = [split for split in TRAIN_SPLITS if split in splits] or [s for s in splits if s != evaluation]
        if len(candidates) > 1 and candidates[0] not in TRAIN_SPLITS:
            raise DatasetError(f"{name} has the splits {', '.join(splits)}; say which to train on: train_split=...")
        if not candidates:
            raise DatasetError(f"{name} has only the split {evaluation!r}; there is none left to train on.")
        train = candidates[0]
    if train == evaluation:
        raise DatasetError(f"train_split and eval_split are both {train!r}; accuracy needs images not trained on.")
    if evaluation is None:
        evaluation = next((s for s in EVALUATION_SPLITS if s in splits and s != train and _labelled(splits, s)), None)
    return train, evaluation


def _labelled(splits: datasets.DatasetDict, split: str) -> bool:
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
        problems.append(f"{len(missing)} of {len(values)} images in split {split!r} have no label, {_rows(missing)}")
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
        shown = _shown([names[label] for label in sorted(empty)])
        problems.append(
            f"{len(empty)} of {len(names)} classes have no image in split {train!r}: {shown}. "
            "Add images, or leave these classes out: drop_empty_classes=True, --drop-empty-classes"
        )
    if len(names) - len(empty) < 2:
        present = [name for label, name in enumerate(names) if label not in empty]
        problems.append(f"training needs images of at least 2 classes, got {len(present)}: {_shown(present) or 'none'}")
    if problems or not empty:
        return names
    kept = [label for label in range(len(names)) if label not in empty]
    report(f"{len(empty)} classes without a training image were left out: {_shown([names[i] for i in sorted(empty)])}.")
    new_number = np.full(len(names), -1)
    new_number[kept] = np.arange(len(kept))
    for split, part in parts.items():
        parts[split] = replace(part, labels=new_number[part.labels])
    return [names[label] for label in kept]


def _unreadable(part: LabelledImages, at_most: int) -> Iterator[str]:
    """One problem naming the images of a split that cannot be decoded."""
    rows = np.unique(np.linspace(0, len(part) - 1, min(at_most, len(part))).astype(int)).tolist()
    if len(rows) < len(part):
        report(
            f"{len(rows):,} of the {len(part):,} images in split {part.split!r} were decoded to check them; "
            "check_images=... (--check-images) sets how many."
        )

    def fault(row: int) -> str | None:
        try:
            part.read(row)
        except DatasetError as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as threads:  # decoders leave the interpreter lock
        faults = [message for message in threads.map(fault, rows) if message]
    if faults:
        more = f"\n        and {len(faults) - EXAMPLES} more" if len(faults) > EXAMPLES else ""
        listed = "".join(f"\n        {message}" for message in faults[:EXAMPLES])
        yield f"unreadable images in split {part.split!r} ({len(faults)} of {len(rows)}):{listed}{more}"


def _cut_off(part: LabelledImages, share: float) -> tuple[LabelledImages, LabelledImages]:
    """Training and held-out images; of each class the same share, at least one where it has two images."""
    if not 0 < share < 1:
        raise DatasetError(f"held_out is the share of images to hold out, between 0 and 1; got {share}.")
    generator = np.random.default_rng(HELD_OUT_SEED)
    held: list[int] = []
    for label in np.unique(part.labels):
        rows = generator.permutation(np.flatnonzero(part.labels == label))
        held.extend(rows[: max(1, round(share * len(rows))) if len(rows) > 1 else 0].tolist())
    if not held:
        raise DatasetError(
            f"{part.split!r} has one image per class: nothing can be held out. Add images or give an eval_split."
        )
    is_held = np.isin(np.arange(len(part)), held)
    report(
        f"there is no validation or test split: {len(held):,} of {len(part):,} images were held out of {part.split!r} "
        f"({share:.0%} of each class, seed {HELD_OUT_SEED})."
    )
    return (
        part.take(np.flatnonzero(~is_held), part.split),
        part.take(np.flatnonzero(is_held), f"{share:.0%} held out of {part.split}"),
    )


def _unseen(split: str, images: int, total: int, kinds: list[str]) -> str:
    return (
        f"{images} of {total} images in split {split!r} have labels unseen in training ({len(kinds)}): {_shown(kinds)}"
    )


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else ""
    return ", ".join(names[:EXAMPLES]) + more


def _rows(rows: list[int]) -> str:
    return "row " + ", ".join(map(str, rows[:EXAMPLES])) + (", ..." if len(rows) > EXAMPLES else "")
