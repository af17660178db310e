"""Image processors for semantic segmentation: an image and its label map together, and answers back at photo size."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from transformers import BatchFeature
from transformers.utils.constants import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
)

from hfvision.errors import ConfigError, ImageShapeError
from hfvision.processing.base import ImageProcessor
from hfvision.processing.batch import flattened
from hfvision.processing.label_batch import flattened_maps, make_labels
from hfvision.processing.label_map import LabelMap
from hfvision.processing.options import SegmentationOptions, make_label_plan
from hfvision.processing.protocols import segmentation_options
from hfvision.processing.semantic_maps import post_process_semantic_segmentation
from hfvision.upsampling import Upsampling

SegmentationImageProcessorKwargs = SegmentationOptions  # transformers looks the options of a class up under this name
SegformerImageProcessorKwargs = SegmentationOptions
SegmenterImageProcessorKwargs = SegmentationOptions
SetrImageProcessorKwargs = SegmentationOptions


class BaseSegmentationImageProcessor(ImageProcessor):
    """What the processors here have in common."""

    valid_kwargs = SegmentationOptions
    name_with_own_options: ClassVar[str] = "SegmentationImageProcessor"

    resample: Any = 2
    image_mean: Any = IMAGENET_DEFAULT_MEAN
    image_std: Any = IMAGENET_DEFAULT_STD

    def __init__(self, **options: Any) -> None:
        """Raises UnknownNameError for options that do not exist, ConfigError for values that cannot work."""
        super().__init__(**_today(options))
        make_label_plan(self._stored_options())

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """From the contents of a file, those of early versions of transformers included."""
        return super().from_dict(_today(image_processor_dict), **kwargs)

    @classmethod
    def from_protocol(cls, name: str, size: tuple[int, int] = (2048, 512), **options: Any) -> Self:
        """A processor that prepares images as an original repository does for evaluation: "mmseg", "segmenter-vit", ...

        `size` is (long side, short side); the names and their meaning are in `hfvision.processing.protocols`; further
        `options` replace the protocol's.
        """
        return cls(**segmentation_options(name, size, **options))

    def preprocess(self, images: Any, segmentation_maps: Any = None, *args: Any, **kwargs: Any) -> BatchFeature:
        """`pixel_values`: (B, N, h, w), and given label maps `labels`: (B, h, w) int64, of the same geometry.

        `images` and the options are as for every image processor here. Label maps are (H, W), of their image's size:
        paths, PIL images (of a palette, the indices count), arrays or tensors of integers, or pictures whose colours
        `label_map` names. Raises ImageShapeError and ImageValueError for label maps that are not.
        """
        if args:
            raise ConfigError(f"options are given by name; got {len(args)} more values after the label maps")
        options, plan = self.settled(_today(kwargs))
        labels = make_label_plan(options)
        sources = flattened(images)
        maps = [] if segmentation_maps is None else flattened_maps(segmentation_maps, len(sources))
        if segmentation_maps is not None and len(maps) != len(sources):
            raise ImageShapeError(f"every image needs one label map; got {len(sources)} images and {len(maps)} maps")
        batch = self._make_batch(sources, plan)
        data = {"pixel_values": batch.pixel_values}
        if segmentation_maps is not None:
            data["labels"] = make_labels(maps, batch, plan, labels)
        return BatchFeature(data=data)

    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        target_sizes: Any = None,
        return_segmentation_scores: bool = False,
        upsampling: Upsampling | Sequence[Upsampling] | None = None,
        return_confidence: bool = False,
    ) -> list[Any]:
        """See `hfvision.processing.semantic_maps.post_process_semantic_segmentation`."""
        return post_process_semantic_segmentation(
            outputs, target_sizes, return_segmentation_scores, upsampling, return_confidence
        )


def _today(options: Mapping[str, Any]) -> dict[str, Any]:
    """With the names that options have now, and a label map as plain data."""
    options = dict(options)
    if "reduce_labels" in options:  # before version 4.34 of transformers
        former = options.pop("reduce_labels")
        options.setdefault("do_reduce_labels", former)
    label_map = options.get("label_map")
    if label_map is not None and not isinstance(label_map, str):
        options["label_map"] = LabelMap.of(label_map).to_dict()
    return options


class SegmentationImageProcessor(BaseSegmentationImageProcessor):
    """For options that transformers does not know: label maps with names, the protocols of original repositories.

    Example:
        >>> import PIL.Image, hfvision
        >>> processor = hfvision.SegmentationImageProcessor(label_map={10: 0, 20: 1}, do_resize=False)
        >>> inputs = processor(
        ...     PIL.Image.new("RGB", (8, 8)), segmentation_maps=PIL.Image.new("L", (8, 8), 20), return_tensors="pt"
        ... )
        >>> inputs["labels"].unique().tolist()
        [1]
    """

    size: Any = {"height": 512, "width": 512}


class SegformerImageProcessor(BaseSegmentationImageProcessor):
    """SegFormer's: straight to 512x512, bilinear, ImageNet's statistics; any image.

    These are the defaults of the Hub's class of that name. The evaluation of the original repository is another:
    `hfvision.processing.protocols`, "mmseg" and "mmseg-aligned".

    Example:
        >>> import PIL.Image, hfvision
        >>> processor = hfvision.SegformerImageProcessor(size={"height": 64, "width": 64})
        >>> inputs = processor(
        ...     PIL.Image.new("RGB", (80, 60)), segmentation_maps=PIL.Image.new("L", (80, 60)), return_tensors="pt"
        ... )
        >>> tuple(inputs["pixel_values"].shape), tuple(inputs["labels"].shape)
        ((1, 3, 64, 64), (1, 64, 64))
    """

    size: Any = {"height": 512, "width": 512}
    do_reduce_labels: Any = False

    @classmethod
    def has_own_options(cls, options: Mapping[str, Any]) -> bool:
        """transformers' class of this name reduces labels, and passes over crops and frames."""
        others = {name: value for name, value in options.items() if name != "do_reduce_labels"}
        return bool(options.get("do_center_crop") or options.get("do_pad")) or super().has_own_options(others)


class ProtocolImageProcessor(BaseSegmentationImageProcessor):
    """Of families that transformers does not have: the files name the class itself, whatever its options are."""

    do_resize: Any = True
    size: Any = {"shortest_edge": 512, "longest_edge": 2048}
    default_to_square = False
    size_rounding: Any = "nearest"
    antialias: Any = False

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"image_processor_type": type(self).__name__}


class SegmenterImageProcessor(ProtocolImageProcessor):
    """Segmenter's for a ViT: the short side to 512, the long one to 2048 at most; pixel values to [-1, 1].

    Example:
        >>> import PIL.Image, hfvision
        >>> processor = hfvision.SegmenterImageProcessor()
        >>> inputs = processor(PIL.Image.new("RGB", (640, 480)), return_tensors="pt")
        >>> tuple(inputs["pixel_values"].shape)
        (1, 3, 512, 683)
    """

    image_mean: Any = IMAGENET_STANDARD_MEAN
    image_std: Any = IMAGENET_STANDARD_STD


class SetrImageProcessor(ProtocolImageProcessor):
    """SETR's on ADE20K: the short side to 512, the long one to 2048 at most; ImageNet's statistics.

    Example:
        >>> import PIL.Image, hfvision
        >>> processor = hfvision.SetrImageProcessor()
        >>> inputs = processor(PIL.Image.new("RGB", (640, 480)), return_tensors="pt")
        >>> tuple(inputs["pixel_values"].shape)
        (1, 3, 512, 683)
    """
