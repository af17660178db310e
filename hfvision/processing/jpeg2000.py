"""What a JPEG 2000 file says of its samples: a codestream, alone or in the boxes of a .jp2.

Format: ISO/IEC 15444-1, annex A (codestream) and annex I (boxes).
"""

import struct
from collections.abc import Iterator
from typing import IO, NamedTuple

KIND = "JPEG 2000"
FILE = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
CODESTREAM = b"\xff\x4f\xff\x51"  # start, and the marker of the sizes
SRGB, GREYSCALE = 16, 17  # color spaces
ALPHA = (1, 2)  # types of channels: opacity, and opacity that colors were multiplied by
SIGN = 0x80


class Samples(NamedTuple):
    """The size of an image, and the samples of its pixels."""

    size: tuple[int, int]  # (H, W)
    bits: tuple[int, ...]
    signed: tuple[bool, ...]
    is_color: bool  # whether the first three are red, green and blue
    has_alpha: bool


def is_one(head: bytes) -> bool:
    """Whether a file begins so."""
    return head.startswith((FILE, CODESTREAM))


def read_samples(file: IO[bytes], start: int) -> Samples | None:
    """Those of the file that begins at `start`; None where a palette makes its colors, or they are no RGB and no grey.

    Raises struct.error or ValueError for a damaged file.
    """
    file.seek(start)
    if file.read(len(CODESTREAM)) == CODESTREAM:
        size, bits, signed = _sizes(file, start)
        return Samples(size, bits, signed, len(bits) == 3, False)
    color: int | None = None
    has_alpha = False
    for kind, place, length in _boxes(file, start):
        if kind == b"pclr":
            return None
        file.seek(place)
        if kind == b"colr" and color is None:
            method, _, _ = file.read(3)
            color = struct.unpack(">I", file.read(4))[0] if method == 1 else None
        elif kind == b"cdef":
            (count,) = struct.unpack(">H", file.read(2))
            channels = [struct.unpack(">HHH", file.read(6)) for _ in range(min(count, length // 6))]
            has_alpha = bool(channels) and max(channels)[1] in ALPHA
        elif kind == b"jp2c":
            size, bits, signed = _sizes(file, place)
            if color not in (None, SRGB, GREYSCALE):
                return None
            is_color = color == SRGB if color is not None else len(bits) in (3, 4)
            return Samples(size, bits, signed, is_color and len(bits) >= 3, has_alpha)
    raise ValueError("there is no codestream")


def _boxes(file: IO[bytes], start: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, place and length of the content of each box; the boxes in the header's box among them."""
    place = start
    while True:
        file.seek(place)
        head = file.read(16)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head[:8])
        begins = 8
        if length == 1:
            length, begins = struct.unpack(">Q", head[8:16])[0], 16
        yield kind, place + begins, length - begins
        if length == 0:  # reaches to the end
            return
        place += begins if kind == b"jp2h" else max(length, begins)


def _sizes(file: IO[bytes], start: int) -> tuple[tuple[int, int], tuple[int, ...], tuple[bool, ...]]:
    """Size (H, W), bits and signs out of a codestream."""
    file.seek(start)
    head = file.read(42)
    if not head.startswith(CODESTREAM):
        raise ValueError("the codestream does not begin with its sizes")
    right, bottom, left, top = struct.unpack(">IIII", head[8:24])
    (count,) = struct.unpack(">H", head[40:42])
    depths = file.read(3 * count)[::3]
    if not count or len(depths) < count:
        raise ValueError("the codestream is cut off")
    bits = tuple((depth & ~SIGN) + 1 for depth in depths)
    return (bottom - top, right - left), bits, tuple(bool(depth & SIGN) for depth in depths)
