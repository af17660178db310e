"""The segmentation demo: a starter model gives a class to every pixel of scenes that it has not seen.

    result = run_segmentation_demo("hfvision-segmentation-demo")

The scenes are composed of handwritten digits that ship with the package, the unseen ones of other digits than those
that the starter was trained on. Everything goes through `transformers.pipeline`, as users call it; with `train` the
starter is first trained anew, by the call behind the command that its card gives.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from hfvision.data.scenes import NAME as SCENES
from hfvision.data.scenes import SCENE_CLASSES, load_digit_scenes
from hfvision.errors import ConfigError
from hfvision.metrics.segmentation import SegmentationMetric
from hfvision.plots.segmentation import segmentation_sheet
from hfvision.starters import resolve
from hfvision.training.arguments import NEW, TrainingSettings
from hfvision.training.augmentation import StandardAugmentation
from hfvision.training.segmentation import train_segmentation

STARTER = "segformer-digit-scenes"
SCENES_MEASURED = 200  # the validation split
SCENES_SHOWN = 12


@dataclass(frozen=True)
class Recipe:
    """How a starter is trained: what differs from the defaults for new weights."""

    scale: tuple[float, float] | None  # of the standard augmentation; None: the scenes vary enough by themselves
    settings: Mapping[str, Any] = field(default_factory=dict)  # of TrainingSettings
    required_mean_iou: float = 0.80  # on the unseen scenes

    @property
    def augmentation(self) -> StandardAugmentation | None:
        return StandardAugmentation(scale=self.scale, flip=0) if self.scale else None  # mirrored, it is another sign

    @property
    def options(self) -> str:
        """The same for the command line."""
        varied = f"--no-flip --scale {self.scale[0]} {self.scale[1]}" if self.scale else "--no-augment"
        named = (f"--{name.replace('_', '-')} {value}" for name, value in self.settings.items())
        return " ".join([varied, *named, f"--license {LICENSE}"])


LICENSE = "apache-2.0"
RECIPES = {
    STARTER: Recipe(scale=(0.75, 1.33)),
    "segmenter-digit-scenes": Recipe(
        scale=None, settings={"epochs": 32, "learning_rate": 1e-3}, required_mean_iou=0.65
    ),
}


def notes_for(name: str) -> tuple[str, ...]:
    """What the card of a starter says beside the figures."""
    command = (
        f"hfvision train segmentation --model new:{name} --dataset {SCENES} --output FOLDER {RECIPES[name].options}"
    )
    return (
        f"It ships with hfvision: `hfvision predict IMAGE --model {name} --output FOLDER`, or in Python the folder "
        f'`hfvision.starters.resolve("{name}")`. `hfvision demo segmentation` shows it on unseen scenes.',
        f"`{command}` makes it anew, and so does `hfvision demo segmentation --model {name} --train`.",
        "It knows handwritten digits of one colour each, 40 to 60 pixels high on scenes of 96 x 96 pixels, and nothing "
        "else: it is for trying things out. The digits of both splits come from the same 13 writers.",
    )


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
    folder = Path(output)
    maps, picture = folder / "maps", folder / "scenes.png"
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output is a folder; {folder} is a file. Choose another name.")
    for path in (maps, picture):
        if path.exists():
            raise ConfigError(f"{path} is there and would be overwritten. Choose another folder.")
    recipe = RECIPES.get(Path(starter).name, RECIPES[STARTER])
    model, seconds = resolve(starter), 0.0
    parts = 3 if train else 2
    if train:
        say(f"1/{parts}  training {starter} anew on digit scenes")
        trained = train_segmentation(
            NEW + starter,
            SCENES,
            folder / Path(starter).name,
            settings=TrainingSettings.for_model(NEW + starter, seed=seed, max_steps=max_steps, **recipe.settings),
            augment=recipe.augmentation,
            resume=True,
            license=LICENSE,
            notes=notes_for(Path(starter).name) if Path(starter).name in RECIPES else (),
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
        title=f"{Path(starter).name}: scenes that it has not seen",
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
        required_mean_iou=recipe.required_mean_iou if required_mean_iou is None else required_mean_iou,
        maps=str(maps),
        picture=str(picture),
    )
