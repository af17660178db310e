"""The standard recipe of training images for classification: a part of the image at its place, mirrored, recolored.

Paper: Szegedy et al. 2015, "Going Deeper with Convolutions", arXiv 1409.4842, section 6: a window of random area and
       ratio of sides, resized to what the model takes. Brightness, contrast, saturation and hue vary as in the other
       recipes.

Everything random comes from the generator of the sample, so it depends on seed, epoch and row only.

Shapes: C channels, H x W pixels of the image as it came, h x w of what the model gets.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from torch import Tensor

from hfvision.data.image_sizes import size_of
from hfvision.errors import ConfigError, numbered
from hfvision.options import option
from hfvision.processing.options import make_plan
from hfvision.training.augmentation import Recipe, Size, scaled_size
from hfvision.training.color_jitter import varied_colours
from hfvision.training.detection_augmentation import Window, changed_processor, cut_image

ImageAugment = Callable[[Any, np.random.Generator], Any]
WINDOWS_TRIED = 10


@dataclass(frozen=True)
class ClassificationAugmentation(Recipe):
    """Parts of the recipe that are used, and how much; raises ConfigError naming every value that cannot work.

    Example:
        >>> import hfvision
        >>> hfvision.ClassificationAugmentation(flip=0.0)
        ClassificationAugmentation(area=(0.35, 1.0), ratio=(0.75, 1.3333333333333333), flip=0.0, colour=True)
    """

    area: tuple[float, float] = option(
        "Least and largest share of the image that is seen; 1 1: all of it.", (0.35, 1.0)
    )
    ratio: tuple[float, float] = option(
        "Least and largest ratio of the window's sides beside the image's own, width over height.", (3 / 4, 4 / 3)
    )
    flip: float = option("Mirror half of the images; not where left and right matter, as in digits.", 0.5, switch=True)
    colour: bool = option("Vary brightness, contrast, saturation and hue.", True, switch=True)

    def __post_init__(self) -> None:
        rules = {
            f"area is (least, largest share), above 0 and up to 1; got {self.area}": 0
            < self.area[0]
            <= self.area[1]
            <= 1,
            f"ratio is (least, largest), above 0; got {self.ratio}": 0 < self.ratio[0] <= self.ratio[1],
            f"flip is a share from 0 to 1; got {self.flip}": 0 <= self.flip <= 1,
        }
        if problems := [problem for problem, holds in rules.items() if not holds]:
            raise ConfigError(numbered("problem", problems))


Augment: TypeAlias = ClassificationAugmentation | ImageAugment | Literal["standard"] | None


class StandardImagePreparation:
    """The standard recipe and the processor: cut out, resized and processed at once, mirrored and varied.

    image, generator -> pixel values (C, h, w), where h x w is what the evaluation makes of the image.
    """

    def __init__(self, processor: Any, recipe: ClassificationAugmentation) -> None:
        self.plan = make_plan(processor.to_dict(), {})
        self.processor = changed_processor(processor, do_resize=True, do_center_crop=False, do_pad=False)
        self.recipe = recipe

    def __call__(self, image: Any, generator: np.random.Generator) -> Tensor:
        size = size_of(image)
        window = self._window(size, generator)
        mirrored = generator.random() < self.recipe.flip
        height, width = self.plan.crop or scaled_size(size, self.plan)
        batch = self.processor(
            images=[cut_image(image, size, window)],
            size={"height": height, "width": width},
            return_tensors="pt",
        )
        pixels: Tensor = batch["pixel_values"][0]
        pixels = pixels.flip(-1) if mirrored else pixels
        return varied_colours(pixels, self.plan, generator, image) if self.recipe.colour else pixels

    def _window(self, size: Size, generator: np.random.Generator) -> Window:
        """Of random area and ratio, at a random place; as large as the image where none fits."""
        height, width = size
        least, most = self.recipe.ratio
        for _ in range(WINDOWS_TRIED):
            area = generator.uniform(*self.recipe.area)
            stretch = math.exp(generator.uniform(math.log(least), math.log(most)) / 2)
            rows = max(1, round(height * math.sqrt(area) / stretch))
            columns = max(1, round(width * math.sqrt(area) * stretch))
            if rows <= height and columns <= width:
                top = int(generator.integers(height - rows + 1))
                left = int(generator.integers(width - columns + 1))
                return top, left, rows, columns
        return 0, 0, height, width


def standard_or_given(augment: Augment) -> ClassificationAugmentation | ImageAugment | None:
    """The augmentation that is meant. Raises ConfigError for one that is none."""
    if augment == "standard":
        return ClassificationAugmentation()
    if augment is not None and not isinstance(augment, ClassificationAugmentation) and not callable(augment):
        raise ConfigError(
            'augment is "standard", a ClassificationAugmentation, a function (image, generator) -> image, or None; got '
            f"{augment!r}."
        )
    return augment
