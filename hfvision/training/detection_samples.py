"""Images with objects as training and evaluation take them, and the batches made of them.

Shapes: B images, C channels, H x W pixels of the image as stored, h x w of what the model gets, n objects.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hfvision.data.detection import DetectedImages
from hfvision.errors import DatasetError
from hfvision.objects import ImageObjects
from hfvision.training.detection_augmentation import ObjectPreparation
from hfvision.training.loop import Samples


class DetectedSamples(Samples):
    """Images and the objects in them; with `stored` also the objects as they are, for figures at the image's size."""

    part: DetectedImages
    augment: ObjectPreparation

    def __init__(self, part: DetectedImages, prepare: ObjectPreparation, seed: int = 0, stored: bool = False) -> None:
        super().__init__(part, prepare, seed)
        self.stored = stored

    def sample(self, row: int, generator: np.random.Generator) -> dict[str, Any]:
        image, objects = self.part.read(row)
        try:
            pixels, labels = self.augment(image, objects, generator)
        except ValueError as error:  # what processors raise, hfvision's own errors included
            where = f"row {row} ({self.part.file_of(row)}) of split {self.part.split!r}"
            raise DatasetError(f"{where} cannot be prepared: {error}") from error
        return {"pixel_values": pixels, "labels": labels, **({"objects": objects} if self.stored else {})}


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Samples -> "pixel_values" (B, C, h, w), smaller ones padded right and below with zeros; "pixel_mask" (B, h, w), 1
    on the image; "labels", a dict for each image. Of samples with the stored objects also those, and their "rows".
    """
    images = [sample["pixel_values"] for sample in samples]
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    mask = torch.ones(len(images), height, width, dtype=torch.int64)
    for image, one in zip(images, mask, strict=True):
        one[image.shape[1] :] = 0
        one[:, image.shape[2] :] = 0
    batch = {
        "pixel_values": torch.stack([_padded(image, height, width) for image in images]),
        "pixel_mask": mask,
        "labels": [sample["labels"] for sample in samples],
    }
    if "objects" in samples[0]:
        batch["rows"] = torch.tensor([sample["row"] for sample in samples])
        batch["objects"] = [sample["objects"] for sample in samples]
    return batch


def _padded(image: Tensor, height: int, width: int) -> Tensor:
    if image.shape[1:] == (height, width):
        return image
    return nn.functional.pad(image, (0, width - image.shape[2], 0, height - image.shape[1]))


# The columns of objects that are gathered from several processes, which exchange tensors alone.
COLUMNS = ("left", "top", "right", "bottom", "label", "area", "crowd")


def packed(objects: Sequence[ImageObjects]) -> Tensor:
    """(B, most objects, COLUMNS) float64, -1 where an image has fewer."""
    table = torch.full((len(objects), max(map(len, objects), default=0), len(COLUMNS)), -1, dtype=torch.float64)
    for rows, one in zip(table, objects, strict=True):
        columns = np.column_stack([one.boxes, one.labels, one.areas, one.crowd])
        rows[: len(one)] = torch.from_numpy(columns)
    return table


def unpacked(table: Tensor, rows: Tensor) -> list[dict[str, Any]]:
    """What `DetectionMetric` compares with; an image is known by its row, so that it counts once."""
    references = []
    for one, row in zip(table.cpu().numpy(), rows.tolist(), strict=True):
        one = one[one[:, 4] >= 0]
        references.append(
            {
                "boxes": one[:, :4],
                "labels": one[:, 4].astype(np.int64),
                "area": one[:, 5],
                "iscrowd": one[:, 6],
                "image_id": row,
            }
        )
    return references
