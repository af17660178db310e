"""Picture files with more than Pillow keeps: many bands, 16 bits of several channels, floats, GeoTIFF, NumPy arrays.

Pillow refuses such a TIFF, or reads it with fewer bits or bands and says nothing. The tags of the file tell beforehand;
rasterio (`pip install "hfvision[geo]"`) then reads all of it.

Shapes: C bands of H x W pixels.
"""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hfvision.errors import ImageReadError

NUMPY = b"\x93NUMPY"
PNG = b"\x89PNG\r\n\x1a\n"
TIFF_HEADS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}  # how a file begins: its byte order
BIG_TIFF = b"+"
WIDTH, HEIGHT, BITS, MEANING, ORIENTATION, SAMPLES, PLANES, EXTRAS, FORMATS = (
    256,
    257,
    258,
    262,
    274,
    277,
    284,
    338,
    339,
)
ENTRY_FORMATS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # type of a tag -> of `struct`, for those that count something
MOST_NUMBERS = 1 << 16  # that one tag may hold: one for each band
GREY, RGB, PALETTE, CMYK = (0, 1), 2, 3, 5  # meanings of samples
UNSIGNED, SIGNED, FLOATING = 1, 2, 3  # formats of samples
TRANSPARENT = (1, 2)  # kinds of extra samples
INSTALL = 'pip install "hfvision[geo]"'
TURNS: dict[int, tuple[bool, bool, bool]] = {  # EXIF orientation -> transpose, then flip rows, then flip columns
    **{2: (False, False, True), 3: (False, True, True), 4: (False, True, False)},
    **{5: (True, False, False), 6: (True, False, True), 7: (True, True, True), 8: (True, True, False)},
}


class Raster(NamedTuple):
    """The pixels of a file, upright, and what it says of its bands."""

    pixels: npt.NDArray[Any]  # (H, W) or (H, W, C)
    spare: int = 0  # how many of the last bands are no colours: alpha, or more than red, green and blue
    is_alpha: bool = False  # whether the last band says how opaque a pixel is


@dataclass(frozen=True)
class Header:
    """What a file says of its samples before any is decoded."""

    size: tuple[int, int]  # (H, W) as stored
    bits: tuple[int, ...]  # of each sample of a pixel
    formats: tuple[int, ...]
    meaning: int
    extras: tuple[int, ...]
    orientation: int = 1
    kind: str = "TIFF"

    @property
    def upright_size(self) -> tuple[int, int]:
        turned = TURNS.get(self.orientation, (False,))[0]
        return (self.size[1], self.size[0]) if turned else self.size

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
        """Whether Pillow gives every sample as it is stored."""
        bits, count = max(self.bits), len(self.bits)
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
        """Whether what Pillow gives is right as far as it goes: 8 bits of red, green and blue."""
        return self.meaning == RGB and all(form == UNSIGNED for form in self.formats)

    def __str__(self) -> str:
        numbers = {UNSIGNED: "whole", SIGNED: "signed", FLOATING: "floating-point"}.get(self.formats[0], "other")
        bands = "1 band" if len(self.bits) == 1 else f"{len(self.bits)} bands"
        return f"a {self.kind} of {bands} of {max(self.bits)}-bit {numbers} numbers"


def header_of(file: IO[bytes]) -> Header | None:
    """Of a TIFF, or of a PNG with 16 bits; None for other files and for damaged ones. The file is left where it was."""
    start = file.tell()
    try:
        head = file.read(26)
        if head[:4] in TIFF_HEADS:
            return _tiff_header(file, start, head)
        if head[:8] == PNG and head[24:25] == b"\x10" and head[25:26] == b"\x02":  # alpha of 16 bits is Pillow's
            width, height = struct.unpack(">II", head[16:24])
            return Header((height, width), (16,) * 3, (UNSIGNED,) * 3, RGB, (), kind="PNG")
        return None
    except (struct.error, ValueError, KeyError, OverflowError):  # Pillow has the word for what is damaged
        return None
    finally:
        file.seek(start)


def _tiff_header(file: IO[bytes], start: int, head: bytes) -> Header:
    order, big = TIFF_HEADS[head[:4]], BIG_TIFF in head[2:4]
    place = struct.unpack(order + "Q", head[8:16])[0] if big else struct.unpack(order + "I", head[4:8])[0]
    file.seek(start + place)
    (count,) = struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))
    if count > MOST_NUMBERS:
        raise ValueError(count)
    entry, inline = (20, 8) if big else (12, 4)
    table = file.read(entry * count)
    tags: dict[int, tuple[int, ...]] = {}
    for at in range(0, entry * count, entry):
        tag, form, numbers = struct.unpack(order + ("HHQ" if big else "HHI"), table[at : at + entry - inline])
        if (
            tag not in (WIDTH, HEIGHT, BITS, MEANING, ORIENTATION, SAMPLES, EXTRAS, FORMATS)
            or form not in ENTRY_FORMATS
        ):
            continue
        if numbers > MOST_NUMBERS:
            raise ValueError(numbers)
        form = f"{order}{numbers}{ENTRY_FORMATS[form]}"
        stored = table[at + entry - inline : at + entry]
        if struct.calcsize(form) > inline:
            file.seek(start + struct.unpack(order + ("Q" if big else "I"), stored)[0])
            stored = file.read(struct.calcsize(form))
        tags[tag] = struct.unpack(form, stored[: struct.calcsize(form)])
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


def has_rasterio() -> bool:
    return find_spec("rasterio") is not None


def read_raster(file: IO[bytes] | str, name: str, header: Header | None = None) -> Raster:
    """All bands of a file that rasterio opens, in the dtype that they are stored in.

    Raises ImageReadError where rasterio is missing, and for damaged files.
    """
    if not has_rasterio():
        what = f"is {header}" if header else "is one that rasterio reads"
        raise ImageReadError(f"{name} {what}, which Pillow cannot give: {INSTALL}")
    rasterio = import_module("rasterio")
    try:
        with _quiet(rasterio), _opened(rasterio, file) as dataset:
            pixels = np.moveaxis(dataset.read(), 0, 2)
    except Exception as error:  # GDAL's drivers raise many kinds for damaged files
        raise ImageReadError(
            f"{name} is a damaged or truncated {header.kind if header else 'raster'}: {error}"
        ) from error
    pixels = _turned(pixels, header.orientation if header else 1)
    if pixels.shape[2] == 1:
        return Raster(pixels[..., 0])
    return Raster(pixels, header.spare, header.has_alpha) if header else Raster(pixels)


@contextmanager
def _opened(rasterio: Any, file: IO[bytes] | str) -> Iterator[Any]:
    if isinstance(file, str) or hasattr(file, "name"):
        with rasterio.open(file if isinstance(file, str) else file.name) as dataset:
            yield dataset
    else:
        with rasterio.MemoryFile(file.read()) as memory, memory.open() as dataset:
            yield dataset


@contextmanager
def _quiet(rasterio: Any) -> Iterator[None]:
    """Without a warning that a picture has no place on a map.

    The filter is added to those of the process, and stays: threads must not put back each other's.
    """
    category = rasterio.errors.NotGeoreferencedWarning
    if not any(kind is category and action == "ignore" for action, _, kind, *_ in warnings.filters):
        warnings.simplefilter("ignore", category)
    yield


def _turned(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    transpose, rows, columns = TURNS.get(orientation, (False, False, False))
    pixels = pixels.swapaxes(0, 1) if transpose else pixels
    return pixels[:: -1 if rows else 1, :: -1 if columns else 1]


def raster_size(path: str) -> tuple[int, int]:
    """(H, W) of a file that only rasterio opens. Raises ImageReadError."""
    if not has_rasterio():
        raise ImageReadError(f"{path} is one that rasterio reads: {INSTALL}")
    rasterio = import_module("rasterio")
    try:
        with _quiet(rasterio), rasterio.open(path) as dataset:
            return int(dataset.height), int(dataset.width)
    except rasterio.errors.RasterioError as error:
        raise ImageReadError(f"{path} is not an image that rasterio can open: {error}") from error


def read_array(file: IO[bytes], name: str) -> npt.NDArray[Any]:
    """The array of a .npy file. Raises ImageReadError for one that is damaged or holds Python objects."""
    try:
        return np.lib.format.read_array(io.BytesIO(file.read()), allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, MemoryError) as error:
        raise ImageReadError(f"{name} is a NumPy file that cannot be read: {error}") from error


def array_shape(file: IO[bytes], name: str) -> tuple[int, ...]:
    """The shape of the array in a .npy file, out of its header. Raises ImageReadError."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape: tuple[int, ...] = read(file)[0]
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise ImageReadError(f"{name} is a NumPy file that cannot be read: {error}") from error
    return shape
