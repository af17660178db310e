"""Label maps on disk, written from top to bottom in strips, so that none has to fit into memory.

PNG: https://www.w3.org/TR/png-3. Shapes: a map is (H, W); a strip is (rows, W).
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hfvision.errors import ConfigError, ImageWriteError
from hfvision.pipelines.maps import PALETTE_SIZE, Array, map_picture
from hfvision.processing.rasters import has_rasterio
from hfvision.upsampling import Size
from hfvision.writing import new_file

Colours = npt.NDArray[np.uint8]  # (K, 3)

ROWS_READ = 256  # at once, of a map that is checked

Write = Callable[[Array], Any]  # takes the next strip


@contextmanager
def _npy(path: Path, size: Size, dtype: Any, colours: Colours | None, georeference: Any) -> Iterator[Write]:
    """An array file, whose room on the disk is taken at once where the system can do that."""
    description = np.lib.format.dtype_to_descr(np.dtype(dtype))
    with path.open("wb") as file:
        header = {"descr": description, "fortran_order": False, "shape": size}
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), file.tell(), size[0] * size[1] * np.dtype(dtype).itemsize)
        yield lambda strip: file.write(strip.tobytes())


@contextmanager
def _png(path: Path, size: Size, dtype: Any, colours: Colours, georeference: Any) -> Iterator[Write]:
    """A PNG with a palette, or of 16 grey bits above 256 classes."""
    deep = len(colours) > PALETTE_SIZE
    packed = zlib.compressobj(6)
    with path.open("wb") as file:

        def chunk(kind: bytes, data: bytes) -> None:
            check = zlib.crc32(data, zlib.crc32(kind))
            file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check))

        def write(strip: Array) -> None:
            lines = np.zeros((len(strip), 1 + strip.shape[1] * (1 + deep)), np.uint8)  # each begins with 0: no filter
            lines[:, 1:] = strip.astype(">u2").view(np.uint8) if deep else strip
            if data := packed.compress(lines.tobytes()):
                chunk(b"IDAT", data)

        file.write(b"\x89PNG\r\n\x1a\n")
        depth, kind = (16, 0) if deep else (8, 3)  # bits, and PNG's colour type: grey or palette
        chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], depth, kind, 0, 0, 0))
        if not deep:
            chunk(b"PLTE", colours.tobytes())
        yield write
        chunk(b"IDAT", packed.flush())
        chunk(b"IEND", b"")


@contextmanager
def _pillow_tiff(path: Path, size: Size, dtype: Any, colours: Colours | None) -> Iterator[Write]:
    """A TIFF without rasterio: the map is kept in memory until it is complete."""
    whole = np.empty(size, dtype)
    rest = whole

    def write(strip: Array) -> None:
        nonlocal rest
        rest[: len(strip)] = strip
        rest = rest[len(strip) :]

    yield write
    picture = Image.fromarray(whole) if colours is None else map_picture(whole, colours)
    picture.save(path, format="TIFF", compression="tiff_deflate")


@contextmanager
def _tiff(path: Path, size: Size, dtype: Any, colours: Colours | None, georeference: Any) -> Iterator[Write]:
    """A GeoTIFF through rasterio, with the palette and where on earth the image is."""
    if not has_rasterio():
        with _pillow_tiff(path, size, dtype, colours) as write:
            yield write
        return
    profile = {"driver": "GTiff", "height": size[0], "width": size[1], "count": 1, "dtype": np.dtype(dtype).name}
    options = {"compress": "deflate", "bigtiff": "if_safer"}
    top = written = 0
    rasterio = import_module("rasterio")
    with rasterio.open(path, "w", **profile, **options, **georeference) as file:
        if colours is not None and len(colours) <= PALETTE_SIZE:
            file.write_colormap(1, {index: tuple(colour) for index, colour in enumerate(colours.tolist())})

        def write(strip: Array) -> None:
            nonlocal top, written
            file.write(strip, 1, window=((top, top + len(strip)), (0, size[1])))
            written = zlib.crc32(strip.astype(dtype).tobytes(), written)
            top += len(strip)

        yield write
    with rasterio.open(path) as file:  # GDAL writes the rest when it closes a file, and keeps to itself what fails then
        read = 0
        for start in range(0, size[0], ROWS_READ):
            window = ((start, min(start + ROWS_READ, size[0])), (0, size[1]))
            read = zlib.crc32(file.read(1, window=window).tobytes(), read)
    if read != written:
        raise OSError("what was written cannot be read back; the disk may be full")


WRITERS: dict[str, Any] = {".npy": _npy, ".png": _png, ".tif": _tiff, ".tiff": _tiff}
SCORE_WRITERS = [suffix for suffix in WRITERS if suffix != ".png"]  # which has no floating-point numbers


def check_destination(path: Path, what: str, suffixes: Iterable[str]) -> None:
    """Raises ConfigError unless a file can have this name."""
    if path.suffix.lower() not in suffixes:
        raise ConfigError(f"{what} go into a file that ends in {', '.join(suffixes)}; got {str(path)!r}.")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: name the file.")


@contextmanager
def new_map(path: Path, size: Size, dtype: Any, colours: Colours | None, georeference: Any) -> Iterator[Write]:
    """Takes the strips of a map, or of scores where `colours` are None; the file appears whole or not at all."""
    writer = WRITERS[path.suffix.lower()]
    with new_file(path, ImageWriteError) as work, writer(work, size, dtype, colours, georeference) as write:
        yield write
