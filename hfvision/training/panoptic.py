"""Fine-tuning panoptic segmentation: images with segments -> a folder that `pipeline("image-segmentation")` loads.

    result = train_panoptic("facebook/detr-resnet-50", "street-panoptic/", "out")

Held-out figures are panoptic quality, at the size of the images as they are stored, one image after the other: nothing
is kept but counts.

Shapes: B images, K classes, H x W pixels of an image as stored.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForUniversalSegmentation, EvalPrediction

from hfvision.data.detection import DetectionData, prepare_detection
from hfvision.data.object_table import IMAGE
from hfvision.data.sources import Source
from hfvision.errors import ConfigError, DatasetError
from hfvision.metrics.confusion import pixel_confusion
from hfvision.metrics.panoptic import PanopticMetric
from hfvision.models.detr.heads import DetrForSegmentation
from hfvision.objects import ImageObjects, SegmentMasks
from hfvision.options import option
from hfvision.processing.panoptic_maps import post_process_panoptic_segmentation
from hfvision.training.arguments import VisionTrainingArguments
from hfvision.training.base import Base, ModelSource
from hfvision.training.detector import DetectorOptions, prepare_detector
from hfvision.training.detector_task import detector_task, measure_objects
from hfvision.training.held_out import ImageMeans
from hfvision.training.recipe import Measuring, Recipe
from hfvision.training.recording import ImageNames, PanopticRecorder
from hfvision.training.run import Run, Task, TrainingResult
from hfvision.training.settings import TrainingSettings, chosen
from hfvision.training.train import train

FIGURES = ("PQ", "SQ", "RQ")


@dataclass(frozen=True, kw_only=True)
class PanopticTrainingResult(TrainingResult):
    """What came out; `per_class` is each class's PQ. `metrics` also has those of things and of stuff."""

    PQ: float  # panoptic quality, the mean over classes: SQ * RQ of each
    SQ: float  # mean IoU of the segments that were found
    RQ: float  # share that was found

    @property
    def summary(self) -> str:
        return f"PQ {self.PQ:.2%} (SQ {self.SQ:.2%}, RQ {self.RQ:.2%})"


def train_panoptic(
    model: ModelSource,
    dataset: Source | DetectionData,
    output_dir: str | os.PathLike[str],
    *,
    args: VisionTrainingArguments | Mapping[str, Any] | None = None,
    settings: TrainingSettings | None = None,
    **options: Any,
) -> PanopticTrainingResult:
    """Train on `dataset`, measure on held-out images, and write config, weights, processor and card to `output_dir`.

    All as in `train_detection`, with PQ in the place of AP. `model` may be a detector, in hfvision's files or in those
    of transformers: it then gets a new mask head. In the data every segment is an object with a mask, those of stuff,
    too; of a class of stuff an image has one segment. `threshold` is the score above which a query counts as a segment
    where held-out images are measured.

    Raises DatasetError, ConfigError or CheckpointReadError before anything is written, and ConfigError if training
    diverges.

    Example:
        >>> import hfvision
        >>> scenes = hfvision.load_digit_scenes(train=2, validation=1)
        >>> import tempfile
        >>> result = hfvision.train_panoptic(
        ...     "detr-panoptic-digit-scenes", scenes, tempfile.mkdtemp(), args={"max_steps": 1}
        ... )
        >>> result.steps
        1
    """
    args = chosen(args, settings, options)
    return cast(
        "PanopticTrainingResult",
        train("image-segmentation", model, dataset, output_dir, args, kind="panoptic", **options),
    )


@dataclass(frozen=True, kw_only=True)
class PanopticOptions(DetectorOptions):
    """What is chosen of a panoptic model beside model, data and arguments; see `train_panoptic`."""

    threshold: float = option("Score above which a query is a segment, in held-out figures.", 0.5)

    def check(self, args: VisionTrainingArguments) -> VisionTrainingArguments:
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold is a score from 0 to 1; got {self.threshold}.")
        return super().check(args)

    def reading(self) -> dict[str, Any]:
        return {"panoptic": True}


def _task(run: Run, base: Base, data: DetectionData, options: PanopticOptions) -> Task[PanopticTrainingResult]:
    if data.train.read(0)[1].masks is None:
        raise DatasetError(
            f"{data.name}: panoptic segmentation needs a mask of every object; prepare it with panoptic=True."
        )
    detector = prepare_detector(base, data, options, DetrForSegmentation, run.args.backbone_lr_multiplier)
    return detector_task(
        run,
        "image-segmentation",
        PanopticTrainingResult,
        detector,
        data,
        PQCounter(len(data.names), data.things, options.threshold),
        augment=options.augment,
        masks=True,
        logged=FIGURES[1:],
        further={"threshold": options.threshold},
    )


def _measure(
    base: Base, data: DetectionData, args: VisionTrainingArguments, threshold: float, dataset: Any
) -> Measuring:
    return measure_objects(
        base,
        data,
        SegmentCounter(len(data.names), data.things, threshold),
        PanopticRecorder(data.names, ImageNames(data.evaluation.data, IMAGE, dataset)),
        "PQ",
        masks=True,
    )


RECIPE = Recipe(
    task="panoptic-segmentation",
    figure="PQ",
    auto_class=AutoModelForUniversalSegmentation,
    kind="a panoptic segmentation model",
    data_class=DetectionData,
    prepare=prepare_detection,
    datasets='Hub id, parquet file, folder in the form of COCO panoptic, or "digit-scenes[-large]".',
    options=PanopticOptions,
    build=_task,
    measure=_measure,
    uses_threshold=True,
)


class PQCounter:
    """Trainer's compute_metrics, called batch by batch: adds what was counted, and gives the figures at the end."""

    def __init__(self, num_labels: int, things: Sequence[int] | None, threshold: float) -> None:
        self.num_labels = num_labels
        self.things = things
        self.stuff = [] if things is None else [label for label in range(num_labels) if label not in things]
        self.groups = ("",) if things is None else ("", "_things", "_stuff")
        self.threshold = threshold
        self.total = self._metric()
        self.means = ImageMeans()
        self.last: dict[str, float] = {}
        self.samples = 0
        self.per_class: list[float | None] = []

    def count(self, outputs: Any, objects: Sequence[ImageObjects], pixel_mask: Tensor) -> dict[str, Tensor]:
        """What the metric counts in each image."""
        return self.counts_of(self.answers(outputs, objects, pixel_mask), objects, outputs.logits.device)

    def answers(self, outputs: Any, objects: Sequence[ImageObjects], pixel_mask: Tensor) -> list[dict[str, Any]]:
        """The segments of each image, at its stored size."""
        return post_process_panoptic_segmentation(
            outputs,
            self.threshold,
            label_ids_to_fuse=self.stuff,
            target_sizes=[one.size for one in objects],
            pixel_mask=pixel_mask,
        )

    def counts_of(
        self, answers: Sequence[dict[str, Any]], objects: Sequence[ImageObjects], device: torch.device
    ) -> dict[str, Tensor]:
        """What the metric counts in each image, on the device."""
        counts = []
        for answer, one in zip(answers, objects, strict=True):
            metric = self._metric()
            metric.update([answer], [segments_of(one)])
            counts.append(metric.counts)
        return {
            name: torch.from_numpy(np.stack([one[name] for one in counts])).to(device) for name in self.total.counted
        }

    def __call__(self, batch: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        counted: Any = batch.predictions
        self.means.add(counted)
        self.total.merge({name: counted[name].sum(0).cpu().numpy() for name in self.total.counted})
        if not compute_result:
            return {}
        figures = self.total.compute()
        self.samples = figures["images"]
        self.per_class = [None if math.isnan(share) else float(share) for share in figures["per_category_PQ"]]
        found = {name + group: float(figures[name + group]) for group in self.groups for name in FIGURES}
        self.last = {name: value for name, value in found.items() if not math.isnan(value)}
        return self.last | self.means.take()

    def _metric(self) -> PanopticMetric:
        return PanopticMetric(self.num_labels, self.things)


def segments_of(objects: ImageObjects) -> dict[str, Any]:
    """Objects with masks as `PanopticMetric` takes them; where masks overlap, the later one is in front."""
    masks = objects.masks
    if isinstance(masks, SegmentMasks):
        places: Any = masks.places
    else:
        places = np.zeros(objects.size, np.int32)
        for place, mask in enumerate([] if masks is None else masks.decoded(), start=1):
            places[mask] = place
    seen = np.bincount(places.ravel(), minlength=len(objects) + 1)[1:] > 0
    segments = [
        {"id": place + 1, "category_id": int(objects.labels[place]), "iscrowd": int(objects.crowd[place])}
        for place in np.flatnonzero(seen).tolist()
    ]
    return {"segmentation": places, "segments_info": segments}


class SegmentCounter(PQCounter):
    """Keeps the segments of each image, and the classes that its pixels have and got."""

    def count(self, outputs: Any, objects: Sequence[ImageObjects], pixel_mask: Tensor) -> dict[str, Tensor]:
        """Also "segments" (B, n, 4): id, class, score and area of each, -1 where there is none; and "pixels" (B, K + 1,
        K + 1), the confusion.
        """
        answers = self.answers(outputs, objects, pixel_mask)
        counted = self.counts_of(answers, objects, outputs.logits.device)
        tables = [torch.tensor(_segments(answer), dtype=torch.float64).reshape(-1, 4) for answer in answers]
        pixels = [self._pixels(answer, one) for answer, one in zip(answers, objects, strict=True)]
        further = {
            "segments": pad_sequence(tables, batch_first=True, padding_value=-1),
            "pixels": torch.from_numpy(np.stack(pixels)),
        }
        return counted | {name: values.to(outputs.logits.device) for name, values in further.items()}

    def _pixels(self, answer: Mapping[str, Any], objects: ImageObjects) -> NDArray[np.int64]:
        """Pixels of crowds and of no true segment count nowhere."""
        truth = segments_of(objects)
        true = _classes(truth, "category_id", {one["id"] for one in truth["segments_info"] if one["iscrowd"]})
        found = _classes(answer, "label_id", set())
        return pixel_confusion(true, np.where(found < 0, self.num_labels, found), self.num_labels + 1)


def _classes(segments: Mapping[str, Any], field: str, without: set[int]) -> NDArray[np.int64]:
    """(H, W) the class of each pixel; -1 where it has no segment, or one of `without`."""
    ids = torch.as_tensor(segments["segmentation"]).cpu().numpy().astype(np.int64)
    classes = np.full(ids.shape, -1)
    for one in segments["segments_info"]:
        if one["id"] not in without:
            classes[ids == one["id"]] = one[field]
    return classes


def _segments(answer: Mapping[str, Any]) -> list[list[float]]:
    """Id, class, score and area of each segment."""
    ids, areas = torch.as_tensor(answer["segmentation"]).unique(return_counts=True)
    area = dict(zip(ids.tolist(), areas.tolist(), strict=True))
    return [[one["id"], one["label_id"], one["score"], area.get(one["id"], 0)] for one in answer["segments_info"]]
