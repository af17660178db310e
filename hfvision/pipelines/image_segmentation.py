"""`pipeline("image-segmentation")`: transformers' own, for any image of any size, with label maps and windows.

Models of hfvision that give a class to every pixel are worked on here, DETR's with masks in `object_segmentation`; all
others go through transformers' code unchanged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import ImageSegmentationPipeline as TransformersPipeline

from hfvision.errors import ConfigError, numbered
from hfvision.models.detr.heads import DetrForSegmentation
from hfvision.models.semantic import SemanticModel
from hfvision.pipelines.any_image import AnyImages, plan_of, read_picture, run_by_size, size_of
from hfvision.pipelines.maps import class_colours, class_map, class_masks, class_names, map_dtype
from hfvision.pipelines.mosaic import WINDOWS, segment
from hfvision.pipelines.object_segmentation import TRANSFORMERS_OPTIONS, ObjectSegments
from hfvision.pipelines.sliding import Version, mosaic_of
from hfvision.pipelines.windows import Tiling, make_tiling
from hfvision.processing.semantic_maps import semantic_map
from hfvision.reporting import report_once
from hfvision.upsampling import Size

TILING = ("tile", "overlap", "stride", "blend", "rule")
VERSIONS = ("scales", "flip")
OUTPUTS = ("masks", "map")
WHOLE = {"do_center_crop": False, "do_pad": False}  # windows are cut from all of the image, and nothing but it


@dataclass(frozen=True)
class _Prepared:
    versions: list[Version]
    size: Size  # of the image itself
    tiling: Tiling | None  # None: the image as a whole, in the way of transformers
    batch_size: int  # windows that run together


@dataclass(frozen=True)
class _Map:
    classes: Tensor  # (H, W)
    scores: Tensor | None  # (H, W)


class SemanticSegments(AnyImages, TransformersPipeline):
    """What the pipeline does for models that give a class to every pixel; see there."""

    own_options = (*TRANSFORMERS_OPTIONS, *TILING, *VERSIONS, "output", "scores")

    def _sanitize_parameters(self, **options: Any) -> Any:
        ours = {name: options.pop(name) for name in (*TILING, *VERSIONS, "window_batch") if name in options}
        shown = {name: options.pop(name) for name in ("output", "scores") if name in options}
        preprocess, forward, postprocess = super()._sanitize_parameters(**options)
        if (ours or shown) and not self._ours:
            raise ConfigError(
                f"{', '.join([*ours, *shown])}: only models of hfvision that give a class to every pixel take these, "
                f"with an image processor of hfvision; got {type(self.model).__name__} and "
                f"{type(self.image_processor).__name__}."
            )
        forward = forward | {"want_scores": shown["scores"]} if "scores" in shown else forward
        return preprocess | ours, forward, postprocess | ({"output": shown["output"]} if "output" in shown else {})

    def __call__(self, inputs: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        asks = {*TILING, *VERSIONS} & {*kwargs, *self._preprocess_params}
        if asks and kwargs.get("batch_size") is not None:
            kwargs["window_batch"] = kwargs.pop("batch_size")
        if asks and kwargs.get("num_workers") is None:  # whole images are large: one at a time
            kwargs["num_workers"] = self._num_workers or 0
        return super().__call__(inputs, **kwargs)

    def preprocess(self, image: Any, subtask: str | None = None, timeout: float | None = None, **ours: Any) -> Any:  # type: ignore[override]
        if not self._ours:
            return super().preprocess(image, subtask=subtask, timeout=timeout)
        if subtask not in (None, "semantic"):
            raise ConfigError(f"{type(self.model).__name__} does semantic segmentation alone; got subtask={subtask!r}.")
        processor, reading = self._processor, self._reading(ours)
        stored = getattr(processor, "window_size", None), getattr(processor, "window_stride", None)
        asked = {name: ours[name] for name in TILING if ours.get(name) is not None}
        tiling = make_tiling(**asked, stored=stored) if asked else None
        scales, flip = _checked_versions(ours.get("scales"), ours.get("flip"))
        enlarged = tiling is not None or len(scales) > 1 or scales[0] > 1
        if enlarged:
            reading["decode"] = "exact"
        plan = plan_of(processor, **reading)
        picture = read_picture(image, plan, timeout)
        size = size_of(picture, plan)
        resize = {} if plan.size is None else dict(plan.size)
        if resize and tiling is not None and not (ours.get("rule") and "shortest_edge" in resize):
            report_once(f"Windows see an image at its own resolution: the processor's resize to {resize} is left out.")
            resize = {}
        whole = {} if tiling is None else WHOLE
        versions: list[Version] = []
        for scale in scales:
            options = reading | whole | _at_scale(scale, resize, size)
            pixels = processor(images=picture, return_tensors="pt", **options)["pixel_values"][0].to(self.dtype)
            versions += [(pixels, False)] + [(pixels.flip(-1), True)] * flip
        if tiling is None and len(versions) > 1:
            tiling = Tiling()
        return {"image": _Prepared(versions, size, tiling, ours.get("window_batch") or WINDOWS)}

    def _forward(self, model_inputs: Any, want_scores: bool = False) -> Any:  # type: ignore[override]
        if not self._ours:
            return super()._forward(model_inputs)
        images: _Prepared | list[_Prepared] = model_inputs["image"]
        if isinstance(images, _Prepared):
            return {"map": self._maps([images], want_scores)[0]}
        return {"map": self._maps(images, want_scores)}

    def _maps(self, images: Sequence[_Prepared], want_scores: bool) -> list[_Map]:
        whole = [image for image in images if image.tiling is None]
        logits = run_by_size([image.versions[0][0][None].to(self.device) for image in whole], self._coarse)
        coarse = iter(logits)
        return [
            self._whole(image, next(coarse), want_scores)
            if image.tiling is None
            else self._in_windows(image, image.tiling, want_scores)
            for image in images
        ]

    def _coarse(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values=pixel_values, upsample=False).logits

    def _whole(self, image: _Prepared, logits: Tensor, want_scores: bool) -> _Map:
        model: Any = self.model
        height, width = image.versions[0][0].shape[-2:]
        classes, scores = semantic_map(logits, image.size, model.map_upsampling((height, width)), want_scores)
        return _Map(classes.cpu(), None if scores is None else scores.cpu())

    def _in_windows(self, image: _Prepared, tiling: Tiling, want_scores: bool) -> _Map:
        model: Any = self.model
        mosaics = [mosaic_of(model, version, tiling, image.size, image.batch_size) for version in image.versions]
        classes = torch.empty(image.size, dtype=torch.int64)
        scores = torch.empty(image.size) if want_scores else None
        for top, strip, sure in segment(mosaics, want_scores):
            classes[top : top + len(strip)] = strip
            if scores is not None and sure is not None:
                scores[top : top + len(strip)] = sure
        return _Map(classes, scores)

    def postprocess(self, model_outputs: Any, output: str = "masks", **options: Any) -> Any:  # type: ignore[override]
        if not self._ours:
            return super().postprocess(model_outputs, **options)
        if output not in OUTPUTS:
            raise ConfigError(f"output is {' or '.join(map(repr, OUTPUTS))}; got {output!r}.")
        answer: _Map = model_outputs["map"]
        names = class_names(self.model)
        classes = answer.classes.numpy().astype(map_dtype(len(names)))
        scores = None if answer.scores is None else answer.scores.numpy()
        colours = class_colours(self.image_processor, len(names))
        return class_masks(classes, scores, names) if output == "masks" else class_map(classes, scores, names, colours)


class ImageSegmentationPipeline(ObjectSegments, SemanticSegments):  # type: ignore[misc]
    """Segments paths, URLs, PIL images, numpy arrays and torch tensors; lists, generators and `datasets` columns.

    Models that give a class to every pixel. Without options the result is transformers': for each class that occurs
    {"score": None, "label", "mask"}.

    output="map" gives one dict for an image: "map", a picture of mode P whose pixels are the classes (I;16 above 256 of
    them); "classes", the same as an array (H, W); "labels", for each class that occurs its "id", "label", "pixels",
    "share" of the image and mean "score"; "scores", the probability of each pixel's class (H, W) float32; "colours"
    (K, 3) uint8 and "names" of all K classes. Scores of both kinds are None unless scores=True. A model of one class
    says 1 where its probability is above 0.5.

    tile= (pixels) cuts the image, at its own resolution, into windows that overlap= (0.25 of a tile) or have stride=,
    and blend="gauss", "mean" or "none" joins their logits; with it, batch_size counts windows. rule="segmenter" or
    "mmseg" does what the evaluation of the original repositories does, with the window and stride of the processor
    unless others are given; a processor that keeps an image's proportions then resizes it first. scales=(0.75, 1, ...)
    and flip=True average the probabilities over versions of the image.

    DETR's models with masks. subtask= is "panoptic" (default), "instance" or "semantic". Without further options the
    result is transformers': for each segment {"score", "label", "mask"}, with the same threshold= (0.9),
    mask_threshold= (0.5) and overlap_mask_area_threshold= (0.5); "semantic" is as above. label_ids_to_fuse= names the
    classes whose segments become one, by number or name, and rule="detr" joins masks as the original does, with its
    thresholds; both for panoptic segmentation.

    output="map" gives "map", a picture whose pixels are the ids of segments, 0 where there is none; "segmentation", the
    same as an array (H, W); "segments_info", for each segment its "id", "label_id", "label", "score", "pixels" and
    "share" of the image; and "colours", by id. output="arrays" gives `Detections` with masks, and output="picture" the
    image with its segments laid over it.

    Raises ImageValueError for an empty list, ConfigError for options that cannot work, and what the processor raises.
    """

    own_models = (SemanticModel, DetrForSegmentation)


def _checked_versions(scales: Any, flip: Any) -> tuple[Sequence[float], bool]:
    problems = []
    numbers = (1.0,) if scales is None else (scales,) if isinstance(scales, int | float) else tuple(scales)
    if not numbers or not all(isinstance(scale, int | float) and scale > 0 for scale in numbers):
        problems.append(f"scales are factors above 0, at least one; got {scales!r}")
    if flip not in (None, False, True):
        problems.append(f"flip is True or False; got {flip!r}")
    if problems:
        raise ConfigError(numbered("fault", problems))
    return numbers, bool(flip)


def _at_scale(scale: float, resize: Mapping[str, int], size: Size) -> dict[str, Any]:
    """The options that bring an image to `scale` times what it is resized to, or its own size if it is not."""
    if resize:
        return {"size": {name: max(1, round(side * scale)) for name, side in resize.items()}} if scale != 1 else {}
    height, width = (max(1, round(side * scale)) for side in size)
    return {"do_resize": scale != 1, "size": {"height": height, "width": width}}
