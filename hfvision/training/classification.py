"""Fine-tuning an image classifier: model + data set -> a folder that `pipeline("image-classification")` loads.

result = train_classification("vit-digits", "photos/", "out", args={"num_train_epochs": 5})
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForImageClassification, EvalPrediction, TrainingArguments

from hfvision.data.classification import ClassificationData, prepare_classification
from hfvision.data.sources import Source
from hfvision.errors import ConfigError, DatasetError
from hfvision.layers.patch_embedding import pair
from hfvision.metrics.classification import ClassificationMetric
from hfvision.options import option
from hfvision.training.arguments import VisionTrainingArguments
from hfvision.training.base import Base, ModelSource, check_images_fit, fit_head, set_drop_path, set_image_size
from hfvision.training.class_weights import CLASS_WEIGHTS, ClassWeights, class_weights_of
from hfvision.training.classification_augmentation import (
    Augment,
    ClassificationAugmentation,
    StandardImagePreparation,
    standard_or_given,
)
from hfvision.training.classification_loss import LabelLoss
from hfvision.training.distillation import Distillation
from hfvision.training.held_out import LOSS, ImageMeans, losses_of_classes
from hfvision.training.loop import Samples, process
from hfvision.training.progress import diverged
from hfvision.training.recipe import Measuring, Recipe, TaskOptions
from hfvision.training.recording import ClassifierRecorder, ImageNames
from hfvision.training.run import Run, Task, TrainingResult, described, digest, listed
from hfvision.training.settings import TrainingSettings, chosen
from hfvision.training.train import train
from hfvision.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class ClassificationResult(TrainingResult):
    """What came out. metrics: accuracy, top_5_accuracy (six classes or more), mean_class_accuracy, loss."""

    accuracy: float  # share of the held-out images

    @property
    def summary(self) -> str:
        return f"accuracy {self.accuracy:.2%}"


def train_classification(
    model: ModelSource,
    dataset: Source | ClassificationData,
    output_dir: str | os.PathLike[str],
    *,
    args: VisionTrainingArguments | Mapping[str, Any] | None = None,
    settings: TrainingSettings | None = None,
    **options: Any,
) -> ClassificationResult:
    """Train on `dataset`, measure on held-out images, and write config, weights, processor and card to `output_dir`.

    `model` is a Hub id, a folder, a starter's name, one of these behind "new:" (the architecture with new weights), or
    a model (trained in place; give its `processor`, or one with the family's defaults at the config's image size is
    made). Other classes than the model's own get a new head. `dataset` and `data_options` go to
    `prepare_classification`. `augment` is the standard recipe, a `ClassificationAugmentation` (flip=0 where a mirrored
    image is of another class), a function (image, generator) -> image that is called before the processor, or None; its
    generator depends on seed, epoch and row only. `image_size` is that of model and processor from now on, pixels per
    side or (height, width). `class_weights` are one for each class, {name: weight}, or "balanced" (see
    `balanced_weights`), times the loss of an image; `label_smoothing` is the share of a label that all classes get:
    both shape what is learned, not the loss that is measured. `distillation` has a
    DeiTForImageClassificationWithTeacher learn from a teacher as well. `license` defaults to the base model's.

    `output_dir` is a new or empty folder. With `resume` it may hold the same run, interrupted: it continues after the
    last checkpoint; finished: its result is returned. On failure what can be resumed stays, otherwise nothing does.

    `args` are VisionTrainingArguments or a dict of their fields, as in `hfvision.train`, which this calls; `settings`
    are their form in hfvision 0.4, deprecated.

    Raises DatasetError, ConfigError or CheckpointReadError before anything is written, and ConfigError if training
    diverges.

    Example:
        >>> import tempfile, hfvision
        >>> digits = hfvision.load_digits()
        >>> few = {"train": digits["train"].select(range(40)), "test": digits["test"].select(range(20))}
        >>> result = hfvision.train_classification("vit-digits", few, tempfile.mkdtemp(), args={"max_steps": 1})
        >>> result.steps
        1
    """
    args = chosen(args, settings, options)
    return cast("ClassificationResult", train("image-classification", model, dataset, output_dir, args, **options))


@dataclass(frozen=True, kw_only=True)
class ClassificationOptions(TaskOptions):
    """What is chosen of a classifier beside model, data and arguments; see `train_classification`."""

    augment: Augment = option(
        "The standard recipe: a part of the image, mirrored, other colors.",
        "standard",
        fields=ClassificationAugmentation,
        panel="Augmentation",
    )
    image_size: int | Sequence[int] | None = option(
        "Side of the images that the model takes.", shown="the model's own", min=1
    )
    class_weights: ClassWeights | None = CLASS_WEIGHTS
    distillation: Distillation | None = None

    def check(self, args: VisionTrainingArguments) -> VisionTrainingArguments:
        if self.distillation is not None and (self.class_weights is not None or args.label_smoothing_factor):
            raise ConfigError(
                "with a teacher, label_smoothing is the Distillation's own, and classes have no weights: leave "
                "class_weights and label_smoothing_factor out."
            )
        standard_or_given(self.augment)  # raises for what is none
        return args


def _task(run: Run, base: Base, data: ClassificationData, options: ClassificationOptions) -> Task[ClassificationResult]:
    image_size, distillation, recipe = options.image_size, options.distillation, standard_or_given(options.augment)
    if image_size is not None:
        base = set_image_size(base, image_size)
    base.model.config.problem_type = "single_label_classification"
    new_head = fit_head(base, data.names)
    set_drop_path(base.model, run.args.drop_path_rate)
    for part in (data.train, data.evaluation):
        check_images_fit(base, part.split, len(part), part.read)
    teaching = None if distillation is None else distillation.loss_for(base.model)
    counts = np.bincount(data.train.labels, minlength=len(data.names))
    weights, smoothing = class_weights_of(options.class_weights, data.names, counts), run.args.label_smoothing_factor
    loss = LabelLoss(weights, smoothing) if weights is not None or smoothing else None
    prepare: Any = recipe
    if isinstance(recipe, ClassificationAugmentation):
        prepare = StandardImagePreparation(base.processor, recipe)
    return Task(
        name="image-classification",
        result=ClassificationResult,
        base=base,
        data=data,
        new_head=new_head,
        train=LabelledSamples(data.train, prepare, run.args.seed),
        evaluation=LabelledSamples(data.evaluation),
        collate=Collator(base.processor),
        counter=AccuracyCounter(len(data.names), run.arguments),
        plan={
            "augment": described(recipe),
            "loss": None if loss is None else loss.describe(),
            "image_size": None if image_size is None else list(pair(image_size)),
            "distillation": None if distillation is None else _teaching(distillation),
        },
        described={
            **({} if distillation is None else {"distillation": _listed(distillation.describe())}),
            "augmentation": listed(described(recipe)),
            **({} if loss is None else {"loss": f"cross-entropy, {listed(loss.describe())}"}),
        },
        trainer=partial(ClassificationTrainer, compute_loss_func=teaching or loss),
        patience=run.args.early_stopping_patience or 0,
        ended=() if teaching is None else (teaching.remove,),
    )


def _measure(
    base: Base, data: ClassificationData, args: VisionTrainingArguments, threshold: float, dataset: Any
) -> Measuring:
    part = data.evaluation
    check_images_fit(base, part.split, len(part), part.read)
    base.model.config.problem_type = "single_label_classification"
    return Measuring(
        counter=AccuracyCounter(len(data.names), args),
        trainer=ClassificationTrainer,
        samples=LabelledSamples(part),
        collate=Collator(base.processor),
        class_figure="accuracy",
        recorder=ClassifierRecorder(data.names, ImageNames(part.images, "image", dataset)),
    )


RECIPE = Recipe(
    task="image-classification",
    figure="accuracy",
    auto_class=AutoModelForImageClassification,
    kind="an image classifier",
    data_class=ClassificationData,
    prepare=prepare_classification,
    datasets='Hub id, folder of class folders, parquet file, or "digits".',
    options=ClassificationOptions,
    build=_task,
    measure=_measure,
)


class ClassificationTrainer(Trainer):
    """Evaluates image by image."""

    @torch.no_grad()
    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The logits of each image and its loss, and the labels."""
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels")
        with self.compute_loss_context_manager():
            logits = model(**inputs).logits
        return None, {"logits": logits, LOSS: losses_of_classes(logits, labels)}, labels


class LabelledSamples(Samples):
    """Images with the number of each one's class."""

    def sample(self, row: int, generator: np.random.Generator) -> dict[str, Any]:
        image, label = self.part.read(row), int(self.part.labels[row])
        if isinstance(self.augment, StandardImagePreparation):
            try:
                return {"pixel_values": self.augment(image, generator), "label": label}
            except ValueError as error:  # what processors raise, hfvision's own errors included
                raise DatasetError(f"row {row} of split {self.part.split!r} cannot be prepared: {error}") from error
        if self.augment is not None:
            image = self.augment(image, generator)
        return {"image": image, "label": label}


class Collator:
    """Samples -> {"pixel_values": (B, C, H, W), "labels": (B,)}."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        is_ready = "pixel_values" in samples[0]
        return {
            "pixel_values": torch.stack([sample["pixel_values"] for sample in samples])
            if is_ready
            else process(self.processor, samples)["pixel_values"],
            "labels": torch.tensor([sample["label"] for sample in samples]),
        }


class AccuracyCounter:
    """Trainer's compute_metrics, called batch by batch: counts, and gives the figures at the last one.

    Raises ConfigError when the model's scores are no numbers.
    """

    def __init__(self, num_labels: int, arguments: TrainingArguments) -> None:
        self.arguments = arguments
        self.metric = ClassificationMetric(num_labels)
        self.means = ImageMeans()
        self.last: dict[str, float] = {}
        self.samples = 0
        self.per_class: list[float | None] = []

    def __call__(self, batch: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        counted: Any = batch.predictions
        scores, labels = torch.as_tensor(counted["logits"]).float().cpu(), torch.as_tensor(batch.label_ids).cpu()
        if scores.isnan().any():
            raise diverged("the model's scores are no numbers", self.arguments)
        self.means.add(counted)
        self.metric.update(scores.numpy(), labels.numpy())
        if not compute_result:
            return {}
        self.per_class = self.metric.per_class()
        self.last = self.metric.compute()
        self.samples = int(self.last.pop("samples"))
        return self.last | self.means.take()


def _teaching(distillation: Distillation) -> dict[str, Any]:
    return distillation.describe() | {"weights": digest(distillation.teacher, ())}


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
