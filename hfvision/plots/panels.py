"""Sheets of cards: for each image a few pictures side by side, a caption, and one legend for all."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw

from hfvision.plots.colours import FAINT_INK, INK, PAPER
from hfvision.plots.layout import Measures, draw_head, fitted, head_height, paste
from hfvision.plots.painting import Key

WIDEST = 1120  # sides of `tile` / 168 that a sheet is wide at most, when the number of columns is left to it
SMALLEST_TILE = 32


def panel_faults(
    images: Sequence[Any], given: Mapping[str, Sequence[Any]], columns: int | None, tile: int
) -> list[str]:
    """What is wrong with the arguments of a sheet."""
    problems = [] if len(images) else ["there are no images"]
    problems += [
        f"{len(some)} {name}s for {len(images)} images" for name, some in given.items() if len(some) != len(images)
    ]
    if tile < SMALLEST_TILE:
        problems.append(f"tile is the side of a picture in pixels, at least {SMALLEST_TILE}; got {tile}")
    if columns is not None and columns < 1:
        problems.append(f"columns is at least 1; got {columns}")
    return problems


def panel_sheet(
    cards: Sequence[Sequence[Image.Image]],
    headings: Sequence[str],
    captions: Sequence[str] | None,
    key: Key,
    remarks: Mapping[int, str],
    *,
    title: str,
    subtitle: str,
    columns: int | None,
    tile: int,
) -> Image.Image:
    """The cards in a grid, the headings above each column, the key's legend of the classes in `remarks` below.

    A card is one picture for each heading, none larger than `tile`. `columns` is the number of cards beside each other;
    None takes as many as look well.
    """
    measure = Measures(round(tile * 2 / 3))
    margin, gap, gutter = measure.of(24), measure.of(6), measure.of(26)
    caption = measure.of(28 if captions is not None else 8)
    card_width = len(headings) * (tile + gap) - gap
    if columns is None:
        columns = max(1, (measure.of(WIDEST) - 2 * margin + gutter) // (card_width + gutter))
    columns = min(columns, len(cards))
    rows = -(-len(cards) // columns)
    width = 2 * margin + columns * (card_width + gutter) - gutter
    below = key.legend(measure, width - 2 * margin, remarks)
    head, heading = head_height(measure, title, subtitle), measure.of(20)
    body = rows * (tile + caption)
    sheet = Image.new("RGB", (width, margin + head + heading + body + measure.of(6) + below.height + margin), PAPER)
    draw_head(sheet, measure, margin, title, subtitle)
    draw = ImageDraw.Draw(sheet)
    for column in range(columns):
        for place, name in enumerate(headings):
            left = margin + column * (card_width + gutter) + place * (tile + gap)
            draw.text((left, margin + head), name, FAINT_INK, measure.font(13))
    for place, card in enumerate(cards):
        row, column = divmod(place, columns)
        left = margin + column * (card_width + gutter)
        top = margin + head + heading + row * (tile + caption)
        for panel, picture in enumerate(card):
            paste(sheet, picture, (left + panel * (tile + gap), top), tile)
        if captions is not None:
            font = measure.font(12)
            # below the last picture, or from further left where the text is longer
            text = fitted(captions[place], font, card_width)
            start = min(left + card_width - tile, round(left + card_width - font.getlength(text)))
            draw.text((start, top + tile + measure.of(5)), text, INK, font)
    sheet.paste(below, (margin, sheet.height - margin - below.height))
    return sheet
