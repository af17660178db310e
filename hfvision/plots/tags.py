"""Names written into pictures: each on a patch of its colour, inside the picture, beside those already there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from hfvision.plots.colours import INK, PAPER
from hfvision.plots.layout import Font, fitted

Corner: TypeAlias = tuple[float, float]  # left, top in pixels
Area: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom in pixels

SEPARATOR = " · "  # of name and score, since names may end in numbers
SMALLEST = 11  # pixels of the font
PER_PICTURE = 48  # fonts that are as high as the shorter side of a picture


@dataclass(frozen=True)
class Tag:
    """A text, the colour of its patch, and the corners where a patch (width, height) would stand, the best first."""

    text: str
    colour: tuple[int, ...]
    corners: Callable[[float, float], Sequence[Corner]]


def draw_tags(picture: Image.Image, tags: Sequence[Tag], font_size: int | None = None) -> None:
    """Write the tags into the picture, the first ones where they want to be, the others where they cover least."""
    size = font_size or max(SMALLEST, round(min(picture.size) / PER_PICTURE))
    font: Font = ImageFont.load_default(size)
    draw = ImageDraw.Draw(picture)
    side, end = max(2, size // 4), max(1, size // 6)  # of the patch around the text
    height = size + 2 * end
    taken: list[tuple[Area, str, tuple[int, ...]]] = []
    for tag in tags:
        text = fitted(tag.text, font, picture.width - 2 * side)
        width = font.getlength(text) + 2 * side
        areas = [
            _inside((round(left), round(top), round(left + width), round(top + height)), picture.size)
            for left, top in tag.corners(width, height)
        ]
        area = min(areas, key=lambda one: sum(_shared(one, other) for other, _, _ in taken))  # the first of equals
        taken.append((area, text, tag.colour))
    for (left, top, right, bottom), text, colour in reversed(taken):  # nothing hides the first
        draw.rectangle((left, top, right - 1, bottom - 1), fill=colour)
        draw.text((left + side, (top + bottom) / 2), text, ink_on(colour), font, anchor="lm")


def around(box: Area) -> Callable[[float, float], list[Corner]]:
    """Corners of a patch at a box: above it, in it, below it, beside it."""
    left, top, right, bottom = box

    def corners(width: float, height: float) -> list[Corner]:
        return [
            (left, top - height),
            (left, top),
            (right - width, top - height),
            (left, bottom),
            (left, bottom - height),
            (right - width, bottom - height),
            (right, top),
            (left - width, top),
        ]

    return corners


def ink_on(colour: tuple[int, ...]) -> tuple[int, int, int]:
    """Black or white, whichever stands out more (contrast of WCAG 2.2)."""
    light = _luminance(colour)
    return max((INK, PAPER), key=lambda ink: _contrast(light, _luminance(ink)))


def _luminance(colour: tuple[int, ...]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(first: float, second: float) -> float:
    return (max(first, second) + 0.05) / (min(first, second) + 0.05)


def _inside(area: Area, size: tuple[int, int]) -> Area:
    """The area moved into the picture."""
    left, top, right, bottom = area
    x = min(max(0, left), max(0, size[0] - (right - left)))
    y = min(max(0, top), max(0, size[1] - (bottom - top)))
    return x, y, x + right - left, y + bottom - top


def _shared(first: Area, second: Area) -> float:
    """Pixels of both."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0.0, width) * max(0.0, height)
