"""Collators that make batches of the rows of a data set, for any Trainer: one for each task.

    collator = hfvision.DetectionCollator(processor)
    trainer = transformers.Trainer(model, args, data_collator=collator, train_dataset=rows, ...)

A row is a dict as `datasets` gives it: an image and what belongs to it, which the processor prepares (give Trainer
`remove_unused_columns=False`, else it drops both), or "pixel_values" and "labels" that a transform of one's own made.

Shapes: B images, C channels, h x w pixels of what the model gets, K classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hfvision.errors import DatasetError
from hfvision.training.detection_samples import collate
from hfvision.training.segmentation import IGNORED
from hfvision.training.segmentation import Collator as Padding

Row = Mapping[str, Any]


class TaskCollator(ABC):
    """Base of the collators: an image processor, and the names of the columns."""

    columns: tuple[str, ...] = ()  # that hold what belongs to an image, the first that a row has

    def __init__(self, processor: Any, *, image: str = "image", target: str | None = None) -> None:
        """`image` and `target` are the columns of the image and of what belongs to it; None: the usual names."""
        self.processor = processor
        self.image = image
        self.targets = self.columns if target is None else (target,)

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Rows -> the inputs of a model. Raises DatasetError for columns that rows lack, and what cannot be read."""
        prepared = [row if "pixel_values" in row else self.prepared(row) for row in rows]
        return self.batch([{**row, "labels": self._labels(row)} for row in prepared])

    def prepared(self, row: Row) -> dict[str, Any]:
        """A row with the image and what belongs to it as the model takes them."""
        if self.image not in row:
            raise DatasetError(
                f"a row has an image in column {self.image!r}, or pixel_values; got {', '.join(map(str, row))}."
                " Name the column (image=...), and give Trainer remove_unused_columns=False."
            )
        try:
            return self.processed(row[self.image], self._target(row))
        except ValueError as error:  # what processors raise, hfvision's own errors included
            raise DatasetError(f"a row cannot be prepared: {error}") from error

    def _target(self, row: Row) -> Any:
        name = next((name for name in self.targets if name in row), None)
        if name is None:
            raise DatasetError(
                f"a row has {' or '.join(map(repr, self.targets))} beside its image; got {', '.join(map(str, row))}. "
                "Name the column (target=...)."
            )
        return row[name]

    def _labels(self, row: Row) -> Any:
        return row["labels"] if "labels" in row else row["label"]

    @abstractmethod
    def processed(self, image: Any, target: Any) -> dict[str, Any]:
        """{"pixel_values", "labels"} of one image."""

    @abstractmethod
    def batch(self, samples: Sequence[Row]) -> dict[str, Any]:
        """Prepared images as one batch."""


class ClassificationCollator(TaskCollator):
    """Rows with an image and its label -> {"pixel_values": (B, C, h, w), "labels": (B,), or (B, K) of several labels}.

    Example:
        >>> import PIL.Image
        >>> import hfvision
        >>> processor = hfvision.ViTImageProcessor(size={"height": 8, "width": 8})
        >>> collator = hfvision.ClassificationCollator(processor)
        >>> batch = collator([{"image": PIL.Image.new("RGB", (16, 16)), "label": 1}])
        >>> tuple(batch["pixel_values"].shape), batch["labels"].tolist()
        ((1, 3, 8, 8), [1])
    """

    columns = ("label", "labels")

    def processed(self, image: Any, target: Any) -> dict[str, Any]:
        return {"pixel_values": self.processor(images=image, return_tensors="pt")["pixel_values"][0], "labels": target}

    def batch(self, samples: Sequence[Row]) -> dict[str, Any]:
        labels = torch.stack([torch.as_tensor(sample["labels"]) for sample in samples])
        return {"pixel_values": _stacked(samples), "labels": labels}


class SegmentationCollator(TaskCollator):
    """Rows with an image and its label map -> {"pixel_values": (B, C, h, w), "labels": (B, h, w)}.

    Images of different sizes are padded right and below, with zeros and the processor's ignored label.

    Example:
        >>> import numpy as np, PIL.Image, hfvision
        >>> processor = hfvision.SegformerImageProcessor(size={"height": 64, "width": 64})
        >>> row = {"image": PIL.Image.new("RGB", (80, 60)), "mask": np.zeros((60, 80), dtype=np.uint8)}
        >>> batch = hfvision.SegmentationCollator(processor)([row, row])
        >>> tuple(batch["pixel_values"].shape), tuple(batch["labels"].shape)
        ((2, 3, 64, 64), (2, 64, 64))
    """

    columns = ("annotation", "mask", "label", "segmentation_mask")

    def processed(self, image: Any, target: Any) -> dict[str, Any]:
        found = self.processor(images=image, segmentation_maps=target, return_tensors="pt")
        return {"pixel_values": found["pixel_values"][0], "labels": found["labels"][0]}

    def batch(self, samples: Sequence[Row]) -> dict[str, Any]:
        ignored = getattr(self.processor, "ignore_index", None)
        return Padding(IGNORED if ignored is None else ignored)(samples)


class DetectionCollator(TaskCollator):
    """Rows with an image and its objects -> {"pixel_values", "pixel_mask": (B, h, w), 1 on the image, "labels": a dict
    for each image}. Objects are in any form that `DetrImageProcessor` takes as annotations.

    Example:
        >>> import hfvision
        >>> scenes = hfvision.load_digit_scenes(train=2, validation=1)
        >>> processor = hfvision.DetrImageProcessor(size={"shortest_edge": 48, "longest_edge": 96})
        >>> batch = hfvision.DetectionCollator(processor, target="objects")(list(scenes["train"]))
        >>> tuple(batch["pixel_values"].shape), sorted(batch["labels"][0])
        ((2, 3, 48, 48), ['area', 'boxes', 'class_labels', 'iscrowd', 'orig_size', 'size'])
    """

    columns: tuple[str, ...] = ("objects", "annotations")
    masks = False

    def processed(self, image: Any, target: Any) -> dict[str, Any]:
        found = self.processor(
            images=[image],
            annotations=[target],
            return_segmentation_masks=self.masks,
            do_pad=False,
            return_tensors="pt",
        )
        return {"pixel_values": found["pixel_values"][0], "labels": found["labels"][0]}

    def batch(self, samples: Sequence[Row]) -> dict[str, Any]:
        batch = collate([{"pixel_values": one["pixel_values"], "labels": dict(one["labels"])} for one in samples])
        height, width = batch["pixel_mask"].shape[1:]
        for labels in batch["labels"]:
            if "masks" in labels:
                masks = labels["masks"]
                margins = (0, width - masks.shape[2], 0, height - masks.shape[1])
                labels["masks"] = torch.nn.functional.pad(masks, margins)
        return batch


class PanopticCollator(DetectionCollator):
    """The same for segments, objects and stuff alike: the labels of each image also have "masks" (n, h, w).

    Example:
        >>> import hfvision
        >>> hfvision.PanopticCollator.columns
        ('segments', 'objects', 'annotations')
    """

    columns = ("segments", "objects", "annotations")
    masks = True


def _stacked(samples: Sequence[Row]) -> Tensor:
    return torch.stack([torch.as_tensor(sample["pixel_values"]) for sample in samples])
