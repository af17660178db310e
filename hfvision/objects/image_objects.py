"""The objects of one image, as all parts of detection pass them on: readers, augmentation, processors, pictures.

Coordinates are edges, not pixel indices: the box of a whole H x W image is (0, 0, W, H).

Shapes: n objects, H x W pixels.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hfvision.errors import ConfigError, DatasetError
from hfvision.geometry import box_area, clip_boxes, nearest_places
from hfvision.objects.masks import Masks


@dataclass(frozen=True, eq=False)
class ImageObjects:
    """Boxes, classes and masks that belong together, and that move with their image.

    Raises DatasetError where they are not one of each for every object.
    """

    size: tuple[int, int]  # height and width of the image in pixels
    boxes: NDArray[np.float64]  # (n, 4) xyxy in pixels
    labels: NDArray[np.int64]  # (n,) the class of each
    areas: NDArray[np.float64]  # (n,) in pixels: of the annotation, else of the mask, else of the box
    crowd: NDArray[np.bool_]  # (n,) whether it stands for a group that was not told apart
    masks: Masks | None = None
    image_id: int | str | None = None

    def __post_init__(self) -> None:
        count = len(self.boxes)
        shapes = {name: np.shape(getattr(self, name)) for name in ("labels", "areas", "crowd")}
        wrong = [f"{name} {shape}" for name, shape in shapes.items() if shape != (count,)]
        if self.boxes.shape != (count, 4):
            wrong.append(f"boxes {self.boxes.shape}")
        if self.masks is not None and (len(self.masks) != count or self.masks.size != tuple(self.size)):
            wrong.append(f"{len(self.masks)} masks of {_by(self.masks.size)}")
        if wrong:
            raise DatasetError(
                f"{count} objects of an image of {_by(self.size)} need boxes ({count}, 4), and labels, areas, crowd "
                f"({count},), and masks of that size; got {', '.join(wrong)}."
            )

    @classmethod
    def none(cls, size: tuple[int, int], image_id: int | str | None = None) -> Self:
        """Of an image without objects."""
        return cls(size, np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.bool_), image_id=image_id)

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, rows: ArrayLike) -> Self:
        """Some of the objects: indices, or a bool for each."""
        kept = np.arange(len(self))[np.asarray(rows)] if np.size(rows) else np.zeros(0, np.int64)
        return replace(
            self,
            boxes=self.boxes[kept],
            labels=self.labels[kept],
            areas=self.areas[kept],
            crowd=self.crowd[kept],
            masks=None if self.masks is None else self.masks.take(kept),
        )

    def resized(self, size: tuple[int, int]) -> Self:
        """For the image resized to (height, width): areas in proportion, masks to the nearest pixel as Pillow does."""
        if tuple(size) == tuple(self.size):
            return self
        down, across = (new / old for new, old in zip(size, self.size, strict=True))
        places = [nearest_places(old, new) for old, new in zip(self.size, size, strict=True)]
        return replace(
            self,
            size=(size[0], size[1]),
            boxes=self.boxes * (across, down, across, down),
            areas=self.areas * (across * down),
            masks=None if self.masks is None else self.masks.picked(places[0], places[1]),
        )

    def mirrored(self) -> Self:
        """For the image with left and right exchanged."""
        width = self.size[1]
        left, top, right, bottom = self.boxes.T
        return replace(
            self,
            boxes=np.stack([width - right, top, width - left, bottom], axis=1),
            masks=None if self.masks is None else self.masks.picked(slice(None), slice(None, None, -1)),
        )

    def cropped(self, top: int, left: int, height: int, width: int) -> Self:
        """For a window of the image, in pixels.

        Boxes are clipped, masks cut. Areas are counted again where there are masks, and shrink with their boxes where
        there are none. Objects of which no pixel is left are dropped. Raises ConfigError for a window that is not
        inside the image.
        """
        if min(top, left) < 0 or min(height, width) < 1 or top + height > self.size[0] or left + width > self.size[1]:
            raise ConfigError(
                f"a window lies in its image of {_by(self.size)}; got {height}x{width} at row {top}, column {left}"
            )
        boxes = clip_boxes(self.boxes - (left, top, left, top), (height, width))
        left_over = box_area(boxes)
        seen = left_over > 0
        if self.masks is None:
            masks, areas = None, self.areas * left_over / np.maximum(box_area(self.boxes), np.finfo(np.float64).tiny)
        else:
            masks = self.masks.picked(slice(top, top + height), slice(left, left + width))
            areas = masks.areas()
            seen &= areas > 0
        return replace(self, size=(height, width), boxes=boxes, areas=areas, masks=masks).take(seen)


def _by(size: tuple[int, ...]) -> str:
    return f"{size[0]}x{size[1]}"
