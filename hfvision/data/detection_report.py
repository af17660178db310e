"""The report of a data set of objects: images, objects and pixels of each class, crowds, and what was left out.

Shapes: N images of a split, M objects of all of them together, K classes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from hfvision.data.dataset_report import ClassCounts, DatasetReport, LeftOut, SplitReport
from hfvision.data.detected_images import DetectedImages
from hfvision.data.object_table import StoredSplit


class SplitPixels:
    """Pixels of each class in the masks that were decoded."""

    def __init__(self, classes: int) -> None:
        self.images = 0
        self.pixels: npt.NDArray[np.int64] = np.zeros(classes, np.int64)

    def add(self, labels: npt.NDArray[np.int64], areas: npt.NDArray[np.float64]) -> None:
        """The masks of one image, crowds too; objects of no class do not count."""
        self.images += 1
        known = labels >= 0
        np.add.at(self.pixels, labels[known], areas[known].astype(np.int64))


def report_of(
    name: str,
    task: str,
    stored: Sequence[StoredSplit],
    parts: Sequence[DetectedImages],
    pixels: Sequence[SplitPixels],
    left_out: Mapping[str, Sequence[LeftOut]],
    names: Sequence[str],
    conclusions: Sequence[str],
) -> DatasetReport:
    """The report of the splits as they are used.

    `stored` are the splits that `parts` were made of, `left_out` what the checks took out of a part.
    """
    splits = [
        _split(part, counted, [*(stored[place].left_out if place < len(stored) else ()), *left_out[part.split]], names)
        for place, (part, counted) in enumerate(zip(parts, pixels, strict=True))
    ]
    return DatasetReport(name, task, stored[0].layout, tuple(splits), tuple(conclusions))


def crowds_only(part: DetectedImages) -> str | None:
    """A problem where a split has objects, and all of them are crowds; with the option that makes them objects."""
    table = part.objects
    if not len(table) or not table.crowd.all():
        return None
    difficult = 0 if table.difficult is None else int((table.difficult & table.crowd).sum())
    marked = "marked as difficult" if difficult == len(table) else "marked as crowds (iscrowd 1)"
    option = "difficult" if difficult == len(table) else "crowd"
    tools = " CVAT and Datumaro mark every brush mask so." if option == "crowd" else ""
    return (
        f"all {len(table):,} objects of split {part.split!r} are {marked}, which are neither learned nor measured."
        f"{tools} Take them as objects: {option}='object' (--{option} object)"
    )


def _split(
    part: DetectedImages, counted: SplitPixels, left_out: Sequence[LeftOut], names: Sequence[str]
) -> SplitReport:
    table = part.objects
    single = ~table.crowd
    objects = np.bincount(table.classes[single], minlength=len(names))
    pairs = np.unique(np.stack([table.images[single], table.classes[single]]), axis=1)
    images = np.bincount(pairs[1], minlength=len(names))
    has_pixels = counted.images > 0
    classes = [
        ClassCounts(
            name, int(images[number]), int(objects[number]), int(counted.pixels[number]) if has_pixels else None
        )
        for number, name in enumerate(names)
    ]
    return SplitReport(
        part.split,
        len(part),
        tuple(classes),
        crowds=int(table.crowd.sum()),
        difficult=None if table.difficult is None else int(table.difficult.sum()),
        images_without_objects=int((table.counts == 0).sum()),
        decoded_images=counted.images if has_pixels else None,
        left_out=tuple(left_out),
    )
