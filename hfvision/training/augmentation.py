"""What training does to an image and its label map: the standard recipe, or the user's own, and then the processor.

The recipe is what SegFormer, Segmenter, SETR and UPerNet were trained with: the image is brought to the size that the
evaluation gives it times a random factor, a window is cut out at random where no class fills more than three quarters
of it, half of the windows are mirrored, and brightness, contrast, saturation and hue vary.

Everything random comes from the generator of the sample, so it depends on seed, epoch and row only.

Shapes: C channels, H x W pixels of the image as it came, h x w of what the model gets.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from hfvision.errors import ConfigError, numbered
from hfvision.options import option
from hfvision.processing.batch import sizes_of_steps
from hfvision.processing.options import Plan, make_plan
from hfvision.training.color_jitter import varied_colours

JointAugment = Callable[[Any, np.ndarray, np.random.Generator], tuple[Any, np.ndarray]]
Size = tuple[int, int]  # height, width

WINDOWS_TRIED = 10


class Recipe:
    """Mixed into the dataclass of a recipe's settings."""

    def describe(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}  # type: ignore[call-overload]


@dataclass(frozen=True)
class StandardAugmentation(Recipe):
    """Which parts of the recipe are used, and how much; raises ConfigError naming every value that cannot work.

    Example:
        >>> import hfvision
        >>> hfvision.StandardAugmentation(crop=512, flip=0.0)
        StandardAugmentation(scale=(0.5, 2.0), crop=512, most_of_one_class=0.75, flip=0.0, colour=True)
    """

    scale: tuple[float, float] = option("Least and largest factor, drawn evenly; 1 1: none.", (0.5, 2.0))
    crop: int | Size | None = option(
        "Side of the windows that are cut out, in pixels.",
        shown="as the model is evaluated, a square if it keeps ratios",
    )
    most_of_one_class: float = option("Share of a window that one class may fill; 1: any.", 0.75)
    flip: float = option("Mirror half of the windows; not where left and right matter.", 0.5, switch=True)
    colour: bool = option("Vary brightness, contrast, saturation and hue.", True, switch=True)

    def __post_init__(self) -> None:
        crop = (self.crop, self.crop) if isinstance(self.crop, int) else self.crop
        rules = {
            f"scale is (least, largest factor), above 0; got {self.scale}": 0 < self.scale[0] <= self.scale[1],
            f"crop is a number of pixels or (height, width), at least 1; got {self.crop}": crop is None
            or (len(crop) == 2 and all(isinstance(side, int) and side > 0 for side in crop)),
            f"most_of_one_class is a share above 0 and up to 1; got {self.most_of_one_class}": 0
            < self.most_of_one_class
            <= 1,
            f"flip is a share from 0 to 1; got {self.flip}": 0 <= self.flip <= 1,
        }
        if problems := [problem for problem, holds in rules.items() if not holds]:
            raise ConfigError(numbered("problem", problems))


class Preparation:
    """An image and its label map as the processor makes them for training, after a user's augmentation if there is one.

    image, mask (H, W), generator -> pixel values (C, h, w), labels (h, w).
    """

    def __init__(self, processor: Any, augment: JointAugment | None = None) -> None:
        self.processor = processor
        self.augment = augment

    def __call__(self, image: Any, mask: np.ndarray, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        if self.augment is not None:
            image, mask = self.augment(image, mask, generator)
        return self.processed(image, mask)

    def processed(self, image: Any, mask: np.ndarray, **options: Any) -> tuple[Tensor, Tensor]:
        """The masks are of train ids already, whatever the processor does to those of its users."""
        batch = self.processor(
            images=[image],
            segmentation_maps=[mask],
            return_tensors="pt",
            do_reduce_labels=False,
            label_map=None,
            **options,
        )
        return batch["pixel_values"][0], batch["labels"][0]


class StandardPreparation(Preparation):
    """The same with the standard recipe: scaled and processed at once, then cut out, mirrored and varied."""

    def __init__(self, processor: Any, recipe: StandardAugmentation, ignore_index: int) -> None:
        super().__init__(processor)
        self.recipe = recipe
        self.ignore_index = ignore_index
        self.plan = make_plan(processor.to_dict(), {})
        self.window = self._window()

    def __call__(self, image: Any, mask: np.ndarray, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        height, width = scaled_size((mask.shape[0], mask.shape[1]), self.plan, generator.uniform(*self.recipe.scale))
        pixels, labels = self.processed(
            image,
            mask,
            do_resize=True,
            size={"height": height, "width": width},
            size_divisor=None,
            do_center_crop=False,
            do_pad=False,
        )
        pixels, labels = self._cut_out(pixels, labels, generator)
        if generator.random() < self.recipe.flip:
            pixels, labels = pixels.flip(-1), labels.flip(-1)
        if self.recipe.colour:
            pixels = varied_colours(pixels, self.plan, generator, image)
        return pixels, labels

    def _window(self) -> Size | None:
        crop, size = self.recipe.crop, self.plan.size
        if crop is not None:
            return (crop, crop) if isinstance(crop, int) else crop
        if self.plan.crop is not None or size is None:
            return self.plan.crop
        if size.height and size.width:
            return size.height, size.width
        side = size.shortest_edge or min(size.max_height or 0, size.max_width or 0)
        return (side, side) if side else None

    def _cut_out(self, pixels: Tensor, labels: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """A window at random; where the image is smaller, all of it, for the collator to pad."""
        if self.window is None:
            return pixels, labels
        height, width = min(self.window[0], labels.shape[0]), min(self.window[1], labels.shape[1])
        for _ in range(WINDOWS_TRIED):
            top = int(generator.integers(labels.shape[0] - height + 1))
            left = int(generator.integers(labels.shape[1] - width + 1))
            part = labels[top : top + height, left : left + width]
            if self.recipe.most_of_one_class == 1 or self._is_varied(part):
                break
        return pixels[:, top : top + height, left : left + width], part

    def _is_varied(self, labels: Tensor) -> bool:
        counts = labels[labels != self.ignore_index].unique(return_counts=True)[1]
        return len(counts) > 1 and float(counts.max() / counts.sum()) < self.recipe.most_of_one_class


def scaled_size(size: Size, plan: Plan, factor: float = 1.0) -> Size:
    """What the evaluation makes of an image of this size, times the factor."""
    height, width = [size, *sizes_of_steps(*size, plan)][-1]
    return max(1, round(height * factor)), max(1, round(width * factor))


def preparation(
    processor: Any, augment: "StandardAugmentation | JointAugment | None", ignore_index: int
) -> Preparation:
    """How training images are made."""
    if isinstance(augment, StandardAugmentation):
        return StandardPreparation(processor, augment, ignore_index)
    return Preparation(processor, augment)
