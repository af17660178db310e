"""Reading an image from wherever it comes: a file, an address, bytes, a cell of a dataset, or an object in memory.

`read_image` decodes files completely, turned upright by their EXIF orientation, in the mode that they were stored in
(palettes, 16 bits, alpha and CMYK included); arrays, tensors and PIL images pass through. Whatever is wrong with a
file ends in one `ImageReadError` that says what the file really is.
"""

import base64
import binascii
import io
import os
import re
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias
from urllib.parse import unquote_to_bytes

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from hfvision.errors import HfvisionError, ImageReadError
from hfvision.reporting import report_kind

Array: TypeAlias = npt.NDArray[Any] | torch.Tensor
ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Mapping[str, Any] | IO[bytes] | Image.Image | Array"
Least: TypeAlias = Callable[[int, int], tuple[int, int]]
"""(height, width) of an image -> the size that a draft of it must not be below."""


class Draft(NamedTuple):
    """What a draft is of."""

    size: tuple[int, int]  # (height, width) of the upright image
    # (left, top, right, bottom): where the image is in the draft, which decoders fill up to whole pixels
    box: tuple[float, float, float, float]


DOWNLOAD_SECONDS = 10.0  # without an answer
DOWNLOAD_BYTES = 1 << 30
ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
ON_ITS_SIDE = (5, 6, 7, 8)  # orientations whose rows are columns
LEFT, TOP, RIGHT, BOTTOM = range(4)  # as in Pillow's boxes
TURNED_TO = {  # orientation -> where the stored right and bottom edges lie when the image is upright
    **{1: (RIGHT, BOTTOM), 2: (LEFT, BOTTOM), 3: (LEFT, TOP), 4: (RIGHT, TOP)},
    **{5: (BOTTOM, RIGHT), 6: (BOTTOM, LEFT), 7: (TOP, LEFT), 8: (TOP, RIGHT)},
}
DRAFT = "hfvision_draft"  # in the `info` of a draft: a Draft

SIGNATURES = (  # (offset, bytes, what such a file is)
    (0, b"\x93NUMPY", "a NumPy file: pass numpy.load(path)"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x89HDF", "an HDF5 file: read its array and pass that"),
    (0, b"version https://git-lfs", "a Git LFS pointer: fetch the file itself with `git lfs pull`"),
    (128, b"DICM", "a DICOM file: read its array and pass that"),
    (4, b"ftyphei", "an HEIC picture: Pillow reads those with the pillow-heif plugin"),
    (4, b"ftypmif", "an HEIF picture: Pillow reads those with the pillow-heif plugin"),
    (4, b"ftyp", "an MP4 file: pass its frames"),
)


def read_image(
    source: ImageSource, *, timeout: float | None = DOWNLOAD_SECONDS, least: Least | None = None
) -> Image.Image | Array:
    """The image behind `source`, decoded and upright: a PIL image in its stored mode, or the array that was given.

    `source` is a path, an http(s) address (`timeout` in seconds), a `data:image/...` address or base64 text, the
    bytes of a file or an open binary file, a cell of a dataset (`{"bytes": ..., "path": ...}`), a PIL image, a NumPy
    array, a torch tensor, or anything that offers itself as an array. Of an animation, the first frame is taken and
    that is reported.

    With `least`, a JPEG may come as a draft: decoded at 1/2, 1/4 or 1/8 of its size, as far as that is not below what
    `least` says of it. `true_size` then gives the size of the image itself.

    Raises ImageReadError when there is no such file, when it is not a picture or is damaged, and when its header
    describes more pixels than `PIL.Image.MAX_IMAGE_PIXELS` (raise that limit for large pictures that you trust).
    """
    if isinstance(source, np.ndarray | torch.Tensor):
        return source
    if isinstance(source, Image.Image):
        name = f"the {type(source).__name__} {getattr(source, 'filename', '')}".strip()
        return _upright(_loaded(source, name), name)
    if isinstance(source, Mapping):
        return _read_cell(source, timeout, least)
    if isinstance(source, bytes | bytearray | memoryview):
        return _decoded(io.BytesIO(source), f"{len(source)} bytes", least)
    if isinstance(source, str):
        if source.startswith(("http://", "https://")):
            return _decoded(io.BytesIO(_download(source, timeout)), source, least)
        if source.startswith("data:"):
            return _decoded(io.BytesIO(_data_address(source)), _shortened(source), least)
        if not _exists(source) and (content := _base64(source)) is not None:
            return _decoded(io.BytesIO(content), f"base64 text {_shortened(source)}", least)
    if isinstance(source, str | os.PathLike):
        return _read_file(os.fspath(source), least)
    if hasattr(source, "read"):
        return _decoded(io.BytesIO(source.read()), str(getattr(source, "name", "the open file")), least)
    if hasattr(source, "__array__"):
        return np.asarray(source)
    raise ImageReadError(
        f"a {type(source).__name__} is not an image: {_shortened(repr(source))}\n"
        "    Pass a path, an address, bytes, a PIL image, an array or a tensor."
    )


def _read_cell(cell: Mapping[str, Any], timeout: float | None, least: Least | None) -> Image.Image | Array:
    """An undecoded cell of an image column of `datasets`: the bytes if they are there, else the path."""
    content, path = cell.get("bytes"), cell.get("path")
    if content is not None:
        return _decoded(io.BytesIO(content), str(path or f"{len(content)} bytes"), least)
    if path is not None:
        return read_image(path, timeout=timeout, least=least)
    raise ImageReadError(
        'a dict is read as the image of a dataset, {"bytes": ..., "path": ...}; this one has '
        + ("neither" if {"bytes", "path"} & cell.keys() else f"the keys {sorted(map(str, cell))}")
    )


def _read_file(path: str, least: Least | None) -> Image.Image:
    try:
        with open(path, "rb") as file:
            return _decoded(file, path, least)
    except FileNotFoundError:
        folder = Path(path).parent
        reason = "" if folder.is_dir() else f", nor is there a folder {folder}"
        raise ImageReadError(f"there is no file {_shortened(path)}{reason}") from None
    except IsADirectoryError:
        raise ImageReadError(f"{path} is a folder: pass the files in it") from None
    except HfvisionError:
        raise
    except (OSError, ValueError) as error:  # no permission, a name that is too long or has a null byte
        reason = getattr(error, "strerror", None) or _reason(error)
        raise ImageReadError(f"{_shortened(path)} cannot be opened: {reason}") from error


def _decoded(file: IO[bytes], name: str, least: Least | None) -> Image.Image:
    """The first frame of an open file, all of it, upright."""
    try:
        with _bombs_are_errors():
            image = Image.open(file)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        found = re.search(r"\d+", str(error))
        raise _too_large(name, int(found[0]) if found else None) from None
    except UnidentifiedImageError:
        raise ImageReadError(f"{name} is not a picture: it is {_what_it_is(file)}") from None
    except Exception as error:  # the format's reader met a damaged header: any kind of error comes out
        raise ImageReadError(f"{name} has a damaged header: {_reason(error)}") from error
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:  # Pillow warns up to twice the limit
        raise _too_large(name, image.width * image.height)
    if _is_animated(image):
        report_kind("animation", f"{name} has several frames or pages: the first is taken.")
    if least is not None and image.format == "JPEG":
        _draft(image, least)
    return _upright(_loaded(image, name), name)


def _draft(image: Image.Image, least: Least) -> None:
    """Has an open JPEG decoded at a fraction of its size, where that is not below `least`."""
    stored = image.size
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # `_upright` says that it cannot be read
        orientation = 1
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


def draft_of(image: Image.Image) -> Draft | None:
    """What the image is a draft of; None where it is no draft."""
    draft: Draft | None = image.info.get(DRAFT)
    return draft


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
            f"{image.height} pixels: {_reason(error)}"
        ) from error
    return image


def _upright(image: Image.Image, name: str) -> Image.Image:
    try:
        turned = image.getexif().get(ORIENTATION, 1) not in (0, 1)
        return ImageOps.exif_transpose(image) if turned else image
    except Exception as error:  # the picture is fine, only its metadata is not
        report_kind("orientation", f"{name}: the EXIF data cannot be read ({_reason(error)}); taken as upright.")
        return image


def _is_animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a damaged second frame: the first may still be whole
        return True


def _download(address: str, timeout: float | None) -> bytes:
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "hfvision"})
        with urllib.request.urlopen(request, timeout=timeout) as response:
            content: bytes = response.read(DOWNLOAD_BYTES + 1)
            missing = response.length or 0  # of what the header promised
    except urllib.error.HTTPError as error:
        error.close()
        raise ImageReadError(f"{address} answered {error.code} {error.reason}") from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, TimeoutError):
            reason = f"no answer within timeout={timeout} s"
        raise ImageReadError(f"{address} cannot be downloaded: {reason}") from error
    if len(content) > DOWNLOAD_BYTES:
        raise ImageReadError(f"{address} is larger than {DOWNLOAD_BYTES:,} bytes: download it and pass the file")
    if missing:
        raise ImageReadError(f"{address} cannot be downloaded: it ended {missing:,} bytes early")
    return content


def _data_address(address: str) -> bytes:
    """RFC 2397: data:image/png;base64,.... or percent-encoded."""
    head, comma, body = address.partition(",")
    content = (_base64(body) if head.endswith(";base64") else unquote_to_bytes(body)) if comma else None
    if content is None:
        raise ImageReadError(f"{_shortened(address)} is not a complete data address (data:image/png;base64,...)")
    return content


def _base64(text: str) -> bytes | None:
    """The decoded bytes, or None where the text is no base64 or too short to hold a picture."""
    try:
        return base64.b64decode(re.sub(r"\s+", "", text), validate=True) if len(text) >= 32 else None
    except (binascii.Error, ValueError):
        return None


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # a null byte
        return False


def _what_it_is(file: IO[bytes]) -> str:
    file.seek(0)
    head = file.read(4096)
    if not head:
        return "empty (zero bytes)"
    for offset, signature, kind in SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return kind
    if not head.strip(b"\0"):
        return "only zeros in its first 4,096 bytes, as after a broken copy"
    try:
        text = head[:-4].decode() if len(head) == 4096 else head.decode()  # a character may be cut at the end
    except UnicodeDecodeError:
        text = "\0"
    if not re.search(r"[\x00-\x08\x0e-\x1f]", text):
        return f"text, beginning with {_shortened(text.strip(), 40)!r}"
    return f"of no format that Pillow knows (it begins with {head[:8].hex(' ')})"


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _shortened(text: str, length: int = 100) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
