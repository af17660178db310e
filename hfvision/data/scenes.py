"""Digit scenes: several handwritten digits on one canvas, with exact masks, instances and boxes.

A scene is a smooth dark background (a gradient of two colours, soft clouds, fine grain) with a few of the package's
8 x 8 digits, each enlarged by Pillow's bicubic filter and painted in its own colour, which is lighter than any
background: small models learn these scenes in minutes. A digit owns the pixels where its ink covers at least half of
the background. Later digits may lie a little over earlier ones; masks, boxes and areas are those of what remains
visible.

Everything is a pure function of (seed, split, index). Training scenes use digits of the train split of `load_digits`,
validation scenes of its test split: no image is in both.

Shapes: S x S pixels of a canvas, D digits on it, K = 11 classes (background and the ten digits).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from hfvision.data.uci_digits import CITATION, LICENSE, load_digits
from hfvision.errors import DatasetError, numbered

NAME = "digit-scenes"
DIGIT_NAMES = [f"digit {digit}" for digit in range(10)]
SCENE_CLASSES = ["background", *DIGIT_NAMES]  # by the number in a mask
FEATURES = datasets.Features(
    {
        "image": datasets.Image(),  # RGB, S x S
        "mask": datasets.Image(),  # mode L: 0 background, 1 + digit where a digit is visible
        "instances": datasets.Image(),  # mode L: 0 background, else the id of the object
        "objects": {
            "id": datasets.List(datasets.Value("int64")),  # 1, 2, ... in the order of painting
            "bbox": datasets.List(datasets.List(datasets.Value("float32"), length=4)),  # x, y, width, height in pixels
            "category": datasets.List(datasets.ClassLabel(names=DIGIT_NAMES)),
            "area": datasets.List(datasets.Value("int64")),  # visible pixels
        },
    }
)
SPLITS = {"train": "train", "validation": "test"}  # split of scenes -> split of digits that they are made of

CANVAS = 96  # pixels per side
DIGITS = (2, 4)  # on that canvas; larger ones take more in proportion to their area
MOST_DIGITS = 255  # instances are 8 bits
DIGIT_SIZE = (40, 60)  # pixels per side of the enlarged 8 x 8 image
SMALLEST_DIGIT = 8
PLACES = 12  # tried for a digit before it is left out
HIDDEN = 0.08  # share of an earlier digit's pixels that another may take
INK = (0.20, 0.50)  # grey of a digit (0..1) where its ink begins and where it covers completely
DARK, LIGHT = (0.05, 0.40), (0.60, 1.0)  # of the three colours of a background, and of an ink, in 0..1
CANDIDATES = 6  # colours of ink to choose the most distinct from
GRAIN = 0.02  # standard deviation of the noise on a background of 0..1

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """One composed canvas."""

    image: npt.NDArray[np.uint8]  # (S, S, 3)
    instances: npt.NDArray[np.uint8]  # (S, S), 0 or the number of the digit, counted from 1 in the order of painting
    digits: list[int]  # (D,)

    @property
    def mask(self) -> npt.NDArray[np.uint8]:
        """(S, S): 0 for background, 1 + digit."""
        return np.array([0, *(1 + digit for digit in self.digits)], dtype=np.uint8)[self.instances]

    @property
    def boxes(self) -> npt.NDArray[np.int64]:
        """(D, 4): x, y of the first pixel, and of the pixel after the last one (xyxy)."""
        return np.array([_box(self.instances == number) for number in range(1, len(self.digits) + 1)]).reshape(-1, 4)


def load_digit_scenes(
    train: int = 2000,
    validation: int = 200,
    size: int = CANVAS,
    seed: int = 0,
    *,
    digits: tuple[int, int] | None = None,
    digit_size: tuple[int, int] = DIGIT_SIZE,
) -> datasets.DatasetDict:
    """Scenes as {"train", "validation"} with the columns image (PIL, RGB), mask and instances (mode L) and objects.

    `size` is the side of the canvas, `digits` the least and largest number of digits on it (2 to 4 at 96 pixels, more
    on larger canvases; fewer where no place is left) and `digit_size` the least and largest side of a digit in pixels.
    A mask holds 0 for background and 1 + digit (`SCENE_CLASSES` names them), `instances` holds the ids of the objects.
    The boxes of `objects` are (x, y, width, height) in pixels, as in COCO.

    Everything stays in memory: no network, no cache on disk.

    Example:
        >>> import hfvision
        >>> scenes = hfvision.load_digit_scenes(train=2, validation=1)
        >>> scenes["train"].column_names, scenes["train"][0]["image"].size
        (['image', 'mask', 'instances', 'objects'], (96, 96))
    """
    if digits is None:
        scale = (size / CANVAS) ** 2
        least, most = (min(max(1, round(count * scale)), MOST_DIGITS) for count in DIGITS)
        digits = least, most
    _check(train, validation, size, seed, digits, digit_size)
    originals = load_digits()
    info: dict[str, Any] = {
        "features": FEATURES,
        "description": "Scenes of handwritten digits with masks and boxes, composed by hfvision.",
        "citation": CITATION,
        "license": LICENSE,
        "dataset_name": NAME,
    }
    scenes = datasets.DatasetDict()
    for split, count in {"train": train, "validation": validation}.items():
        painter = ScenePainter(originals[SPLITS[split]], size, digits, digit_size)
        generators = [np.random.default_rng([seed, list(SPLITS).index(split), index]) for index in range(count)]
        rows = [_row(painter.paint(generator)) for generator in generators]
        scenes[split] = datasets.Dataset(
            datasets.table.InMemoryTable(pa.Table.from_pylist(rows, FEATURES.arrow_schema)),
            info=datasets.DatasetInfo(**info),
            split=datasets.NamedSplit(split),
        )
    return scenes


SCENE_SETS: Mapping[str, Callable[[], datasets.DatasetDict]] = {  # by the names that data sets are asked for
    NAME: load_digit_scenes,
    f"{NAME}-large": partial(load_digit_scenes, train=8000),  # the same unseen scenes
}


class ScenePainter:
    """Composes scenes of the digits of one split."""

    def __init__(
        self, originals: datasets.Dataset, size: int, digits: tuple[int, int], digit_size: tuple[int, int]
    ) -> None:
        columns = originals[:]  # decoded at once
        self.originals, self.labels = columns["image"], columns["label"]
        self.size = size
        self.digits = digits
        self.digit_size = digit_size
        self.enlarged: dict[tuple[int, int], Pixels] = {}  # (row, side) -> cover
        ramp = np.linspace(-0.5, 0.5, size, dtype=np.float32)
        self.down, self.right = ramp[:, None], ramp[None, :]

    def paint(self, random: np.random.Generator) -> Scene:
        """One scene of what the generator draws."""
        canvas, colours = self._background(random)
        instances = np.zeros((self.size, self.size), dtype=np.uint8)
        numbers: list[int] = []
        for _ in range(int(random.integers(self.digits[0], self.digits[1] + 1))):
            row = int(random.integers(len(self.labels)))
            cover = self._cover(row, int(random.integers(self.digit_size[0], self.digit_size[1] + 1)))
            ink = _ink_colour(random, colours)
            visible = cover >= 0.5
            place = self._find_place(random, instances, visible)
            if place is None:
                continue
            numbers.append(self.labels[row])
            there = canvas[(slice(None), *place)]
            there += cover * (ink[:, None, None] - there)
            instances[place][visible] = len(numbers)
        image = (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)
        return Scene(np.ascontiguousarray(image.transpose(1, 2, 0)), instances, numbers)

    def _background(self, random: np.random.Generator) -> tuple[Pixels, Pixels]:
        """(3, S, S) in 0..1 and the two colours (2, 3) that it runs between."""
        near, far = colours = random.uniform(*DARK, (2, 3)).astype(np.float32)
        angle = random.uniform(0, 2 * np.pi)
        slope = np.float32(np.cos(angle)) * self.right + np.float32(np.sin(angle)) * self.down  # -0.71..0.71
        clouds = Image.fromarray(random.uniform(-0.4, 0.4, (6, 6)).astype(np.float32))
        mix = slope + 0.5 + np.asarray(clouds.resize((self.size, self.size), Image.Resampling.BICUBIC))
        grain = GRAIN * random.standard_normal((self.size, self.size), dtype=np.float32)
        canvas = near[:, None, None] + np.clip(mix, 0, 1) * (far - near)[:, None, None]
        return canvas + grain, colours

    def _cover(self, row: int, side: int) -> Pixels:
        """(side, side): 1 where the ink of a digit hides what lies below, 0 where there is none, between at its rim."""
        if (row, side) not in self.enlarged:
            grey = self.originals[row].resize((side, side), Image.Resampling.BICUBIC)
            begins, covers = INK
            ink = (np.asarray(grey, dtype=np.float32) / 255 - begins) / (covers - begins)
            self.enlarged[row, side] = np.clip(ink, 0, 1)
        return self.enlarged[row, side]

    def _find_place(
        self, random: np.random.Generator, instances: npt.NDArray[np.uint8], ink: npt.NDArray[np.bool_]
    ) -> tuple[slice, slice] | None:
        """Where a digit hides little enough of the others; None if no such place was found."""
        side = len(ink)
        before = np.bincount(instances.ravel())
        for top, left in random.integers(0, self.size - side + 1, (PLACES, 2)).tolist():
            place = slice(top, top + side), slice(left, left + side)
            hidden = np.bincount(instances[place][ink], minlength=len(before))[1:]
            if (hidden <= HIDDEN * before[1:]).all():
                return place
        return None


def _ink_colour(random: np.random.Generator, background: Pixels) -> Pixels:
    """Of a few random colours the one that stands out most from both colours (2, 3) of the background."""
    candidates = random.uniform(*LIGHT, (CANDIDATES, 3)).astype(np.float32)
    ramp = np.linspace(0, 1, 5, dtype=np.float32)[:, None]
    passed = background[0] + ramp * (background[1] - background[0])  # colours on the way from one to the other
    distance = np.linalg.norm(candidates[:, None] - passed, axis=-1).min(axis=1)
    return candidates[distance.argmax()]


def _row(scene: Scene) -> dict[str, Any]:
    boxes = scene.boxes
    areas = np.bincount(scene.instances.ravel(), minlength=len(boxes) + 1)[1:]
    return {
        "image": _encoded(scene.image, "BMP"),  # grain hardly compresses, and trying takes longest of all
        "mask": _encoded(scene.mask, "PNG"),
        "instances": _encoded(scene.instances, "PNG"),
        "objects": {
            "id": list(range(1, len(boxes) + 1)),
            "bbox": np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]).tolist(),
            "category": scene.digits,
            "area": areas.tolist(),
        },
    }


def _box(visible: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    columns, rows = np.flatnonzero(visible.any(axis=0)), np.flatnonzero(visible.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _encoded(pixels: npt.NDArray[np.uint8], form: str) -> dict[str, Any]:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format=form)
    return {"bytes": buffer.getvalue(), "path": None}


def _check(
    train: int, validation: int, size: int, seed: int, digits: tuple[int, int], digit_size: tuple[int, int]
) -> None:
    problems = []
    if train < 1 or validation < 1:
        problems.append(f"train and validation are numbers of scenes, at least 1; got {train} and {validation}")
    if seed < 0:
        problems.append(f"seed is a whole number from 0 on; got {seed}")
    if not 1 <= digits[0] <= digits[1] <= MOST_DIGITS:
        problems.append(f"digits is (least, largest number of digits), 1 to {MOST_DIGITS}; got {digits}")
    if not SMALLEST_DIGIT <= digit_size[0] <= digit_size[1] <= size:
        problems.append(
            f"digit_size is (least, largest side) in pixels, from {SMALLEST_DIGIT} to the canvas' {size}; "
            f"got {digit_size}"
        )
    if problems:
        raise DatasetError(f"{NAME}: " + numbered("problem", problems))
