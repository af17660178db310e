"""The one table of tasks: a row for each that models of this package do, and for those that the Hub's pages tell apart.

Names are the Hub's. Classes are written "module:Class" and resolved when they are first asked for, so that the table
needs nothing else of this package. Adding a task means adding a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from hfvision.tasks.examples import CLASSIFY, DETECT, FEATURES, SEGMENT, Example

Answer = Literal["labels", "pixels", "objects", "segments"]


@dataclass(frozen=True, kw_only=True, eq=False)  # a row is equal to itself alone
class Task:
    """One task; where the Hub's name covers several kinds, one row for the models of each auto class."""

    name: str  # the Hub's, "image-segmentation"
    kinds: tuple[str, ...] = ()  # of answers within the name, the usual one first; empty: the name says it all
    auto_class: str | None = None  # of transformers, whose models do it; None: no model of this package does
    also: tuple[str, ...] = ()  # further auto classes whose models do it
    class_endings: tuple[str, ...] = ()  # of model classes that do it, of any library
    reading: str | None = None  # how a data set for it is read: one of `hfvision.reading_options.TASKS`
    answer: Answer | None = None  # what its pipeline says of an image, one of the kinds of `hfvision predict`
    old_name: str | None = None  # of 0.4.0, and of a training recipe where `name` covers several
    training: str | None = None  # the module whose RECIPE trains it
    example: Example | None = None  # code that uses a model; None: pages and cards show how to load it
    parts: Mapping[str, str] = field(default_factory=dict)
    """dataset, collator, loss, metric, compute_metrics, report and overlay, as far as the task has one."""

    @property
    def kind(self) -> str | None:
        """The usual kind of answer; None where the name says it all."""
        return self.kinds[0] if self.kinds else None

    @property
    def recipe(self) -> str:
        """The name that no other row has."""
        return self.old_name or self.name

    @property
    def auto_classes(self) -> tuple[str, ...]:
        return self.also if self.auto_class is None else (self.auto_class, *self.also)


TASKS = (
    Task(
        name="image-classification",
        auto_class="AutoModelForImageClassification",
        class_endings=("ForImageClassification", "ForImageClassificationWithTeacher"),
        reading="classification",
        answer="labels",
        training="hfvision.training.classification",
        example=CLASSIFY,
        parts={
            "dataset": "hfvision.data.classification:ClassificationData",
            "collator": "hfvision.training.collators:ClassificationCollator",
            "loss": "hfvision.losses.classification:classification_loss",
            "metric": "hfvision.metrics.classification:ClassificationMetric",
            "compute_metrics": "hfvision.training.compute_metrics:ComputeClassificationMetrics",
            "report": "hfvision.data.dataset_report:DatasetReport",
        },
    ),
    Task(
        name="image-segmentation",
        kinds=("semantic",),
        auto_class="AutoModelForSemanticSegmentation",
        class_endings=("ForSemanticSegmentation",),
        reading="segmentation",
        answer="pixels",
        old_name="semantic-segmentation",
        training="hfvision.training.segmentation",
        example=SEGMENT,
        parts={
            "dataset": "hfvision.data.segmentation:SegmentationData",
            "collator": "hfvision.training.collators:SegmentationCollator",
            "loss": "hfvision.losses.segmentation:SegmentationLoss",
            "metric": "hfvision.metrics.segmentation:SegmentationMetric",
            "compute_metrics": "hfvision.training.compute_metrics:ComputeSegmentationMetrics",
            "report": "hfvision.data.dataset_report:DatasetReport",
            "overlay": "hfvision.plots.segmentation:segmentation_overlay",
        },
    ),
    Task(
        name="object-detection",
        auto_class="AutoModelForObjectDetection",
        class_endings=("ForObjectDetection",),
        reading="detection",
        answer="objects",
        training="hfvision.training.detection",
        example=DETECT,
        parts={
            "dataset": "hfvision.data.detection:DetectionData",
            "collator": "hfvision.training.collators:DetectionCollator",
            "loss": "hfvision.losses.detection:DetectionLoss",
            "metric": "hfvision.metrics.detection:DetectionMetric",
            "compute_metrics": "hfvision.training.compute_metrics:ComputeDetectionMetrics",
            "report": "hfvision.data.dataset_report:DatasetReport",
            "overlay": "hfvision.plots.detection:detection_overlay",
        },
    ),
    Task(
        name="image-segmentation",
        kinds=("panoptic", "instance"),
        auto_class="AutoModelForImageSegmentation",
        also=("AutoModelForUniversalSegmentation",),
        class_endings=("ForUniversalSegmentation", "ForInstanceSegmentation", "ForSegmentation"),
        reading="panoptic",
        answer="segments",
        old_name="panoptic-segmentation",
        training="hfvision.training.panoptic",
        example=SEGMENT,
        parts={
            "dataset": "hfvision.data.detection:DetectionData",
            "collator": "hfvision.training.collators:PanopticCollator",
            "loss": "hfvision.losses.detection:DetectionLoss",
            "metric": "hfvision.metrics.panoptic:PanopticMetric",
            "compute_metrics": "hfvision.training.compute_metrics:ComputePanopticMetrics",
            "report": "hfvision.data.dataset_report:DatasetReport",
            "overlay": "hfvision.plots.panoptic:panoptic_overlay",
        },
    ),
    Task(
        name="image-feature-extraction",
        auto_class="AutoModel",
        also=("AutoModelForMaskedImageModeling",),
        class_endings=("ForMaskedImageModeling", "Backbone", "Model"),
        example=FEATURES,
    ),
    # No model of this package does these; the Hub's pages name them.
    Task(name="zero-shot-object-detection", class_endings=("ForZeroShotObjectDetection",)),
    Task(name="zero-shot-image-classification", class_endings=("CLIPModel", "SiglipModel")),
    Task(name="depth-estimation", class_endings=("ForDepthEstimation",)),
    Task(name="video-classification", class_endings=("ForVideoClassification",)),
    Task(name="mask-generation", class_endings=("ForMaskGeneration", "SamModel")),
    Task(name="keypoint-detection", class_endings=("ForKeypointDetection", "ForKeypointMatching")),
    Task(name="text-classification", class_endings=("ForSequenceClassification",)),
    Task(name="token-classification", class_endings=("ForTokenClassification",)),
    Task(name="question-answering", class_endings=("ForQuestionAnswering",)),
    Task(name="text-generation", class_endings=("ForCausalLM",)),
    Task(name="fill-mask", class_endings=("ForMaskedLM",)),
)

PIPELINES = {  # of this package, by the Hub's name
    "image-classification": "hfvision.pipelines.image_classification:ImageClassificationPipeline",
    "image-feature-extraction": "hfvision.pipelines.image_feature_extraction:ImageFeatureExtractionPipeline",
    "image-segmentation": "hfvision.pipelines.image_segmentation:ImageSegmentationPipeline",
    "object-detection": "hfvision.pipelines.object_detection:ObjectDetectionPipeline",
}
