"""Classes of a folder of masks: the files that declare them, the numbers or colors in the masks, published data sets.

Classes that are declared beside the data, or that were given, go before everything else. The classes of a published
data set are taken for its layout only where its files or its ids are really there.

Shapes: H x W pixels, K classes.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hfvision.data.cells import shown
from hfvision.data.class_files import BACKGROUND, COLOR_FILES, Color, DeclaredClass, declared_classes, usual_names
from hfvision.data.mask_pairs import Benchmark, MaskFolder
from hfvision.errors import HfvisionError
from hfvision.processing.label_map import Label, LabelMap
from hfvision.processing.label_reading import read_label_values

MOST_MASKS = 200  # that are looked at to tell how classes are stored
BLACK: Color = (0, 0, 0)
BORDER: Color = (224, 224, 192)  # of pixels that VOC and its kin ignore
MOST_PALETTE = 255


@dataclass(frozen=True)
class MaskClasses:
    """What the values of masks mean, as far as the folder says it."""

    label_map: LabelMap | None = None  # None: the values are the numbers of the classes
    names: list[str] | None = None  # (K,)
    conclusions: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoredValues:
    """Numbers and colors that occur in some masks."""

    numbers: frozenset[int] = frozenset()
    colors: frozenset[Color] = frozenset()

    def without_grey(self) -> "StoredValues":
        """Numbers for colors that are numbers in three equal channels: all of them grey, and not black alone."""
        if len(self.colors) < 2 or not all(red == green == blue for red, green, blue in self.colors):
            return self
        return StoredValues(self.numbers | {red for red, _, _ in self.colors})


def classes_of(
    found: MaskFolder,
    root: Path,
    given: Sequence[str] | None = None,
    ignore_index: int = 255,
    advice: str = "; label_map=... says otherwise",
) -> MaskClasses:
    """The classes of a folder; those `given` by name take the places of the declared ones. `advice` ends the conclusion
    that they are those of a published data set.

    Raises DatasetError for a file of classes that cannot be read.
    """
    declared = declared_classes(found.class_root or root)
    if found.instances and declared is not None:  # numbered from 1, the background being 0
        names = [one.name for one in declared[0]] if given is None else list(given)
        return MaskClasses(None, names if names[0] == BACKGROUND else [BACKGROUND, *names])
    values = stored_values(found.masks)
    if declared is None or all(one.color is None for one in declared[0]):
        values = values.without_grey()
    if declared is not None:
        classes, path = declared
        if given is not None and len(given) == len(classes):
            classes = [replace(one, name=name) for one, name in zip(classes, given, strict=True)]
        elif given is not None:
            classes = [DeclaredClass(name) for name in given]
        from_file = given is None and path.name in COLOR_FILES
        has_background = any(one.is_background for one in declared[0]) and len(classes) == len(declared[0])
        return _of_declared(classes, values, found, path.name, ignore_index, from_file, has_background)
    if given is not None:
        classes = usual_names([DeclaredClass(name) for name in given], "names")
        return _of_declared(classes, values, found, "names=...", ignore_index, from_file=False)
    return (
        MaskClasses()
        if found.benchmark is None
        else _of_benchmark(found.benchmark, found, values, ignore_index, advice)
    )


def stored_values(masks: Sequence[Path], most: int = MOST_MASKS) -> StoredValues:
    """Of `most` masks, evenly spread; those that cannot be read are passed over, since the checks name them."""
    evenly = np.linspace(0, len(masks) - 1, min(most, len(masks))) if masks else np.zeros(0)
    rows: list[int] = np.unique(evenly.astype(int)).tolist()

    def values(row: int) -> StoredValues:
        try:
            stored = read_label_values(masks[row])
        except HfvisionError:
            return StoredValues()
        if stored.ndim == 2:
            return StoredValues(numbers=frozenset(np.unique(stored).tolist()))
        if stored.ndim != 3 or stored.shape[2] != 3:
            return StoredValues()
        return StoredValues(colors=frozenset(map(tuple, np.unique(stored.reshape(-1, 3), axis=0).tolist())))

    with ThreadPoolExecutor() as threads:
        parts = list(threads.map(values, rows))
    return StoredValues(
        frozenset().union(*(part.numbers for part in parts)), frozenset().union(*(part.colors for part in parts))
    )


def voc_color(number: int) -> Color:
    """The color that Pascal VOC's development kit gives a class, and that most tools took over.

    The bits of the number are dealt out to red, green and blue in turn, the lowest as the highest of the color.
    """
    red, green, blue = (
        sum(((number >> (3 * place + band)) & 1) << (7 - place) for place in range(8)) for band in range(3)
    )
    return red, green, blue


def _of_declared(
    classes: Sequence[DeclaredClass],
    values: StoredValues,
    found: MaskFolder,
    where: str,
    ignore_index: int,
    from_file: bool,
    has_background: bool = False,
) -> MaskClasses:
    """The label map of declared classes: numbers are those declared, or else the order.

    Without a name for the background, pixels of no class are one more class before the others; names that were given
    by hand and are enough for all colors leave no room for it.
    """
    said: list[str] = []
    has_background = has_background or any(one.is_background for one in classes)
    enough = not from_file and values.colors <= {voc_color(number) for number in range(len(classes))} | {BORDER}
    own_numbers = all(one.number is not None for one in classes)
    own_colors = any(one.color is not None for one in classes)
    first = 0
    if not has_background and not own_numbers:
        if values.colors:
            first = int(BLACK in values.colors - {one.color for one in classes} and (own_colors or not enough))
        elif from_file:
            first = max(found.first_number, int(len(classes) in values.numbers - {ignore_index}))
    if first:
        said.append(
            f"{where} names {len(classes)} classes and none for pixels of {'black' if values.colors else 'value 0'}: "
            f"these are the class {BACKGROUND!r}, number 0"
        )
        classes = [DeclaredClass(BACKGROUND, color=BLACK if own_colors else None), *classes]
    if own_colors:
        classes = [replace(one, color=BLACK) if one.is_background and one.color is None else one for one in classes]
    numbered = [replace(one, number=place if one.number is None else one.number) for place, one in enumerate(classes)]
    if values.colors and not own_colors and len(classes) <= MOST_PALETTE:
        numbered = [replace(one, color=voc_color(int(one.number or 0))) for one in numbered]
        said.append(
            f"the masks are pictures in color and {where} has no colors: they are taken as Pascal VOC's, in order"
        )
    kept = [one for one in numbered if not one.is_ignored]
    if len(kept) < len(numbered):
        said.append(f"no classes, but ignored: {shown(one.name for one in numbered if one.is_ignored)}")
    names = [one.name for one in kept]
    if not values.colors and [one.number for one in numbered] == list(range(len(kept))):
        return MaskClasses(None, names, tuple(said))
    rows = [Label(one.number, place, one.name, one.color) for place, one in enumerate(kept)]
    rows += [Label(one.number, None, one.name, one.color) for one in numbered if one.is_ignored]
    taken = {one.color for one in numbered}
    if values.colors and BORDER not in taken:
        rows.append(Label(None, None, None, BORDER))
    if ignore_index not in {row.id for row in rows}:
        rows.append(Label(ignore_index, None))
    return MaskClasses(LabelMap(tuple(rows)), names, tuple(said))


def _of_benchmark(
    benchmark: Benchmark, found: MaskFolder, values: StoredValues, ignore_index: int, advice: str
) -> MaskClasses:
    """The classes of the published data set that has this layout, where its files or its ids are there."""
    label_map = benchmark.label_map
    ids = {label.id: label.train_id for label in label_map.labels}
    colors = {label.color: label.train_id for label in label_map.labels}
    strange = {number for number in values.numbers - {ignore_index} if number not in ids}
    strange_colors = {color for color in values.colors if color not in colors}
    present = {ids.get(number) for number in values.numbers} | {colors.get(color) for color in values.colors}
    images = [image or mask for pairs in found.splits.values() for image, mask in pairs if image or mask]
    alike = sum(bool(re.match(benchmark.names, path.stem)) for path in images if path is not None)
    names_fit = 2 * alike >= len(images) > 0
    ids_fit = 2 * len(present - {None}) >= label_map.num_labels
    if not strange and not strange_colors and (names_fit or ids_fit) and (present - {None} or not values.numbers):
        named = label_map.id2label
        classes = [named[number] for number in range(label_map.num_labels)]
        why = benchmark.because if names_fit else "its ids are there"
        said = f"the classes are those of {benchmark.option}, since {why}: {shown(classes)}{advice}"
        return MaskClasses(label_map, classes, (said,))
    said = (
        f"it is laid out as {found.layout}, but neither its files nor its ids are those of the published data set, so "
        f"its classes are not taken; names=... (--names) names yours, label_map={benchmark.option!r} says that they are"
    )
    return MaskClasses(conclusions=(said,))
