"""What a label map is made of for people: names, colours, a picture with a palette, and the share of each class.

Shapes: a map is (H, W).
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hfvision.labels.outputs import output_names
from hfvision.processing.label_map import LabelMap
from hfvision.processing.palette import class_palette

Array = npt.NDArray[Any]

PALETTE_SIZE = 256  # entries that a picture with a palette has at most
ABSENT = "background"  # the name of 0 where a model knows one class: that it is not there


def class_names(model: Any) -> list[str]:
    """The name of each value of a map."""
    names = output_names(model)
    return [ABSENT, *names] if len(names) == 1 else names


def class_colours(processor: Any, count: int) -> npt.NDArray[np.uint8]:
    """(count, 3): the colours of the processor's label map; for classes without one, those of `class_palette`."""
    colours = class_palette(count)
    label_map = getattr(processor, "label_map", None)
    if label_map is not None:
        for index, colour in LabelMap.of(label_map).palette.items():
            if index < count:
                colours[index] = colour
    return colours


def map_dtype(count: int) -> Any:
    """The smallest type that holds the values of a map of so many classes."""
    return np.uint8 if count <= PALETTE_SIZE else np.uint16


def map_picture(classes: Array, colours: npt.NDArray[np.uint8]) -> Image.Image:
    """The map as a picture whose pixels are the classes: mode P with the colours, or I;16 above 256 classes."""
    picture = Image.fromarray(np.ascontiguousarray(classes, map_dtype(len(colours))))
    if len(colours) <= PALETTE_SIZE:
        picture.putpalette(colours.tobytes())
    return picture


class Tally:
    """Counts the pixels of each class over parts of a map, and sums how sure they are."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.pixels = np.zeros(len(names), np.int64)
        self.sums = np.zeros(len(names))
        self.scored = False

    def add(self, classes: Array, scores: Array | None = None) -> None:
        flat = classes.ravel()
        self.pixels += np.bincount(flat, minlength=len(self.names))
        if scores is not None:
            self.sums += np.bincount(flat, weights=scores.ravel(), minlength=len(self.names))
            self.scored = True

    def labels(self) -> list[dict[str, Any]]:
        """The classes that occur, by id: "id", "label", "pixels", "share" of the map, mean "score" (None without)."""
        total = int(self.pixels.sum())
        return [
            {
                "id": index,
                "label": self.names[index],
                "pixels": int(self.pixels[index]),
                "share": int(self.pixels[index]) / total,
                "score": float(self.sums[index] / self.pixels[index]) if self.scored else None,
            }
            for index in np.flatnonzero(self.pixels).tolist()
        ]


def class_masks(classes: Array, scores: Array | None, names: list[str]) -> list[dict[str, Any]]:
    """As transformers' image-segmentation pipeline: for each class that occurs its "score", "label" and "mask"."""
    tally = Tally(names)
    tally.add(classes, scores)
    return [
        {"score": row["score"], "label": row["label"], "mask": mask_picture(classes == row["id"])}
        for row in tally.labels()
    ]


def class_map(classes: Array, scores: Array | None, names: list[str], colours: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """What the image-segmentation pipeline gives with output="map"; see there."""
    tally = Tally(names)
    tally.add(classes, scores)
    return {
        "map": map_picture(classes, colours),
        "classes": classes,
        "labels": tally.labels(),
        "scores": scores,
        "colours": colours,
        "names": tuple(names),
    }


def mask_picture(mask: npt.NDArray[np.bool_]) -> Image.Image:
    """0 and 255, mode L."""
    return Image.fromarray(mask.view(np.uint8) * 255)
