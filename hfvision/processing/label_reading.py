"""One label map from whatever holds it: the integers that it stores, or the colours where those stand for classes.

Shapes: H x W pixels.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from hfvision.errors import ImageShapeError, ImageValueError
from hfvision.processing.label_map import Integers, LabelMap
from hfvision.processing.reading import read_image, stretch_of
from hfvision.reporting import report_kind

LABELS_AND_ALPHA = ("LA", "La", "PA")  # modes whose first band holds the labels


def read_labels(source: Any, label_map: LabelMap | None = None) -> Integers:
    """(H, W) integers, or (H, W, 3) colours where the label map has some.

    `source` is a path, a PIL image of any mode, an array or a tensor, (H, W) or (1, H, W). Of a grey file of 2 or 4
    bits a pixel, and of others whose numbers Pillow stretches or turns round, they are the numbers in the file, and
    that is reported; a PIL image that somebody else has read has Pillow's. Raises ImageShapeError for
    what has not one label for each pixel, ImageValueError for values that are not whole, and as `read_image`.
    """
    image = read_image(source)
    has_colors = label_map is not None and label_map.has_colours
    array = _of_picture(image, has_colors) if isinstance(image, Image.Image) else _of_array(image)
    coloured = array.ndim == 3 and has_colors
    if array.ndim == 3 and array.shape[0] == 1:
        array, coloured = array[0], False
    elif coloured and array.shape[2] != 3 and array.shape[0] == 3:
        array = np.moveaxis(array, 0, 2)
    if not (array.ndim == 2 or (coloured and array.shape[2] == 3)):
        raise ImageShapeError(
            f"a label map is (H, W) or (1, H, W), one label for each pixel; got shape {tuple(array.shape)}."
            + _ADVICE * (array.ndim == 3 and 3 in (array.shape[0], array.shape[2]))
        )
    return _whole(array)


_ADVICE = (
    "\n    If its colours stand for classes, give a label_map with a color in each row; if its channels are equal, "
    "pass one of them."
)


def read_label_values(source: Any) -> Integers:
    """(H, W) integers, or the (H, W, 3) colors of a picture that has no numbers, whatever they stand for.

    Raises as `read_labels`.
    """
    image = read_image(source)
    return _whole(_of_picture(image, True) if isinstance(image, Image.Image) else _of_array(image))


def _of_picture(picture: Image.Image, has_colors: bool) -> npt.NDArray[Any]:
    """The values that a PIL image stores: of a palette, the indices; colors only where classes have some."""
    if picture.mode in LABELS_AND_ALPHA:
        return np.asarray(picture)[..., 0]
    if picture.mode in ("1", "L", "P", "I", "F") or picture.mode.startswith("I;16"):
        array = np.asarray(picture)
        return _as_stored(array.astype(array.dtype.newbyteorder("=")), picture)
    if not has_colors:
        if picture.mode == "RGB" and _is_grey(colors := np.asarray(picture)):
            report_kind(
                "grey labels", "label maps in RGB whose three channels are equal are read as one number a pixel."
            )
            return colors[..., 0]
        raise ImageShapeError(
            f"a label map holds one number for each pixel, a picture of mode {picture.mode} holds colours." + _ADVICE
        )
    return np.asarray(picture.convert("RGB"))


def _as_stored(array: npt.NDArray[Any], picture: Image.Image) -> npt.NDArray[Any]:
    """(H, W): the numbers in the file, which Pillow may have made levels of grey of."""
    stretch = stretch_of(picture)
    if stretch is None:
        return array
    report_kind(
        "labels as stored",
        "label maps in grey whose white is not 255, or is 0, are read as the numbers in the files: "
        "Pillow alone would show them as levels of grey.",
    )
    numbers = np.rint(array / stretch.step).astype(np.int64)
    numbers = numbers if stretch.white is None else stretch.white - numbers
    return numbers.astype(np.uint8 if numbers.max(initial=0) < 256 else np.uint16)


def _is_grey(colors: npt.NDArray[Any]) -> bool:
    """(H, W, 3) without any color."""
    return bool((colors[..., :1] == colors).all())


def _of_array(array: Any) -> npt.NDArray[Any]:
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.dtype == torch.bfloat16 else array).numpy()
    return np.asarray(array)


def _whole(array: npt.NDArray[Any]) -> Integers:
    """The same values as integers. Raises ImageValueError where they are none."""
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.dtype.kind == "f":
        broken = ~(array == np.rint(array)) | (np.abs(array) > 2**53)
        if broken.any():
            where = tuple(int(i) for i in np.argwhere(broken)[0])
            raise ImageValueError(
                f"labels are whole numbers; {int(broken.sum()):,} of {array.size:,} values are not, the first in row "
                f"{where[0]}, column {where[1]} ({float(array[where])}).\n"
                "    Labels must be resized with nearest neighbours, and not scaled to 0..1."
            )
        return array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise ImageValueError(f"labels are whole numbers; got dtype {array.dtype}")
    return array
