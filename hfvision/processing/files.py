"""Where the bytes of an image come from: a file, an address, text, a cell of a dataset, an open file.

Whatever is wrong with a source ends in one `ImageReadError` that says what it really is.
"""

import base64
import binascii
import io
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote_to_bytes

from hfvision.errors import HfvisionError, ImageReadError

DOWNLOAD_SECONDS = 10.0  # without an answer
DOWNLOAD_BYTES = 1 << 30

SIGNATURES = (  # (offset, bytes, what such a file is)
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


def file_of(source: Any, timeout: float | None) -> tuple[IO[bytes], str] | None:
    """An open file and what to call it; None for what offers itself as an array.

    Raises ImageReadError for what is no image.
    """
    if isinstance(source, Mapping):  # an undecoded cell of an image column of `datasets`: the bytes, else the path
        content, path = source.get("bytes"), source.get("path")
        if content is not None:
            return io.BytesIO(content), str(path or f"{len(content)} bytes")
        if path is not None:
            return file_of(path, timeout)
        raise ImageReadError(
            'a dict is read as the image of a dataset, {"bytes": ..., "path": ...}; this one has '
            + ("neither" if {"bytes", "path"} & source.keys() else f"the keys {sorted(map(str, source))}")
        )
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source), f"{len(source)} bytes"
    if isinstance(source, str):
        if source.startswith(("http://", "https://")):
            return io.BytesIO(_download(source, timeout)), source
        if source.startswith("data:"):
            return io.BytesIO(_data_address(source)), shortened(source)
        if not _exists(source) and (content := _base64(source)) is not None:
            return io.BytesIO(content), f"base64 text {shortened(source)}"
    if isinstance(source, str | os.PathLike):
        return _open_file(os.fspath(source)), os.fspath(source)
    if hasattr(source, "read"):
        return io.BytesIO(source.read()), str(getattr(source, "name", "the open file"))
    if hasattr(source, "__array__"):
        return None
    raise ImageReadError(
        f"a {type(source).__name__} is not an image: {shortened(repr(source))}\n"
        "    Pass a path, an address, bytes, a PIL image, an array or a tensor."
    )


def _open_file(path: str) -> IO[bytes]:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        folder = Path(path).parent
        nor = "" if folder.is_dir() else f", nor is there a folder {folder}"
        raise ImageReadError(f"there is no file {shortened(path)}{nor}") from None
    except IsADirectoryError:
        raise ImageReadError(f"{path} is a folder: pass the files in it") from None
    except (OSError, ValueError) as error:  # no permission, a name that is too long or has a null byte
        raise _unreadable(path, error) from error


@contextmanager
def naming(name: str) -> Iterator[None]:
    """What the system says while a file is read (a disk that fails, a share that is gone) as ImageReadError."""
    try:
        yield
    except HfvisionError:
        raise
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: OSError | ValueError) -> ImageReadError:
    return ImageReadError(f"{shortened(name)} cannot be opened: {getattr(error, 'strerror', None) or reason(error)}")


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
        why = getattr(error, "reason", None) or error
        if isinstance(why, TimeoutError):
            why = f"no answer within timeout={timeout} s"
        raise ImageReadError(f"{address} cannot be downloaded: {why}") from error
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
        raise ImageReadError(f"{shortened(address)} is not a complete data address (data:image/png;base64,...)")
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


def what_it_is(file: IO[bytes]) -> str:
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
        return f"text, beginning with {shortened(text.strip(), 40)!r}"
    return f"of no format that Pillow knows (it begins with {head[:8].hex(' ')})"


def reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


def shortened(text: str, length: int = 100) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
