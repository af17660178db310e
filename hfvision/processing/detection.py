"""Image processors for object detection and panoptic segmentation: an image and its objects together.

Shapes: B images, N channels, h x w pixels of the batch; n objects of an image.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import BatchFeature
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from hfvision.errors import ConfigError
from hfvision.processing.base import ImageProcessor
from hfvision.processing.batch import flattened, frame_sizes, sizes_of_steps
from hfvision.processing.detection_labels import (
    FORMATS,
    annotations_of,
    delivered_labels,
    make_annotation_plan,
    make_detection_labels,
)
from hfvision.processing.detections import post_process_object_detection
from hfvision.processing.options import DetectionOptions
from hfvision.processing.panoptic_maps import (
    post_process_instance_segmentation,
    post_process_panoptic_segmentation,
    post_process_semantic_segmentation,
)
from hfvision.processing.reading import Array
from hfvision.upsampling import Size

DetectionImageProcessorKwargs = DetectionOptions  # transformers looks the options of a class up under this name
DetrImageProcessorKwargs = DetectionOptions

SHORT_SIDE, LONG_SIDE = 800, 1333  # pixels


class DetectionImageProcessor(ImageProcessor):
    """DETR's processing; under this name where options are set that transformers does not know.

    Example:
        >>> import numpy as np, hfvision
        >>> processor = hfvision.DetectionImageProcessor(
        ...     input_range=(0, 4095), size={"shortest_edge": 32, "longest_edge": 64}
        ... )
        >>> tuple(processor(np.zeros((48, 64, 3), dtype=np.uint16), return_tensors="pt")["pixel_values"].shape)
        (1, 3, 32, 42)
    """

    valid_kwargs = DetectionOptions
    name_with_own_options: ClassVar[str] = "DetectionImageProcessor"
    model_input_names: Any = ["pixel_values", "pixel_mask"]

    resample: Any = 2
    size: Any = {"shortest_edge": SHORT_SIDE, "longest_edge": LONG_SIDE}
    default_to_square = False
    image_mean: Any = IMAGENET_DEFAULT_MEAN
    image_std: Any = IMAGENET_DEFAULT_STD
    do_pad: Any = True
    format: Any = FORMATS[0]

    post_process_object_detection = staticmethod(post_process_object_detection)
    post_process_instance_segmentation = staticmethod(post_process_instance_segmentation)
    post_process_panoptic_segmentation = staticmethod(post_process_panoptic_segmentation)
    post_process_semantic_segmentation = staticmethod(post_process_semantic_segmentation)

    def __init__(self, **options: Any) -> None:
        """Raises UnknownNameError for options that do not exist, ConfigError for values that cannot work."""
        options = _today(options)
        if options.get("do_convert_annotations") is None:  # as in files from before there was that option
            normalize = options.get("do_normalize")
            options["do_convert_annotations"] = self.do_normalize if normalize is None else normalize
        super().__init__(**options)
        make_annotation_plan(self._stored_options())

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """From the contents of a file, those of early versions of transformers included."""
        return super().from_dict(_today(image_processor_dict), **_today(kwargs))

    def preprocess(
        self,
        images: Any,
        annotations: Any = None,
        return_segmentation_masks: bool | None = None,
        masks_path: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> BatchFeature:
        """`pixel_values` (B, N, h, w), padded below and to the right; `pixel_mask` (B, h, w) int64, 1 on the images;
        and of given annotations `labels`, a dict for each image: see `hfvision.processing.detection_labels`.

        `images` and the options are as for every image processor here. `annotations` are one for each image, in any
        form of `hfvision.objects.read_objects`; `masks_path` is the folder of the pictures that panoptic annotations
        name. Raises DatasetError for annotations that cannot be right.
        """
        if args:
            raise ConfigError(f"options are given by name; got {len(args)} more values after masks_path")
        options, plan = self.settled(_today(kwargs))
        reading = make_annotation_plan(options, return_segmentation_masks, masks_path)
        sources = flattened(images)
        each = None if annotations is None else annotations_of(annotations, len(sources))
        batch = self._make_batch(sources, plan)
        resized = [([size, *sizes_of_steps(*size, plan)])[-1] for size in batch.sizes]
        frames = frame_sizes(resized, plan)
        tensors = isinstance(batch.pixel_values[0], torch.Tensor)
        data: dict[str, Any] = {"pixel_values": batch.pixel_values}
        if plan.pad:
            data["pixel_mask"] = _pixel_masks(resized, frames, plan.tensors, batch.home if tensors else None)
        if each is not None:
            labels = make_detection_labels(each, batch.sizes, resized, frames, reading)
            data["labels"] = delivered_labels(labels, tensors, batch.home)
        return BatchFeature(data=data)

    def pad(self, images: Sequence[Array], pad_size: Any = None, return_tensors: str | None = None) -> BatchFeature:
        """Processed images (N, h, w) of different sizes as one batch: `pixel_values` and `pixel_mask`, for collators.

        `pad_size` is {"height", "width"}; without it the batch is as large as the largest image each way.
        """
        return self.preprocess(
            images,
            do_resize=False,
            do_rescale=False,
            do_normalize=False,
            do_pad=True,
            pad_size=pad_size,
            input_data_format="channels_first",
            return_tensors=return_tensors,
        )


def _pixel_masks(sizes: list[Size], frames: list[Size], tensors: str | None, home: torch.device | None) -> Any:
    """(B, h, w), or a list of (h, w): 1 on the image, 0 on the padding."""
    masks = [np.zeros(frame, np.int64) for frame in frames]
    for mask, (height, width) in zip(masks, sizes, strict=True):
        mask[:height, :width] = 1
    if tensors is not None:
        stacked = np.stack(masks)
        return stacked if home is None else torch.from_numpy(stacked).to(home)
    return masks if home is None else [torch.from_numpy(mask).to(home) for mask in masks]


def _today(options: Mapping[str, Any]) -> dict[str, Any]:
    """With the names and forms that options have now: `max_size` and the like are from before version 4.27."""
    options = dict(options)
    if "pad_and_return_pixel_mask" in options:
        former = options.pop("pad_and_return_pixel_mask")
        options.setdefault("do_pad", former)
    if hasattr(options.get("format"), "value"):
        options["format"] = options["format"].value
    longest, size = options.pop("max_size", None), options.get("size")
    if isinstance(size, int) or (size is None and longest is not None):
        short = SHORT_SIDE if size is None else size
        options["size"] = {"shortest_edge": short, "longest_edge": LONG_SIDE if longest is None else longest}
    return options


class DetrImageProcessor(DetectionImageProcessor):
    """DETR's: the short side to 800 pixels, the long one to 1333 at most; ImageNet's statistics; padded to a batch.

    Example:
        >>> import PIL.Image, hfvision
        >>> processor = hfvision.DetrImageProcessor(size={"shortest_edge": 48, "longest_edge": 96})
        >>> inputs = processor([PIL.Image.new("RGB", (64, 48)), PIL.Image.new("RGB", (48, 48))], return_tensors="pt")
        >>> tuple(inputs["pixel_values"].shape), inputs["pixel_mask"].sum(dim=(1, 2)).tolist()
        ((2, 3, 48, 64), [3072, 2304])
    """

    @classmethod
    def has_own_options(cls, options: Mapping[str, Any]) -> bool:
        """transformers' class of this name knows those two besides its common ones."""
        return super().has_own_options(
            {name: value for name, value in options.items() if name not in ("format", "do_convert_annotations")}
        )
