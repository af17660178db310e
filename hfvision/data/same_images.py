"""Images that are the same, whatever they are called: found by their contents, within a data set and beside a model.

An image is known by 8 bytes of a hash of its file's contents (of an array: of its numbers), so copies under other names
and in other folders or columns are found, and pictures that were saved anew are not. Of large files the size and three
pieces are hashed. Images of a single color (empty tiles, for one) are alike by chance and count as different.

Shapes: N images of a split.
"""

import base64
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import datasets
import numpy as np
import numpy.typing as npt

from hfvision.data.cells import EXAMPLES, decoded, in_threads
from hfvision.data.object_table import file_of
from hfvision.data.tar_members import with_content
from hfvision.errors import DatasetError, ImageReadError
from hfvision.reporting import report

Digests: TypeAlias = npt.NDArray[np.uint64]  # (N,); UNKNOWN where an image cannot be read
Rows: TypeAlias = npt.NDArray[np.int64]
Overlap: TypeAlias = Literal["refuse", "report", "drop"]

UNKNOWN = 0
PIECE = 1 << 16  # bytes of each of the three pieces of a large file
MANY = 0.5  # share of the evaluation's images that makes its figures worthless if they are trained on, too


class Images(Protocol):
    """The images of a split."""

    @property
    def split(self) -> str: ...
    @property
    def data(self) -> datasets.Dataset: ...  # with a column "image" that is not decoded
    @property
    def digests(self) -> Digests | None: ...
    def take(self, rows: Rows, split: str) -> Any: ...


Part = TypeVar("Part", bound=Images)


def image_digests(data: datasets.Dataset, split: str) -> Digests:
    """(N,) of the column "image"."""
    feature = data.features["image"]

    def digest(row: int) -> int:
        try:
            return _digest(data[row]["image"], feature)
        except OSError:
            return UNKNOWN  # said where images are checked

    digests = np.array(list(in_threads(digest, range(len(data)), split)), np.uint64)
    found, first, counts = np.unique(digests, return_index=True, return_counts=True)
    repeated = (counts > 1) & (found != UNKNOWN)
    plain = first[repeated][_are_plain(data, first[repeated], split)]
    return np.where(np.isin(digests, digests[plain]), np.uint64(UNKNOWN), digests)


def _are_plain(data: datasets.Dataset, rows: Rows, split: str) -> npt.NDArray[np.bool_]:
    """Whether images have a single color."""
    feature = data.features["image"]

    def is_plain(row: int) -> bool:
        try:
            pixels = np.asarray(decoded(data[row]["image"], feature))
        except ImageReadError:
            return False
        flat = pixels.reshape(-1, pixels.shape[-1] if pixels.ndim == 3 and pixels.shape[-1] <= 4 else 1)
        return bool((flat == flat[:1]).all())

    return np.array(list(in_threads(is_plain, rows.tolist(), split)), bool)


def _digest(value: Any, feature: Any) -> int:
    if value is None:
        return UNKNOWN
    if not isinstance(value, Mapping):
        array = np.ascontiguousarray(np.asarray(value, dtype=getattr(feature, "dtype", None)))
        return _number(f"{array.shape} {array.dtype}".encode(), array.tobytes())
    value = with_content(value)
    content, path = value.get("bytes"), value.get("path")
    if content is not None:
        size, pieces = len(content), [content]
        if size > 3 * PIECE:
            pieces = [content[start : start + PIECE] for start in _starts(size)]
        return _number(str(size).encode(), *pieces)
    if path is None or not Path(path).is_file():
        return UNKNOWN
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if size <= 3 * PIECE:
            return _number(str(size).encode(), file.read())
        pieces = []
        for start in _starts(size):
            file.seek(start)
            pieces.append(file.read(PIECE))
    return _number(str(size).encode(), *pieces)


def _starts(size: int) -> tuple[int, int, int]:
    """Where the pieces of a large file begin."""
    return 0, (size - PIECE) // 2, size - PIECE


def _number(*pieces: bytes) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for piece in pieces:
        digest.update(piece)
    return int.from_bytes(digest.digest(), "little") or 1


def seen_in(images: Images, others: Digests) -> npt.NDArray[np.bool_] | None:
    """(N,): whether an image is among the others; None where nothing is known of the images."""
    if images.digests is None:
        return None
    seen = np.asarray(np.isin(images.digests, others) & (images.digests != UNKNOWN))
    found, first = np.unique(images.digests[seen], return_index=True)
    plain = found[_are_plain(images.data, np.flatnonzero(seen)[first], images.split)]
    return seen & ~np.isin(images.digests, plain)


def seen_of(images: Any, others: Digests | None) -> int | None:
    """How many of the images are among the others; None where nothing is known of either."""
    if others is None or getattr(images, "digests", None) is None:
        return None
    seen = seen_in(images, others)
    return None if seen is None else int(seen.sum())


def with_seen(split: str, seen: int | None, images: int) -> str:
    """The name of a split, and how many of its images were trained on, for figures: "validation, 3 of 40 images trained
    on".
    """
    return f"{split}, {seen:,} of {images:,} images trained on" if seen else split


def set_apart(name: str, train: Part, evaluation: Part, overlap: Overlap) -> Part:
    """The images to train on.

    Those that are measured with, too, are reported, or left out with "drop". Raises DatasetError where they are most of
    those to measure with, unless `overlap` says otherwise, and where none is left to train on.
    """
    mine, others = train.digests, evaluation.digests
    seen = None if mine is None else seen_in(evaluation, mine)
    if mine is None or others is None or seen is None or not seen.any():
        return train
    shared = np.flatnonzero(seen)
    order = np.argsort(mine, kind="stable")
    places = order[np.searchsorted(mine, others[shared[:EXAMPLES]], sorter=order)]
    pairs = []
    for row, place in zip(shared[:EXAMPLES].tolist(), places.tolist(), strict=True):
        here, there = file_of(evaluation.data, row), file_of(train.data, place)
        pairs.append(here if here == there else f"{here} ({there} there)")
    more = f" and {len(shared) - EXAMPLES:,} more" if len(shared) > EXAMPLES else ""
    found = (
        f"{len(shared):,} of {len(others):,} images of {evaluation.split!r} are images of {train.split!r}, too: "
        f"{', '.join(pairs)}{more}"
    )
    if overlap == "drop":
        keep = np.flatnonzero(~np.isin(mine, others[shared]))
        if not len(keep):
            raise DatasetError(f"{name}: {found}. Without them no image is left to train on.")
        report(f"{found}. They were left out of training.")
        return train.take(keep, train.split)
    if overlap == "refuse" and len(shared) > MANY * len(others):
        raise DatasetError(
            f"{name}: {found}. Figures of images that were trained on say nothing: give other images to measure with "
            '(eval_split=..., or a folder without them, of which a share is then held out). overlap="drop" (--overlap '
            'drop) leaves them out of training, overlap="report" goes on as it is.'
        )
    report(f'{found}. The figures count them; overlap="drop" (--overlap drop) leaves them out of training.')
    return train


def written(digests: Digests | None) -> str | None:
    """The digests as text for a record, sorted and each once; None where there are none."""
    if digests is None:
        return None
    return base64.b64encode(np.unique(digests[digests != UNKNOWN]).astype("<u8").tobytes()).decode()


def read_written(text: object) -> Digests | None:
    """What `written` wrote; None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<u8").astype(np.uint64)
    except ValueError:
        return None
