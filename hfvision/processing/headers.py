"""What a picture file says of its samples before any is decoded: TIFF, PNG, PPM and PGM, JPEG 2000.

Pillow gives some of them with fewer bits or bands, or with other numbers, and says nothing; a `Header` tells.
"""

import struct
from dataclasses import dataclass
from typing import IO, NamedTuple

from hfvision.processing import jpeg2000
from hfvision.processing.tiff_tags import (
    BITS,
    EXTRAS,
    FORMATS,
    HEADS,
    HEIGHT,
    MEANING,
    ORIENTATION,
    SAMPLES,
    WIDTH,
    tiff_tags,
)

PNG = b"\x89PNG\r\n\x1a\n"
PNG_SAMPLES = {0: 1, 2: 3, 4: 2, 6: 4}  # type of color -> samples of a pixel; a palette is none of them
PNG_WITH_ALPHA = (4, 6)
PIXMAPS = {b"P2": 1, b"P3": 3, b"P5": 1, b"P6": 3}  # how a PGM or PPM begins -> samples of a pixel
MOST_OF_A_PIXMAP_HEADER = 4096  # bytes, comments included
GREY, RGB, PALETTE, CMYK = (0, 1), 2, 3, 5  # meanings of samples, as TIFF numbers them
WHITE_IS_ZERO = 0
UNSIGNED, SIGNED, FLOATING = 1, 2, 3  # formats of samples
TRANSPARENT = (1, 2)  # kinds of extra samples
OPACITY = 2  # the one of PNG and JPEG 2000
TURNED = (5, 6, 7, 8)  # orientations whose rows are columns


class Stretch(NamedTuple):
    """What Pillow makes of the numbers that a grey file stores: number * step, or (white - number) * step."""

    step: float
    white: int | None = None  # where it turns the numbers round


@dataclass(frozen=True)
class Header:
    """The size of an image, and its samples."""

    size: tuple[int, int]  # (H, W) as stored
    bits: tuple[int, ...]  # of each sample of a pixel
    formats: tuple[int, ...]
    meaning: int
    extras: tuple[int, ...]
    orientation: int = 1
    kind: str = "TIFF"
    white: int | None = None  # the number that stands for white, where it is not the largest that the bits hold

    @property
    def upright_size(self) -> tuple[int, int]:
        return (self.size[1], self.size[0]) if self.orientation in TURNED else self.size

    @property
    def spare(self) -> int:
        """How many of the last bands are no colours."""
        if self.meaning == RGB:
            return len(self.bits) - 3
        return int(self.meaning in GREY and len(self.bits) == 2 and self.has_alpha)

    @property
    def has_alpha(self) -> bool:
        return bool(self.extras) and self.extras[-1] in TRANSPARENT

    @property
    def is_for_pillow(self) -> bool:
        """Whether Pillow gives every sample as it is stored, or as `stretch` has it."""
        bits, count = max(self.bits), len(self.bits)
        if self.kind == jpeg2000.KIND and (bits > 8 or SIGNED in self.formats):
            return count == 1 and bits == 16 and self.formats == (UNSIGNED,)
        if count == 1:
            deep = {UNSIGNED: 16, SIGNED: 32, FLOATING: 32}.get(self.formats[0], 0)
            signed = self.formats[0] != SIGNED or bits in (16, 32)
            return self.meaning not in GREY or (bits <= deep and signed and (self.formats[0] != FLOATING or bits == 32))
        if bits > 8 or any(form != UNSIGNED for form in self.formats):
            return False
        if self.meaning in GREY:
            return count == 2 and self.has_alpha
        if self.meaning == RGB:
            return count == 3 or (count == 4 and self.has_alpha)
        return count == (4 if self.meaning == CMYK else 3)

    @property
    def pillow_keeps_colours(self) -> bool:
        """Whether what Pillow gives is right as far as it goes."""
        if any(form != UNSIGNED for form in self.formats):
            return False
        if self.kind == jpeg2000.KIND:  # its white turns black where colors have more than 8 bits
            return len(self.bits) == 1
        return self.meaning == RGB or self.kind == "PNG"

    @property
    def left_by_pillow(self) -> str:
        """What it gives, in words."""
        if len(self.bits) == 1:
            return f"1 band, multiplied by {1 << (16 - self.bits[0])}"
        colours = len(self.bits) - self.spare
        return f"{colours + self.has_alpha} bands of 8 bits"

    @property
    def stretch(self) -> Stretch | None:
        """How Pillow changes the numbers of one band of grey; None where it does not."""
        if len(self.bits) > 1 or self.meaning not in GREY or self.formats != (UNSIGNED,):
            return None
        bits = self.bits[0]
        most = self.white or (1 << bits) - 1
        if self.white is not None:
            step = (255 if self.white < 256 else 65535) / self.white
        else:
            step = 255 / most if bits in (2, 4) else 1.0  # 1 bit stays one, more than 8 stay as they are
        is_inverted = self.kind == "TIFF" and self.meaning == WHITE_IS_ZERO and bits <= 8
        return Stretch(step, most if is_inverted else None) if step != 1 or is_inverted else None

    def __str__(self) -> str:
        numbers = {UNSIGNED: "whole", SIGNED: "signed", FLOATING: "floating-point"}.get(self.formats[0], "other")
        bands = "1 band" if len(self.bits) == 1 else f"{len(self.bits)} bands"
        article = "an" if self.kind[0] in "AEIO" else "a"
        return f"{article} {self.kind} of {bands} of {max(self.bits)}-bit {numbers} numbers"


def header_of(file: IO[bytes]) -> Header | None:
    """Of a TIFF, and of a PNG, PPM, PGM or JPEG 2000 file that has not 8 bits for each sample; None for other files and
    for damaged ones. The file is left where it was.
    """
    start = file.tell()
    try:
        head = file.read(26)
        if head[:4] in HEADS:
            return _of_tiff(tiff_tags(file, start))
        if head[:8] == PNG:
            return _of_png(file, start, head)
        if head[:2] in PIXMAPS:
            return _of_pixmap(file, start, head)
        if jpeg2000.is_one(head):
            return _of_jpeg2000(jpeg2000.read_samples(file, start))
        return None
    except (struct.error, ValueError, LookupError, OverflowError):  # Pillow has the word for what is damaged
        return None
    finally:
        file.seek(start)


def _of_tiff(tags: dict[int, tuple[int, ...]]) -> Header:
    samples = tags.get(SAMPLES, (1,))[0]
    bits, formats = tags.get(BITS, (1,)), tags.get(FORMATS, (UNSIGNED,))
    return Header(
        (tags[HEIGHT][0], tags[WIDTH][0]),
        bits * samples if len(bits) == 1 else bits,
        formats * samples if len(formats) == 1 else formats,
        tags.get(MEANING, (1,))[0],
        tags.get(EXTRAS, ()),
        tags.get(ORIENTATION, (1,))[0],
    )


def _of_png(file: IO[bytes], start: int, head: bytes) -> Header | None:
    """None for palettes, and where a sample has 8 bits or a grey one has 1 or 16, which Pillow gives as they are."""
    bits, color = head[24], head[25]
    if color not in PNG_SAMPLES or bits == 8 or (color == 0 and bits not in (2, 4)):
        return None
    width, height = struct.unpack(">II", head[16:24])
    samples = PNG_SAMPLES[color]
    return Header(
        (height, width),
        (bits,) * samples,
        (UNSIGNED,) * samples,
        RGB if samples > 2 else GREY[1],
        (OPACITY,) if color in PNG_WITH_ALPHA else (),
        _orientation_in_png(file, start),
        "PNG",
    )


def _orientation_in_png(file: IO[bytes], start: int) -> int:
    """Out of its EXIF data, which may stand behind the pixels."""
    place = start + len(PNG)
    while True:
        file.seek(place)
        chunk = file.read(8)
        if len(chunk) < 8 or chunk[4:] == b"IEND":
            return 1
        if chunk[4:] == b"eXIf":
            return _orientation_at(file, place + 8)
        place += 12 + int(struct.unpack(">I", chunk[:4])[0])


def _orientation_at(file: IO[bytes], place: int) -> int:
    try:
        return tiff_tags(file, place).get(ORIENTATION, (1,))[0]
    except (struct.error, ValueError, LookupError, OverflowError):  # the picture is fine, only its metadata is not
        return 1


def pixmap_numbers(file: IO[bytes], start: int) -> tuple[int, int, int, int]:
    """Width, height and largest number of a PPM or PGM, and where its pixels begin. Raises ValueError."""
    file.seek(start + 2)
    text = file.read(MOST_OF_A_PIXMAP_HEADER)
    numbers: list[int] = []
    at = 0
    while len(numbers) < 3:
        if text[at : at + 1].isspace():
            at += 1
        elif text[at : at + 1] == b"#":
            at = text.index(b"\n", at)
        else:
            end = at
            while text[end : end + 1].isdigit():
                end += 1
            numbers.append(int(text[at:end]))
            at = end
    return numbers[0], numbers[1], numbers[2], start + 2 + at + 1  # one blank separates


def _of_pixmap(file: IO[bytes], start: int, head: bytes) -> Header | None:
    width, height, white, _ = pixmap_numbers(file, start)
    samples = PIXMAPS[head[:2]]
    if not 0 < white < 65536 or white == 255 or (samples == 1 and white == 65535) or (samples == 3 and white < 255):
        return None
    bits, kind = (8 if white < 256 else 16), ("PGM" if samples == 1 else "PPM")
    meaning = GREY[1] if samples == 1 else RGB
    return Header((height, width), (bits,) * samples, (UNSIGNED,) * samples, meaning, (), kind=kind, white=white)


def _of_jpeg2000(samples: jpeg2000.Samples | None) -> Header | None:
    if samples is None or (max(samples.bits) <= 8 and not any(samples.signed) and len(samples.bits) <= 4):
        return None
    count = len(samples.bits)
    colours = 3 if samples.is_color else 1
    extras = (OPACITY,) if samples.has_alpha else (0,) * max(0, count - colours)
    formats = tuple(SIGNED if signed else UNSIGNED for signed in samples.signed)
    meaning = RGB if samples.is_color else GREY[1]
    return Header(samples.size, samples.bits, formats, meaning, extras, kind=jpeg2000.KIND)
