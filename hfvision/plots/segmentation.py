"""Label maps for people to look at: colours laid over the image, and sheets of image, truth and prediction."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw

from hfvision.errors import ConfigError, numbered
from hfvision.plots.colours import FAINT_INK, INK, PAPER
from hfvision.plots.layout import Measures, draw_head, fitted, head_height, paste
from hfvision.plots.pictures import as_picture, enlarged
from hfvision.processing.palette import class_palette
from hfvision.processing.reading import read_image

Colour: TypeAlias = str | Sequence[int]  # "#4a86e8", "teal", or red, green, blue in 0..255
Colours: TypeAlias = Mapping[int, Colour | None] | Sequence[Colour | None]  # by class; None leaves the image as it is
Names: TypeAlias = Mapping[int, str] | Sequence[str]  # by class

IGNORED = -1  # stands for all pixels without a class
STRIPES = ((168, 170, 178), (226, 228, 234))  # of pixels without a class
WIDEST = 1120  # sides of `tile` / 168 that a sheet is wide at most, when the number of columns is left to it
NAMED = 40  # classes that a legend names at most


def segmentation_overlay(
    image: Any,
    classes: Any,
    colours: Colours | None = None,
    names: Names | None = None,
    opacity: float = 0.5,
    legend: bool = True,
    *,
    outlines: bool = True,
    ignore_index: int | None = 255,
    size: tuple[int, int] | None = None,
) -> Image.Image:
    """The image in grey with every class in its colour: RGB, and below it a legend with the share of each class.

    image: whatever `read_image` takes, grey or RGB. classes: (H, W) whole numbers, of the image's size; pixels of
    `ignore_index` are striped. Without `colours` each class has the one of `class_palette`, whatever the image; without
    `names` classes are called by their numbers. The image is in grey, so that colours are those of the legend:
    `opacity` 0 shows it alone, 1 the colours alone, and `outlines` are always opaque. `size` (width, height) enlarges
    the picture, pixel by pixel.

    Raises ConfigError naming every argument that cannot work, and ImageReadError.
    """
    picture, labels = _picture(image), _label_map(classes)
    _check([picture], [labels], opacity, ignore_index)
    labels = np.where(labels == ignore_index, IGNORED, labels)
    key = _Key([labels], colours, names)
    drawn = _painted(picture, labels, key, opacity, outlines, size or picture.size)
    if not legend:
        return drawn
    measure = Measures(round(112 * max(1.0, drawn.width / 640)))
    margin = measure.of(10)
    width = max(drawn.width, measure.of(180))
    below = key.picture(measure, width - 2 * margin, [labels])
    sheet = Image.new("RGB", (width, drawn.height + below.height + 2 * margin), PAPER)
    sheet.paste(drawn, ((width - drawn.width) // 2, 0))
    sheet.paste(below, (margin, drawn.height + margin))
    return sheet


def segmentation_sheet(
    images: Sequence[Any],
    predictions: Sequence[Any],
    truths: Sequence[Any] | None = None,
    colours: Colours | None = None,
    names: Names | None = None,
    opacity: float = 0.7,
    *,
    title: str = "",
    subtitle: str = "",
    outlines: bool = True,
    ignore_index: int | None = 255,
    columns: int | None = None,
    tile: int = 168,
) -> Image.Image:
    """One card for each image: the image, its true label map and the predicted one side by side; a legend at the foot.

    Images, maps, colours, names and opacity are as for `segmentation_overlay`. With `truths` the caption of a card says
    which share of its pixels is right, those without a true class left out. `columns` is the number of cards beside
    each other, `tile` the side of a picture in pixels, which scales everything else. Raises ConfigError naming every
    argument that cannot work.
    """
    maps = {"truth": truths, "prediction": predictions} if truths is not None else {"prediction": predictions}
    problems = [] if len(images) else ["there are no images"]
    problems += [
        f"{len(given)} {name}s for {len(images)} images" for name, given in maps.items() if len(given) != len(images)
    ]
    if tile < 32:
        problems.append(f"tile is the side of a picture in pixels, at least 32; got {tile}")
    if columns is not None and columns < 1:
        problems.append(f"columns is at least 1; got {columns}")
    if problems:
        raise ConfigError(numbered("problem", problems))
    pictures = [_picture(image) for image in images]
    labels = {name: [_label_map(classes) for classes in given] for name, given in maps.items()}
    for kind in labels.values():
        _check(pictures, kind, opacity, ignore_index)
    labels = {name: [np.where(one == ignore_index, IGNORED, one) for one in given] for name, given in labels.items()}
    key = _Key([one for given in labels.values() for one in given], colours, names)

    measure = Measures(round(tile * 2 / 3))
    margin, gap, gutter = measure.of(24), measure.of(6), measure.of(26)
    caption = measure.of(28) if truths is not None else measure.of(8)
    card_width = (1 + len(labels)) * (tile + gap) - gap
    if columns is None:
        columns = max(1, (measure.of(WIDEST) - 2 * margin + gutter) // (card_width + gutter))
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    width = 2 * margin + columns * (card_width + gutter) - gutter
    below = key.picture(measure, width - 2 * margin, [one for given in labels.values() for one in given], shares=False)
    head, heading = head_height(measure, title, subtitle), measure.of(20)
    body = rows * (tile + caption)
    sheet = Image.new("RGB", (width, margin + head + heading + body + measure.of(6) + below.height + margin), PAPER)
    draw_head(sheet, measure, margin, title, subtitle)
    draw = ImageDraw.Draw(sheet)
    for column in range(columns):
        for place, name in enumerate(("image", *labels)):
            left = margin + column * (card_width + gutter) + place * (tile + gap)
            draw.text((left, margin + head), name, FAINT_INK, measure.font(13))
    for place, picture in enumerate(pictures):
        row, column = divmod(place, columns)
        left = margin + column * (card_width + gutter)
        top = margin + head + heading + row * (tile + caption)
        shown = enlarged(picture, (tile, tile))
        paste(sheet, shown, (left, top), tile)
        for given in labels.values():
            left += tile + gap
            painted = _painted(picture, given[place], key, opacity, outlines, shown.size)
            paste(sheet, painted, (left, top), tile)
        if truths is not None:
            said = _right(labels["prediction"][place], labels["truth"][place])
            draw.text((left, top + tile + measure.of(5)), said, INK, measure.font(12))
    sheet.paste(below, (margin, sheet.height - margin - below.height))
    return sheet


def _picture(image: Any) -> Image.Image:
    image = read_image(image)
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu().numpy()
    if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] not in (1, 3) and image.shape[0] in (1, 3):
        image = image.transpose(1, 2, 0)
    return as_picture(image)


def _label_map(classes: Any) -> np.ndarray:
    """(H, W) int64. Raises ConfigError."""
    values = np.asarray(classes.detach().cpu() if isinstance(classes, torch.Tensor) else classes)
    if values.ndim != 2 or values.dtype.kind not in "iub":
        raise ConfigError(f"a label map is (H, W) whole numbers; got {values.dtype} {values.shape}.")
    return values.astype(np.int64)


def _check(
    pictures: Sequence[Image.Image], maps: Sequence[np.ndarray], opacity: float, ignore_index: int | None
) -> None:
    problems = []
    for picture, labels in zip(pictures, maps, strict=True):
        height, width = labels.shape
        if (width, height) != picture.size:
            problems.append(f"the label map is {height}x{width} and the image {picture.height}x{picture.width}")
        outside = labels[(labels < 0) & (labels != ignore_index)]
        if outside.size:
            problems.append(f"classes are at least 0, or ignore_index {ignore_index}; got {outside.min()}")
    if not 0 <= opacity <= 1:
        problems.append(f"opacity lies in 0..1; got {opacity}")
    if problems:
        raise ConfigError(numbered("problem", problems))


class _Key:
    """The colours and names of the classes that occur in some label maps."""

    def __init__(self, maps: Sequence[np.ndarray], colours: Colours | None, names: Names | None) -> None:
        present = sorted({int(one) for labels in maps for one in np.unique(labels)} - {IGNORED})
        given = (
            _by_class(colours) if colours is not None else dict(enumerate(class_palette(max(present, default=0) + 1)))
        )
        problems = []
        if missing := [one for one in present if one not in given]:
            problems.append(f"colours has none for class {', '.join(map(str, missing))}; None leaves a class unpainted")
        self.colours: dict[int, tuple[int, ...] | None] = {}
        for one in present:
            try:
                self.colours[one] = _rgb(given.get(one))
            except (ValueError, TypeError):
                problems.append(
                    f"the colour of class {one} is a name, #rrggbb or (red, green, blue); got {given[one]!r}"
                )
        if problems:
            raise ConfigError(numbered("problem", problems))
        self.names = {one: str((_by_class(names) if names is not None else {}).get(one, one)) for one in present}

    def picture(self, measure: Measures, width: int, maps: Sequence[np.ndarray], shares: bool = True) -> Image.Image:
        """A legend of this width: a patch of colour, the name, and the share of all pixels that the class has."""
        total = sum(labels.size for labels in maps)
        counts = {
            one: sum(int((labels == one).sum()) for labels in maps)
            for one in (*(one for one, colour in self.colours.items() if colour is not None), IGNORED)
        }
        ordered = [one for one in counts if counts[one]]
        ordered.sort(key=lambda one: (one == IGNORED, -counts[one] if shares else one))
        entries = [
            (one, "ignored" if one == IGNORED else self.names[one], f"{counts[one] / total:.1%}" if shares else "")
            for one in ordered[:NAMED]
        ]
        more = f"and {len(ordered) - NAMED} more" if len(ordered) > NAMED else ""
        font, small = measure.font(13), measure.font(11)
        patch, space, line = measure.of(12), measure.of(6), measure.of(21)
        longest = max((font.getlength(name) + small.getlength(share) for _, name, share in entries), default=0)
        column = min(round(longest) + patch + 2 * space + measure.of(16), width)
        columns = max(1, (width + measure.of(16)) // column)
        rows = -(-(len(entries) + bool(more)) // columns)
        legend = Image.new("RGB", (width, max(1, rows * line)), PAPER)
        draw = ImageDraw.Draw(legend)
        for place, (one, name, share) in enumerate(entries):
            left, top = place % columns * column, place // columns * line
            middle = top + line // 2
            legend.paste(self._patch(one, patch), (left, middle - patch // 2))
            text = fitted(name, font, column - patch - 3 * space - small.getlength(share))
            draw.text((left + patch + space, middle), text, INK, font, anchor="lm")
            draw.text((left + patch + 2 * space + font.getlength(text), middle), share, FAINT_INK, small, anchor="lm")
        if more:
            place = len(entries)
            draw.text(
                (place % columns * column, place // columns * line + line // 2), more, FAINT_INK, font, anchor="lm"
            )
        return legend

    def _patch(self, one: int, side: int) -> Image.Image:
        if one == IGNORED:
            return Image.fromarray(_stripes((side, side), max(2, side // 4)))
        return Image.new("RGB", (side, side), self.colours[one])


def _painted(
    picture: Image.Image, labels: np.ndarray, key: _Key, opacity: float, outlines: bool, size: tuple[int, int]
) -> Image.Image:
    """The picture at `size`, in grey, with its classes in their colours."""
    larger = size[0] >= picture.width and size[1] >= picture.height
    method = Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS
    drawn = picture.convert("L").resize(size, method).convert("RGB")
    rows, columns = (
        ((np.arange(wanted) + 0.5) * given / wanted).astype(np.int64)
        for wanted, given in zip(size[::-1], labels.shape, strict=True)
    )
    shown = labels[np.ix_(rows, columns)]
    present, places = np.unique(shown, return_inverse=True)
    places = places.reshape(shown.shape)
    table = [None if one == IGNORED else key.colours[one] for one in present.tolist()]
    layer = np.array([colour or STRIPES[0] for colour in table], np.uint8)[places]
    is_ignored = shown == IGNORED
    fine = max(1, min(size) // 400)  # pixels of an outline
    layer[is_ignored] = _stripes(shown.shape, 4 * fine)[is_ignored]
    painted = np.array([colour is not None for colour in table])[places]
    cover = np.where(painted | is_ignored, round(255 * opacity), 0).astype(np.uint8)
    if outlines:
        cover[_edges(shown, fine) & painted] = 255
    drawn.paste(Image.fromarray(layer), mask=Image.fromarray(cover))
    return drawn


def _edges(labels: np.ndarray, width: int) -> np.ndarray:
    """(H, W): the pixels with another class within `width` pixels up, down, left or right."""
    edges = np.zeros(labels.shape, bool)
    for shift in range(1, width + 1):
        for one, other in (
            (np.s_[shift:], np.s_[:-shift]),
            (np.s_[:, shift:], np.s_[:, :-shift]),
        ):
            differ = labels[one] != labels[other]
            edges[one] |= differ
            edges[other] |= differ
    return edges


def _stripes(shape: tuple[int, ...], width: int) -> np.ndarray:
    """(H, W, 3): diagonal stripes."""
    down, right = np.ogrid[: shape[0], : shape[1]]
    return np.array(STRIPES, np.uint8)[(down + right) // width % 2]


def _by_class(given: Mapping[int, Any] | Sequence[Any]) -> dict[int, Any]:
    return dict(given) if isinstance(given, Mapping) else dict(enumerate(given))


def _rgb(colour: Colour | None) -> tuple[int, ...] | None:
    """Raises ValueError or TypeError for what is no colour."""
    if colour is None:
        return None
    if isinstance(colour, str):
        return ImageColor.getrgb(colour)[:3]
    values = tuple(int(value) for value in colour)
    if len(values) != 3 or not all(0 <= value <= 255 for value in values):
        raise ValueError(colour)
    return values


def _right(labels: np.ndarray, truth: np.ndarray) -> str:
    known = truth != IGNORED
    return f"{(labels == truth)[known].mean():.1%} of pixels right" if known.any() else "no true class"
