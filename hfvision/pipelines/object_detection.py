"""`pipeline("object-detection")`: transformers' own, for any image of any size, as a whole or in tiles.

DETR's models of hfvision are worked on here; all others go through transformers' code unchanged.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import numpy as np
from torch import Tensor
from transformers import ObjectDetectionPipeline as TransformersPipeline
from transformers.utils import logging

from hfvision.detections import Detections
from hfvision.errors import ConfigError
from hfvision.labels.outputs import output_names
from hfvision.models.detr.heads import DetrDetector, DetrForSegmentation
from hfvision.pipelines.any_image import PADDING, AnyImages, padded, plan_of, read_picture, similar_sizes, size_of
from hfvision.pipelines.raster_sources import bounded_cache, check_values, open_source
from hfvision.pipelines.tiled_detection import Detector, Found, Tiles, detect_in_tiles, make_tiles, tile_count
from hfvision.plots.detection import detection_overlay
from hfvision.processing.detections import post_process_object_detection
from hfvision.upsampling import Size

TILING = ("tile", "overlap", "stride", "whole", "merge", "merge_iou", "progress")
OUTPUTS = ("objects", "arrays", "coco", "picture")
BATCH = 4  # tiles that run together


@dataclass(frozen=True)
class _Prepared:
    """An image that the model sees as a whole."""

    pixels: Tensor  # (1, C, h, w)
    size: Size  # of the image itself
    picture: Any  # the image, where it is to be drawn on


@dataclass(frozen=True)
class _Large:
    """An image that is read tile by tile, not before it is this one's turn."""

    source: Any
    tiles: Tiles
    batch_size: int
    progress: bool
    timeout: float | None
    drawn: bool
    reading: dict[str, Any]  # options of the image processor


@dataclass(frozen=True)
class _Answer:
    found: Detections
    picture: Any


class ObjectDetectionPipeline(AnyImages, TransformersPipeline):
    """Detects objects in paths, URLs, PIL images, numpy arrays and torch tensors; lists, generators and `datasets`
    columns.

    Without options the result is transformers': for each object with a score above threshold= (0.5) {"score", "label",
    "box": {"xmin", "ymin", "xmax", "ymax"}} in whole pixels. output="arrays" gives `Detections` for an image,
    output="coco" a list of COCO's results, output="picture" the image with the objects drawn on it. The "image_id" of
    COCO is the place of the image in the call, or what image_ids= says, one for each; the "category_id" is the number
    of the class.

    With batch_size= images of similar size run together, and their padding is hidden from the model, so that a result
    does not depend on its neighbours.

    tile= (pixels, or (height, width)) cuts the image into tiles that overlap= (0.25 of a tile) or have stride=. The
    model sees each as an image of its own, and, unless whole=False, the image as a whole, too. What they find is
    joined: boxes of one class that overlap by more than merge_iou= (0.5) are one object, of which merge="nms" keeps the
    best and "nmm" makes the box that holds them all; pieces at a seam give way to a box that holds them. With tile=,
    batch_size counts tiles, progress=True shows how far they are, and images may also be the paths of .npy files, files
    open in rasterio and, where it is installed, GeoTIFFs, of which only tiles are read.

    Raises ImageValueError for an empty list, ConfigError for options that cannot work, and what the processor raises.
    """

    own_models = (DetrDetector,)
    own_options = ("threshold", *TILING, "output", "image_ids")
    settled_options = (*PADDING,)

    def _sanitize_parameters(self, **options: Any) -> Any:
        ours = {name: options.pop(name) for name in (*TILING, "tile_batch") if name in options}
        shown = {name: options.pop(name) for name in ("output",) if name in options}
        preprocess, forward, postprocess = super()._sanitize_parameters(**options)
        if not self._ours:
            if ours or shown:
                raise ConfigError(
                    f"{', '.join([*ours, *shown])}: only DETR models of hfvision take these, with an image processor "
                    f"of hfvision; got {type(self.model).__name__} and {type(self.image_processor).__name__}."
                )
            return preprocess, forward, postprocess
        if "output" in shown and shown["output"] not in OUTPUTS:
            raise ConfigError(f"output is {', '.join(map(repr, OUTPUTS))}; got {shown['output']!r}.")
        return preprocess | ours | shown, postprocess, shown  # the threshold holds where objects are found

    def __call__(self, inputs: Any = None, image_ids: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        inputs = kwargs.pop("images", inputs)
        in_coco = kwargs.get("output", self._postprocess_params.get("output")) == "coco"
        if image_ids is not None and not in_coco:
            raise ConfigError("image_ids= are for output='coco' of DETR models of hfvision.")
        if in_coco:
            _check_ids(inputs, image_ids)
        if self._ours and {*TILING} & {*kwargs, *self._preprocess_params}:
            kwargs["tile_batch"] = kwargs.pop("batch_size", None) or self._batch_size
            kwargs["batch_size"] = 1
        answers = super().__call__(inputs, **kwargs)
        return _as_coco(answers, image_ids) if in_coco else answers

    def preprocess(  # type: ignore[override]
        self,
        image: Any,
        timeout: float | None = None,
        output: str = "objects",
        tile_batch: int | None = None,
        **ours: Any,
    ) -> Any:
        if not self._ours:
            return super().preprocess(image, timeout=timeout)
        drawn, reading = output == "picture", self._reading(ours)
        if asked := {name: ours[name] for name in TILING if ours.get(name) is not None}:
            progress = bool(asked.pop("progress", False))
            return {"image": _Large(image, make_tiles(**asked), tile_batch or BATCH, progress, timeout, drawn, reading)}
        if drawn:
            reading["decode"] = "exact"
        plan = plan_of(self._processor, **reading)
        opened = read_picture(image, plan, timeout)
        size = size_of(opened, plan)
        return {"image": _Prepared(self._pixels(opened, **reading), size, opened if drawn else None)}

    def _pixels(self, picture: Any, **options: Any) -> Tensor:
        """(1, C, h, w), without a frame: what is padded is padded in a batch."""
        return self._processor(images=picture, do_pad=False, return_tensors="pt", **options)["pixel_values"].to(
            self.dtype
        )

    def _forward(self, model_inputs: Any, threshold: float = 0.5) -> Any:  # type: ignore[override]
        if not self._ours:
            return super()._forward(model_inputs)
        images = model_inputs["image"]
        if not isinstance(images, list):
            return {"answer": self._answers([images], threshold)[0]}
        return {"answer": self._answers(images, threshold)}

    def _answers(self, images: Sequence[_Prepared | _Large], threshold: float) -> list[_Answer]:
        whole = [image for image in images if isinstance(image, _Prepared)]
        found = iter(self._detect([image.pixels for image in whole], [image.size for image in whole], threshold))
        return [
            self._in_tiles(image, threshold)
            if isinstance(image, _Large)
            else _Answer(self._detections(next(found), image.size), image.picture)
            for image in images
        ]

    def _detect(self, images: Sequence[Tensor], sizes: Sequence[Size], threshold: float) -> list[Found]:
        """images: each (1, C, h, w). sizes: those that boxes are in."""
        model: Any = self.model.detr if isinstance(self.model, DetrForSegmentation) else self.model
        answers: dict[int, Found] = {}
        for rows in similar_sizes([(image.shape[-2], image.shape[-1]) for image in images]):
            pixels, mask = padded([images[row].to(self.device) for row in rows])
            outputs = model(pixel_values=pixels, pixel_mask=mask)
            results = post_process_object_detection(outputs, threshold, [sizes[row] for row in rows])
            answers |= zip(rows, map(_found, results), strict=True)
        return [answers[row] for row in range(len(images))]

    def _in_tiles(self, large: _Large, threshold: float) -> _Answer:
        plan = plan_of(self._processor, **large.reading)
        with (
            bounded_cache(),
            open_source(large.source, plan, large.timeout) as image,
            logging.tqdm(unit="tile", disable=None if large.progress else True) as bar,
        ):
            check_values(image, plan)
            bar.reset(tile_count(large.tiles, image.size))
            detector = Detector(
                partial(self._pixels, **large.reading | image.options),
                partial(self._detect, threshold=threshold),
                plan.size is not None,
            )
            found = detect_in_tiles(detector, image, large.tiles, large.batch_size, bar.update)
            picture = image.read(0, 0, *image.size) if large.drawn else None
            return _Answer(self._detections(found, image.size), picture)

    def _detections(self, found: Found, size: Size) -> Detections:
        return Detections(*found, tuple(output_names(self.model)), size)

    def postprocess(self, model_outputs: Any, output: str = "objects", **options: Any) -> Any:  # type: ignore[override]
        if not self._ours:
            return super().postprocess(model_outputs, **options)
        answer: _Answer = model_outputs["answer"]
        if output == "objects":
            return answer.found.to_list()
        return detection_overlay(answer.picture, answer.found) if output == "picture" else answer.found


def _found(result: dict[str, Tensor]) -> Found:
    boxes, scores, labels = (result[name].detach().cpu() for name in ("boxes", "scores", "labels"))
    return Found(boxes.double().numpy(), scores.double().numpy(), labels.numpy().astype(np.int64))


def _check_ids(inputs: Any, image_ids: Any) -> None:
    """Before any work, as far as it is known how many images there are. Raises ConfigError."""
    if image_ids is None or not isinstance(inputs, list):
        return
    if isinstance(image_ids, str | int) or len(image_ids) != len(inputs):
        raise ConfigError(f"image_ids= has one for each of the {len(inputs)} images; got {image_ids!r}.")


def _as_coco(answers: Any, image_ids: Any) -> Any:
    """COCO's results in place of Detections: of one image, of a list, or of an iterator."""
    if isinstance(answers, Detections):
        if not isinstance(image_ids, str | int | None):
            raise ConfigError(f"image_ids= is one number or name for one image; got {image_ids!r}.")
        return answers.to_coco(0 if image_ids is None else image_ids)
    each = _each_as_coco(answers, count() if image_ids is None else image_ids)
    return list(each) if isinstance(answers, list) else each


def _each_as_coco(answers: Iterable[Detections], image_ids: Iterable[Any]) -> Iterator[list[dict[str, Any]]]:
    ids = iter(image_ids)
    for place, found in enumerate(answers):
        try:
            yield found.to_coco(next(ids))
        except StopIteration:
            raise ConfigError(f"every image has one of image_ids=; there are {place}, and more images.") from None
