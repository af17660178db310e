"""Masks as run lengths, as COCO stores them: bit for bit what pycocotools writes and reads.

Format: Lin et al. 2014, "Microsoft COCO: Common Objects in Context", arXiv 1405.0312, and the COCO API's mask format.

A mask is read column by column; its runs are the lengths of stretches of equal pixels, the first of zeros (0 long if
the first pixel is set). A run-length encoding is {"size": [height, width], "counts": ...}. Counts are a list of runs,
or, compressed, text: from the fourth run on the difference to the run two before, each number in groups of five bits,
the lowest first, 32 added where more groups follow, and 48 to make it a printable character.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hfvision.errors import DatasetError
from hfvision.geometry.arrays import to_numpy

Rle = dict[str, Any]
GROUP = 5  # bits of a character
MORE, SIGN = 1 << GROUP, 1 << (GROUP - 1)
FIRST_CHARACTER = 48
MOST_GROUPS = 8  # of one number: far above what an image can need


def encode_rle(mask: ArrayLike | Tensor, compressed: bool = True) -> Rle:
    """The runs of a mask (H, W) that is set where it is not 0; ready for JSON.

    Raises DatasetError for an array of another shape.
    """
    pixels = to_numpy(mask)
    if pixels.ndim != 2:
        raise DatasetError(f"a mask has the shape (height, width); got {pixels.shape}. Encode masks one by one.")
    flat = np.ascontiguousarray((pixels if pixels.dtype == bool else pixels != 0).T).ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    first = [0] if flat.size and flat[0] else []
    edges = np.concatenate([first, [0], changes, [flat.size]]).astype(np.int64)
    runs = edges[1:] - edges[:-1]
    return {"size": list(pixels.shape), "counts": _compress(runs) if compressed else runs.tolist()}


def decode_rle(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The mask (H, W) of run lengths whose counts are a list, text or bytes.

    Raises DatasetError for counts that cannot be read or do not add up to the size.
    """
    height, width, runs = _read(rle)
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def rle_area(rle: Mapping[str, Any]) -> int:
    """How many pixels are set, without decoding them. Raises as `decode_rle`."""
    return int(_read(rle)[2][1::2].sum())


def compressed_rle(rle: Mapping[str, Any]) -> Rle:
    """The same run lengths with compressed counts. Raises as `decode_rle`."""
    height, width, runs = _read(rle)
    return {"size": [height, width], "counts": _compress(runs)}


def _read(rle: Mapping[str, Any]) -> tuple[int, int, NDArray[np.int64]]:
    """Height, width and runs."""
    try:
        (height, width), counts = (int(side) for side in rle["size"]), rle["counts"]
    except (KeyError, TypeError, ValueError):
        raise DatasetError(
            f'run lengths are {{"size": [height, width], "counts": text or a list}}; got {str(rle)[:80]}.'
        ) from None
    if isinstance(counts, str | bytes):
        runs = _decompress(counts.encode("latin-1", "replace") if isinstance(counts, str) else counts)
    else:
        runs = np.asarray(counts)
        if runs.ndim != 1 or not (np.issubdtype(runs.dtype, np.integer) or runs.size == 0):
            raise DatasetError(f"the counts of run lengths are whole numbers; got {str(counts)[:80]}.")
        runs = runs.astype(np.int64)
    if (runs < 0).any():
        raise DatasetError(f"run lengths are at least 0; got {int(runs.min())}: the counts are damaged.")
    if runs.sum() != height * width:
        raise DatasetError(
            f"run lengths of a {height}x{width} mask (height x width) add up to {height * width:,}; "
            f"these give {int(runs.sum()):,}. The size or the counts are of another image."
        )
    return height, width, runs


def _compress(runs: NDArray[np.int64]) -> str:
    values = runs.copy()
    values[3:] -= runs[1:-2]
    magnitudes = np.where(values < 0, ~values, values)
    most = max(1, int(magnitudes.max(initial=0)).bit_length() // GROUP + 1)  # one bit more than the magnitude: the sign
    places = np.arange(most)
    lengths = 1 + (magnitudes[:, None] >= 1 << (GROUP * places[1:] - 1)).sum(axis=1)
    characters = (values[:, None] >> (GROUP * places)) & (MORE - 1)
    characters += np.where(places < lengths[:, None] - 1, MORE, 0) + FIRST_CHARACTER
    return characters[places < lengths[:, None]].astype(np.uint8).tobytes().decode("ascii")


def _decompress(text: bytes) -> NDArray[np.int64]:
    characters = np.frombuffer(text, np.uint8).astype(np.int64) - FIRST_CHARACTER
    if not len(characters):
        return characters
    wrong = (characters < 0) | (characters >= 2 * MORE)
    ends = np.flatnonzero(characters < MORE)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = np.diff(np.append(starts, len(characters)))
    if wrong.any() or not len(ends) or ends[-1] != len(characters) - 1 or lengths.max() > MOST_GROUPS:
        raise DatasetError(f"compressed counts cannot be read: {text[:40]!r} is damaged or cut off.")
    places = np.arange(len(characters)) - np.repeat(starts, lengths)
    values = np.add.reduceat((characters & (MORE - 1)) << (GROUP * places), starts)
    values -= np.where(characters[ends] & SIGN, np.int64(1) << (GROUP * lengths), 0)
    runs = values.copy()
    runs[1::2] = values[1::2].cumsum()
    runs[2::2] = values[2::2].cumsum()
    return runs
