"""Reading an image from wherever it comes: a file, an address, bytes, a cell of a dataset, or an object in memory.

`read_image` decodes files completely, turned upright by their EXIF orientation, in the mode that they were stored in
(palettes, 16 bits, alpha and CMYK included); arrays, tensors and PIL images pass through. Files with more than Pillow
keeps (many bands, 16 bits of several channels, floats, GeoTIFF, deep JPEG 2000, .npy) become arrays. Whatever is
wrong with a file ends in one `ImageReadError` that says what the file really is.
"""

import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from hfvision.errors import ImageReadError
from hfvision.processing.files import DOWNLOAD_SECONDS, file_of, naming, reason, what_it_is
from hfvision.processing.headers import Stretch, header_of
from hfvision.processing.rasters import (
    INSTALL,
    NUMPY,
    array_shape,
    has_rasterio,
    needs_rasterio,
    raster_size,
    read_array,
    read_raster,
)
from hfvision.reporting import report_kind

Array: TypeAlias = npt.NDArray[Any] | torch.Tensor
ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Mapping[str, Any] | IO[bytes] | Image.Image | Array | Opened"
Least: TypeAlias = Callable[[int, int], tuple[int, int]]
"""(height, width) of an image -> the size that a draft of it must not be below."""


@dataclass(frozen=True, eq=False)
class Opened:
    """An image, and what only its file tells of it. Image processors take it as they take a path."""

    image: Image.Image | Array
    was_read: bool = False  # from a file, and not made by the caller
    is_channels_last: bool = False  # whether an array is known to be (H, W, C): it comes from a file with bands
    spare: int = 0  # how many of an array's last channels are no colours: alpha, or more than red, green and blue
    is_alpha: bool = False  # whether the last channel says how opaque a pixel is

    @property
    def has_bands(self) -> bool:
        """Whether the image is an array known to be (H, W, C)."""
        return self.is_channels_last and len(np.shape(self.image)) == 3  # type: ignore[arg-type]


class Bands(np.ndarray[Any, np.dtype[Any]]):
    """An array (H, W, C) that knows what its file says of its bands, so that processors take it as they take the file.

    What is cut out of it knows it, too, as long as it has all of the bands.
    """

    file_says: Opened | None

    @classmethod
    def of(cls, opened: Opened) -> "Bands":
        """The image of a file with bands."""
        bands: Bands = np.asarray(opened.image).view(cls)
        bands.file_says = opened
        return bands

    def __array_finalize__(self, source: Any) -> None:
        self.file_says = getattr(source, "file_says", None)

    @property
    def opened(self) -> Opened:
        """The pixels of this array as those of the file."""
        plain, whole = np.asarray(self), self.file_says
        if whole is None or plain.ndim != 3 or plain.shape[2] != np.shape(whole.image)[2]:  # type: ignore[arg-type]
            return Opened(plain)
        return replace(whole, image=plain)


class Draft(NamedTuple):
    """What a draft is of."""

    size: tuple[int, int]  # (height, width) of the upright image
    # (left, top, right, bottom): where the image is in the draft, which decoders fill up to whole pixels
    box: tuple[float, float, float, float]


ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
ON_ITS_SIDE = (5, 6, 7, 8)  # orientations whose rows are columns
LEFT, TOP, RIGHT, BOTTOM = range(4)  # as in Pillow's boxes
TURNED_TO = {  # orientation -> where the stored right and bottom edges lie when the image is upright
    **{1: (RIGHT, BOTTOM), 2: (LEFT, BOTTOM), 3: (LEFT, TOP), 4: (RIGHT, TOP)},
    **{5: (BOTTOM, RIGHT), 6: (BOTTOM, LEFT), 7: (TOP, LEFT), 8: (TOP, RIGHT)},
}
SUBFILE, SMALLER, MASK = 254, 1, 4  # a TIFF's tag, and its bits, for a page that belongs to the first
DRAFT = "hfvision_draft"  # in the `info` of a draft: a Draft
STRETCH = "hfvision_stretch"  # in the `info` of a picture from a file whose numbers Pillow changes: a Stretch
MOST_OF_AN_AVIF_HEADER = 1 << 16  # bytes
DEEP_AVIF = 0x40  # of the third byte of an AVIF's settings: 10 or 12 bits

RASTER_ONLY = (".vrt",)  # text, which only rasterio makes an image of
IMAGE_SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx"),
    *(".npy", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".vrt", ".webp"),
)  # of files that are taken for images where a folder is searched for them


def read_image(
    source: ImageSource, *, timeout: float | None = DOWNLOAD_SECONDS, least: Least | None = None
) -> Image.Image | Array:
    """The image behind `source`, decoded and upright: a PIL image in its stored mode, or the array that was given.

    `source` is a path, an http(s) address (`timeout` in seconds), a `data:image/...` address or base64 text, the
    bytes of a file or an open binary file, a cell of a dataset (`{"bytes": ..., "path": ...}`), a PIL image, a NumPy
    array, a torch tensor, or anything that offers itself as an array. Of an animation, the first frame is taken and
    that is reported.

    A .npy file gives its array. Files whose bands or numbers no PIL image holds give an array (H, W) or (H, W, C) in
    the dtype that they store; `open_image` says more of those. They need rasterio.

    With `least`, a JPEG may come as a draft: decoded at 1/2, 1/4 or 1/8 of its size, as far as that is not below what
    `least` says of it. `true_size` then gives the size of the image itself.

    Raises ImageReadError when there is no such file, when it is not a picture or is damaged, and when its header
    describes more pixels than `PIL.Image.MAX_IMAGE_PIXELS` (raise that limit for large pictures that you trust).
    """
    return open_image(source, timeout=timeout, least=least).image


def open_image(source: ImageSource, *, timeout: float | None = DOWNLOAD_SECONDS, least: Least | None = None) -> Opened:
    """`read_image`, with what the file says of the channels of an array."""
    if isinstance(source, Opened):
        return source
    if isinstance(source, Bands):
        return source.opened
    if isinstance(source, np.ndarray | torch.Tensor):
        return Opened(source)
    if isinstance(source, Image.Image):
        name = f"the {type(source).__name__} {getattr(source, 'filename', '')}".strip()
        return Opened(_upright(_loaded(source, name), name))
    opened = file_of(source, timeout)
    if opened is None:
        return Opened(np.asarray(source))
    file, name = opened
    with naming(name), file:
        return _decoded(file, name, least)


def image_size(source: ImageSource, *, timeout: float | None = DOWNLOAD_SECONDS) -> tuple[int, int] | None:
    """(height, width) of the upright image in a file, out of its header; None where `read_image` gives an array whose
    layout nothing tells (a .npy of three axes, an array).

    Raises ImageReadError as `read_image` does, for what a header tells.
    """
    if isinstance(source, Image.Image):
        return _upright(source, "the image").size[::-1]
    opened = None if isinstance(source, np.ndarray | torch.Tensor) else file_of(source, timeout)
    if opened is None:
        array: Any = source
        return _known_size(tuple(np.shape(array)))
    file, name = opened
    with naming(name), file:
        if is_numpy(file):
            return _known_size(array_shape(file, name))
        if _is_raster_only(name):
            return raster_size(name)
        header = header_of(file)
        if header is not None:  # of a TIFF, some versions of Pillow have turned the size already
            _refuse_too_large(name, header.size)
            return header.upright_size
        image = _identified(file, name)
        # of a PNG without EXIF data before its pixels Pillow would decode these to look behind them
        has_exif = image.format != "PNG" or "exif" in image.info
        turned = has_exif and _orientation(image) in ON_ITS_SIDE
        return image.size if turned else image.size[::-1]


def _known_size(shape: tuple[int, ...]) -> tuple[int, int] | None:
    return (shape[0], shape[1]) if len(shape) == 2 else None


def _is_raster_only(name: str) -> bool:
    return name.lower().endswith(RASTER_ONLY) and os.path.isfile(name)


def is_numpy(file: IO[bytes]) -> bool:
    """Whether an open file holds an array of NumPy's; it is left where it was."""
    start = file.tell()
    head = file.read(len(NUMPY))
    file.seek(start)
    return head == NUMPY


def _decoded(file: IO[bytes], name: str, least: Least | None) -> Opened:
    """The first frame of an open file, all of it, upright."""
    if is_numpy(file):
        return Opened(read_array(file, name), was_read=True)
    if _is_raster_only(name):
        return Opened(read_raster(name, name).pixels, was_read=True, is_channels_last=True)
    header = header_of(file)
    if header is not None and not header.is_for_pillow:
        if not needs_rasterio(header) or has_rasterio() or not header.pillow_keeps_colours:
            _refuse_too_large(name, header.size)
            raster = read_raster(file, name, header)
            return Opened(raster.pixels, True, True, raster.spare, raster.is_alpha)
        _report_loss(name, str(header), header.left_by_pillow, f" All of it is read with {INSTALL}.")
    elif header is None and is_deep_avif(file):
        _report_loss(name, "an AVIF of more than 8 bits", "8")
    image = _identified(file, name)
    if header is not None and header.stretch is not None:
        image.info[STRETCH] = header.stretch
    if _has_pages(image):
        report_kind("animation", f"{name} has several frames or pages: the first is taken.")
    if least is not None and image.format == "JPEG":
        _draft(image, least)
    return Opened(_upright(_loaded(image, name), name), was_read=True)


def _report_loss(name: str, what: str, kept: str, advice: str = "") -> None:
    report_kind("bits or bands lost", f"{name} is {what}, of which Pillow keeps {kept}.{advice}")


def is_deep_avif(file: IO[bytes]) -> bool:
    """Whether an open file is an AVIF of 10 or 12 bits; it is left where it was."""
    start = file.tell()
    head = file.read(MOST_OF_AN_AVIF_HEADER)
    file.seek(start)
    settings = head.find(b"av1C") + 4
    return head[4:12] in (b"ftypavif", b"ftypavis") and settings > 4 and bool(head[settings + 2] & DEEP_AVIF)


def _identified(file: IO[bytes], name: str) -> Image.Image:
    """An open file as a PIL image that is not decoded yet."""
    try:
        with _bombs_are_errors():
            image = Image.open(file)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        found = re.search(r"\d+", str(error))
        raise _too_large(name, int(found[0]) if found else None) from None
    except UnidentifiedImageError:
        raise ImageReadError(f"{name} is not a picture: it is {what_it_is(file)}") from None
    except Exception as error:  # the format's reader met a damaged header: any kind of error comes out
        raise ImageReadError(f"{name} has a damaged header: {reason(error)}") from error
    _refuse_too_large(name, image.size)  # Pillow warns up to twice the limit
    return image


def _refuse_too_large(name: str, size: tuple[int, int]) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and size[0] * size[1] > limit:
        raise _too_large(name, size[0] * size[1])


def _draft(image: Image.Image, least: Least) -> None:
    """Has an open JPEG decoded at a fraction of its size, where that is not below `least`."""
    stored = image.size
    orientation = _orientation(image)
    on_its_side = orientation in ON_ITS_SIDE
    size = stored if on_its_side else stored[::-1]
    height, width = least(*size)
    drafted = image.draft(None, (height, width) if on_its_side else (width, height))  # None: its mode stays
    if drafted is None or image.size == stored:
        return
    _, (_, _, right, bottom) = drafted
    upright = image.size[::-1] if on_its_side else image.size
    box = [0.0, 0.0, *map(float, upright)]
    fillings = image.size[0] - right, image.size[1] - bottom
    for edge, filling in zip(TURNED_TO.get(orientation, TURNED_TO[1]), fillings, strict=True):
        box[edge] += filling if edge in (LEFT, TOP) else -filling
    image.info[DRAFT] = Draft(size, (box[0], box[1], box[2], box[3]))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # `_upright` says that it cannot be read
        return 1


def draft_of(image: Image.Image) -> Draft | None:
    """What the image is a draft of; None where it is no draft."""
    draft: Draft | None = image.info.get(DRAFT)
    return draft


def stretch_of(image: Image.Image) -> Stretch | None:
    """How Pillow changed the numbers that the file of a picture stores; None where it did not, or nobody knows."""
    stretch: Stretch | None = image.info.get(STRETCH)
    return stretch


def true_size(image: Image.Image) -> tuple[int, int]:
    """(height, width), also of the image that a draft is of."""
    draft = draft_of(image)
    return image.size[::-1] if draft is None else draft.size


@contextmanager
def _bombs_are_errors() -> Iterator[None]:
    """Pillow warns of one to two times its limit and raises above that; here both raise, and no warning is left over.

    The filters of `warnings` belong to the whole process: other threads do not change them under the main one's feet.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _too_large(name: str, pixels: int | None) -> ImageReadError:
    return ImageReadError(
        f"{name}: the header describes {'a huge image' if pixels is None else f'{pixels:,} pixels'}, more than "
        f"PIL.Image.MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS:,}; nothing was decoded.\n"
        "    If you trust the file, set PIL.Image.MAX_IMAGE_PIXELS higher (None: no limit) and read it again."
    )


def _loaded(image: Image.Image, name: str) -> Image.Image:
    try:
        image.load()
    except Exception as error:  # decoders raise OSError, SyntaxError, EOFError, zlib.error, ValueError, ...
        raise ImageReadError(
            f"{name} is a damaged or truncated {getattr(image, 'format', None) or 'image'} of {image.width}x"
            f"{image.height} pixels: {reason(error)}"
        ) from error
    return image


def _upright(image: Image.Image, name: str) -> Image.Image:
    try:
        turned = image.getexif().get(ORIENTATION, 1) not in (0, 1)
        return ImageOps.exif_transpose(image) if turned else image
    except Exception as error:  # the picture is fine, only its metadata is not
        report_kind("orientation", f"{name}: the EXIF data cannot be read ({reason(error)}); taken as upright.")
        return image


def _has_pages(image: Image.Image) -> bool:
    """Whether there is more than one picture; smaller copies of the first, and its mask, are none."""
    try:
        if not getattr(image, "is_animated", False):
            return False
        if image.format != "TIFF":
            return True
        return any(not _is_copy(image, page) for page in range(1, getattr(image, "n_frames", 1)))
    except Exception:  # a damaged second frame: the first may still be whole
        return True
    finally:
        if image.format == "TIFF":
            image.seek(0)


def _is_copy(image: Image.Image, page: int) -> bool:
    image.seek(page)
    kind = getattr(image, "tag_v2", {}).get(SUBFILE, 0)
    return bool(kind & (SMALLER | MASK))
