"""A confusion matrix as a picture: how much of each true class got which answer."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from hfvision.errors import ConfigError, numbered
from hfvision.plots.colours import FAINT_INK, INK, LINE, PAPER, colourize
from hfvision.plots.layout import Font, Measures, draw_head, fitted, head_height

LONGEST = 150  # of a name, in sides of `tile` / 112
WIDEST = 1300  # pixels of the matrix, at which cells become smaller
LARGEST, SMALLEST = 54, 2  # pixels of a cell
NUMBERED = 34  # pixels of a cell from which on it has room for its number
NAMED = 9  # pixels of a cell from which on it has room for its name


def confusion_sheet(counts: ArrayLike, names: Sequence[str], *, title: str = "", subtitle: str = "") -> Image.Image:
    """The matrix: a row for each true class, a column for each answer, darker where more of the row is.

    counts: (K, K), at least 0. Cells hold their share of the row in per cent where there is room; beside each name
    stands how often it is true. Raises ConfigError for counts that are none.

    Example:
        >>> import hfvision
        >>> hfvision.confusion_sheet([[8, 2], [1, 9]], ["cat", "dog"]).mode
        'RGB'
    """
    values = np.asarray(counts)
    problems = []
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not values.size:
        problems.append(f"counts are (K, K); got {values.shape}")
    elif len(names) != len(values):
        problems.append(f"{len(names)} names for {len(values)} classes")
    if values.size and not (np.isfinite(values).all() and (values >= 0).all()):
        problems.append("counts are whole numbers, 0 or more")
    if problems:
        raise ConfigError(numbered("problem", problems))
    cell = int(np.clip(WIDEST // len(values), SMALLEST, LARGEST))
    measure = Measures(112)
    font, totals = _font_of(measure, cell), [f"{total:,.0f}" for total in values.sum(axis=1)]
    has_names = cell >= NAMED
    shown = [fitted(name, font, LONGEST) for name in names] if has_names else []
    room = round(max((font.getlength(name) for name in shown), default=0)) + measure.of(8)
    beside = room + (round(max(font.getlength(total) for total in totals)) + measure.of(10) if has_names else 0)
    side = cell * len(values)
    margin = measure.of(24)
    axis = measure.of(26)  # for the words "truth" and "answer"
    head, foot = head_height(measure, title, subtitle), measure.of(44)
    left, top = margin + axis + beside, margin + head + axis + room
    width = max(left + side + margin, measure.of(460))
    sheet = Image.new("RGB", (width, top + side + foot), PAPER)
    draw_head(sheet, measure, margin, title, subtitle)
    _draw_cells(sheet, (left, top), cell, values)
    draw = ImageDraw.Draw(sheet)
    for place, (name, total) in enumerate(zip(shown, totals, strict=False)):
        middle = place * cell + cell // 2
        draw.text((left - measure.of(6), top + middle), total, FAINT_INK, font, anchor="rm")
        draw.text((margin + axis + room - measure.of(8), top + middle), name, INK, font, anchor="rm")
        _paste_upright(sheet, name, font, (left + middle, top - measure.of(6)))
    words = measure.font(13)
    draw.text((left + side // 2, margin + head), "answer", FAINT_INK, words, anchor="ma")
    _paste_upright(sheet, "truth", words, (margin + measure.of(8), top + side // 2), centred=True)
    _draw_scale(sheet, measure, (left, top + side + measure.of(22)))
    return sheet


def _font_of(measure: Measures, cell: int) -> Font:
    return measure.font(min(13.0, 0.8 * cell) if cell >= NAMED else 13.0)


def _draw_cells(sheet: Image.Image, corner: tuple[int, int], cell: int, counts: np.ndarray) -> None:
    """Squares in the colour of their share, white where nothing is, with their per cents where these have room."""
    left, top = corner
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    colours = colourize(1 - 0.92 * shares)
    colours[counts == 0] = PAPER
    squares = Image.fromarray(colours).resize((cell * len(counts),) * 2, Image.Resampling.NEAREST)
    sheet.paste(squares, corner)
    draw, font = ImageDraw.Draw(sheet), Measures(112).font(11)
    if cell >= NAMED:
        for place in range(len(counts) + 1):
            across = place * cell
            draw.line((left + across, top, left + across, top + squares.height), LINE)
            draw.line((left, top + across, left + squares.width, top + across), LINE)
    if cell < NUMBERED:
        return
    for row, column in zip(*np.nonzero(counts), strict=True):
        share = float(shares[row, column])
        middle = (left + column * cell + cell // 2, top + row * cell + cell // 2)
        draw.text(middle, _per_cent(share), PAPER if share > 0.35 else INK, font, anchor="mm")


def _per_cent(share: float) -> str:
    """Never "0" for what is there, never "100" for what is not all."""
    per_cent = 100 * share
    if per_cent < 1:
        return "<1"
    return ">99" if 99 < per_cent < 100 else f"{per_cent:.0f}"


def _paste_upright(sheet: Image.Image, text: str, font: Font, place: tuple[int, int], centred: bool = False) -> None:
    """Text from below to above that ends at `place` (middle of the line, bottom), or is centred there."""
    length, height = round(font.getlength(text)) + 2, round(getattr(font, "size", 13) * 1.4)
    strip = Image.new("RGB", (length, height), PAPER)
    ImageDraw.Draw(strip).text((0, height // 2), text, FAINT_INK if centred else INK, font, anchor="lm")
    strip = strip.rotate(90, expand=True)
    sheet.paste(strip, (place[0] - height // 2, place[1] - (length // 2 if centred else length)))


def _draw_scale(sheet: Image.Image, measure: Measures, corner: tuple[int, int]) -> None:
    draw, font = ImageDraw.Draw(sheet), measure.font(12)
    left, middle = corner
    before = "share of the row:  0 %"
    draw.text((left, middle), before, FAINT_INK, font, anchor="lm")
    left += round(draw.textlength(before, font)) + measure.of(8)
    steps = colourize(1 - 0.92 * np.linspace(0, 1, measure.of(120)))[None]
    bar = Image.fromarray(steps).resize((measure.of(120), measure.of(9)), Image.Resampling.NEAREST)
    sheet.paste(bar, (left, middle - bar.height // 2))
    draw.text((left + bar.width + measure.of(8), middle), "100 %", FAINT_INK, font, anchor="lm")
