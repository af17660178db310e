"""Fine-tuning semantic segmentation: images with label maps -> a folder that `pipeline("image-segmentation")` loads.

    result = train_segmentation("nvidia/mit-b0", "streets/", "out", args={"num_train_epochs": 20})

Held-out figures are measured at the size of the label maps as they are stored, one image after the other: nothing is
kept but counts.

Shapes: B images, C channels, H x W pixels of a label map as stored, h x w of what the model gets, K classes.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForSemanticSegmentation, EvalPrediction, TrainingArguments

from hfvision.data.segmentation import SegmentationData, prepare_segmentation
from hfvision.data.segmented_images import SegmentedImages
from hfvision.data.sources import Source
from hfvision.errors import ConfigError, DatasetError, numbered
from hfvision.losses.segmentation import SegmentationLoss
from hfvision.metrics.segmentation import SegmentationMetric
from hfvision.models.semantic import SemanticModel
from hfvision.options import option
from hfvision.processing.segmentation import BaseSegmentationImageProcessor
from hfvision.processing.semantic_maps import semantic_map
from hfvision.reporting import report
from hfvision.training.arguments import VisionTrainingArguments
from hfvision.training.augmentation import JointAugment, Preparation, StandardAugmentation, preparation
from hfvision.training.base import Base, ModelSource, check_images_fit, fit_head, set_drop_path
from hfvision.training.class_weights import CLASS_WEIGHTS, ClassWeights, class_weights_of
from hfvision.training.held_out import LOSS, ImageMeans, losses_of_pixels
from hfvision.training.loop import Samples
from hfvision.training.progress import diverged
from hfvision.training.recipe import Measuring, Recipe, TaskOptions, without_smoothing
from hfvision.training.recording import ImageNames, SegmenterRecorder
from hfvision.training.run import Run, Task, TrainingResult, described, listed
from hfvision.training.settings import TrainingSettings, chosen
from hfvision.training.train import train
from hfvision.training.trainer import Trainer
from hfvision.upsampling import Upsampling

FIGURES = {"mean_iou": "mean_iou", "pixel_accuracy": "overall_accuracy", "mean_class_accuracy": "mean_accuracy"}
IGNORED = 255  # the label of pixels that do not count, where a processor says nothing else
NEW_HEAD_RATE = 10.0  # times the learning rate of a pretrained trunk, as the originals train a new head


@dataclass(frozen=True, kw_only=True)
class SegmentationResult(TrainingResult):
    """What came out; `per_class` is each class's IoU."""

    mean_iou: float  # of the classes that occur
    pixel_accuracy: float

    @property
    def summary(self) -> str:
        return f"mean IoU {self.mean_iou:.2%}"


def train_segmentation(
    model: ModelSource,
    dataset: Source | SegmentationData,
    output_dir: str | os.PathLike[str],
    *,
    args: VisionTrainingArguments | Mapping[str, Any] | None = None,
    settings: TrainingSettings | None = None,
    **options: Any,
) -> SegmentationResult:
    """Train on `dataset`, measure on held-out images, and write config, weights, processor and card to `output_dir`.

    `model`, `args`, `processor`, `license`, `output_dir` and `resume` are as in `train_classification`. `dataset` and
    `data_options` go to `prepare_segmentation`; other classes than the model's own get a new head, which then learns
    ten times as fast as a pretrained trunk unless `head_lr_multiplier` of the arguments says otherwise. `augment` is
    the standard recipe, or a function (image, mask, generator) -> (image, mask), or None.

    `loss` is a SegmentationLoss or its terms ("dice+cross_entropy"), by default the model's own; with `class_weights`,
    one for each class, {name: weight}, or "balanced" (see `balanced_weights`). It is recorded in run and card, in no
    config. What the data set says about its masks goes into the processor: `label_map`, `ignore_index`, no
    `do_reduce_labels`.

    Raises DatasetError, ConfigError or CheckpointReadError before anything is written, and ConfigError if training
    diverges.

    Example:
        >>> import hfvision
        >>> scenes = hfvision.load_digit_scenes(train=2, validation=1)
        >>> import tempfile
        >>> out = tempfile.mkdtemp()
        >>> columns = {"mask_column": "mask"}
        >>> result = hfvision.train_segmentation(
        ...     "segformer-digit-scenes", scenes, out, args={"max_steps": 1}, data_options=columns
        ... )
        >>> result.steps
        1
    """
    args = chosen(args, settings, options)
    return cast(
        "SegmentationResult", train("image-segmentation", model, dataset, output_dir, args, kind="semantic", **options)
    )


@dataclass(frozen=True, kw_only=True)
class SegmentationOptions(TaskOptions):
    """What is chosen of a segmenter beside model, data and arguments; see `train_segmentation`."""

    augment: StandardAugmentation | JointAugment | None = option(
        "The standard recipe: scaled, cut out, mirrored, other colors.",
        StandardAugmentation(),
        fields=StandardAugmentation,
        panel="Augmentation",
    )
    loss: SegmentationLoss | str | None = option(
        'Such as "cross_entropy", "dice+cross_entropy".', shown="the model's own"
    )
    class_weights: ClassWeights | None = CLASS_WEIGHTS

    def check(self, args: VisionTrainingArguments) -> VisionTrainingArguments:
        return without_smoothing(args)


def _task(run: Run, base: Base, data: SegmentationData, options: SegmentationOptions) -> Task[SegmentationResult]:
    model = check_model(base)
    for part in (data.train, data.evaluation):
        check_images_fit(base, part.split, len(part), _reader_of_images(part))
    new_head = fit_head(base, data.names)
    set_drop_path(base.model, run.args.drop_path_rate)
    criterion = _criterion(model, data, options.loss, options.class_weights)
    model.pixel_loss = criterion
    describe_labels(base, data)
    train = preparation(base.processor, options.augment, data.ignore_index)
    return Task(
        name="image-segmentation",
        result=SegmentationResult,
        base=base,
        data=data,
        new_head=new_head,
        train=SegmentedSamples(data.train, train, run.args.seed),
        evaluation=SegmentedSamples(data.evaluation, Preparation(base.processor), stored_masks=True),
        collate=Collator(data.ignore_index),
        counter=IoUCounter(data, run.arguments),
        plan={"augment": described(options.augment), "loss": criterion.describe()},
        described={"loss": listed(criterion.describe()), "augmentation": listed(described(options.augment))},
        trainer=SegmentationTrainer,
        head_lr_multiplier=NEW_HEAD_RATE if new_head and base.parent else 1.0,
        patience=run.args.early_stopping_patience or 0,
        class_figure="IoU",
    )


def _measure(
    base: Base, data: SegmentationData, args: VisionTrainingArguments, threshold: float, dataset: Any
) -> Measuring:
    part = data.evaluation
    check_images_fit(base, part.split, len(part), _reader_of_images(part))
    check_model(base)
    describe_labels(base, data)
    return Measuring(
        counter=IoUCounter(data, args),
        trainer=SegmentationTrainer,
        samples=SegmentedSamples(part, Preparation(base.processor), stored_masks=True),
        collate=Collator(data.ignore_index),
        class_figure="IoU",
        recorder=SegmenterRecorder(data.names, ImageNames(part.data, "image", dataset)),
    )


RECIPE = Recipe(
    task="semantic-segmentation",
    figure="mean_iou",
    auto_class=AutoModelForSemanticSegmentation,
    kind="a semantic segmentation model",
    data_class=SegmentationData,
    prepare=prepare_segmentation,
    datasets='Hub id, folder of images and masks, parquet file, or "digit-scenes[-large]".',
    options=SegmentationOptions,
    build=_task,
    measure=_measure,
)


class SegmentationTrainer(Trainer):
    """Trains on coarse logits, and evaluates at the size of the stored label maps."""

    compute_metrics: "IoUCounter"

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(model, {**inputs, "upsample": False}, *args, **kwargs)

    @torch.no_grad()
    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """What the metric counted in each image and its loss, stacked; images of one size run together."""
        inputs = self._prepare_inputs(inputs)
        images, labels, masks = inputs["images"], inputs["labels"], inputs["masks"]
        rows, semantic = range(len(images)), cast("SemanticModel", self.model)
        groups = [rows] if len({image.shape for image in images}) == 1 else [[row] for row in rows]
        losses: list[Tensor] = []
        counts: list[dict[str, Tensor]] = []
        for group in groups:
            pixel_values = torch.stack([images[row] for row in group])
            with self.compute_loss_context_manager():
                outputs = model(pixel_values=pixel_values, upsample=False)
            ignored = self.compute_metrics.ignore_index
            losses.append(losses_of_pixels(semantic, outputs.logits, [labels[row] for row in group], ignored))
            upsampling = semantic.map_upsampling((pixel_values.shape[-2], pixel_values.shape[-1]))
            counts += [
                self.compute_metrics.count(logits.float(), masks[row], upsampling)
                for logits, row in zip(outputs.logits, group, strict=True)
            ]
        counted = {name: torch.stack([one[name] for one in counts]) for name in counts[0]}
        return None, {**counted, LOSS: torch.cat(losses)}, inputs["rows"]


class SegmentedSamples(Samples):
    """Images and label maps as training takes them; with `stored_masks` also the label maps as they are."""

    part: SegmentedImages
    augment: Preparation

    def __init__(self, part: SegmentedImages, prepare: Preparation, seed: int = 0, stored_masks: bool = False) -> None:
        super().__init__(part, prepare, seed)
        self.stored_masks = stored_masks

    def sample(self, row: int, generator: np.random.Generator) -> dict[str, Any]:
        image, mask = self.part.read(row)
        try:
            pixels, labels = self.augment(image, mask, generator)
        except ValueError as error:  # what processors raise, hfvision's own errors included
            raise DatasetError(f"row {row} of split {self.part.split!r} cannot be prepared: {error}") from error
        stored = {"mask": torch.from_numpy(mask.astype(np.int64))} if self.stored_masks else {}
        return {"pixel_values": pixels, "labels": labels, **stored}


class Collator:
    """Samples -> a batch. Training: "pixel_values" (B, C, h, w) and "labels" (B, h, w), smaller ones padded right and
    below with zeros and the ignore index. Held-out: lists, of any sizes.
    """

    def __init__(self, ignore_index: int) -> None:
        self.ignore_index = ignore_index

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if "mask" in samples[0]:
            return {
                "rows": torch.tensor([sample["row"] for sample in samples]),
                "images": [sample["pixel_values"] for sample in samples],
                "labels": [sample["labels"] for sample in samples],
                "masks": [sample["mask"] for sample in samples],
            }
        height, width = (max(sample["labels"].shape[axis] for sample in samples) for axis in (0, 1))

        def padded(values: Tensor, filling: float) -> Tensor:
            return nn.functional.pad(values, (0, width - values.shape[-1], 0, height - values.shape[-2]), value=filling)

        return {
            "pixel_values": torch.stack([padded(sample["pixel_values"], 0) for sample in samples]),
            "labels": torch.stack([padded(sample["labels"], self.ignore_index) for sample in samples]),
        }


class IoUCounter:
    """Trainer's compute_metrics, called batch by batch: adds what was counted, and gives the figures at the last one.

    Raises ConfigError when the model's scores are no numbers.
    """

    def __init__(self, data: SegmentationData, arguments: TrainingArguments) -> None:
        self.classes = len(data.names)
        self.ignore_index = data.ignore_index
        self.arguments = arguments
        self.total = self._metric()
        self.means = ImageMeans()
        self.last: dict[str, float] = {}
        self.samples = 0
        self.per_class: list[float | None] = []

    def count(self, logits: Tensor, mask: Tensor, upsampling: Upsampling | None) -> dict[str, Tensor]:
        """What the metric counts in one image. logits: (K, h, w), coarse. mask: (H, W)."""
        if logits.isnan().any():
            raise diverged("the model's scores are no numbers", self.arguments)
        classes, _ = semantic_map(logits, (mask.shape[0], mask.shape[1]), upsampling)
        metric = self._metric()
        metric.update(classes, mask)
        return {name: torch.as_tensor(counts).to(logits.device) for name, counts in metric.counts.items()}

    def __call__(self, batch: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        counted: Any = batch.predictions
        self.means.add(counted)
        self.total.merge({name: counts.sum(0).cpu().numpy() for name, counts in counted.items() if name != LOSS})
        if not compute_result:
            return {}
        self.per_class = self.total.per_class()
        found = self.total.compute()
        self.last = {ours: found[theirs] for ours, theirs in FIGURES.items()}
        self.samples = found["images"]
        return self.last | self.means.take()

    def _metric(self) -> SegmentationMetric:
        return SegmentationMetric(self.classes, ignore_index=self.ignore_index)


def check_model(base: Base) -> SemanticModel:
    """The model. Raises ConfigError where it or the processor is of another task."""
    kinds = {"model": type(base.model).__name__, "processor": type(base.processor).__name__}
    problems = []
    if not isinstance(base.model, SemanticModel):
        problems.append(f"the model is one of hfvision's that give a class to every pixel; got {kinds['model']}")
    if not isinstance(base.processor, BaseSegmentationImageProcessor):
        problems.append(f"the processor takes label maps, as SegformerImageProcessor does; got {kinds['processor']}")
    if problems or not isinstance(base.model, SemanticModel):
        raise ConfigError(numbered("problem", problems))
    return base.model


def _reader_of_images(part: SegmentedImages) -> Callable[[int], Any]:
    return lambda row: part.read(row)[0]


def _criterion(
    model: SemanticModel,
    data: SegmentationData,
    loss: SegmentationLoss | str | None,
    class_weights: ClassWeights | None,
) -> SegmentationLoss:
    """The loss to train with; it ignores what the data ignores. Raises ConfigError where they do not fit."""
    if not isinstance(loss, SegmentationLoss):
        own = model.default_loss
        loss = replace(own, ignore_index=data.ignore_index, terms=own.terms if loss is None else loss)
    if class_weights is not None:
        loss = replace(loss, class_weights=class_weights_of(class_weights, data.names, data.pixel_counts))
    problems = []
    if loss.ignore_index != data.ignore_index:
        problems.append(
            f"the loss ignores {loss.ignore_index} and the label maps have {data.ignore_index} where a pixel does not "
            "count; give both one ignore_index"
        )
    if loss.class_weights is not None and len(loss.class_weights) != len(data.names):
        problems.append(f"class_weights has {len(loss.class_weights)} values for {len(data.names)} classes")
    if problems:
        raise ConfigError(numbered("problem", problems))
    return loss


def describe_labels(base: Base, data: SegmentationData) -> None:
    """Write what the data set's label maps hold into the processor, and the ignored label into the config."""
    processor = base.processor
    if processor.do_reduce_labels:
        report("do_reduce_labels of the processor was switched off: the classes are numbered as the data set has them.")
    processor.do_reduce_labels = False
    processor.label_map = None if data.label_map is None else data.label_map.to_dict()
    if data.ignore_index != (processor.ignore_index or IGNORED):
        processor.ignore_index = data.ignore_index
    for field in ("semantic_loss_ignore_index", "loss_ignore_index"):
        if hasattr(base.model.config, field):
            setattr(base.model.config, field, data.ignore_index)
