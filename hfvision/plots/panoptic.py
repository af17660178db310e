"""Panoptic segmentations for people to look at: every segment in a shade of its class, with its name in its middle.

Shapes: n segments, H x W pixels.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from hfvision.errors import ConfigError, numbered
from hfvision.metrics.panoptic import VOID, PanopticMetric
from hfvision.plots.painting import IGNORED, Colours, Key, Names, painted, picture_of, resampled, with_legend
from hfvision.plots.panels import panel_faults, panel_sheet
from hfvision.plots.pictures import enlarged
from hfvision.plots.tags import SEPARATOR, Corner, Tag, draw_tags

# How far the shades of one class lie from its colour towards white (above 0) or black, one after the other.
SHADES = (0.0, 0.35, -0.3, 0.6, -0.5, 0.18, -0.15)
SMALLEST_NAMED = 0.004  # share of the picture that a segment has at least for its name to be written in it
FINEST = 256  # side of the map that the middle of a segment is looked for in


@dataclass(frozen=True)
class _Segments:
    """A segmentation, whatever it came as."""

    places: NDArray[np.int64]  # (H, W): the segment of each pixel, counted from 0; IGNORED where there is none
    classes: NDArray[np.int64]  # (n,)
    scores: list[float | None]  # (n,)
    names: dict[int, str]  # by class, as far as the segments say


def panoptic_overlay(
    image: Any,
    segmentation: Any,
    segments_info: Sequence[Mapping[str, Any]] | None = None,
    names: Names | None = None,
    colours: Colours | None = None,
    opacity: float = 0.6,
    legend: bool = True,
    *,
    outlines: bool = True,
    tags: bool = True,
    size: tuple[int, int] | None = None,
) -> Image.Image:
    """The image in grey with every segment in a shade of its class: RGB, and below it a legend of the classes.

    image: whatever `read_image` takes, grey or RGB. segmentation, segments_info: as `post_process_panoptic_
    segmentation` gives them, a map (H, W) of ids (0 and -1 where there is no segment, which is striped) and a dict
    {"id", "label_id" or "category_id"} for each segment, perhaps with "score" and "label"; or one answer that holds
    both, as the image-segmentation pipeline with output="map" and `predict` give it. Without `colours` each class
    has the one of `class_palette`. `tags` writes names and scores into the segments that have room. `size` (width,
    height) enlarges the picture, pixel by pixel.

    Raises ConfigError naming every argument that cannot work, and ImageReadError.

    Example:
        >>> import numpy as np, PIL.Image, hfvision
        >>> segments = [{"id": 1, "label_id": 0}]
        >>> hfvision.panoptic_overlay(
        ...     PIL.Image.new("RGB", (64, 48)), np.ones((48, 64), int), segments, names=["sky"]
        ... ).mode
        'RGB'
    """
    picture = picture_of(image)
    if isinstance(segmentation, Mapping):
        segmentation, segments_info = segmentation["segmentation"], segmentation["segments_info"]
    segments = _read(segmentation, segments_info or [], "the segmentation")
    _check([picture], [segments], opacity)
    key = _key([segments], names, colours)
    drawn = _drawn(picture, segments, key, opacity, outlines, tags, size or picture.size)
    return with_legend(drawn, key, _remarks([segments], key)) if legend else drawn


def panoptic_sheet(
    images: Sequence[Any],
    answers: Sequence[Mapping[str, Any]],
    truths: Sequence[Mapping[str, Any]] | None = None,
    names: Names | None = None,
    colours: Colours | None = None,
    opacity: float = 0.6,
    *,
    title: str = "",
    subtitle: str = "",
    outlines: bool = True,
    columns: int | None = None,
    tile: int = 168,
) -> Image.Image:
    """One card for each image: the image, its true segments and those found side by side; a legend at the foot.

    answers, truths: dicts {"segmentation", "segments_info"}, these and all else as for `panoptic_overlay`. With
    `truths` the caption of a card is the panoptic quality of the image. `columns` is the number of cards beside each
    other, `tile` the side of a picture in pixels, which scales everything else. Raises ConfigError naming every
    argument that cannot work.

    Example:
        >>> import numpy as np, PIL.Image, hfvision
        >>> answer = {"segmentation": np.ones((48, 64), int), "segments_info": [{"id": 1, "label_id": 0}]}
        >>> hfvision.panoptic_sheet([PIL.Image.new("RGB", (64, 48))], [answer], names=["sky"]).mode
        'RGB'
    """
    given = {"truth": truths, "answer": answers} if truths is not None else {"answer": answers}
    if problems := panel_faults(images, given, columns, tile):
        raise ConfigError(numbered("problem", problems))
    pictures = [picture_of(image) for image in images]
    segments = {
        name: [_read(one["segmentation"], one["segments_info"], f"{name} {place}") for place, one in enumerate(some)]
        for name, some in given.items()
    }
    for some in segments.values():
        _check(pictures, some, opacity)
    everything = [one for some in segments.values() for one in some]
    key = _key(everything, names, colours)
    cards = []
    for place, picture in enumerate(pictures):
        shown = enlarged(picture, (tile, tile))
        regions = [_drawn(picture, some[place], key, opacity, outlines, True, shown.size) for some in segments.values()]
        cards.append([shown, *regions])
    captions = None if truths is None else [_quality(*pair) for pair in zip(answers, truths, strict=True)]
    remarks = dict.fromkeys(sorted(_remarks(everything, key), key=lambda one: (one == IGNORED, one)), "")
    return panel_sheet(
        cards, ("image", *segments), captions, key, remarks, title=title, subtitle=subtitle, columns=columns, tile=tile
    )


def _read(segmentation: Any, segments_info: Sequence[Mapping[str, Any]], what: str) -> _Segments:
    """Raises ConfigError naming every fault."""
    ids = np.asarray(segmentation.detach().cpu() if isinstance(segmentation, Tensor) else segmentation)
    problems = []
    if ids.ndim != 2 or not (np.issubdtype(ids.dtype, np.integer) or (ids == np.floor(ids)).all()):
        problems.append(f"{what} is not a map (H, W) of whole numbers; got {ids.dtype} {ids.shape}")
    if wrong := [s for s in segments_info if "id" not in s or not {"label_id", "category_id"} & set(s)]:
        problems.append(f"{what} has segments without an id, or without a label_id or category_id, such as {wrong[0]}")
    if problems:
        raise ConfigError(numbered("problem", problems))
    classes = np.array([s.get("label_id", s.get("category_id")) for s in segments_info], np.int64)
    position = {int(s["id"]): place for place, s in enumerate(segments_info)}
    present, inverse = np.unique(ids.astype(np.int64), return_inverse=True)
    if unknown := [one for one in present.tolist() if one not in position and one not in VOID]:
        problems.append(f"{what} has ids that segments_info lacks: {unknown[:10]}")
    if (classes < 0).any():
        problems.append(f"classes are at least 0; {what} has {classes.min()}")
    if problems:
        raise ConfigError(numbered("problem", problems))
    places = np.array([position.get(one, IGNORED) for one in present.tolist()], np.int64)
    names = {int(label): str(s["label"]) for label, s in zip(classes, segments_info, strict=True) if "label" in s}
    return _Segments(places[inverse].reshape(ids.shape), classes, [s.get("score") for s in segments_info], names)


def _check(pictures: Sequence[Image.Image], segments: Sequence[_Segments], opacity: float) -> None:
    problems = [
        f"the segmentation is {height}x{width} and the image {picture.height}x{picture.width}"
        for picture, (height, width) in zip(pictures, (one.places.shape for one in segments), strict=True)
        if (width, height) != picture.size
    ]
    if not 0 <= opacity <= 1:
        problems.append(f"opacity lies in 0..1; got {opacity}")
    if problems:
        raise ConfigError(numbered("problem", problems))


def _key(segments: Iterable[_Segments], names: Names | None, colours: Colours | None) -> Key:
    given = list(segments)
    known = {number: name for one in given for number, name in one.names.items()}
    classes = (label for one in given for label in one.classes.tolist())
    return Key(classes, colours, names if names is not None else known, "no segment")


def _remarks(segments: Sequence[_Segments], key: Key) -> dict[int, str]:
    """The number of segments and the share of all pixels that each painted class has, the largest share first."""
    pixels, counts = Counter[int](), Counter[int]()
    for one in segments:
        areas = np.bincount(one.places.ravel() + 1, minlength=len(one.classes) + 1)
        for label, area in zip([IGNORED, *one.classes.tolist()], areas.tolist(), strict=True):
            pixels[label] += area
            counts[label] += area > 0
    total = sum(pixels.values())
    shown = [one for one in pixels if pixels[one] and (one == IGNORED or key.colours[one] is not None)]
    shown.sort(key=lambda one: (one == IGNORED, -pixels[one]))
    return {one: (f"{counts[one]} x, " if one != IGNORED else "") + f"{pixels[one] / total:.1%}" for one in shown}


def _drawn(
    picture: Image.Image,
    segments: _Segments,
    key: Key,
    opacity: float,
    outlines: bool,
    tags: bool,
    size: tuple[int, int],
) -> Image.Image:
    """The picture at `size`, in grey, with the segments in their shades."""
    seen = Counter[int]()
    shades: list[tuple[int, ...] | None] = []
    for label in segments.classes.tolist():
        colour = key.colours[label]
        shades.append(None if colour is None else _shade(colour, SHADES[seen[label] % len(SHADES)]))
        seen[label] += 1
    drawn = painted(picture, segments.places, Key(range(len(shades)), shades, None), opacity, outlines, size)
    if tags:
        scale = min(1.0, FINEST / max(size))
        small = resampled(segments.places, (max(1, round(size[0] * scale)), max(1, round(size[1] * scale))))
        draw_tags(drawn, _tags(segments, shades, key, small, size))
    return drawn


def _tags(
    segments: _Segments,
    shades: Sequence[tuple[int, ...] | None],
    key: Key,
    small: NDArray[np.int64],
    size: tuple[int, int],
) -> list[Tag]:
    """Of the segments that have room for one, the largest first."""
    areas = np.bincount(small.ravel() + 1, minlength=len(shades) + 1)[1:]
    scale = size[0] / small.shape[1], size[1] / small.shape[0]
    tags = []
    for place in np.argsort(-areas, kind="stable").tolist():
        shade, score = shades[place], segments.scores[place]
        if shade is None or areas[place] < SMALLEST_NAMED * small.size:
            continue
        depth = ndimage.distance_transform_edt(np.pad(small == place, 1))  # to the nearest pixel of another
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        middle = (float(column) - 0.5) * scale[0], (float(row) - 0.5) * scale[1]
        text = key.names[int(segments.classes[place])] + ("" if score is None else f"{SEPARATOR}{score:.0%}")
        tags.append(Tag(text, shade, _at(middle)))
    return tags


def _at(middle: tuple[float, float]) -> Callable[[float, float], list[Corner]]:
    """Corners of a patch in the middle of a segment, or a little above or below it."""
    x, y = middle
    return lambda width, height: [(x - width / 2, y + (step - 0.5) * height) for step in (0, -1, 1)]


def _shade(colour: tuple[int, ...], step: float) -> tuple[int, ...]:
    """Towards white for steps above 0, towards black below."""
    end = 255 if step > 0 else 0
    return tuple(round(value + abs(step) * (end - value)) for value in colour)


def _quality(answer: Mapping[str, Any], truth: Mapping[str, Any]) -> str:
    labels = [
        int(segment.get("label_id", segment.get("category_id", 0)))
        for given in (answer, truth)
        for segment in given["segments_info"]
    ]
    metric = PanopticMetric(max(labels, default=0) + 1)
    metric.update([answer], [truth])
    quality = metric.result()["PQ"]
    return "no segment" if np.isnan(quality) else f"PQ {quality:.1%}"
