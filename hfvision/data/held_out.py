"""Choosing the images that are held out of a split, so that the figures measured on them say something.

The choice is random with a fixed seed. Where it would hold no object of a class that more than one image has, images
change places until it does, as far as its size lets it; what it still lacks is reported with the share that would do.

Shapes: N images of a split, P pairs of an image and a class that it holds, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hfvision.data.cells import shown
from hfvision.data.same_images import UNKNOWN, Digests
from hfvision.errors import DatasetError
from hfvision.reporting import report

HELD_OUT_SEED = 0
LOOKED_AT = 50  # images of each class, for the fewest that hold all classes

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Contents:
    """Which classes each image of a split holds."""

    images: Rows  # (P,) sorted
    classes: Rows  # (P,)
    names: Sequence[str]  # (K,)

    def of(self, image: int) -> Rows:
        """The classes of an image."""
        start, end = np.searchsorted(self.images, [image, image + 1])
        return self.classes[start:end]

    def counts(self, images: Rows) -> Rows:
        """(K,) how many of the images hold each class."""
        return np.bincount(self.classes[np.isin(self.images, images)], minlength=len(self.names)).astype(np.int64)

    @classmethod
    def of_pairs(cls, images: Rows, classes: Rows, names: Sequence[str]) -> "Contents":
        """From pairs in any order, each any number of times."""
        pairs = np.unique(np.stack([images, classes], axis=1).reshape(-1, 2), axis=0)
        return cls(pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64), names)


def hold_out(
    split: str,
    groups: Sequence[Rows],
    share: float,
    each: str = "",
    *,
    contents: Contents | None = None,
    digests: Digests | None = None,
) -> tuple[Rows, Rows]:
    """Rows to train on and rows held out: of each group the same share, at least one where it has two.

    `each` says what the groups are ("class"). With `contents` the rows held out hold the classes where that is
    possible; with `digests` copies of one image stay together. Reports what was cut off, and classes that are not held
    out. Raises DatasetError if that leaves nothing.
    """
    if not 0 < share < 1:
        raise DatasetError(f"held_out is the share of images to hold out, between 0 and 1; got {share}.")
    everything = np.sort(np.concatenate(groups))
    first = _first_copies(everything, digests)
    units = [group[first[np.searchsorted(everything, group)] == group] for group in groups]
    generator = np.random.default_rng(HELD_OUT_SEED)
    orders = [generator.permutation(group) for group in units]
    cuts = [min(len(rows) - 1, max(1, round(share * len(rows)))) if len(rows) > 1 else 0 for rows in orders]
    held = [row for rows, cut in zip(orders, cuts, strict=True) for row in rows[:cut].tolist()]
    if not held:
        one = f"one image per {each}" if each else "one image"
        raise DatasetError(f"{split!r} has {one}: nothing can be held out. Add images or give an eval_split.")
    if contents is not None and len(contents.classes):
        held = _with_classes(held, np.concatenate(orders), contents, split)
    is_held = np.isin(first, held)
    report(
        f"there is no validation or test split: {is_held.sum():,} of {len(everything):,} images were held out of "
        f"{split!r} ({share:.0%}{each and f' of each {each}'}, seed {HELD_OUT_SEED})."
    )
    return everything[~is_held], everything[is_held]


def _first_copies(rows: Rows, digests: Digests | None) -> Rows:
    """(N,) the first row that has the same image; a row itself where nothing is known of it."""
    if digests is None:
        return rows
    own = digests[rows]
    _, places, inverse = np.unique(own, return_index=True, return_inverse=True)
    return np.where(own == UNKNOWN, rows, rows[places[inverse.reshape(-1)]])


def _with_classes(held: list[int], order: Rows, contents: Contents, split: str) -> list[int]:
    """As many rows as `held`, changed so that they and the others hold every class that they can."""
    copies = contents.counts(order)  # of rows that are not copies of others
    if (with_objects := len(np.intersect1d(contents.images, order))) < 2:
        raise DatasetError(
            f"{with_objects} of {len(order)} images of {split!r} has objects, so none can be held out and trained on: "
            "add images, or give an eval_split."
        )
    swap = _Swap(held, order, contents)
    for label in np.argsort(copies, kind="stable").tolist():
        if copies[label] >= 1 and not swap.trained[label]:
            swap.into_training(label)
        if copies[label] >= 2 and not swap.kept[label]:
            swap.into_held(label)
    lacking = [label for label in range(len(copies)) if copies[label] >= 2 and not swap.kept[label]]
    cover = _cover(contents, order, copies) if lacking else []
    if lacking and len(held) >= len(cover):
        swap = _Swap(_filled(cover, len(held), order, contents), order, contents)
        lacking = [label for label in lacking if not swap.kept[label]]
    single = [label for label in range(len(copies)) if copies[label] == 1 and not swap.kept[label]]
    _report_lacking(split, [contents.names[label] for label in lacking], len(cover), len(order))
    if single:
        names = shown([contents.names[label] for label in single])
        report(f"classes that one image of {split!r} alone has are trained on and not measured: {names}.")
    return swap.held


def _report_lacking(split: str, names: Sequence[str], enough: int, images: int) -> None:
    if names:
        share = np.ceil(100 * enough / images) / 100
        would = f"held_out={share:g} would hold them" if share < 1 else "more images would"
        report(f"the images held out of {split!r} hold nothing of {len(names)} classes, {shown(names)}: {would}.")


class _Swap:
    """Rows held out, and how many of them and of the others hold each class."""

    def __init__(self, held: list[int], order: Rows, contents: Contents) -> None:
        self.held = list(held)
        self.contents = contents
        self.order = order.tolist()
        self.kept = contents.counts(np.array(held, np.int64))
        self.trained = contents.counts(order) - self.kept

    def into_held(self, label: int) -> None:
        """A row with the class is held out in the place of one that nothing depends on."""
        held = set(self.held)
        candidates = [row for row in self._with(label) if row not in held and (self._trained_of(row) >= 2).all()]
        if not candidates:
            return
        # That which brings most of what is not held out yet.
        coming = max(candidates, key=lambda row: int((self.kept[self.contents.of(row)] == 0).sum()))
        going = next((row for row in reversed(self.held) if self._can_go(row, coming)), None)
        if going is not None:
            self._exchange(going, coming)

    def into_training(self, label: int) -> None:
        """A row with the class is trained on, another one held out in its place."""
        going = next((row for row in self.held if label in self.contents.of(row)), None)
        held = set(self.held)
        coming = next((row for row in self.order if row not in held and (self._trained_of(row) >= 2).all()), None)
        if going is not None and coming is not None:
            self._exchange(going, coming)

    def _can_go(self, row: int, coming: int) -> bool:
        own = self.contents.of(row)
        return bool((self.kept[own] + np.isin(own, self.contents.of(coming)) >= 2).all())

    def _exchange(self, going: int, coming: int) -> None:
        self.held[self.held.index(going)] = coming
        for row, sign in ((going, -1), (coming, 1)):
            self.kept[self.contents.of(row)] += sign
            self.trained[self.contents.of(row)] -= sign

    def _with(self, label: int) -> list[int]:
        having = set(self.contents.images[self.contents.classes == label].tolist())
        return [row for row in self.order if row in having]

    def _trained_of(self, row: int) -> Rows:
        return self.trained[self.contents.of(row)]


def _filled(cover: list[int], count: int, order: Rows, contents: Contents) -> list[int]:
    """So many rows: those of the cover, and others that leave their classes to train on, as far as there are such."""
    left = contents.counts(order) - contents.counts(np.array(cover, np.int64))
    chosen, passed_over = list(cover), []
    for row in (row for row in order.tolist() if row not in cover):
        own = contents.of(row)
        if len(chosen) == count:
            break
        if (left[own] >= 2).all():
            chosen.append(row)
            left[own] -= 1
        else:
            passed_over.append(row)
    return chosen + passed_over[: count - len(chosen)]


def _cover(contents: Contents, order: Rows, copies: Rows) -> list[int]:
    """Few rows that hold every class which two images have, and leave it in the others; greedy."""
    missing = {label for label in range(len(copies)) if copies[label] >= 2}
    left = copies.copy()
    chosen: list[int] = []
    place = np.empty(order.max() + 1, np.int64)
    place[order] = np.arange(len(order))
    among = np.isin(contents.images, order)
    rows: set[int] = set()
    for label in missing:
        having = contents.images[among & (contents.classes == label)]
        rows.update(having[np.argsort(place[having])][:LOOKED_AT].tolist())
    by_row = {row: contents.of(row) for row in sorted(rows, key=lambda row: int(place[row]))}
    while missing:
        possible = {
            row: own for row, own in by_row.items() if row not in chosen and len(own) and (left[own] >= 2).all()
        }
        row = max(possible, key=lambda row: len(missing.intersection(possible[row].tolist())), default=None)
        if row is None or not missing.intersection(by_row[row].tolist()):
            break
        chosen.append(row)
        left[by_row[row]] -= 1
        missing -= set(by_row[row].tolist())
    return chosen
