"""What an evaluation keeps beside its figures: the answer for each image, and which classes are taken for which.

A recorder looks at the batches that the counter of the figures counts, so nothing is computed twice and no image stays
in memory. Rows go to a file as they come.

Shapes: B images, K classes, n answers of an image.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import EvalPrediction

from hfvision.metrics.confusion import BoxConfusion, ConfusionMatrix, with_nothing
from hfvision.metrics.panoptic import PanopticMetric
from hfvision.metrics.segmentation import SegmentationMetric
from hfvision.row_files import SEPARATOR, Kind, RowFile
from hfvision.training.detection_samples import unpacked


class ImageNames:
    """The files of a split's images, from the folder of the data set on where they lie in it."""

    def __init__(self, images: Any, column: str, dataset: Any) -> None:
        """`images` are a `datasets.Dataset` with undecoded images in `column`."""
        self.images = images.select_columns([column])
        self.column = column
        is_folder = isinstance(dataset, str | os.PathLike) and Path(dataset).is_dir()
        self.folder = Path(dataset).resolve() if is_folder else None

    def __call__(self, row: int) -> str | None:
        """None where the data set records no file."""
        cell = self.images[row][self.column]
        path = cell.get("path") if isinstance(cell, dict) else None
        if not path or self.folder is None:
            return path or None
        full = Path(path).resolve()
        return full.relative_to(self.folder).as_posix() if full.is_relative_to(self.folder) else str(path)


class Recorder(ABC):
    """Rows and confusion of one task; `names` (K,) are the classes."""

    unit: str  # of the confusion

    def __init__(self, names: Sequence[str], files: ImageNames) -> None:
        self.names = list(names)
        self.files = files
        self.confusion: Any = 0

    @property
    def axis(self) -> tuple[str, ...]:
        """The names of the confusion's rows and columns."""
        return tuple(self.names)

    @property
    @abstractmethod
    def columns(self) -> dict[str, Kind]:
        """Those of a table of the rows."""

    @abstractmethod
    def rows(self, batch: EvalPrediction) -> Iterator[dict[str, Any]]:
        """One for each image, or for each object found."""

    @abstractmethod
    def count(self, batch: EvalPrediction) -> None:
        """Add to the confusion."""

    def matrix(self) -> ConfusionMatrix:
        """What was counted."""
        return ConfusionMatrix(self.axis, np.asarray(self.confusion), self.unit)


class ClassifierRecorder(Recorder):
    """{"row", "file", "truth", "label", "score", "right"}; batches come in the order of the images."""

    unit = "images"

    def __init__(self, names: Sequence[str], files: ImageNames) -> None:
        super().__init__(names, files)
        self.next_row = 0
        self.confusion = np.zeros((len(names), len(names)), np.int64)

    @property
    def columns(self) -> dict[str, Kind]:
        return {"row": "whole", "file": "text", "truth": "text", "label": "text", "score": "number", "right": "truth"}

    def rows(self, batch: EvalPrediction) -> Iterator[dict[str, Any]]:
        scores, labels, truths = self._answers(batch)
        for score, label, truth in zip(scores, labels.tolist(), truths.tolist(), strict=True):
            yield {
                "row": self.next_row,
                "file": self.files(self.next_row),
                "truth": self.names[truth],
                "label": self.names[label],
                "score": round(float(score), 6),
                "right": label == truth,
            }
            self.next_row += 1

    def count(self, batch: EvalPrediction) -> None:
        _, labels, truths = self._answers(batch)
        np.add.at(self.confusion, (truths, labels), 1)

    @staticmethod
    def _answers(batch: EvalPrediction) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
        """(B,) probabilities of the best class, that class, and the true one."""
        counted: Any = batch.predictions
        logits = torch.as_tensor(counted["logits"]).float().cpu()
        scores, labels = logits.softmax(dim=-1).max(dim=-1)
        return scores.numpy(), labels.numpy(), torch.as_tensor(batch.label_ids).cpu().numpy().astype(np.int64)


class SegmenterRecorder(Recorder):
    """{"row", "file", "pixels", "pixel_accuracy", "mean_iou", "iou": {class: ...}, "accuracy": {class: ...}}."""

    unit = "pixels"

    @property
    def axis(self) -> tuple[str, ...]:
        return (f"not {self.names[0]}", *self.names) if len(self.names) == 1 else super().axis

    @property
    def columns(self) -> dict[str, Kind]:
        columns: dict[str, Kind] = {"row": "whole", "file": "text", "pixels": "whole"}
        columns |= {"pixel_accuracy": "number", "mean_iou": "number"}
        figures = [figure + SEPARATOR + name for figure in ("iou", "accuracy") for name in self.names]
        return columns | dict.fromkeys(figures, "number")

    def rows(self, batch: EvalPrediction) -> Iterator[dict[str, Any]]:
        counted = _arrays(batch.predictions)
        for place, row in enumerate(torch.as_tensor(batch.label_ids).tolist()):
            metric = SegmentationMetric(len(self.names), ignore_index=None)
            metric.merge({name: counted[name][place] for name in metric.counted})
            found = metric.result() if metric.confusion.any() else None  # all is ignored
            yield {
                "row": row,
                "file": self.files(row),
                "pixels": int(metric.confusion.sum()),
                "pixel_accuracy": found and found["overall_accuracy"],
                "mean_iou": found and found["mean_iou"],
                "iou": dict(zip(self.names, metric.per_class("iou"), strict=True)),
                "accuracy": dict(zip(self.names, metric.per_class("accuracy"), strict=True)),
            }

    def count(self, batch: EvalPrediction) -> None:
        self.confusion = self.confusion + _arrays(batch.predictions)["confusion"].sum(axis=0)


class DetectorRecorder(Recorder):
    """A row for each object found, in the form of COCO's results: {"image_id", "category_id", "bbox" (x, y, width,
    height), "score"}, and "file" and "category" by name. Categories are numbered as the model's classes; an image's id
    is that of the data set, or its row.
    """

    unit = "objects"

    def __init__(
        self, names: Sequence[str], files: ImageNames, image_ids: Sequence[Any] | None, threshold: float
    ) -> None:
        super().__init__(names, files)
        self.image_ids = image_ids
        self.metric = BoxConfusion(len(names), threshold)

    @property
    def axis(self) -> tuple[str, ...]:
        return with_nothing(self.names)

    @property
    def columns(self) -> dict[str, Kind]:
        is_text = self.image_ids is not None and any(isinstance(one, str) for one in self.image_ids)
        columns: dict[str, Kind] = {"file": "text", "image_id": "text" if is_text else "whole"}
        return columns | {"category": "text", "category_id": "whole", "score": "number", "bbox": "json"}

    def rows(self, batch: EvalPrediction) -> Iterator[dict[str, Any]]:
        for found, row in zip(*self._found(batch), strict=True):
            file = self.files(row)
            for score, label, left, top, right, bottom in found.tolist():
                yield {
                    "file": file,
                    "image_id": row if self.image_ids is None else self.image_ids[row],
                    "category": self.names[int(label)],
                    "category_id": int(label),
                    "score": round(score, 6),
                    "bbox": [round(value, 3) for value in (left, top, right - left, bottom - top)],
                }

    def count(self, batch: EvalPrediction) -> None:
        counted: Any = batch.predictions
        found, _ = self._found(batch)
        answers = [{"scores": one[:, 0], "labels": one[:, 1].long(), "boxes": one[:, 2:]} for one in found]
        self.metric.update(answers, unpacked(counted["objects"], torch.as_tensor(batch.label_ids)))
        self.confusion = self.metric.confusion

    @staticmethod
    def _found(batch: EvalPrediction) -> tuple[list[Tensor], list[int]]:
        """Score, class and box of what was found in each image, the best first, and the images' rows."""
        counted: Any = batch.predictions
        found = [one[one[:, 0] >= 0] for one in counted["found"].cpu()]
        return [one[one[:, 0].argsort(descending=True)] for one in found], torch.as_tensor(batch.label_ids).tolist()


class PanopticRecorder(Recorder):
    """{"row", "file", "PQ", "SQ", "RQ", "segments": [{"id", "category", "category_id", "score", "area"}]}; figures are
    of the image alone. The confusion is of pixels.
    """

    unit = "pixels"

    @property
    def axis(self) -> tuple[str, ...]:
        return with_nothing(self.names)

    @property
    def columns(self) -> dict[str, Kind]:
        columns: dict[str, Kind] = {"row": "whole", "file": "text"}
        return columns | {"PQ": "number", "SQ": "number", "RQ": "number", "segments": "json"}

    def rows(self, batch: EvalPrediction) -> Iterator[dict[str, Any]]:
        counted = _arrays(batch.predictions)
        for place, row in enumerate(torch.as_tensor(batch.label_ids).tolist()):
            metric = PanopticMetric(len(self.names))
            metric.merge({name: counted[name][place] for name in metric.counted})
            figures = metric.result()
            segments = [segment for segment in counted["segments"][place].tolist() if segment[0] >= 0]
            yield {
                "row": row,
                "file": self.files(row),
                **{name: figures[name] for name in ("PQ", "SQ", "RQ")},
                "segments": [
                    {
                        "id": int(number),
                        "category": self.names[int(label)],
                        "category_id": int(label),
                        "score": round(score, 6),
                        "area": int(area),
                    }
                    for number, label, score, area in segments
                ],
            }

    def count(self, batch: EvalPrediction) -> None:
        self.confusion = self.confusion + _arrays(batch.predictions)["pixels"].sum(axis=0)


class RecordedCounter:
    """A counter whose batches a recorder sees, too: for `rows`, for the confusion, or both."""

    def __init__(self, counter: Any, recorder: Recorder, rows: RowFile | None, confusion: bool) -> None:
        self.counter = counter
        self.recorder = recorder
        self.row_file = rows
        self.confusion = confusion

    def __getattr__(self, name: str) -> Any:
        return getattr(self.counter, name)

    def __call__(self, batch: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        for row in self.recorder.rows(batch) if self.row_file is not None else ():
            self.row_file.write(row)  # type: ignore[union-attr]
        if self.confusion:
            self.recorder.count(batch)
        return self.counter(batch, compute_result)


def _arrays(counted: Any) -> Mapping[str, NDArray[Any]]:
    return {name: torch.as_tensor(values).cpu().numpy() for name, values in counted.items()}
