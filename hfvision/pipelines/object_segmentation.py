"""Panoptic, instance and semantic segmentation with DETR's masks: its part of `pipeline("image-segmentation")`.

Shapes: Q queries, K classes, h x w places of a mask, H x W pixels of the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from transformers import ImageSegmentationPipeline as TransformersPipeline
from transformers.models.detr.modeling_detr import DetrSegmentationOutput

from hfvision.detections import Detections
from hfvision.errors import ConfigError, UnknownNameError
from hfvision.geometry import masks_to_boxes
from hfvision.labels.outputs import output_names
from hfvision.models.detr.heads import DetrForSegmentation
from hfvision.pipelines.any_image import PADDING, AnyImages, plan_of, read_picture, run_by_size, size_of
from hfvision.pipelines.maps import Array, class_colours, class_map, class_masks, map_dtype, map_picture, mask_picture
from hfvision.plots.detection import detection_overlay
from hfvision.plots.panoptic import panoptic_overlay
from hfvision.processing.palette import class_palette
from hfvision.processing.panoptic_maps import (
    post_process_instance_segmentation,
    post_process_panoptic_segmentation,
    post_process_semantic_segmentation,
)
from hfvision.tasks import TASKS
from hfvision.upsampling import Size

SUBTASKS = (*next(task.kinds for task in TASKS if task.answer == "segments"), "semantic")
OUTPUTS = ("masks", "map", "arrays", "picture")
THRESHOLDS = {"threshold": 0.9, "mask_threshold": 0.5, "overlap_mask_area_threshold": 0.5}  # transformers' pipeline's
TRANSFORMERS_OPTIONS = ("subtask", *THRESHOLDS)
OF_OBJECTS = ("label_ids_to_fuse", "rule")
OF_CLASSES = ("tile", "overlap", "stride", "blend", "scales", "flip", "scores")
"""Options for models that give a class to every pixel."""


@dataclass(frozen=True)
class _Prepared:
    pixels: Tensor  # (1, C, H', W')
    size: Size  # of the image itself
    picture: Any  # the image, where it is to be drawn on


@dataclass(frozen=True)
class _Masks:
    outputs: DetrSegmentationOutput  # logits (1, Q, K + 1), pred_masks (1, Q, h, w)
    size: Size
    processed: Size  # that the image had for the model
    picture: Any


class ObjectSegments(AnyImages, TransformersPipeline):
    """What the pipeline does for DETR's models with masks; see there."""

    def _own_options(self) -> tuple[str, ...]:
        return (*TRANSFORMERS_OPTIONS, *OF_OBJECTS, "output") if self._segments_objects else super()._own_options()

    def _reading_options(self) -> frozenset[str]:
        return super()._reading_options() - (PADDING if self._segments_objects else set())

    @property
    def _segments_objects(self) -> bool:
        return self._ours and isinstance(self.model, DetrForSegmentation)

    def _sanitize_parameters(self, **options: Any) -> Any:
        if not self._segments_objects:
            if "label_ids_to_fuse" in options:
                raise ConfigError(
                    "label_ids_to_fuse: only DETR models of hfvision with masks take it; got "
                    f"{type(self.model).__name__}."
                )
            return super()._sanitize_parameters(**options)
        if unfit := [name for name in OF_CLASSES if name in options]:
            raise ConfigError(
                f"{', '.join(unfit)}: for models that give a class to every pixel; {type(self.model).__name__} finds "
                "objects, and the object-detection pipeline takes tile= for it."
            )
        own = {name: options.pop(name) for name in OF_OBJECTS if name in options}
        shown = {name: options.pop(name) for name in ("output",) if name in options}
        preprocess, forward, postprocess = super()._sanitize_parameters(**options)
        return preprocess | shown, forward, postprocess | own | shown

    def preprocess(  # type: ignore[override]
        self, image: Any, subtask: str | None = None, timeout: float | None = None, **options: Any
    ) -> Any:
        if not self._segments_objects:
            return super().preprocess(image, subtask=subtask, timeout=timeout, **options)
        output = options.get("output", "masks")
        if subtask not in (None, *SUBTASKS):
            raise ConfigError(f"subtask is {', '.join(SUBTASKS)}, or None, which is {SUBTASKS[0]}; got {subtask!r}.")
        if output not in OUTPUTS or (subtask == "semantic" and output in OUTPUTS[2:]):
            offered = OUTPUTS[:2] if subtask == "semantic" else OUTPUTS
            kind = subtask or SUBTASKS[0]
            raise ConfigError(f"output is {', '.join(map(repr, offered))} for {kind} segmentation; got {output!r}.")
        reading, drawn = self._reading(options), output == "picture"
        if drawn:
            reading["decode"] = "exact"
        plan = plan_of(self._processor, **reading)
        opened = read_picture(image, plan, timeout)
        processed = self._processor(images=opened, do_pad=False, return_tensors="pt", **reading)
        pixels = processed["pixel_values"].to(self.dtype)
        return {"image": _Prepared(pixels, size_of(opened, plan), opened if drawn else None)}

    def _forward(self, model_inputs: Any, **options: Any) -> Any:  # type: ignore[override]
        if not self._segments_objects:
            return super()._forward(model_inputs, **options)
        images = model_inputs["image"]
        return {"masks": self._masks(images) if isinstance(images, list) else self._masks([images])[0]}

    def _masks(self, images: Sequence[_Prepared]) -> list[_Masks]:
        outputs = run_by_size([image.pixels.to(self.device) for image in images], self._each)
        return [
            _Masks(one, image.size, (image.pixels.shape[-2], image.pixels.shape[-1]), image.picture)
            for one, image in zip(outputs, images, strict=True)
        ]

    def _each(self, pixel_values: Tensor) -> list[DetrSegmentationOutput]:
        outputs = self.model(pixel_values=pixel_values)
        return [
            DetrSegmentationOutput(logits=logits[None], pred_boxes=boxes[None], pred_masks=masks[None])
            for logits, boxes, masks in zip(outputs.logits, outputs.pred_boxes, outputs.pred_masks, strict=True)
        ]

    def postprocess(self, model_outputs: Any, **options: Any) -> Any:  # type: ignore[override]
        if not self._segments_objects:
            return super().postprocess(model_outputs, **options)
        subtask, output = options.pop("subtask", None), options.pop("output", "masks")
        masks: _Masks = model_outputs["masks"]
        names = output_names(self.model)
        if subtask == "semantic":
            return self._semantic(masks, names, output)
        segments = Segments.of(self._segmented(masks, subtask, names, options), names)
        if output == "masks":
            return segments.masks()
        if output == "map":
            return segments.map()
        if output == "picture" and subtask != "instance":
            return panoptic_overlay(masks.picture, segments.ids, segments.info, names)
        found = segments.detections(names)
        return detection_overlay(masks.picture, found) if output == "picture" else found

    def _segmented(
        self, masks: _Masks, subtask: str | None, names: list[str], options: dict[str, Any]
    ) -> dict[str, Any]:
        options = {name: value for name, value in options.items() if value is not None}
        if subtask == "instance":
            if unfit := [name for name in OF_OBJECTS if name in options]:
                raise ConfigError(f"{', '.join(unfit)}: for panoptic segmentation; got subtask='instance'.")
            return post_process_instance_segmentation(masks.outputs, target_sizes=[masks.size], **THRESHOLDS | options)[
                0
            ]
        if options.get("rule") == "detr":  # which has thresholds of its own
            options["processed_sizes"] = [masks.processed]
        else:
            options = THRESHOLDS | options
        if "label_ids_to_fuse" in options:
            options["label_ids_to_fuse"] = _classes(options["label_ids_to_fuse"], names)
        return post_process_panoptic_segmentation(masks.outputs, target_sizes=[masks.size], **options)[0]

    def _semantic(self, masks: _Masks, names: list[str], output: str) -> Any:
        classes = post_process_semantic_segmentation(masks.outputs, target_sizes=[masks.size])[0].cpu().numpy()
        classes = classes.astype(map_dtype(len(names)))
        if output == "masks":
            return class_masks(classes, None, names)
        return class_map(classes, None, names, class_colours(self.image_processor, len(names)))


def _classes(given: Any, names: list[str]) -> list[int]:
    """Classes by number or name. Raises UnknownNameError; numbers are checked where they are used."""
    wanted = [given] if isinstance(given, str | int) else list(given)
    if unknown := [one for one in wanted if isinstance(one, str) and one not in names]:
        raise UnknownNameError(f"no class is called {', '.join(unknown)}; there are {', '.join(names[:50])}.")
    return [names.index(one) if isinstance(one, str) else one for one in wanted]


@dataclass(frozen=True)
class Segments:
    """The segments of an image, each pixel in at most one."""

    ids: Array  # (H, W) int32, 0 where there is none
    info: list[dict[str, Any]]  # for each "id", "label_id", "label", "score", "pixels", "share", perhaps "was_fused"

    @classmethod
    def of(cls, result: dict[str, Any], names: Sequence[str]) -> "Segments":
        """From what the post-processing of the image gives."""
        ids = np.maximum(result["segmentation"].cpu().numpy(), 0).astype(np.int32)  # -1 where nothing was found at all
        pixels = np.bincount(ids.ravel(), minlength=1 + max((row["id"] for row in result["segments_info"]), default=0))
        info = [
            {
                **row,
                "label": names[row["label_id"]],
                "pixels": int(pixels[row["id"]]),
                "share": int(pixels[row["id"]]) / ids.size,
            }
            for row in result["segments_info"]
        ]
        return cls(ids, info)

    def masks(self) -> list[dict[str, Any]]:
        """As transformers' pipeline gives them."""
        return [
            {"score": row["score"], "label": row["label"], "mask": mask_picture(self.ids == row["id"])}
            for row in self.info
        ]

    def map(self) -> dict[str, Any]:
        count = 1 + max((row["id"] for row in self.info), default=0)
        colours = np.concatenate([np.zeros((1, 3), np.uint8), class_palette(count - 1)])
        return {
            "map": map_picture(self.ids, colours),
            "segmentation": self.ids,
            "segments_info": self.info,
            "colours": colours,
        }

    def detections(self, names: Sequence[str]) -> Detections:
        masks = np.zeros((len(self.info), *self.ids.shape), bool)
        for mask, row in zip(masks, self.info, strict=True):
            np.equal(self.ids, row["id"], out=mask)
        scores = np.array([row["score"] for row in self.info], np.float64)
        labels = np.array([row["label_id"] for row in self.info], np.int64)
        size = (self.ids.shape[0], self.ids.shape[1])
        return Detections(masks_to_boxes(masks), scores, labels, tuple(names), size, masks)
