"""From images to a batch: the work of one call.

Each image is read, brought to grey levels, resized and cropped on its own, still in uint8 wherever it was 8-bit; only
then is the float32 batch made, in one step per channel (8-bit levels look their result up in a table of 256).

PIL images, arrays and tensors on the CPU are worked on with Pillow and NumPy, tensors elsewhere where they live.

Shapes: B images, C channels as stored, N channels as wanted, h x w pixels after resizing and cropping.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from hfvision.errors import ConfigError, HfvisionError, ImageShapeError, ImageValueError, numbered
from hfvision.processing.bilinear import resize_bilinear
from hfvision.processing.channels import (
    DEEP_MODES,
    FIRST,
    LAST,
    alpha_onto_white,
    channels_first,
    convert_bands,
    convert_picture,
    select_bands,
)
from hfvision.processing.options import Plan, Statistics
from hfvision.processing.reading import Array, Draft, Least, Opened, draft_of, open_image
from hfvision.processing.resizing import centre_window, output_size, planes, resize
from hfvision.processing.values import EIGHT_BITS, is_own_scale, to_levels

LISTED = 10  # faults of one call that are written out
CPU = torch.device("cpu")
WITH_PILLOW = ("cpu", "mps")  # devices whose tensors go through Pillow: it is faster on one, the other lacks float64


@dataclass(frozen=True)
class Prepared:
    """An image before its numbers are scaled."""

    levels: Array  # (C, h, w) uint8 or float32
    count: int  # N; a single channel may stand for that many equal ones
    size: tuple[int, int]  # (height, width) before resizing and cropping


@dataclass(frozen=True)
class Batch:
    """The result of a call."""

    pixel_values: Array | list[Array]  # (B, N, h, w), or a list of (N, h, w) where no tensors are asked for
    sizes: list[tuple[int, int]]  # (height, width) of each image as it came
    home: torch.device  # where the pixel values are


def make_batch(images: Any, plan: Plan, notes: Counter[str]) -> Batch:
    """What was assumed is counted in `notes`.

    Raises one error for all faulty images, of the first one's kind, that names each with its place in the list.
    """
    sources = flattened(images)
    if not sources:
        raise ImageShapeError("no images were given (an empty list)")
    home = _home(sources, plan.device)
    prepared, faults = [], []
    for i, source in enumerate(sources):
        try:
            prepared.append(_prepare(source, plan, notes))
        except HfvisionError as error:
            name = f" ({source})" if isinstance(source, str | os.PathLike) and str(source) not in str(error) else ""
            faults.append((f"image {i}{name[:100]}: {error}", error))
    if faults:
        first = faults[0][1]
        if len(sources) == 1:
            raise first
        lines = [line for line, _ in faults[:LISTED]] + ["..."] * (len(faults) > LISTED)
        message = lines[0] if len(faults) == 1 else numbered("faulty image", lines)
        raise type(first)(message) from first
    all_tensors = all(isinstance(source, torch.Tensor) for source in sources)
    pixel_values = _finish(prepared, plan, home, all_tensors)
    return Batch(pixel_values, [image.size for image in prepared], home)


def flattened(images: Any) -> list[Any]:
    """The single images of one image, a batch (B, ...), or an iterable of them, nested or not."""
    if isinstance(images, Opened):
        return [images if images.was_read else images.image]
    if isinstance(images, np.ndarray | torch.Tensor):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, str | bytes | bytearray | os.PathLike | Mapping | Image.Image) or hasattr(images, "read"):
        return [images]
    if isinstance(images, Sequence) or (isinstance(images, Iterable) and not hasattr(images, "__array__")):
        return [single for part in images for single in flattened(part)]
    return flattened(np.asarray(images)) if hasattr(images, "__array__") else [images]


def _home(sources: list[Any], wanted: torch.device | None) -> torch.device:
    """Where the batch goes: the device that is asked for, or the one that all the images are on."""
    if wanted is not None:
        return wanted
    devices = {source.device if isinstance(source, torch.Tensor) else CPU for source in sources}
    if len(devices) > 1:
        raise ConfigError(f"the images are on {' and '.join(sorted(map(str, devices)))}: say where to with device=...")
    return devices.pop()


def _prepare(source: Any, plan: Plan, notes: Counter[str]) -> Prepared:
    opened = open_image(source, least=draft_size(plan))
    image, channels, draft = opened.image, plan.channels, None
    if isinstance(image, Image.Image):
        draft = draft_of(image)
        notes["draft"] += draft is not None
        if 0 in image.size:
            raise ImageShapeError(f"a PIL image of {image.height}x{image.width} has no pixels")
        if channels.given_bands is not None:  # then its bands are what they are called, not colours
            image, channels = planes(image), replace(channels, layout=FIRST)
        else:
            picture, count = convert_picture(image, channels, opened.was_read, notes)
            direct = picture.mode not in DEEP_MODES and picture.mode != "LAB"  # Pillow keeps the signs of a and b apart
            if direct and (plan.factor is None or plan.input_range in (None, EIGHT_BITS)):
                return _resized(picture, count, plan, draft)
            levels = to_levels(planes(picture), plan.factor, plan.input_range, notes)
            return _resized(levels, count, plan, draft)

    if opened.is_channels_last:
        image, channels = convert_bands(opened, channels, notes)
    if isinstance(image, torch.Tensor):
        image = image.detach()
        if image.device.type in WITH_PILLOW:
            image = image.to(torch.float32) if image.dtype == torch.bfloat16 else image
            image = image.cpu().numpy()
    image = select_bands(channels_first(image, channels), channels, notes)
    levels = to_levels(image, plan.factor, plan.input_range, notes)
    if channels.convert_rgb and len(levels) == 4:
        _refuse_unknown_white(levels, plan)
        levels = alpha_onto_white(levels)
    count = channels.wanted or (3 if channels.convert_rgb else len(levels))
    notes["repeated"] += count > len(levels)
    return _resized(levels, count, plan, draft)


def _refuse_unknown_white(levels: Array, plan: Plan) -> None:
    known = plan.factor is not None and (plan.input_range is not None or not is_own_scale(plan.factor))
    if levels.dtype not in (np.uint8, torch.uint8) and not known:
        raise ImageValueError(
            "do_convert_rgb=True lays an image with alpha on white, but without rescaling it is not known which value "
            "is white: use do_rescale=True with input_range, or select the colours (image[..., :3])"
        )


def draft_size(plan: Plan) -> Least | None:
    """What a draft must not be below; None where no drafts are wanted, or where pixels are picked, not averaged."""
    if not plan.draft or not plan.antialias:
        return None
    return lambda height, width: [(height, width), *sizes_of_steps(height, width, plan)][-1]


def _resized(image: Image.Image | Array, channels: int, plan: Plan, draft: Draft | None) -> Prepared:
    """(C, H, W) -> (C, h, w): resized, then cropped as far as it reaches. A draft, as what it is of would be."""
    height, width = image.size[::-1] if isinstance(image, Image.Image) else image.shape[1:]
    true, box = draft or ((height, width), None)
    for size in sizes_of_steps(*true, plan):
        if plan.antialias:
            image, box = resize(image, size, plan.resample, box), None
        else:
            image = resize_bilinear(planes(image) if isinstance(image, Image.Image) else image, size)
    levels = planes(image) if isinstance(image, Image.Image) else image
    if plan.crop is not None:
        rows, columns = (
            centre_window(length, wanted, plan.crop_rounding)[0]
            for length, wanted in zip(levels.shape[1:], plan.crop, strict=True)
        )
        levels = levels[:, rows, columns]
    return Prepared(levels, channels, true)


def sizes_of_steps(height: int, width: int, plan: Plan) -> list[tuple[int, int]]:
    """The (height, width) of each step of resizing, without those that change nothing."""
    if plan.size is None:
        return []
    first = output_size(height, width, plan.size, plan.size_rounding)
    last = tuple(-(-side // plan.size_divisor) * plan.size_divisor for side in first)
    steps = [(height, width), first, (last[0], last[1])]
    return [new for old, new in pairwise(steps) if new != old]


def _finish(prepared: list[Prepared], plan: Plan, home: torch.device, all_tensors: bool) -> Array | list[Array]:
    """Scaled, normalised, padded and laid out as asked for."""
    sizes = [plan.crop or (image.levels.shape[1], image.levels.shape[2]) for image in prepared]
    frames = frame_sizes(sizes, plan)
    shapes = [(image.count, *frame) for image, frame in zip(prepared, frames, strict=True)]
    equal = len(set(shapes)) == 1
    if plan.tensors is not None and not equal:
        kinds = [f"{count} channels of {height}x{width}" for count, height, width in sorted(set(shapes))]
        raise ImageShapeError(
            f"images of different shapes do not make one tensor: {', '.join(kinds[:LISTED])}.\n"
            "    do_resize and do_pad make them equal; return_tensors=None gives a list."
        )
    scaled = plan.factor is not None or plan.mean is not None
    eight_bits = not scaled and all(image.levels.dtype in (np.uint8, torch.uint8) for image in prepared)
    elsewhere = next((image.levels.device for image in prepared if isinstance(image.levels, torch.Tensor)), None)

    def zeros(*shape: int) -> Array:
        if elsewhere is None:
            return np.zeros(shape, np.uint8 if eight_bits else np.float32)
        return torch.zeros(shape, dtype=torch.uint8 if eight_bits else torch.float32, device=elsewhere)

    batch = zeros(len(shapes), *shapes[0]) if equal else None
    outs = [zeros(*shape) for shape in shapes] if batch is None else list(batch)
    for image, (height, width), out in zip(prepared, sizes, outs, strict=True):
        levels = image.levels
        if elsewhere is not None and not isinstance(levels, torch.Tensor):
            levels = torch.from_numpy(np.ascontiguousarray(levels)).to(elsewhere)
        _write(levels, out[:, :height, :width], plan)

    if plan.tensors is None:
        keep = all_tensors or home != CPU
        return [_delivered(out, plan.layout, "pt" if keep else "np", home) for out in outs]
    return _delivered(zeros(0) if batch is None else batch, plan.layout, plan.tensors, home)


def frame_sizes(sizes: list[tuple[int, int]], plan: Plan) -> list[tuple[int, int]]:
    """The height and width of each result, padding included (below and to the right, with zeros)."""
    if not plan.pad:
        return sizes
    frame = plan.pad_size or (max(height for height, _ in sizes), max(width for _, width in sizes))
    if too_large := [f"{h}x{w}" for h, w in sizes if h > frame[0] or w > frame[1]]:
        raise ImageShapeError(
            f"pad_size {frame[0]}x{frame[1]} is smaller than {len(too_large)} of the {len(sizes)} images "
            f"({', '.join(too_large[:LISTED])})"
        )
    return [frame] * len(sizes)


def _write(levels: Array, out: Array, plan: Plan) -> None:
    """(C, h, w) levels -> the numbers for the model, into (N, h, w); black around what a crop did not reach."""
    if levels.shape[1:] != out.shape[1:]:
        rows, columns = (
            centre_window(length, wanted)[1] for length, wanted in zip(levels.shape[1:], out.shape[1:], strict=True)
        )
        black = levels[:, :1, :1] * 0
        for channel, band in enumerate(out):
            band[:] = _scaled(black[0], plan.factor, _of(plan.mean, channel), _of(plan.std, channel))
        out = out[:, rows, columns]
    for channel, band in enumerate(out):
        level = levels[channel if len(levels) > 1 else 0]
        scale = plan.factor, _of(plan.mean, channel), _of(plan.std, channel)
        if isinstance(level, np.ndarray) and level.dtype == np.uint8 and band.dtype == np.float32:
            np.take(_table(*scale), level, out=band, mode="clip")  # clip: no check of indices, which cannot be off
        else:
            band[:] = _scaled(level, *scale)


def _of(statistics: Statistics, channel: int) -> float | None:
    return statistics[channel] if isinstance(statistics, tuple) else statistics


def _scaled(levels: Array, factor: float | None, mean: float | None, std: float | None) -> Array:
    """Rescaled and normalised with transformers' roundings: the product in float64, everything else in float32."""
    if isinstance(levels, torch.Tensor):
        if factor is not None:
            levels = levels.to(torch.float64) * factor
        if mean is not None and std is not None:
            # a Python number would be rounded at another place than NumPy's float32 is
            numbers = torch.tensor([mean, std], dtype=torch.float32, device=levels.device)
            levels = (levels.to(torch.float32) - numbers[0]) / numbers[1]
        return levels
    if factor is not None:
        levels = (levels.astype(np.float64) * factor).astype(np.float32)
    if mean is not None and std is not None:
        levels = (levels.astype(np.float32) - np.float32(mean)) / np.float32(std)
    return levels


@lru_cache(maxsize=256)
def _table(factor: float | None, mean: float | None, std: float | None) -> npt.NDArray[np.float32]:
    """(256,): what each 8-bit level becomes."""
    table = _scaled(np.arange(256, dtype=np.uint8), factor, mean, std)
    return np.asarray(table, dtype=np.float32)


def _delivered(result: Array, layout: str, tensors: str, home: torch.device) -> Array:
    """(..., N, h, w) in the layout that is asked for, as a tensor at home or a NumPy array."""
    if layout == LAST:
        moved = result.movedim(-3, -1) if isinstance(result, torch.Tensor) else np.moveaxis(result, -3, -1)
        result = moved.contiguous() if isinstance(moved, torch.Tensor) else np.ascontiguousarray(moved)
    if tensors == "np":
        return result.cpu().numpy() if isinstance(result, torch.Tensor) else result
    return (result if isinstance(result, torch.Tensor) else torch.from_numpy(result)).to(home)
