"""From a model's answers to what people use, at photo size: label maps, masks, run lengths, segments.

Shapes: K classes, Q queries, h x w places of the model's grid, H x W pixels of the photo.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.models.detr.image_processing_pil_detr import convert_segmentation_to_rle
from transformers.utils.generic import ModelOutput

from hfvision.bench.case import Case, Goal, Pair, Setting
from hfvision.bench.suites import families as f
from hfvision.bench.twins import smooth_noise, their_class
from hfvision.pipelines.maps import class_masks
from hfvision.processing.detection import DetrImageProcessor
from hfvision.processing.panoptic_maps import segment_runs
from hfvision.processing.segmentation import SegformerImageProcessor

PHOTO = (3000, 4000)
QUERIES, FOUND, OBJECTS = 100, 25, 133
LABELS = 20


def _photo(setting: Setting, size: tuple[int, int] = PHOTO) -> tuple[int, int]:
    return (size[0] // 25, size[1] // 25) if setting.tiny else size


def semantic(setting: Setting, rough: float) -> Pair:
    """Logits (1, 150, 128, 128) to the class of each pixel."""
    classes, side = (7, 16) if setting.tiny else (f.PIXEL_CLASSES, 128)
    logits = smooth_noise(classes, (side, side), coarse=12, rough=rough)[None].to(setting.device)
    outputs = ModelOutput(logits=logits)
    theirs = their_class("segformer.image_processing_pil_segformer:SegformerImageProcessorPil")()
    ours = SegformerImageProcessor()

    def label_map(processor: Any) -> Tensor:
        maps: list[Tensor] = processor.post_process_semantic_segmentation(outputs, target_sizes=[_photo(setting)])
        return maps[0]

    return Pair(lambda: label_map(theirs), lambda: label_map(ours))


def panoptic(setting: Setting, size: tuple[int, int]) -> Pair:
    """Of 100 queries 25 have found something; masks of 200 x 267, as DETR gives them for photos of 3 : 4."""
    queries, found, grid = (10, 5, (25, 34)) if setting.tiny else (QUERIES, FOUND, (200, 267))
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(1, queries, OBJECTS + 1)
    logits[..., -1] = 10.0
    chosen = torch.arange(found) * (queries // found)
    logits[0, chosen, torch.randperm(OBJECTS, generator=generator)[:found]] = 20.0  # of different classes
    masks = smooth_noise(queries, grid, coarse=8, rough=0.1)[None] + 1.0
    outputs = ModelOutput(logits=logits.to(setting.device), pred_masks=masks.to(setting.device))
    theirs = their_class("detr.image_processing_pil_detr:DetrImageProcessorPil")()
    ours = DetrImageProcessor()

    def segments(processor: Any) -> dict[str, Any]:
        # By default all classes would be fused; and most segments lose more than a fifth of their mask to others.
        options = {
            "label_ids_to_fuse": set(),
            "overlap_mask_area_threshold": 0.1,
            "target_sizes": [_photo(setting, size)],
        }
        results: list[dict[str, Any]] = processor.post_process_panoptic_segmentation(outputs, **options)
        return results[0]

    return Pair(lambda: segments(theirs), lambda: segments(ours))


def _label_map(setting: Setting, size: tuple[int, int]) -> Tensor:
    """(H, W) int64, 20 classes in areas as those of a photo."""
    return smooth_noise(LABELS, _photo(setting, size), coarse=12, rough=0.0).argmax(dim=0)


def masks(setting: Setting) -> Pair:
    """A label map to a mask of each class, as the image-segmentation pipeline gives them."""
    classes = _label_map(setting, PHOTO).numpy()
    names = [f"class {index}" for index in range(LABELS)]

    def theirs() -> list[Any]:  # as its pipeline does
        found = []
        for label in np.unique(classes):
            mask = (classes == label) * 255
            found.append(Image.fromarray(mask.astype(np.uint8)))
        return found

    return Pair(theirs, lambda: [entry["mask"] for entry in class_masks(classes, None, names)])


def run_lengths(setting: Setting) -> Pair:
    """A map of segments to the runs of each."""
    classes = _label_map(setting, (1000, 1000))
    return Pair(lambda: convert_segmentation_to_rle(classes), lambda: segment_runs(classes))


CASES = (
    Case(
        "semantic-photo",
        partial(semantic, rough=0.3),
        Goal(4.5, memory_mb=500),
        tolerance=1e-6,
        unit="of the pixels",
        counts_flops=False,
    ),
    Case(
        "semantic-noise",
        partial(semantic, rough=3.0),
        Goal(4.5, memory_mb=500),
        tolerance=1e-6,
        unit="of the pixels",
        counts_flops=False,
    ),
    Case("panoptic-800x1067", partial(panoptic, size=(800, 1067)), tolerance=1e-5, counts_flops=False),
    Case("panoptic-3000x4000", partial(panoptic, size=PHOTO), Goal(1.4), tolerance=1e-5, counts_flops=False),
    Case("masks-3000x4000", masks, tolerance=0.0, counts_flops=False),
    Case("run-lengths-1000x1000", run_lengths, Goal(12.0), tolerance=0.0, counts_flops=False),
)
