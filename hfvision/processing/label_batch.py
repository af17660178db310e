"""Label maps on their way to a batch: turned into train ids, and brought to the geometry of their images.

A label map goes through the same resizing (nearest, as Pillow does it), the same crop and the same frame as its image;
what a crop or a frame adds has the ignore index. Labels are counted, never mixed, so any integer dtype will do.

Shapes: B images, H x W pixels of an image as it came, h x w of the result.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hfvision.errors import HfvisionError, ImageShapeError, numbered
from hfvision.geometry import nearest_places
from hfvision.processing.batch import LISTED, Batch, flattened, frame_sizes, sizes_of_steps
from hfvision.processing.label_map import Integers
from hfvision.processing.label_reading import read_labels
from hfvision.processing.options import LabelPlan, Plan
from hfvision.processing.resizing import centre_window

Labels = npt.NDArray[np.int64]
Size = tuple[int, int]


def flattened_maps(segmentation_maps: Any, images: int) -> list[Any]:
    """The single label maps of one, a batch (B, H, W) or (B, 1, H, W), or an iterable of them.

    Of a single image, three axes are one map: (1, H, W) or colours.
    """
    if isinstance(segmentation_maps, np.ndarray | torch.Tensor):
        several = segmentation_maps.ndim > 3 or (segmentation_maps.ndim == 3 and images > 1)
        return list(segmentation_maps) if several else [segmentation_maps]
    return flattened(segmentation_maps)


def make_labels(sources: Sequence[Any], batch: Batch, plan: Plan, labels: LabelPlan) -> Any:
    """(B, h, w) int64, or a list of (h, w), in the form of the batch of images.

    Raises one error for all faulty label maps, of the first one's kind, that names each with its place in the list.
    """
    made, faults = [], []
    for i, (source, size) in enumerate(zip(sources, batch.sizes, strict=True)):
        try:
            made.append(_placed(_train_ids(_read(source, size, labels), labels), plan, labels.ignore_index))
        except HfvisionError as error:
            name = f" ({source})" if isinstance(source, str | os.PathLike) and str(source) not in str(error) else ""
            faults.append((f"label map {i}{name[:100]}: {error}", error))
    if faults:
        lines = [line for line, _ in faults[:LISTED]] + ["..."] * (len(faults) > LISTED)
        message = lines[0] if len(faults) == 1 else numbered("faulty label map", lines)
        raise type(faults[0][1])(message) from faults[0][1]
    framed = [
        _framed(one, frame, labels.ignore_index)
        for one, frame in zip(made, frame_sizes([one.shape for one in made], plan), strict=True)
    ]
    if plan.tensors is None:
        tensors = isinstance(batch.pixel_values[0], torch.Tensor)
        return [torch.from_numpy(one).to(batch.home) if tensors else one for one in framed]
    stacked = np.stack(framed)
    return torch.from_numpy(stacked).to(batch.home) if plan.tensors == "pt" else stacked


def _read(source: Any, size: Size, labels: LabelPlan) -> Integers:
    """As `read_labels`; raises ImageShapeError also for a map that has not the size of its image."""
    array = read_labels(source, labels.label_map)
    height, width = array.shape[:2]
    if (height, width) != size:
        raise ImageShapeError(
            f"it has {height}x{width} pixels, its image {size[0]}x{size[1]}: a label map has a label for each pixel "
            "of its image. Bring it to that size (with Image.Resampling.NEAREST)."
        )
    return array


def _train_ids(array: Integers, labels: LabelPlan) -> Labels:
    if labels.label_map is not None:
        return labels.label_map.to_train_ids(array, labels.ignore_index)
    whole = array.astype(np.int64)
    if labels.reduce:  # 0 and the ignore index become it, k becomes k - 1
        return np.where((whole == 0) | (whole == labels.ignore_index), labels.ignore_index, whole - 1)
    return whole


def _placed(labels: Labels, plan: Plan, ignore_index: int) -> Labels:
    """(H, W) -> (h, w): resized, then cropped."""
    if steps := sizes_of_steps(labels.shape[0], labels.shape[1], plan):
        rows, columns = (nearest_places(old, new) for old, new in zip(labels.shape, steps[-1], strict=True))
        labels = labels[rows[:, None], columns]
    if plan.crop is None:
        return labels
    windows = [centre_window(old, new, plan.crop_rounding) for old, new in zip(labels.shape, plan.crop, strict=True)]
    out = np.full(plan.crop, ignore_index, np.int64)
    out[windows[0][1], windows[1][1]] = labels[windows[0][0], windows[1][0]]
    return out


def _framed(labels: Labels, frame: Size, ignore_index: int) -> Labels:
    height, width = labels.shape
    if (height, width) == frame:
        return labels
    out = np.full(frame, ignore_index, np.int64)
    out[:height, :width] = labels
    return out
