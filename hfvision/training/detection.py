"""Fine-tuning object detection: images with boxes -> a folder that `pipeline("object-detection")` loads.

    result = train_detection("facebook/detr-resnet-50", "street/", "out")

Held-out figures are COCO's, of all queries, with boxes in pixels of the images as they are stored.

Shapes: B images, n queries or objects of an image.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForObjectDetection, EvalPrediction

from hfvision.data.detection import DetectionData, prepare_detection
from hfvision.data.object_table import IMAGE
from hfvision.data.sources import Source
from hfvision.errors import DatasetError
from hfvision.metrics.detection import DetectionMetric
from hfvision.models.detr.heads import DetrForObjectDetection
from hfvision.objects import ImageObjects
from hfvision.options import option
from hfvision.processing.detections import post_process_object_detection
from hfvision.training.arguments import VisionTrainingArguments, changed
from hfvision.training.base import Base, ModelSource
from hfvision.training.detection_samples import packed, unpacked
from hfvision.training.detector import DetectorOptions, prepare_detector
from hfvision.training.detector_task import detector_task, measure_objects
from hfvision.training.held_out import ImageMeans
from hfvision.training.overfit import LearntByHeart, OverfitCheck, judge, overfit_arguments, overfit_data
from hfvision.training.recipe import Measuring, Recipe
from hfvision.training.recording import DetectorRecorder, ImageNames
from hfvision.training.run import Run, Task, TrainingResult
from hfvision.training.settings import TrainingSettings, chosen
from hfvision.training.train import train

FIGURES = ("AP", "AP50", "AP75", "AR100")


@dataclass(frozen=True, kw_only=True)
class DetectionTrainingResult(TrainingResult):
    """What came out; `per_class` is each class's AP."""

    AP: float  # COCO's: the mean over IoU thresholds 0.50 to 0.95
    AP50: float
    AP75: float
    AR100: float
    overfit: OverfitCheck | None = None  # where it was asked for

    @property
    def summary(self) -> str:
        return f"AP {self.AP:.2%}, AP50 {self.AP50:.2%}"

    @property
    def passed(self) -> bool:
        return self.overfit is None or self.overfit.passed

    def in_words(self) -> str:
        return super().in_words() if self.overfit is None else self.overfit.in_words(self.AP50, self.steps)


def train_detection(
    model: ModelSource,
    dataset: Source | DetectionData,
    output_dir: str | os.PathLike[str],
    *,
    args: VisionTrainingArguments | Mapping[str, Any] | None = None,
    settings: TrainingSettings | None = None,
    **options: Any,
) -> DetectionTrainingResult:
    """Train on `dataset`, measure on held-out images, and write config, weights, processor and card to `output_dir`.

    `model`, `args`, `processor`, `license`, `output_dir` and `resume` are as in `train_classification`, and the
    defaults are those of detection (`VisionTrainingArguments.for_task`). `dataset` and `data_options` go to
    `prepare_detection`; other classes than the model's own get a new classifier. `augment` is the standard recipe, a
    `DetectionAugmentation`, a function (image, objects, generator) -> (image, objects), or None.

    A pretrained trunk learns a tenth as fast as the rest, `trunk_rate_factor` says otherwise (0: it does not learn); a
    ResNet's stem and first stage only learn where the trunk is new. `trunk` is a classifier or segmenter, in memory
    or a name, that the trunk's weights are taken from. `num_queries` is the most objects that are found in an image:
    the model's first queries are kept, further ones start anew. `loss` changes fields of DetectionLoss, such as
    {"eos_coefficient": 0.2, "weights": {"loss_giou": 4}}. These are recorded in run and card, in no config.

    Training ends after `patience` evaluations without a better AP (0: never); by default 12, and never for new weights.

    With `overfit` it is tried whether so many images can be learnt by heart: without augmentation, measured on the
    same images, until AP50 is above 0.9 in two evaluations in a row or the steps are used up (3,000, where the
    arguments name none). The result's `overfit` says whether it was passed, and else what to look at.

    Raises DatasetError, ConfigError or CheckpointReadError before anything is written, and ConfigError if training
    diverges.

    Example:
        >>> import hfvision
        >>> scenes = hfvision.load_digit_scenes(train=2, validation=1)
        >>> import tempfile
        >>> result = hfvision.train_detection("detr-digit-scenes", scenes, tempfile.mkdtemp(), args={"max_steps": 1})
        >>> result.steps
        1
    """
    args = chosen(args, settings, options)
    return cast("DetectionTrainingResult", train("object-detection", model, dataset, output_dir, args, **options))


@dataclass(frozen=True, kw_only=True)
class DetectionOptions(DetectorOptions):
    """What is chosen of a detector beside model, data and arguments; see `train_detection`."""

    overfit: int | None = option(
        "Only try whether so many images can be learned by heart (AP50 above 0.9); exit code 1 if not."
    )

    def check(self, args: VisionTrainingArguments) -> VisionTrainingArguments:
        DetectionMetric(1)  # raises where its backend is not installed
        args = super().check(args)
        if self.overfit is None:
            return args
        return changed(overfit_arguments(args, self.overfit), early_stopping_patience=0)

    def reading(self) -> dict[str, Any]:
        return {} if self.overfit is None else {"overlap": "report"}  # with images of training, and with them alone

    def changed_data(self, data: DetectionData, args: VisionTrainingArguments) -> DetectionData:
        return data if self.overfit is None else overfit_data(data, self.overfit, args.seed)

    def finished(self, result: Any, base: Base, data: DetectionData) -> Any:
        if self.overfit is None:
            return result
        return replace(result, overfit=judge(result.history, base, self.trunk is not None, data))


def _task(run: Run, base: Base, data: DetectionData, options: DetectionOptions) -> Task[DetectionTrainingResult]:
    detector = prepare_detector(base, data, options, DetrForObjectDetection, run.args.backbone_lr_multiplier)
    return detector_task(
        run,
        "object-detection",
        DetectionTrainingResult,
        detector,
        data,
        APCounter(len(data.names)),
        augment=None if options.overfit is not None else options.augment,
        ends=[] if options.overfit is None else [LearntByHeart()],
        logged=FIGURES[1:],
    )


def _measure(
    base: Base, data: DetectionData, args: VisionTrainingArguments, threshold: float, dataset: Any
) -> Measuring:
    part = data.evaluation
    recorder = DetectorRecorder(data.names, ImageNames(part.data, IMAGE, dataset), part.image_ids, threshold)
    return measure_objects(base, data, APCounter(len(data.names)), recorder, "AP")


RECIPE = Recipe(
    task="object-detection",
    figure="AP",
    auto_class=AutoModelForObjectDetection,
    kind="an object detection model",
    data_class=DetectionData,
    prepare=prepare_detection,
    datasets='Hub id, parquet file, folder of an annotation tool (COCO, VOC, YOLO, ...), or "digit-scenes".',
    options=DetectionOptions,
    build=_task,
    measure=_measure,
)


class APCounter:
    """Trainer's compute_metrics, called batch by batch: keeps what was found, and gives COCO's figures at the last one.

    Raises DatasetError where no held-out image has an object to be found.
    """

    def __init__(self, num_labels: int) -> None:
        self.metric = DetectionMetric(num_labels)
        self.means = ImageMeans()
        self.last: dict[str, float] = {}
        self.samples = 0
        self.per_class: list[float | None] = []

    def count(self, outputs: Any, objects: Sequence[ImageObjects], pixel_mask: Tensor) -> dict[str, Tensor]:
        """ "found" (B, n, 6): score, class and box of each query, -1 where there is none; "objects", see `packed`."""
        results = post_process_object_detection(outputs, 0.0, [one.size for one in objects])
        columns = [torch.column_stack([one["scores"], one["labels"], one["boxes"]]).double() for one in results]
        found = pad_sequence(columns, batch_first=True, padding_value=-1)
        return {"found": found, "objects": packed(objects).to(found.device)}

    def __call__(self, batch: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        counted: Any = batch.predictions
        self.means.add(counted)
        references = unpacked(counted["objects"], torch.as_tensor(batch.label_ids))
        self.metric.update([_prediction(one) for one in counted["found"].cpu()], references)
        if not compute_result:
            return {}
        figures = self.metric.compute()
        if math.isnan(figures["AP"]):
            raise DatasetError("no held-out image has an object to be found, so there is nothing to measure.")
        self.last = {name: figures[name] for name in FIGURES}
        self.samples = figures["images"]
        self.per_class = [None if math.isnan(share) else float(share) for share in figures["per_category_AP"]]
        return self.last | self.means.take()


def _prediction(found: Tensor) -> dict[str, Tensor]:
    found = found[found[:, 0] >= 0]
    return {"scores": found[:, 0], "labels": found[:, 1].long(), "boxes": found[:, 2:]}
