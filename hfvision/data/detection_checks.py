"""Boxes of a whole split, checked at once and brought to one form: xyxy in pixels, inside their images.

Shapes: N images, M objects of all of them together, H x W pixels of an image.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np

from hfvision.data.cells import EXAMPLES, cases
from hfvision.data.dataset_report import LeftOut
from hfvision.data.object_table import Bools, Floats, Integers, ObjectTable
from hfvision.errors import ConfigError
from hfvision.geometry import BoxForm, convert_boxes

Empty = Literal["drop", "keep"]
Outside = Literal["error", "clip"]

ROUNDING = 0.02  # of the longer side of the image, but two pixels at least: boxes that stick out by less are clipped
MANY = 20  # boxes; fewer may all be possible as centre and size by chance
WRONG_FORM = 0.05  # share of boxes that must be impossible before another form is thought of


class BoxCheck:
    """Checks the boxes of a split; what is wrong with them goes to `problems`."""

    def __init__(
        self,
        split: str,
        objects: ObjectTable,
        sizes: Integers,
        file_of: Callable[[int], str],
        problems: list[str],
        *,
        empty: Empty = "drop",
        outside: Outside = "error",
    ) -> None:
        """`sizes` (N, 2) are those of the images, H and W; objects of images without one, (0, 0), are not checked."""
        for argument, value, form in (("empty", empty, Empty), ("outside", outside, Outside)):
            if value not in get_args(form):
                raise ConfigError(f"{argument} is {' or '.join(map(repr, get_args(form)))}; got {value!r}.")
        self.split = split
        self.objects = objects
        self.sizes = sizes[objects.images]  # (M, 2)
        self.file_of = file_of
        self.problems = problems
        self.empty, self.outside = empty, outside
        self.left_out: list[LeftOut] = []
        self.conclusions: list[str] = []

    def in_pixels(self, form: BoxForm, relative: bool | None) -> ObjectTable:
        """The objects that have a box, as xyxy in pixels."""
        boxes = self.objects.boxes
        finite: Bools = np.asarray(np.isfinite(boxes).all(axis=1))
        self._list("boxes with NaN or infinite numbers", ~finite, boxes)
        boxes = np.where(finite[:, None], boxes, 0)
        known = finite & (self.sizes > 0).all(1)
        if not known.any():
            return self.objects.kept(known)
        scale = self.sizes[:, [1, 0, 1, 0]].astype(np.float64)
        if self._is_of_another_unit(boxes[known], scale[known], form, relative):
            return self.objects.kept(np.zeros(len(boxes), bool))
        pixels = boxes * scale if relative else boxes
        if (likely := self._likelier_form(pixels[known], self.sizes[known], form)) is not None:
            self.problems.append(likely)
            return self.objects.kept(np.zeros(len(boxes), bool))
        return self._inside(convert_boxes(pixels, form, "xyxy"), known)

    def _inside(self, xyxy: Floats, known: Bools) -> ObjectTable:
        sides = xyxy[:, 2:] - xyxy[:, :2]
        turned = known & (sides < 0).any(1)
        self._list("boxes of negative width or height", turned, self.objects.boxes)
        height, width = self.sizes.T
        beyond = _sticking_out(xyxy, self.sizes)
        apart = (xyxy[:, 0] >= width) | (xyxy[:, 1] >= height) | (xyxy[:, 2] <= 0) | (xyxy[:, 3] <= 0)
        far = beyond > _tolerance(self.sizes)
        wrong = known & ~turned & far & (apart | (self.outside == "error"))
        advice = '; outside="clip" cuts off what sticks out' if not (wrong & apart).all() else ""
        self._list("boxes outside their image", wrong, self.objects.boxes, advice=advice)
        good = known & ~turned & ~wrong
        clipped = good & (beyond > 0)
        if clipped.any():
            self.conclusions.append(
                f"{clipped.sum():,} of {len(xyxy):,} boxes in split {self.split!r} stick out of their image, by up to "
                f"{beyond[clipped].max():.3g} pixels: what is outside was cut off"
            )
        lowest, highest = np.zeros_like(xyxy), np.stack([width, height, width, height], 1).astype(np.float64)
        inside = np.where(known[:, None], np.clip(xyxy, lowest, highest), 0)
        empty = good & (inside[:, 2:] <= inside[:, :2]).any(1)
        if empty.any():
            count, first = int(empty.sum()), self._named(int(np.flatnonzero(empty)[0]))
            if self.empty == "keep":
                said = (
                    f"{count:,} boxes in split {self.split!r} have no area and are kept; empty='drop' leaves them out"
                )
                self.conclusions.append(f"{said}. The first: {first}")
            else:
                reason = f"of {len(xyxy):,}; empty='keep' keeps them; the first: {first}"
                self.left_out.append(LeftOut(count, "boxes without area", reason))
        return replace(self.objects, boxes=inside).kept(good & ~empty if self.empty == "drop" else good)

    def _is_of_another_unit(self, boxes: Floats, scale: Floats, form: BoxForm, relative: bool | None) -> bool:
        """Whether boxes in pixels are given as shares of the image, or the reverse."""
        if relative:
            out = (boxes > 1 + ROUNDING).any(1) & (boxes > 2).any(1)
            if out.mean() <= WRONG_FORM:
                return False
            self.problems.append(
                f"{out.sum():,} of {len(boxes):,} boxes in split {self.split!r} are read as shares, 0 to 1, "
                f"but go up to {boxes.max():g}: they are in pixels. Give relative=False"
                + (f" and box_form={form!r}, or what they are" if form != "xyxy" else "")
            )
            return True
        within = boxes.max() <= 1 + ROUNDING and boxes.min() >= -ROUNDING
        if relative is None and within and (scale > 1 + ROUNDING).all():
            self.problems.append(
                f"all {len(boxes):,} boxes in split {self.split!r} are within 0 to 1, but are read as pixels: they are "
                "shares of the image. Give relative=True (--relative), or relative=False (--pixels) if they are pixels"
            )
            return True
        return False

    def _likelier_form(self, pixels: Floats, sizes: Integers, form: BoxForm) -> str | None:
        """What to say where many boxes are impossible in their form, and all are possible in another."""
        impossible = ~_possible(pixels, sizes, form)
        if impossible.mean() <= WRONG_FORM:
            return None
        others = [other for other in get_args(BoxForm) if other != form and (len(pixels) >= MANY or other != "cxcywh")]
        fitting = [other for other in others if _possible(pixels, sizes, other).all()]
        if not fitting:
            return None
        first = int(np.flatnonzero(impossible)[0])
        meant = " or ".join(fitting)
        return (
            f"{impossible.sum():,} of {len(pixels):,} boxes in split {self.split!r} stick out of their image or have a "
            f"negative size when read as {form}, such as {_written(pixels[first])} in {sizes[first, 0]}x"
            f"{sizes[first, 1]} pixels (height x width); read as {meant} all of them fit. Most likely they are {meant} "
            f"given as {form}: box_form={fitting[0]!r}"
        )

    def _list(self, kind: str, wrong: Bools, boxes: Floats, advice: str = "") -> None:
        if wrong.any():
            rows = np.flatnonzero(wrong)
            shown = [f"{self._named(row)}: {_written(boxes[row])}{self._size(row)}" for row in rows[:EXAMPLES].tolist()]
            what = f"{kind} in split {self.split!r} ({len(rows):,} of {len(boxes):,}{advice})"
            self.problems.append(cases(what, shown, len(rows)))

    def _named(self, row: int) -> str:
        image = int(np.searchsorted(self.objects.starts, row, side="right")) - 1
        return f"{self.file_of(image)}: {self.objects.name_of(row)}"

    def _size(self, row: int) -> str:
        height, width = self.sizes[row].tolist()
        return f" in {height}x{width} pixels (height x width)" if height else ""


def check_ids(split: str, objects: ObjectTable, file_of: Callable[[int], str], problems: list[str]) -> None:
    """Object ids that stand twice in one image become a problem."""
    if objects.ids is None or not len(objects):
        return
    _, numbers = np.unique(objects.ids, return_inverse=True)
    pairs = objects.images * (int(numbers.max()) + 1) + numbers.reshape(-1)
    _, first = np.unique(pairs, return_index=True)
    twice = np.setdiff1d(np.arange(len(pairs)), first)
    if len(twice):
        listed = [f"{file_of(int(objects.images[row]))}: {objects.ids[row]}" for row in twice[:EXAMPLES].tolist()]
        what = f"object ids that stand twice in an image of split {split!r} ({len(twice):,})"
        problems.append(cases(what, listed, len(twice)))


def _possible(pixels: Floats, sizes: Integers, form: BoxForm) -> Bools:
    """(M,): whether boxes, read in a form, have a size and do not stick out."""
    xyxy = convert_boxes(pixels, form, "xyxy")
    has_size = (xyxy[:, 2:] >= xyxy[:, :2]).all(1)
    return has_size & (_sticking_out(xyxy, sizes) <= _tolerance(sizes))


def _sticking_out(xyxy: Floats, sizes: Integers) -> Floats:
    """(M,) pixels, at the side where it is most; below 0 inside."""
    height, width = sizes.T
    return np.stack([-xyxy[:, 0], -xyxy[:, 1], xyxy[:, 2] - width, xyxy[:, 3] - height]).max(0)


def _tolerance(sizes: Integers) -> Floats:
    return np.maximum(2.0, ROUNDING * sizes.max(1))


def _written(box: Any) -> str:
    return "[" + ", ".join(f"{number:g}" for number in box) + "]"
