"""Maps of segment ids: COCO's panoptic pictures, whose colours are ids, or plain arrays of integers.

Format: Kirillov et al. 2019, "Panoptic Segmentation", arXiv 1801.00868; a picture holds id = red + 256 green + 65536
blue.
"""

import io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hfvision.errors import DatasetError


def read_id_map(source: Any, size: tuple[int, int]) -> NDArray[Any]:
    """(H, W) integers from a path, the bytes of a file, a cell of a dataset, a PIL image, an array or a tensor.

    Raises DatasetError for what cannot be read, is no map of whole numbers, or has another size than `size` (H, W).
    """
    if isinstance(source, Image.Image):
        array = _pixels(source, size)
    elif isinstance(source, Mapping | str | os.PathLike | bytes | bytearray):
        array = _of_file(source, size)
    else:
        array = source.detach().cpu().numpy() if isinstance(source, Tensor) else np.asarray(source)
    array = array[0] if array.ndim == 3 and array.shape[0] == 1 else array
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise DatasetError(f"a map of segment ids is (H, W), or (H, W, 3) colours; got shape {array.shape}.")
    _check_size(array.shape[:2], size)
    if array.ndim == 3:
        red, green, blue = (array[..., channel].astype(np.int32) for channel in range(3))
        return red + 256 * green + 65536 * blue
    if array.dtype.kind == "f" and not (array == np.rint(array)).all():
        raise DatasetError("a map of segment ids holds whole numbers; this one has others, or NaN.")
    return array if array.dtype.kind in "iu" else array.astype(np.int64)


def _of_file(source: Any, size: tuple[int, int]) -> NDArray[Any]:
    if isinstance(source, Mapping):
        source = source.get("bytes") or source.get("path")
    content = isinstance(source, bytes | bytearray)
    try:
        picture = Image.open(io.BytesIO(source) if content else source)
    except FileNotFoundError:
        raise DatasetError(f"there is no file {os.fspath(source)}, which should hold the map of segment ids.") from None
    except Exception as error:  # damaged headers raise all kinds
        name = f"{len(source)} bytes" if content else str(source)
        raise DatasetError(f"{name} cannot be read as a map of segment ids: {error}") from error
    with picture:
        return _pixels(picture, size)


def _pixels(picture: Image.Image, size: tuple[int, int]) -> NDArray[Any]:
    _check_size((picture.height, picture.width), size)  # before decoding: a header may claim any size
    try:
        return np.asarray(picture)
    except Exception as error:  # decoders raise OSError, SyntaxError, zlib.error, ...
        name = getattr(picture, "filename", "") or "the map of segment ids"
        raise DatasetError(f"{name} is damaged: {error}") from error


def _check_size(got: tuple[int, ...], wanted: tuple[int, int]) -> None:
    if got != tuple(wanted):
        raise DatasetError(
            f"a map of segment ids has the size of its image, {wanted[0]}x{wanted[1]} (height x width); got "
            f"{got[0]}x{got[1]}."
        )
