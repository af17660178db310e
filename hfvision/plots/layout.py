"""How sheets are laid out: lengths in proportion, headings, pictures in their tiles, text that fits."""

from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from hfvision.plots.colours import FAINT_INK, INK, LINE

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Measures:
    """All lengths of a sheet in pixels, in proportion to the tile's side."""

    tile: int

    def of(self, length: float) -> int:
        """What is `length` pixels on a sheet with tiles of 112."""
        return max(1, round(length * self.tile / 112))

    def font(self, size: float) -> Font:
        return ImageFont.load_default(size=self.of(size))


def head_height(measure: Measures, title: str, subtitle: str) -> int:
    """What title and subtitle take, with the space below them."""
    lines = (measure.of(32) if title else 0) + (measure.of(22) if subtitle else 0)
    return lines + (measure.of(10) if lines else 0)


def draw_head(sheet: Image.Image, measure: Measures, margin: int, title: str, subtitle: str) -> None:
    """Title and subtitle at the top left."""
    draw, room, top = ImageDraw.Draw(sheet), sheet.width - 2 * margin, margin
    if title:
        draw.text((margin, top), fitted(title, measure.font(22), room), INK, measure.font(22))
        top += measure.of(32)
    if subtitle:
        draw.text((margin, top), fitted(subtitle, measure.font(14), room), FAINT_INK, measure.font(14))


def paste(sheet: Image.Image, picture: Image.Image, corner: tuple[int, int], tile: int) -> None:
    """The picture in the middle of its tile, on a faint ground where it does not fill it."""
    left, top = corner
    if picture.size != (tile, tile):
        sheet.paste(LINE, (left, top, left + tile, top + tile))
    sheet.paste(picture, (left + (tile - picture.width) // 2, top + (tile - picture.height) // 2))


def fitted(text: str, font: Font, width: float) -> str:
    """The text on one line, cut with dots where it is wider than `width` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
