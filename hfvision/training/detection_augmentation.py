"""What training does to an image and its objects: the standard recipe, or the user's own, and then the processor.

Paper: Carion et al. 2020, "End-to-End Object Detection with Transformers", arXiv 2005.12872, appendix A.4: half of the
       images are cut to a random window, the short side is drawn between 480 and 800 pixels where the evaluation has
       800, and half are mirrored. Brightness, contrast, saturation and hue vary as in the other recipes.

Everything random comes from the generator of the sample, so it depends on seed, epoch and row only.

Shapes: C channels, H x W pixels of the image as it came, h x w of what the model gets, n objects.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from hfvision.errors import ConfigError, numbered
from hfvision.objects import ImageObjects
from hfvision.options import option
from hfvision.processing.options import make_plan
from hfvision.training.augmentation import Recipe, Size, scaled_size
from hfvision.training.color_jitter import varied_colours

ObjectAugment = Callable[[Any, ImageObjects, np.random.Generator], tuple[Any, ImageObjects]]
Labels = dict[str, Tensor]
Window = tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True)
class DetectionAugmentation(Recipe):
    """Which parts of the recipe are used, and how much; raises ConfigError naming every value that cannot work.

    Example:
        >>> import hfvision
        >>> hfvision.DetectionAugmentation(crop=0.0).flip
        0.5
    """

    scale: tuple[float, float] = option(
        "Least and largest factor of the size that the model is evaluated at, drawn evenly; 1 1: none.", (0.6, 1.0)
    )
    crop: float = option("Share of the images that are cut to a random window.", 0.5)
    crop_sides: tuple[float, float] = option(
        "Least and largest side of the window, in short sides of the image.", (0.64, 1.2)
    )
    flip: float = option("Mirror half of the images; not where left and right matter.", 0.5, switch=True)
    colour: bool = option("Vary brightness, contrast, saturation and hue.", True, switch=True)

    def __post_init__(self) -> None:
        rules = {
            f"scale is (least, largest factor), above 0; got {self.scale}": 0 < self.scale[0] <= self.scale[1],
            f"crop is a share from 0 to 1; got {self.crop}": 0 <= self.crop <= 1,
            f"crop_sides are (least, largest), above 0 and the least up to 1; got {self.crop_sides}": 0
            < self.crop_sides[0]
            <= min(1, self.crop_sides[1]),
            f"flip is a share from 0 to 1; got {self.flip}": 0 <= self.flip <= 1,
        }
        if problems := [problem for problem, holds in rules.items() if not holds]:
            raise ConfigError(numbered("problem", problems))


class ObjectPreparation:
    """An image and its objects as the processor makes them for training, after a user's augmentation if there is one.

    image, objects, generator -> pixel values (C, h, w), labels {"class_labels" (n,), "boxes" (n, 4), ...}, with "masks"
    (n, h, w) where asked for. Crowds are no targets.
    """

    def __init__(self, processor: Any, augment: ObjectAugment | None = None, masks: bool = False) -> None:
        # What is equal in every call is set once: options of a call are checked each time.
        self.processor = changed_processor(processor, do_pad=False, do_convert_annotations=True)
        self.augment = augment
        self.masks = masks

    def __call__(self, image: Any, objects: ImageObjects, generator: np.random.Generator) -> tuple[Tensor, Labels]:
        if self.augment is not None:
            image, objects = self.augment(image, objects, generator)
        return self.processed(image, objects)

    def processed(self, image: Any, objects: ImageObjects, **options: Any) -> tuple[Tensor, Labels]:
        if objects.crowd.any():
            objects = objects.take(np.flatnonzero(~objects.crowd))
        batch = self.processor(
            images=[image],
            annotations=[objects],
            return_segmentation_masks=self.masks,
            return_tensors="pt",
            **options,
        )
        return batch["pixel_values"][0], dict(batch["labels"][0])


class StandardObjectPreparation(ObjectPreparation):
    """The same with the standard recipe: cut out, then scaled and processed at once, mirrored and varied."""

    def __init__(self, processor: Any, recipe: DetectionAugmentation, masks: bool = False) -> None:
        super().__init__(changed_processor(processor, do_resize=True), masks=masks)
        self.recipe = recipe
        self.plan = make_plan(processor.to_dict(), {})

    def __call__(self, image: Any, objects: ImageObjects, generator: np.random.Generator) -> tuple[Tensor, Labels]:
        cut, mirrored = generator.random() < self.recipe.crop, generator.random() < self.recipe.flip
        if cut:
            window = self._window(objects.size, generator)
            image, objects = cut_image(image, objects.size, window), objects.cropped(*window)
        height, width = scaled_size(objects.size, self.plan, generator.uniform(*self.recipe.scale))
        pixels, labels = self.processed(image, objects, size={"height": height, "width": width})
        if mirrored:  # at last, so that masks and pixels that were resized are the same ones
            pixels, labels = pixels.flip(-1), _mirrored(labels)
        if self.recipe.colour:
            pixels = varied_colours(pixels, self.plan, generator, image)
        return pixels, labels

    def _window(self, size: Size, generator: np.random.Generator) -> Window:
        least, most = (share * min(size) for share in self.recipe.crop_sides)
        height, width = (max(1, round(generator.uniform(min(least, side), min(most, side)))) for side in size)
        top, left = (int(generator.integers(side - cut + 1)) for side, cut in zip(size, (height, width), strict=True))
        return top, left, height, width


def changed_processor(processor: Any, **changes: Any) -> Any:
    """The same with other options; the one that is given stays as it is."""
    options = {name: value for name, value in processor.to_dict().items() if name != "image_processor_type"}
    return type(processor)(**options | changes)


def _mirrored(labels: Labels) -> Labels:
    boxes = labels["boxes"].clone()
    boxes[:, 0] = 1 - boxes[:, 0]
    return {**labels, "boxes": boxes, **({"masks": labels["masks"].flip(-1)} if "masks" in labels else {})}


def cut_image(image: Any, size: Size, window: Window) -> Any:
    """The window of a PIL image, or of an array that has (H, W) as its first or last axes."""
    top, left, height, width = window
    if isinstance(image, Image.Image):
        return image.crop((left, top, left + width, top + height))
    rows, columns = slice(top, top + height), slice(left, left + width)
    return image[rows, columns] if tuple(image.shape[:2]) == size else image[..., rows, columns]


def object_preparation(
    processor: Any, augment: "DetectionAugmentation | ObjectAugment | Literal['standard'] | None", masks: bool = False
) -> ObjectPreparation:
    """How training images are made. Raises ConfigError for an augmentation that is none."""
    if augment == "standard":
        augment = DetectionAugmentation()
    if isinstance(augment, DetectionAugmentation):
        return StandardObjectPreparation(processor, augment, masks)
    if augment is not None and not callable(augment):
        raise ConfigError(
            'augment is "standard", a DetectionAugmentation, a function (image, objects, generator) -> (image, '
            f"objects), or None; got {augment!r}."
        )
    return ObjectPreparation(processor, augment, masks)
