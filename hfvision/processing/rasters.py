"""Picture files with more than Pillow keeps: many bands, 16 bits of several channels, floats, GeoTIFF, NumPy arrays.

Pillow refuses such files, or reads them with fewer bits or bands and says nothing. Their headers tell beforehand (see
`hfvision.processing.headers`); rasterio (`pip install "hfvision[geo]"`) then reads all of it, in the numbers that are
stored. Of a PPM, which needs no rasterio, the largest number is white, whatever it is: it becomes 65,535.

Shapes: C bands of H x W pixels.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hfvision.errors import ImageReadError
from hfvision.processing.headers import Header, pixmap_numbers

NUMPY = b"\x93NUMPY"
PIXMAP, PLAIN = "PPM", b"P3"
SIXTEEN_BITS = 65535
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


def has_rasterio() -> bool:
    return find_spec("rasterio") is not None


def read_raster(file: IO[bytes] | str, name: str, header: Header | None = None) -> Raster:
    """All bands of a file that rasterio opens, or of a PPM, in the dtype that they are stored in.

    Raises ImageReadError where rasterio is missing, and for damaged files.
    """
    if header is not None and header.kind == PIXMAP and not isinstance(file, str):
        return Raster(_read_pixmap(file, name, header))
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


def needs_rasterio(header: Header) -> bool:
    """Whether `read_raster` does, for a file that is not for Pillow."""
    return header.kind != PIXMAP


def _read_pixmap(file: IO[bytes], name: str, header: Header) -> npt.NDArray[np.uint16]:
    """(H, W, 3): colors of 16 bits, as bytes or in decimal numbers."""
    start = file.tell()
    is_text = file.read(2) == PLAIN
    _, _, white, begins = pixmap_numbers(file, start)
    file.seek(begins)
    content = file.read()
    shape = (*header.size, len(header.bits))
    count = int(np.prod(shape))
    try:
        numbers = np.array(content.split(maxsplit=count)[:count], np.int64) if is_text else _big_endian(content, count)
        pixels = numbers.reshape(shape)
    except (ValueError, OverflowError) as error:
        raise ImageReadError(f"{name} is a damaged or truncated {header.kind}: {error}") from error
    if pixels.size and not 0 <= pixels.min() <= pixels.max() <= white:
        raise ImageReadError(f"{name} is a damaged {header.kind}: it holds {pixels.max():,} where white is {white:,}")
    return ((pixels * SIXTEEN_BITS + white // 2) // white).astype(np.uint16)


def _big_endian(content: bytes, count: int) -> npt.NDArray[np.int64]:
    return np.frombuffer(content, ">u2", count).astype(np.int64)


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
