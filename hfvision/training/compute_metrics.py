"""`compute_metrics` of any Trainer, one for each task: the metrics of hfvision's own trainings.

    trainer = transformers.Trainer(model, args, compute_metrics=hfvision.ComputeClassificationMetrics(), ...)

They take the whole evaluation at once or, with `batch_eval_metrics=True`, batch by batch: then nothing is kept but
counts. Detection and panoptic segmentation need that, or `eval_do_concat_batches=False`. Label maps and masks are
compared at the size that the collator made, boxes in pixels of the images as they were.

Shapes: B images, K classes, Q queries, n objects, H x W pixels of a label map, h x w of coarse logits.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction
from transformers.utils.generic import ModelOutput

from hfvision.errors import ConfigError
from hfvision.geometry import convert_boxes
from hfvision.geometry.arrays import to_numpy
from hfvision.metrics import ClassificationMetric, DetectionMetric, PanopticMetric, SegmentationMetric
from hfvision.processing.detections import post_process_object_detection
from hfvision.processing.panoptic_maps import post_process_panoptic_segmentation

NOT_COUNTED = -100  # Trainer pads labels with it, and a label of it counts nowhere


class ComputeMetrics(ABC):
    """Base of the metrics: counts batches, gives the figures at the end, then begins anew."""

    def __init__(self) -> None:
        self.metric: Any = None

    def __call__(self, evaluated: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """The metrics by their names, as shares of 0..1; {} while `compute_result` is False.

        Raises ConfigError for predictions of another task, and batches of objects that Trainer has joined.
        """
        for predictions, labels in _batches(evaluated):
            self.count(predictions, labels)
        if not compute_result:
            return {}
        found = self.figures()
        self.metric = None
        return {name: float(value) for name, value in found.items() if not np.isnan(value)}

    @abstractmethod
    def count(self, predictions: Any, labels: Any) -> None:
        """Add a batch to the metric."""

    @abstractmethod
    def figures(self) -> Mapping[str, float]:
        """What was counted."""


class ComputeClassificationMetrics(ComputeMetrics):
    """Accuracy, top_5_accuracy (six classes or more) and mean_class_accuracy of logits (B, K) and labels (B,).

    Example:
        >>> import numpy as np
        >>> from transformers import EvalPrediction
        >>> import hfvision
        >>> evaluated = EvalPrediction(np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([0, 0]))
        >>> hfvision.ComputeClassificationMetrics()(evaluated)["accuracy"]
        0.5
    """

    def count(self, predictions: Any, labels: Any) -> None:
        logits, labels = to_numpy(_entries(predictions)[0]), to_numpy(labels).reshape(-1)
        if logits.ndim != 2:
            raise ConfigError(f"a classifier predicts logits (B, K); got {logits.shape}.")
        counts = labels != NOT_COUNTED
        self.metric = self.metric or ClassificationMetric(logits.shape[1])
        self.metric.update(logits[counts], labels[counts])

    def figures(self) -> Mapping[str, float]:
        found = dict(self.metric.compute())
        found.pop("samples")
        return found


class ComputeSegmentationMetrics(ComputeMetrics):
    """mean_iou, pixel_accuracy and mean_class_accuracy of logits (B, K, h, w), resized to the labels (B, H, W).

    ignore_index: the label of pixels that do not count.

    Example:
        >>> import numpy as np, hfvision
        >>> from transformers import EvalPrediction
        >>> logits = np.zeros((1, 2, 4, 4), dtype=np.float32)
        >>> logits[:, 1, :, 2:] = 1
        >>> truth = np.array([[[0, 0, 1, 1]] * 4])
        >>> hfvision.ComputeSegmentationMetrics()(EvalPrediction(logits, truth))["mean_iou"]
        1.0
    """

    NAMES = {"mean_iou": "mean_iou", "pixel_accuracy": "overall_accuracy", "mean_class_accuracy": "mean_accuracy"}

    def __init__(self, ignore_index: int = 255) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def count(self, predictions: Any, labels: Any) -> None:
        logits, labels = _tensor(_entries(predictions)[0]), to_numpy(labels)
        if logits.ndim != 4:
            raise ConfigError(f"a segmenter predicts logits (B, K, h, w); got {tuple(logits.shape)}.")
        self.metric = self.metric or SegmentationMetric(logits.shape[1], ignore_index=self.ignore_index)
        labels = np.where(labels == NOT_COUNTED, self.ignore_index, labels)
        for one, label in zip(logits, labels, strict=True):
            resized = torch.nn.functional.interpolate(one[None].float(), label.shape, mode="bilinear")
            self.metric.update(resized.argmax(dim=1).numpy(), label[None])

    def figures(self) -> Mapping[str, float]:
        found = self.metric.compute()
        return {ours: found[theirs] for ours, theirs in self.NAMES.items()}


class ComputeDetectionMetrics(ComputeMetrics):
    """COCO's AP, AP50, AP75 and AR100 of logits (B, Q, K + 1) and boxes (B, Q, 4), against the labels of each image.

    Example:
        >>> import numpy as np, hfvision
        >>> from transformers import EvalPrediction
        >>> logits, boxes = np.array([[[0.0, 9.0, 0.0]]]), np.array([[[0.5, 0.5, 0.2, 0.2]]])
        >>> labels = [{"class_labels": np.array([1]), "boxes": boxes[0], "orig_size": np.array([64, 64])}]
        >>> hfvision.ComputeDetectionMetrics()(EvalPrediction((logits, boxes), labels))["AP"]
        1.0
    """

    NAMES = ("AP", "AP50", "AP75", "AR100")

    def count(self, predictions: Any, labels: Any) -> None:
        logits, boxes = _objects(predictions, labels)
        self.metric = self.metric or DetectionMetric(logits.shape[2] - 1)
        sizes = [_size(label, "orig_size") for label in labels]
        found = post_process_object_detection(ModelOutput(logits=logits, pred_boxes=boxes), 0.0, sizes)
        self.metric.update(found, [_reference(label, size) for label, size in zip(labels, sizes, strict=True)])

    def figures(self) -> Mapping[str, float]:
        found = self.metric.compute()
        return {name: found[name] for name in self.NAMES}


class ComputePanopticMetrics(ComputeMetrics):
    """PQ, SQ and RQ of logits (B, Q, K + 1) and masks (B, Q, h, w), against the masks of each image.

    threshold: the score from which on a query counts as a segment. things: the classes of countable objects; the others
    are stuff, of which an image has one segment; None: all are countable.

    Example:
        >>> import numpy as np, hfvision
        >>> from transformers import EvalPrediction
        >>> logits, masks = np.array([[[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]]]), np.full((1, 2, 4, 4), -9.0)
        >>> masks[0, 0, :2], masks[0, 1, 2:] = 9.0, 9.0
        >>> labels = [{"class_labels": np.array([0, 1]), "masks": masks[0] > 0, "size": np.array([4, 4])}]
        >>> boxes = np.full((1, 2, 4), 0.5)
        >>> hfvision.ComputePanopticMetrics()(EvalPrediction((logits, boxes, masks), labels))
        {'PQ': 1.0, 'SQ': 1.0, 'RQ': 1.0}
    """

    NAMES = ("PQ", "SQ", "RQ")

    def __init__(self, threshold: float = 0.5, things: Sequence[int] | None = None) -> None:
        super().__init__()
        self.threshold = threshold
        self.things = None if things is None else tuple(things)

    def count(self, predictions: Any, labels: Any) -> None:
        logits, _ = _objects(predictions, labels)
        masks = next((_tensor(one) for one in _entries(predictions) if np.ndim(one) == 4), None)
        if masks is None or any("masks" not in label for label in labels):
            raise ConfigError(
                "panoptic metrics need predicted masks (B, Q, h, w), and masks in the labels of each image."
            )
        classes = logits.shape[2] - 1
        self.metric = self.metric or PanopticMetric(classes, self.things)
        frame = tuple(np.shape(labels[0]["masks"])[1:])
        sizes = [_size(label, "size", frame) for label in labels]
        pixel_mask = torch.zeros(len(labels), *frame, dtype=torch.int64)
        for one, (height, width) in zip(pixel_mask, sizes, strict=True):
            one[:height, :width] = 1
        stuff = [] if self.things is None else [label for label in range(classes) if label not in self.things]
        answers = post_process_panoptic_segmentation(
            ModelOutput(logits=logits, pred_masks=masks),
            self.threshold,
            label_ids_to_fuse=stuff,
            target_sizes=sizes,
            pixel_mask=pixel_mask,
        )
        self.metric.update(answers, [_segments(label, size) for label, size in zip(labels, sizes, strict=True)])

    def figures(self) -> Mapping[str, float]:
        found = self.metric.compute()
        return {name: found[name] for name in self.NAMES}


def _batches(evaluated: EvalPrediction) -> Iterator[tuple[Any, Any]]:
    """The predictions and labels of each batch that is there: one, or those that Trainer did not join."""
    predictions: Any = evaluated.predictions
    labels: Any = evaluated.label_ids
    apart = isinstance(labels, list) and isinstance(predictions, list) and len(labels) == len(predictions)
    if apart and not (labels and isinstance(labels[0], Mapping)):
        yield from zip(predictions, labels, strict=True)
    else:
        yield predictions, labels


def _entries(predictions: Any) -> list[Any]:
    """The arrays of a batch, without the terms of a loss."""
    if not isinstance(predictions, list | tuple):
        return [predictions]
    return [one for one in predictions if not isinstance(one, Mapping)]


def _objects(predictions: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """Logits (B, Q, K + 1) and boxes (B, Q, 4)."""
    found = [_tensor(one).float() for one in _entries(predictions)[:2]]
    if len(found) < 2 or found[0].ndim != 3 or found[1].shape[-1:] != (4,):
        raise ConfigError("a detector predicts logits (B, Q, K + 1) and boxes (B, Q, 4).")
    if not isinstance(labels, Iterable) or len(list(labels)) != len(found[0]):
        raise ConfigError(
            "Trainer has joined the labels of all batches, which differ in their objects: give it "
            "batch_eval_metrics=True, or eval_do_concat_batches=False."
        )
    return found[0], found[1]


def _reference(label: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Boxes in pixels of the image as it was; areas, too, which the labels have at the size that the model saw."""
    boxes = to_numpy(label["boxes"]).reshape(-1, 4) * np.array([size[1], size[0]] * 2)
    found = {"boxes": convert_boxes(boxes, "cxcywh", "xyxy"), "labels": to_numpy(label["class_labels"])}
    if "area" in label and "size" in label:
        height, width = _size(label, "size")
        found["area"] = to_numpy(label["area"]) * (size[0] * size[1] / (height * width))
    return found | ({"iscrowd": to_numpy(label["iscrowd"])} if "iscrowd" in label else {})


def _segments(label: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """The true segments; where masks overlap, the later one is in front."""
    places = np.zeros(size, np.int32)
    for number, mask in enumerate(to_numpy(label["masks"]), start=1):
        places[mask[: size[0], : size[1]].astype(bool)] = number
    crowd = to_numpy(label["iscrowd"]) if "iscrowd" in label else np.zeros(len(label["class_labels"]))
    return {
        "segmentation": places,
        "segments_info": [
            {"id": number, "category_id": int(category), "iscrowd": int(crowd[number - 1])}
            for number, category in enumerate(to_numpy(label["class_labels"]), start=1)
            if (places == number).any()
        ],
    }


def _size(label: Mapping[str, Any], name: str, default: tuple[int, ...] | None = None) -> tuple[int, int]:
    if name not in label and default is None:
        raise ConfigError(f"the labels of an image say its {name} (height, width), as DetectionCollator makes them.")
    height, width = (int(side) for side in (to_numpy(label[name]) if name in label else default or ()))
    return height, width


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(values).cpu()
