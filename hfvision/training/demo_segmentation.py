"""The segmentation demo: a starter model gives a class to every pixel of scenes that it has not seen.

    result = run_segmentation_demo("hfvision-segmentation-demo")

The scenes are composed of handwritten digits that ship with the package, the unseen ones of other digits than those
that the starter was trained on. Everything goes through `transformers.pipeline`, as users call it; with `train` the
starter is first trained anew, by the call behind the command that its card gives.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from hfvision.data.scenes import NAME as SCENES
from hfvision.data.scenes import SCENE_CLASSES, load_digit_scenes
from hfvision.metrics.segmentation import SegmentationMetric
from hfvision.plots.segmentation import segmentation_sheet
from hfvision.starters import resolve
from hfvision.training.augmentation import StandardAugmentation
from hfvision.training.demo_recipes import LICENSE, SCENES_MEASURED, SCENES_SHOWN, SceneRecipe, output_folder
from hfvision.training.segmentation import train_segmentation
from hfvision.training.settings import arguments_of

STARTER = "segformer-digit-scenes"
_recipe = partial(SceneRecipe, task="segmentation", demo="segmentation")
RECIPES = {
    STARTER: _recipe(required=0.80, augmentation={"flip": 0, "scale": (0.75, 1.33)}),  # mirrored, it is another sign
    "segmenter-digit-scenes": _recipe(
        required=0.80, augmentation=None, dataset="digit-scenes-large", settings={"epochs": 7, "learning_rate": 1e-3}
    ),
}


def notes_for(name: str) -> tuple[str, ...]:
    """What the card of a starter says beside the figures."""
    return RECIPES[name].notes(name)


@dataclass(frozen=True)
class SegmentationDemoResult:
    """Everything that the demo found out; shares are of 0..1."""

    model: str  # folder
    trained: bool  # anew, by this demo
    seconds: float  # that training took
    scenes: int  # unseen ones
    mean_iou: float
    pixel_accuracy: float
    per_class: dict[str, float | None]  # IoU
    required_mean_iou: float
    maps: str  # folder of label maps
    picture: str  # file

    @property
    def passed(self) -> bool:
        return self.mean_iou >= self.required_mean_iou


def run_segmentation_demo(
    output: str | os.PathLike[str] = "hfvision-segmentation-demo",
    *,
    starter: str = STARTER,
    train: bool = False,
    seed: int = 0,
    max_steps: int | None = None,
    scenes: int = SCENES_MEASURED,
    required_mean_iou: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> SegmentationDemoResult:
    """Run the demo; `output` gets the folder "maps", the picture "scenes.png" and, with `train`, the model's folder.

    An interrupted training continues when called again with the same arguments. `max_steps` ends it early. `say`
    receives a line as each part starts. A result below `required_mean_iou` is returned like any other: see `passed`.
    Raises ConfigError if `output` holds something else, and as `train_segmentation` does.
    """
    folder = output_folder(output, ("maps", "scenes.png"))
    maps, picture = folder / "maps", folder / "scenes.png"
    name = Path(starter).name
    recipe = RECIPES.get(name, RECIPES[STARTER])
    model, seconds = resolve(starter), 0.0
    parts = 3 if train else 2
    if train:
        say(f"1/{parts}  training {starter} anew on digit scenes")
        base = recipe.base(starter)
        trained = train_segmentation(
            base,
            SCENES,
            folder / name,
            args=arguments_of({"seed": seed, "max_steps": max_steps, **recipe.settings}),
            augment=None if recipe.augmentation is None else StandardAugmentation(**recipe.augmentation),
            resume=True,
            license=LICENSE,
            notes=notes_for(name) if name in RECIPES else (),
        )
        model, seconds = trained.output_dir, trained.seconds

    say(f"{parts - 1}/{parts}  giving a class to every pixel of {scenes} unseen scenes: transformers.pipeline")
    unseen = load_digit_scenes(train=1, validation=scenes)["validation"]
    images, truths = list(unseen["image"]), [np.array(mask) for mask in unseen["mask"]]
    segment: Any = transformers.pipeline("image-segmentation", model=model)
    answers = segment(images, output="map", batch_size=25)
    metric = SegmentationMetric(len(SCENE_CLASSES))
    metric.update([answer["classes"] for answer in answers], truths)
    per_class, figures = metric.per_class(), metric.result()

    say(f"{parts}/{parts}  drawing {min(SCENES_SHOWN, scenes)} of them, and writing their label maps")
    maps.mkdir(parents=True)
    for row, answer in enumerate(answers):
        answer["map"].save(maps / f"{row:04}.png")
    colours = [None, *map(tuple, answers[0]["colours"][1:].tolist())]  # the background stays as it is
    sheet = segmentation_sheet(
        images[:SCENES_SHOWN],
        [answer["classes"] for answer in answers[:SCENES_SHOWN]],
        truths[:SCENES_SHOWN],
        colours,
        SCENE_CLASSES,
        title=f"{name}: scenes that it has not seen",
        subtitle=f"mean IoU {figures['mean_iou']:.1%} over {scenes} scenes; image, truth, answer",
    )
    sheet.save(picture, optimize=True)
    return SegmentationDemoResult(
        model=model,
        trained=train,
        seconds=seconds,
        scenes=scenes,
        mean_iou=figures["mean_iou"],
        pixel_accuracy=figures["overall_accuracy"],
        per_class=dict(zip(SCENE_CLASSES, per_class, strict=True)),
        required_mean_iou=recipe.required if required_mean_iou is None else required_mean_iou,
        maps=str(maps),
        picture=str(picture),
    )
