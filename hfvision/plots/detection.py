"""Objects for people to look at: boxes, masks and names drawn over the image, and sheets of truth and answer.

Shapes: n objects, H x W pixels. Boxes are xyxy in pixels, edge to edge.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from hfvision.detections import Detections
from hfvision.errors import ConfigError, numbered
from hfvision.geometry import box_iou, clip_boxes
from hfvision.objects import ImageObjects, Masks
from hfvision.plots.painting import (
    Colours,
    Key,
    Names,
    edges_of,
    line_width,
    picture_of,
    resampled,
    resized,
    with_legend,
)
from hfvision.plots.panels import panel_faults, panel_sheet
from hfvision.plots.pictures import enlarged
from hfvision.plots.tags import SEPARATOR, Tag, around, draw_tags, ink_on

LEGIBLE = 384  # pixels of the longer side of an overlay: names do not fit into less
LINES_PER_PICTURE = 300  # lines of boxes that together are as wide as the shorter side of a picture
LEAST_IOU = 0.5  # of a found object with the true one


@dataclass(frozen=True)
class _Drawn:
    """The objects of an image, whatever they came as."""

    size: tuple[int, int]  # H, W
    boxes: NDArray[np.float64]  # (n, 4)
    labels: NDArray[np.int64]  # (n,)
    scores: NDArray[np.float64] | None  # (n,)
    crowd: NDArray[np.bool_]  # (n,)
    mask: Callable[[int], NDArray[np.bool_]] | None  # (H, W) of an object, decoded when it is drawn


def detection_overlay(
    image: Any,
    objects: Detections | ImageObjects | Sequence[Mapping[str, Any]],
    names: Names | None = None,
    colours: Colours | None = None,
    *,
    opacity: float = 0.45,
    scores: bool = True,
    legend: bool = False,
    size: tuple[int, int] | None = None,
) -> Image.Image:
    """The image with a box, a name and, where it is known, a score for each object; masks are filled and outlined: RGB.

    image: whatever `read_image` takes, grey or RGB. objects: of that image, `Detections`, `ImageObjects`, or the dicts
    of transformers' object-detection pipeline. names: of all classes, in their order; else those of the detections.
    Without `colours` each class has the one of `class_palette`, whatever the image; objects of a class with the colour
    None are left out. `opacity` is that of the filling. An image whose longer side has less than 384 pixels is enlarged
    by a whole factor, pixel by pixel, since names would not fit; `size` (width, height) sets another size.

    Raises ConfigError naming every argument that cannot work, and ImageReadError.

    Example:
        >>> import PIL.Image, hfvision
        >>> found = hfvision.Detections([[2, 2, 20, 20]], scores=[0.9], labels=[0], names=("cat",), size=(48, 64))
        >>> hfvision.detection_overlay(PIL.Image.new("RGB", (64, 48)), found, size=(640, 480)).size
        (640, 480)
    """
    picture = picture_of(image)
    names = _names([objects], names)
    found = _read(objects, picture, names)
    _check([picture], [found], opacity)
    key = _key([found], names, colours)
    if size is None:
        factor = -(-LEGIBLE // max(picture.size))
        size = (picture.width * factor, picture.height * factor)
    drawn = _drawn(picture, found, key, opacity, scores, size)
    return with_legend(drawn, key, _counts([found], key)) if legend else drawn


def detection_sheet(
    images: Sequence[Any],
    answers: Sequence[Detections | ImageObjects | Sequence[Mapping[str, Any]]],
    truths: Sequence[Detections | ImageObjects | Sequence[Mapping[str, Any]]] | None = None,
    names: Names | None = None,
    colours: Colours | None = None,
    *,
    opacity: float = 0.45,
    title: str = "",
    subtitle: str = "",
    columns: int | None = None,
    tile: int = 224,
) -> Image.Image:
    """One card for each image: its true objects and those found side by side; a legend of the classes at the foot.

    Images, objects, names, colours and opacity are as for `detection_overlay`. With `truths` the caption of a card says
    how many of its objects were found, by a box of the same class that overlaps theirs by half (IoU), and how many of
    those found are none; crowds are not counted. `columns` is the number of cards beside each other, `tile` the side of
    a picture in pixels, which scales everything else. Raises ConfigError naming every argument that cannot work.

    Example:
        >>> import PIL.Image, hfvision
        >>> found = hfvision.Detections([[2, 2, 20, 20]], scores=[0.9], labels=[0], names=("cat",), size=(48, 64))
        >>> hfvision.detection_sheet([PIL.Image.new("RGB", (64, 48))], [found], title="One image").mode
        'RGB'
    """
    given = {"truth": truths, "answer": answers} if truths is not None else {"answer": answers}
    if problems := panel_faults(images, given, columns, tile):
        raise ConfigError(numbered("problem", problems))
    pictures = [picture_of(image) for image in images]
    names = _names((one for some in given.values() for one in some), names)
    found = {
        name: [_read(one, picture, names) for one, picture in zip(some, pictures, strict=True)]
        for name, some in given.items()
    }
    everything = [one for some in found.values() for one in some]
    for some in found.values():
        _check(pictures, some, opacity)
    key = _key(everything, names, colours)
    cards = []
    for place, picture in enumerate(pictures):
        shown = enlarged(picture, (tile, tile)).size
        cards.append([_drawn(picture, some[place], key, opacity, True, shown) for some in found.values()])
    captions = None
    if truths is not None:
        captions = [_said(truth, answer) for truth, answer in zip(found["truth"], found["answer"], strict=True)]
    remarks = dict.fromkeys(sorted(_counts(everything, key)), "")
    return panel_sheet(
        cards, tuple(found), captions, key, remarks, title=title, subtitle=subtitle, columns=columns, tile=tile
    )


def _names(objects: Iterable[Any], names: Names | None) -> Names | None:
    """The names of the classes, the same for all images."""
    if names is not None:
        return names
    given = list(objects)
    for one in given:
        if isinstance(one, Detections):
            return one.names
    lists = [row for one in given if isinstance(one, list | tuple) for row in one if isinstance(row, Mapping)]
    return sorted({str(row["label"]) for row in lists if "label" in row}) or None


def _read(objects: Any, picture: Image.Image, names: Names | None) -> _Drawn:
    """Raises ConfigError for what is no description of objects, and UnknownNameError for names that there are not."""
    if isinstance(objects, ImageObjects):
        masks = None if objects.masks is None else _decoder(objects.masks)
        return _Drawn(objects.size, objects.boxes, objects.labels, None, objects.crowd, masks)
    if isinstance(objects, list | tuple):
        if isinstance(names, Mapping):
            names = [str(names.get(number, number)) for number in range(max(names, default=-1) + 1)]
        objects = Detections.from_list(objects, (picture.height, picture.width), names)
    if not isinstance(objects, Detections):
        raise ConfigError(
            "objects are Detections, ImageObjects or the dicts of an object-detection pipeline; "
            f"got {type(objects).__name__}."
        )
    masks = None if objects.masks is None else objects.mask
    return _Drawn(objects.size, objects.boxes, objects.labels, objects.scores, np.zeros(len(objects), bool), masks)


def _decoder(masks: Masks) -> Callable[[int], NDArray[np.bool_]]:
    return lambda row: masks.take([row]).decoded()[0]


def _check(pictures: Sequence[Image.Image], found: Sequence[_Drawn], opacity: float) -> None:
    problems = [
        f"the objects are of an image of {one.size[0]}x{one.size[1]} (height x width), this one has "
        f"{picture.height}x{picture.width}"
        for picture, one in zip(pictures, found, strict=True)
        if one.size != (picture.height, picture.width)
    ]
    if not 0 <= opacity <= 1:
        problems.append(f"opacity lies in 0..1; got {opacity}")
    if problems:
        raise ConfigError(numbered("problem", problems))


def _key(found: Iterable[_Drawn], names: Names | None, colours: Colours | None) -> Key:
    return Key((label for one in found for label in one.labels.tolist()), colours, names)


def _counts(found: Iterable[_Drawn], key: Key) -> dict[int, str]:
    """How many objects each class has, the most frequent first; without those that are left out."""
    labels = [label for one in found for label in one.labels.tolist() if key.colours[label] is not None]
    return {label: f"{count}" for label, count in Counter(labels).most_common()}


def _drawn(
    picture: Image.Image, found: _Drawn, key: Key, opacity: float, scores: bool, size: tuple[int, int]
) -> Image.Image:
    """The picture at `size` with the objects: the largest first, so that they hide none; names in order of score."""
    drawn = resized(picture, size)
    shown = [row for row, label in enumerate(found.labels.tolist()) if key.colours[label] is not None]
    scale = np.array([size[0] / picture.width, size[1] / picture.height] * 2)
    boxes = clip_boxes(found.boxes * scale, size[::-1])
    shown.sort(key=lambda row: -np.prod(boxes[row, 2:] - boxes[row, :2]))
    colours = [key.colours[label] or () for label in found.labels.tolist()]
    if found.mask is not None:
        pixels = np.array(drawn)
        for row in shown:
            _fill(pixels, resampled(found.mask(row), size), colours[row], opacity)
        drawn = Image.fromarray(pixels)
    draw = ImageDraw.Draw(drawn)
    for row in shown:
        _frame(draw, boxes[row].tolist(), colours[row], size)
    if found.scores is not None:
        shown.sort(key=lambda row: -found.scores[row])  # type: ignore[index]
    tags = []
    for row in shown:
        parts = [key.names[int(found.labels[row])]]
        if scores and found.scores is not None:
            parts.append(f"{found.scores[row]:.0%}")
        if found.crowd[row]:
            parts.append("crowd")
        tags.append(Tag(SEPARATOR.join(parts), colours[row], around(tuple(boxes[row].tolist()))))
    draw_tags(drawn, tags)
    return drawn


def _fill(pixels: NDArray[np.uint8], mask: NDArray[np.bool_], colour: tuple[int, ...], opacity: float) -> None:
    """Lay the colour over the mask, opaque along its outline; changes the pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return
    fine = line_width(mask.shape)
    # The window that holds the mask, with a rim of what is not: an outline lies where the two meet.
    top, left = max(0, rows[0] - fine), max(0, columns[0] - fine)
    place = np.s_[top : rows[-1] + 1 + fine, left : columns[-1] + 1 + fine]
    inside, part = mask[place], pixels[place]
    cover = np.where(edges_of(inside, fine), 1.0, opacity)[inside][:, None]
    part[inside] = np.round((1 - cover) * part[inside] + cover * np.array(colour)).astype(np.uint8)


def _frame(draw: ImageDraw.ImageDraw, box: Sequence[float], colour: tuple[int, ...], size: tuple[int, int]) -> None:
    """The box, drawn inside its edges, between two hairlines that stand out from its colour."""
    width = max(2, round(min(size) / LINES_PER_PICTURE))
    left, top = math.floor(box[0]), math.floor(box[1])
    right, bottom = max(left, math.ceil(box[2]) - 1), max(top, math.ceil(box[3]) - 1)
    hair = ink_on(colour)
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=hair)
    inner = (left + width, top + width, right - width, bottom - width)
    if inner[0] < inner[2] and inner[1] < inner[3]:
        draw.rectangle(inner, outline=hair)
    draw.rectangle((left, top, right, bottom), outline=colour, width=width)


def _said(truth: _Drawn, answer: _Drawn) -> str:
    """How many objects were found, and how many answers are none."""
    true = np.flatnonzero(~truth.crowd)
    order = np.argsort(-answer.scores, kind="stable") if answer.scores is not None else np.arange(len(answer.labels))
    overlaps = box_iou(answer.boxes[order, None], truth.boxes[None, true])
    overlaps = np.where(answer.labels[order, None] == truth.labels[None, true], overlaps, 0)
    found = 0
    for row in range(len(order)):  # by falling score, each takes the free object that it overlaps most
        if len(true) and overlaps[row].max() >= LEAST_IOU:
            overlaps[:, overlaps[row].argmax()] = 0
            found += 1
    wrong = len(order) - found
    return f"{found} of {len(true)} found" + (f", {wrong} false" if wrong else "")
