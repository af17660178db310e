"""What the pipelines share: any image as input, and batches whose images may have different sizes.

A pipeline of transformers with `AnyImages` before it does its own work where model and processor are hfvision's, and
transformers' code runs unchanged for all others.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Pipeline
from transformers.pipelines.pt_utils import PipelineIterator

from hfvision.errors import ConfigError, ImageValueError
from hfvision.labels.outputs import complete_names
from hfvision.models.base import VisionModel
from hfvision.pipelines.ahead import Batches
from hfvision.processing.base import ImageProcessor
from hfvision.processing.batch import draft_size
from hfvision.processing.channels import channels_first
from hfvision.processing.options import ImageOptions, Plan, refuse_misspelt
from hfvision.processing.reading import Opened, open_image, true_size
from hfvision.upsampling import Size

Answer = TypeVar("Answer")

AHEAD = -1  # num_workers that nobody can ask for: the next images are prepared while the model runs
OF_EVERY_PIPELINE = ("timeout", "images", "batch_size", "num_workers", "local_files_only")
OF_OUTPUTS = ("return_tensors", "data_format", "device", "disable_grouping", "image_seq_length")
"""Options of image processors that say what comes out of them, which is the pipeline's to say."""
PADDING = frozenset({"do_pad", "pad_size"})  # options of image processors, where images are padded in batches
_SINGLE = (str, bytes, Path, Image.Image, np.ndarray, Tensor, dict)  # what is one image, though some have a length


class AnyImages(Pipeline):
    """Takes paths, URLs, PIL images, arrays and tensors; lists, generators and `datasets` columns; 4-D arrays.

    A thread reads and prepares images while the model runs, two batches ahead at most; a generator runs in it.
    num_workers= leaves that to transformers' DataLoader.

    Every option of the image processor that says how images are read and prepared (input_range=, do_rescale=,
    input_data_format=, bands=, image_mean=, size=, decode="draft", ...) can be given in a call, and at construction for
    all calls. Options that do not exist are refused.

    optimize= makes a copy of the model faster at the price of other numbers, and says at what price: "bfloat16",
    "int8", "token_merging=8", "compile", several of them with commas between, or the arguments of `hfvision.optimize`
    in a dict.
    """

    own_models: ClassVar[tuple[type[VisionModel], ...]] = (VisionModel,)  # that the pipeline does its own work for
    own_options: ClassVar[tuple[str, ...]] = ()  # of those models' pipeline, transformers' included
    settled_options: ClassVar[tuple[str, ...]] = ()  # of the image processor, that the pipeline sets itself

    def __init__(self, *args: Any, optimize: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if optimize is not None:
            from hfvision.optimizing import optimize as optimized
            from hfvision.optimizing import optimize_options, processed_sample

            options = optimize_options(optimize)
            sample, name = processed_sample(self.image_processor, self.model)
            self.model: Any = optimized(self.model, sample=sample, sample_name=name, **options)

    def check_model_type(self, supported_models: Any) -> None:
        if not self._ours:  # the list that it reads knows transformers' names only
            super().check_model_type(supported_models)

    @property
    def _ours(self) -> bool:
        return isinstance(self.model, self.own_models) and isinstance(self.image_processor, ImageProcessor)

    def __call__(self, inputs: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        inputs = kwargs.pop("images", inputs)  # the older name of the argument
        if not self._ours or inputs is None:
            return super().__call__(inputs, **kwargs)
        complete_names(self.model)  # answers look names up by number
        if isinstance(inputs, (np.ndarray, Tensor)) and inputs.ndim == 4:
            inputs = list(inputs)
        if isinstance(inputs, list) and not inputs:
            raise ImageValueError("the pipeline takes at least one image; got an empty list.")
        if kwargs.get("num_workers") is None and self._num_workers is None:
            kwargs["num_workers"] = AHEAD
        elif isinstance(inputs, list):
            return super().__call__(inputs, **kwargs)
        if not isinstance(inputs, Sequence) or isinstance(inputs, _SINGLE):
            return super().__call__(inputs, **kwargs)
        answers: Any = super().__call__(_items(inputs), **kwargs)  # a column of a dataset decodes one image at a time
        try:
            return list(answers)
        finally:
            if isinstance(answers, _Answers):
                answers.batches.close()

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Any:
        if num_workers != AHEAD:
            return super().get_iterator(
                inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params
            )
        batches = Batches(inputs, partial(self.preprocess, **preprocess_params), batch_size)
        outputs = PipelineIterator(batches, self.forward, forward_params, loader_batch_size=batch_size)
        return _Answers(batches, outputs, self.postprocess, postprocess_params)

    def _sanitize_parameters(self, **options: Any) -> Any:
        if not self._ours:
            if "decode" in options:
                raise ConfigError(
                    "decode: only models and image processors of hfvision take it; got "
                    f"{type(self.model).__name__} and {type(self.image_processor).__name__}."
                )
            return super()._sanitize_parameters(**options)  # type: ignore[safe-super]
        known = self._own_options()
        reading = self._reading_options()
        refuse_misspelt(options, {*known, *reading, *OF_EVERY_PIPELINE})
        given = {name: value for name, value in options.items() if name in reading and value is not None}
        plan_of(self._processor, **given)  # raises for what cannot be
        theirs = {name: value for name, value in options.items() if name in known or name == "timeout"}
        preprocess, forward, postprocess = super()._sanitize_parameters(**theirs)  # type: ignore[safe-super]
        return preprocess | given, forward, postprocess

    @property
    def _processor(self) -> Any:
        return self.image_processor

    def _own_options(self) -> tuple[str, ...]:
        return self.own_options

    def _reading_options(self) -> frozenset[str]:
        """The options of the image processor that calls may give."""
        ours = frozenset(ImageOptions.__annotations__) & self._processor.option_names()
        return ours - {*OF_OUTPUTS, *self.settled_options}

    def _reading(self, options: dict[str, Any]) -> dict[str, Any]:
        """Those among the options of `preprocess`, which loses them."""
        return {name: options.pop(name) for name in self._reading_options() & options.keys()}


class _Answers(PipelineIterator):
    """What a pipeline gives for the images of a list or of a stream."""

    def __init__(self, batches: Batches[Any, Any], outputs: Any, postprocess: Any, params: dict[str, Any]) -> None:
        super().__init__(outputs, postprocess, params)
        self.batches = batches


def _items(column: Sequence[Any]) -> Iterator[Any]:
    yield from column


def read_picture(image: Any, plan: Plan, timeout: float | None) -> Opened:
    """`open_image`, as a draft where the plan says so. The image processor takes what comes as it takes the source."""
    return open_image(image, timeout=timeout, least=draft_size(plan))


def plan_of(processor: ImageProcessor, **options: Any) -> Plan:
    """What the processor does with an image in a call with these options."""
    return processor.settled(options)[1]


def size_of(opened: Opened, plan: Plan) -> Size:
    """Height and width of an image. Raises ImageShapeError as the processor does."""
    image = opened.image
    if isinstance(image, Image.Image):
        return true_size(image)
    if opened.is_channels_last or image.ndim == 2:
        return image.shape[0], image.shape[1]
    height, width = channels_first(image, plan.channels).shape[-2:]
    return height, width


def run_by_size(images: Sequence[Tensor], run: Callable[[Tensor], Iterable[Answer]]) -> list[Answer]:
    """`run` on batches of the images (each (1, C, H, W)) of one size: an answer for each, in their order."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        by_size.setdefault(tuple(image.shape), []).append(index)
    answers: dict[int, Answer] = {}
    for indices in by_size.values():
        answers |= zip(indices, run(torch.cat([images[index] for index in indices])), strict=True)
    return [answers[index] for index in range(len(images))]


def similar_sizes(sizes: Sequence[Size], most_padding: float = 0.2) -> list[list[int]]:
    """Which images to pad to one size and run together: at most this share of a batch's pixels is padding."""
    buckets: list[list[int]] = []
    height = width = pixels = 0
    for index in sorted(range(len(sizes)), key=lambda index: sizes[index]):
        taller, wider = max(height, sizes[index][0]), max(width, sizes[index][1])
        more = pixels + sizes[index][0] * sizes[index][1]
        if buckets and more >= (1 - most_padding) * taller * wider * (len(buckets[-1]) + 1):
            buckets[-1].append(index)
            height, width, pixels = taller, wider, more
        else:
            buckets.append([index])
            height, width = sizes[index]
            pixels = height * width
    return buckets


def padded(images: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Images (each (1, C, h, w)) as (B, C, H, W), with zeros below and to the right, and their mask (B, H, W): 1 on the
    image, 0 on its padding; None where nothing is padded.
    """
    height, width = (max(image.shape[axis] for image in images) for axis in (2, 3))
    if all(tuple(image.shape[2:]) == (height, width) for image in images):
        return torch.cat(list(images)), None
    around = [(0, width - image.shape[3], 0, height - image.shape[2]) for image in images]
    mask = [
        torch.nn.functional.pad(image.new_ones(image.shape[2:], dtype=torch.int64), pads)
        for image, pads in zip(images, around, strict=True)
    ]
    batch = [torch.nn.functional.pad(image, pads) for image, pads in zip(images, around, strict=True)]
    return torch.cat(batch), torch.stack(mask)
