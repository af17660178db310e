"""Regions painted over images in flat colours with outlines, and the legend that says what a colour means.

Shapes: a map is (H, W) whole numbers, one for each pixel; -1 stands for pixels without a class.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw

from hfvision.errors import ConfigError, numbered
from hfvision.geometry import nearest_places
from hfvision.plots.colours import FAINT_INK, INK, PAPER
from hfvision.plots.layout import Measures, fitted
from hfvision.plots.pictures import as_picture
from hfvision.processing.palette import class_palette
from hfvision.processing.reading import open_image
from hfvision.reporting import report_kind

Colour: TypeAlias = str | Sequence[int]  # "#4a86e8", "teal", or red, green, blue in 0..255
Colours: TypeAlias = Mapping[int, Colour | None] | Sequence[Colour | None]  # by class; None leaves the image as it is
Names: TypeAlias = Mapping[int, str] | Sequence[str]  # by class

IGNORED = -1  # stands for all pixels without a class
STRIPES = ((168, 170, 178), (226, 228, 234))  # of pixels without a class
NAMED = 40  # classes that a legend names at most


def picture_of(image: Any) -> Image.Image:
    """Whatever `open_image` takes, grey or RGB, as RGB. Raises ImageReadError and ConfigError.

    Of a file with more bands, the first three are shown, and that is reported.
    """
    opened = open_image(image)
    shown: Any = opened.image
    if isinstance(shown, torch.Tensor):
        shown = shown.detach().cpu().numpy()
    if isinstance(shown, np.ndarray) and shown.ndim == 3 and shown.shape[2] not in (1, 3):
        if opened.is_channels_last:
            bands = 3 if shown.shape[2] > 3 else 1
            report_kind("bands shown", f"Of {shown.shape[2]} bands, a picture shows the first {bands}.")
            shown = shown[..., :bands]
        elif shown.shape[0] in (1, 3):
            shown = shown.transpose(1, 2, 0)
    return as_picture(shown)


class Key:
    """The colours and names of some classes."""

    def __init__(
        self, classes: Iterable[int], colours: Colours | None, names: Names | None, without: str = "ignored"
    ) -> None:
        """Without `colours` each class has the one of `class_palette`, without `names` it is called by its number;
        `without` is what pixels without a class are called.

        Raises ConfigError for classes without a colour, and for what is no colour.
        """
        present = sorted(set(classes) - {IGNORED})
        given = _by_class(list(class_palette(max(present, default=0) + 1)) if colours is None else colours)
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
        known = _by_class(names) if names is not None else {}
        self.names = {IGNORED: without} | {one: str(known.get(one, one)) for one in present}

    def legend(self, measure: Measures, width: int, remarks: Mapping[int, str]) -> Image.Image:
        """For each class of the remarks, in their order, a patch of its colour, its name and the remark."""
        entries = [(one, self.names[one], remark) for one, remark in list(remarks.items())[:NAMED]]
        more = f"and {len(remarks) - NAMED} more" if len(remarks) > NAMED else ""
        font, small = measure.font(13), measure.font(11)
        patch, space, line = measure.of(12), measure.of(6), measure.of(21)
        longest = max((font.getlength(name) + small.getlength(remark) for _, name, remark in entries), default=0)
        column = min(round(longest) + patch + 2 * space + measure.of(16), width)
        columns = max(1, (width + measure.of(16)) // column)
        rows = -(-(len(entries) + bool(more)) // columns)
        legend = Image.new("RGB", (width, max(1, rows * line)), PAPER)
        draw = ImageDraw.Draw(legend)
        for place, (one, name, remark) in enumerate(entries):
            left, top = place % columns * column, place // columns * line
            middle = top + line // 2
            legend.paste(self._patch(one, patch), (left, middle - patch // 2))
            text = fitted(name, font, column - patch - 3 * space - small.getlength(remark))
            draw.text((left + patch + space, middle), text, INK, font, anchor="lm")
            draw.text((left + patch + 2 * space + font.getlength(text), middle), remark, FAINT_INK, small, anchor="lm")
        if more:
            place = len(entries)
            draw.text(
                (place % columns * column, place // columns * line + line // 2), more, FAINT_INK, font, anchor="lm"
            )
        return legend

    def _patch(self, one: int, side: int) -> Image.Image:
        if one == IGNORED:
            return Image.fromarray(_stripes((side, side), max(2, side // 4)))
        return Image.new("RGB", (side, side), self.colours[one] or PAPER)


def with_legend(drawn: Image.Image, key: Key, remarks: Mapping[int, str]) -> Image.Image:
    """The picture and the legend below it, the text in proportion to the picture."""
    measure = Measures(round(112 * max(1.0, drawn.width / 640)))
    margin = measure.of(10)
    width = max(drawn.width, measure.of(180))
    below = key.legend(measure, width - 2 * margin, remarks)
    sheet = Image.new("RGB", (width, drawn.height + below.height + 2 * margin), PAPER)
    sheet.paste(drawn, ((width - drawn.width) // 2, 0))
    sheet.paste(below, (margin, drawn.height + margin))
    return sheet


def resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """At `size` (width, height): pixel by pixel where it grows."""
    larger = size[0] >= picture.width and size[1] >= picture.height
    return picture.resize(size, Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS)


def resampled(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map at `size` (width, height): for each pixel the nearest of the map."""
    width, height = size
    return labels[np.ix_(nearest_places(labels.shape[0], height), nearest_places(labels.shape[1], width))]


def line_width(size: tuple[int, int]) -> int:
    """Pixels of an outline in a picture of that size."""
    return max(1, min(size) // 400)


def painted(
    picture: Image.Image, labels: np.ndarray, key: Key, opacity: float, outlines: bool, size: tuple[int, int]
) -> Image.Image:
    """The picture at `size`, in grey, with its classes in their colours."""
    drawn = resized(picture.convert("L"), size).convert("RGB")
    shown = resampled(labels, size)
    present, places = np.unique(shown, return_inverse=True)
    places = places.reshape(shown.shape)
    table = [None if one == IGNORED else key.colours[one] for one in present.tolist()]
    layer = np.array([colour or STRIPES[0] for colour in table], np.uint8)[places]
    is_ignored = shown == IGNORED
    fine = line_width(size)
    layer[is_ignored] = _stripes(shown.shape, 4 * fine)[is_ignored]
    has_colour = np.array([colour is not None for colour in table])[places]
    cover = np.where(has_colour | is_ignored, round(255 * opacity), 0).astype(np.uint8)
    if outlines:
        cover[edges_of(shown, fine) & has_colour] = 255
    drawn.paste(Image.fromarray(layer), mask=Image.fromarray(cover))
    return drawn


def edges_of(labels: np.ndarray, width: int) -> np.ndarray:
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
