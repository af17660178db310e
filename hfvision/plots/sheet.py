"""A sheet of predictions: images in a grid, what the model said of each, and where it looked."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from hfvision.errors import ConfigError, numbered
from hfvision.plots.colours import EMBER, FAINT_INK, INK, PAPER, RIGHT, WRONG
from hfvision.plots.layout import Measures, draw_head, fitted, head_height, paste
from hfvision.plots.pictures import as_picture, enlarged, overlay

WIDEST = 1020  # sides of `tile` / 112 that a sheet is wide at most, when the number of columns is left to it


def prediction_sheet(
    images: Sequence[Any],
    predictions: Sequence[tuple[str, float]],
    truths: Sequence[str] | None = None,
    maps: Sequence[ArrayLike] | None = None,
    *,
    title: str = "",
    subtitle: str = "",
    legend: str = "attention",
    columns: int | None = None,
    tile: int = 112,
) -> Image.Image:
    """One card for each image: the image, its heat map beside it if there are `maps`, and the prediction below.

    images: PIL or arrays of any size. predictions: (label, probability). truths: with them, right answers carry a tick
    and wrong ones a cross, a red frame and the true label. maps: (h, w) in 0..1 over the whole image. `tile` is the
    side of a picture in pixels and scales everything else. Raises ConfigError listing the lengths that do not agree.

    Example:
        >>> import PIL.Image, hfvision
        >>> hfvision.prediction_sheet([PIL.Image.new("RGB", (32, 32))], [("cat", 0.9)], truths=["cat"]).mode
        'RGB'
    """
    _check(images, predictions, truths, maps, columns, tile)
    measure = Measures(tile)
    margin, gap, gutter = measure.of(24), measure.of(4), measure.of(18)
    card_width = tile if maps is None else 2 * tile + gap
    card_height = tile + measure.of(34)
    if columns is None:
        columns = max(1, (measure.of(WIDEST) - 2 * margin + gutter) // (card_width + gutter))
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    head = head_height(measure, title, subtitle)
    foot = measure.of(20) if maps is not None else 0
    width = max(2 * margin + columns * (card_width + gutter) - gutter, measure.of(320))
    height = margin + head + rows * (card_height + gutter) - gutter + foot + margin
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw_head(sheet, measure, margin, title, subtitle)
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        left = margin + column * (card_width + gutter)
        top = margin + head + row * (card_height + gutter)
        truth = None if truths is None else truths[place]
        right = None if truth is None else predictions[place][0] == truth
        corners = [left]
        paste(sheet, enlarged(as_picture(image), (tile, tile)), (left, top), tile)
        if maps is not None:
            shown = enlarged(as_picture(image), (tile, tile))
            corners.append(left + tile + gap)
            paste(sheet, overlay(image, maps[place], shown.size), (corners[1], top), tile)
        if right is False:
            for corner in corners:
                box = (corner, top, corner + tile - 1, top + tile - 1)
                draw.rectangle(box, outline=WRONG, width=measure.of(3))
        caption = (left, top + tile + measure.of(6))
        _caption(sheet, measure, caption, card_width, predictions[place], right, truth)
    if maps is not None:
        _colour_bar(sheet, measure, (margin, height - margin - measure.of(8)), legend)
    return sheet


def _check(
    images: Sequence[Any],
    predictions: Sequence[tuple[str, float]],
    truths: Sequence[str] | None,
    maps: Sequence[ArrayLike] | None,
    columns: int | None,
    tile: int,
) -> None:
    problems = []
    if not len(images):
        problems.append("there are no images")
    for name, values in (("predictions", predictions), ("truths", truths), ("maps", maps)):
        if values is not None and len(values) != len(images):
            problems.append(f"{len(values)} {name} for {len(images)} images")
    if tile < 16:
        problems.append(f"tile is the side of a picture in pixels, at least 16; got {tile}")
    if columns is not None and columns < 1:
        problems.append(f"columns is at least 1; got {columns}")
    if problems:
        raise ConfigError(numbered("problem", problems))


def _caption(
    sheet: Image.Image,
    measure: Measures,
    corner: tuple[int, int],
    width: int,
    prediction: tuple[str, float],
    right: bool | None,
    truth: str | None,
) -> None:
    """The mark, the label, its probability, and the truth where it is another."""
    draw = ImageDraw.Draw(sheet)
    label, score = prediction
    large, small = measure.font(19), measure.font(13)
    left, top = corner
    baseline = top + measure.of(18)
    end = left + width
    if right is not None:
        _mark(sheet, measure, (left, baseline + measure.of(1)), right)
        left += measure.of(20)
    if right is False:
        said = fitted(f"true: {truth}", small, width * 0.45)
        draw.text((end, baseline), said, WRONG, small, anchor="rs")
        end -= round(draw.textlength(said, small)) + measure.of(8)
    percent = f"{score:.1%}"
    text = fitted(label, large, end - left - draw.textlength(percent, small) - measure.of(7))
    draw.text((left, baseline), text, INK, large, anchor="ls")
    left += round(draw.textlength(text, large)) + measure.of(7)
    draw.text((left, baseline), percent, FAINT_INK, small, anchor="ls")


def _mark(sheet: Image.Image, measure: Measures, corner: tuple[int, int], right: bool) -> None:
    """A tick or a cross, standing on `corner`: shapes, so that colour alone says nothing."""
    finer = 4  # times drawn larger than shown: lines of Pillow are not smooth
    side, width = finer * measure.of(14), finer * measure.of(2)
    low, high = width, side - width
    shape = Image.new("L", (side, side))
    draw = ImageDraw.Draw(shape)
    if right:
        draw.line([(low, side * 0.55), (side * 0.38, high), (high, low)], fill=255, width=width, joint="curve")
    else:
        draw.line([(low, low), (high, high)], fill=255, width=width)
        draw.line([(low, high), (high, low)], fill=255, width=width)
    shape = shape.resize((side // finer, side // finer), Image.Resampling.BOX)
    sheet.paste(Image.new("RGB", shape.size, RIGHT if right else WRONG), (corner[0], corner[1] - shape.height), shape)


def _colour_bar(sheet: Image.Image, measure: Measures, corner: tuple[int, int], legend: str) -> None:
    left, top = corner
    draw, font = ImageDraw.Draw(sheet), measure.font(12)
    middle = top + measure.of(4)
    first = f"{legend}: least"
    draw.text((left, middle), first, FAINT_INK, font, anchor="lm")
    left += round(draw.textlength(first, font)) + measure.of(8)
    bar = Image.fromarray(EMBER[None]).resize((measure.of(150), measure.of(9)), Image.Resampling.BILINEAR)
    sheet.paste(bar, (left, top))
    draw.text((left + bar.width + measure.of(8), middle), "most", FAINT_INK, font, anchor="lm")
