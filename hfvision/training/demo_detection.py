"""The detection demo: a starter model finds the digits in scenes that it has not seen.

    result = run_detection_demo("hfvision-detection-demo")

A starter finds boxes, or segments; which it is decides what is measured and drawn. The scenes are those of the
segmentation demo. Everything goes through `transformers.pipeline`, as users call it; with `train` the starter is first
trained anew, by the call behind the command that its card gives.
"""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from datasets import Dataset
from numpy.typing import NDArray
from PIL.Image import Image

from hfvision.data.scenes import DIGIT_NAMES, SCENE_CLASSES, load_digit_scenes
from hfvision.data.scenes import NAME as SCENES
from hfvision.detections import Detections
from hfvision.errors import ConfigError
from hfvision.metrics.detection import DetectionMetric
from hfvision.metrics.panoptic import PanopticMetric
from hfvision.objects import read_objects
from hfvision.pipelines.loading import load_config
from hfvision.plots.detection import detection_sheet
from hfvision.plots.panoptic import panoptic_sheet
from hfvision.processing.palette import class_palette
from hfvision.starters import resolve
from hfvision.training.demo_recipes import LICENSE, SCENES_MEASURED, SCENES_SHOWN, SceneRecipe, output_folder
from hfvision.training.detection import train_detection
from hfvision.training.detection_augmentation import DetectionAugmentation
from hfvision.training.panoptic import train_panoptic
from hfvision.training.settings import arguments_of

STARTER = "detr-digit-scenes"
PANOPTIC_STARTER = "detr-panoptic-digit-scenes"
# The trunk knows digits already; the last weights are kept, not the best: the unseen scenes decide nothing.
_recipe = partial(
    SceneRecipe,
    demo="detection",
    augmentation=None,
    dataset="digit-scenes-large",
    further={"trunk": "segformer-digit-scenes", "trunk_rate_factor": 0.3},
)
RECIPES = {
    STARTER: _recipe(task="detection", required=0.80, settings={"epochs": 8, "keep_best": False}),
    PANOPTIC_STARTER: _recipe(task="panoptic", required=0.60, settings={"epochs": 6, "keep_best": False}),
}
FIGURES = {"detection": ("AP50", "AP", "AP75", "AR100"), "panoptic": ("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff")}
SHOWN_ABOVE = 0.5  # scores of the objects that are drawn
BATCH = 25  # scenes that run together
SEGMENT = {"threshold": 0.5, "overlap_mask_area_threshold": 0.8, "label_ids_to_fuse": [0]}  # as training measures


def notes_for(name: str) -> tuple[str, ...]:
    """What the card of a starter says beside the figures."""
    return RECIPES[name].notes(name)


@dataclass(frozen=True)
class DetectionDemoResult:
    """Everything that the demo found out; shares are of 0..1."""

    model: str  # folder
    trained: bool  # anew, by this demo
    seconds: float  # that training took
    scenes: int  # unseen ones
    figures: dict[str, float]  # those of FIGURES; the first decides
    per_class: dict[str, float | None]  # AP or PQ
    required: float  # of the figure that decides
    picture: str  # file

    @property
    def figure(self) -> str:
        """The one that decides: AP50 of boxes, PQ of segments."""
        return next(iter(self.figures))

    @property
    def passed(self) -> bool:
        return self.figures[self.figure] >= self.required


def run_detection_demo(
    output: str | os.PathLike[str] = "hfvision-detection-demo",
    *,
    starter: str = STARTER,
    train: bool = False,
    seed: int = 0,
    max_steps: int | None = None,
    scenes: int = SCENES_MEASURED,
    required: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> DetectionDemoResult:
    """Run the demo; `output` gets the picture "scenes.png" and, with `train`, the model's folder.

    starter: `detr-digit-scenes`, which finds boxes, `detr-panoptic-digit-scenes`, which finds segments, or another
    DETR of the scenes' classes. An interrupted training continues when called again with the same arguments.
    `max_steps` ends it early. `say` receives a line as each part starts. A result below `required` is returned like any
    other: see `passed`. Raises ConfigError if `output` holds something else, and as `train_detection` does.
    """
    folder = output_folder(output, ("scenes.png",))
    name, model, seconds = Path(starter).name, resolve(starter), 0.0
    # Another model may have any trunk.
    recipe = RECIPES.get(name) or replace(RECIPES[_starter_like(model)], dataset=SCENES, further={})
    segments = recipe.task == "panoptic"
    parts = 3 if train else 2
    if train:
        say(f"1/{parts}  training {starter} anew on digit scenes")
        base = recipe.base(starter)
        trained = (train_panoptic if segments else train_detection)(
            base,
            recipe.dataset,
            folder / name,
            args=arguments_of({"seed": seed, "max_steps": max_steps, **recipe.settings, **recipe.further}),
            augment=None if recipe.augmentation is None else DetectionAugmentation(**recipe.augmentation),
            resume=True,
            license=LICENSE,
            notes=notes_for(name) if name in RECIPES else (),
            **recipe.options(),
        )
        model, seconds = trained.output_dir, trained.seconds

    say(f"{parts - 1}/{parts}  finding the digits of {scenes} unseen scenes: transformers.pipeline")
    unseen = load_digit_scenes(train=1, validation=scenes)["validation"]
    measured = _segments(model, unseen) if segments else _boxes(model, unseen)

    say(f"{parts}/{parts}  drawing {min(SCENES_SHOWN, scenes)} of them")
    figures = {figure: measured.figures[figure] for figure in FIGURES[recipe.task]}
    said = ", ".join(f"{figure} {share:.1%}" for figure, share in list(figures.items())[:2])
    sheet = measured.sheet(
        title=f"{name}: scenes that it has not seen", subtitle=f"{said} over {scenes} scenes; truth, answer"
    )
    folder.mkdir(parents=True, exist_ok=True)
    sheet.save(folder / "scenes.png", optimize=True)
    per_class = dict(zip(measured.names, measured.per_class.tolist(), strict=True))
    return DetectionDemoResult(
        model=model,
        trained=train,
        seconds=seconds,
        scenes=scenes,
        figures=figures,
        per_class={name: None if math.isnan(share) else share for name, share in per_class.items()},
        required=recipe.required if required is None else required,
        picture=str(folder / "scenes.png"),
    )


@dataclass(frozen=True)
class _Measured:
    figures: Mapping[str, float]
    per_class: NDArray[np.float64]  # (K,) the figure of each class
    names: list[str]  # (K,)
    sheet: Callable[..., Image]


def _starter_like(model: str) -> str:
    """The starter whose kind a model is of. Raises ConfigError for models of other kinds."""
    classes = load_config(model).architectures or []
    for ending, starter in (("ForObjectDetection", STARTER), ("ForSegmentation", PANOPTIC_STARTER)):
        if any(name.endswith(ending) for name in classes):
            return starter
    raise ConfigError(
        f"the detection demo takes a model that finds objects, as {' and '.join(RECIPES)} do; {model} is "
        f"{', '.join(classes) or 'of no known class'}."
    )


def _boxes(model: str, scenes: Dataset) -> _Measured:
    """Every query of a scene counts in AP; those with a score above 0.5 are drawn."""
    images = list(scenes["image"])
    truths = [
        replace(read_objects(row, image.size[::-1]), image_id=place)
        for place, (row, image) in enumerate(zip(scenes["objects"], images, strict=True))
    ]
    detect: Any = transformers.pipeline("object-detection", model=model)
    answers: list[Detections] = detect(images, output="arrays", threshold=0.0, batch_size=BATCH)
    metric = DetectionMetric(len(DIGIT_NAMES))
    metric.update(
        [answer.to_prediction() for answer in answers],
        [{"boxes": t.boxes, "labels": t.labels, "area": t.areas, "image_id": t.image_id} for t in truths],
    )
    figures = metric.result()
    shown = [answer.above(SHOWN_ABOVE) for answer in answers[:SCENES_SHOWN]]
    sheet = partial(detection_sheet, images[:SCENES_SHOWN], shown, truths[:SCENES_SHOWN], DIGIT_NAMES)
    return _Measured(figures, figures["per_category_AP"], DIGIT_NAMES, sheet)


def _segments(model: str, scenes: Dataset) -> _Measured:
    """Of the background a scene has one segment, of each digit one."""
    images = list(scenes["image"])
    truths = [_true_segments(row) for row in scenes]
    segment: Any = transformers.pipeline("image-segmentation", model=model)
    answers = segment(images, subtask="panoptic", output="map", batch_size=BATCH, **SEGMENT)
    metric = PanopticMetric(len(SCENE_CLASSES), things=range(1, len(SCENE_CLASSES)))
    metric.update(answers, truths)
    figures = metric.result()
    colours = [None, *class_palette(len(SCENE_CLASSES))[1:].tolist()]  # the background stays as it is
    sheet = partial(
        panoptic_sheet, images[:SCENES_SHOWN], answers[:SCENES_SHOWN], truths[:SCENES_SHOWN], SCENE_CLASSES, colours
    )
    return _Measured(figures, figures["per_category_PQ"], SCENE_CLASSES, sheet)


def _true_segments(row: Mapping[str, Any]) -> dict[str, Any]:
    """The segments of a scene as `PanopticMetric` takes them."""
    ids = np.array(row["instances"], np.int64)
    background = 1 + len(row["objects"]["id"])
    segments = [{"id": background, "category_id": 0}]
    segments += [
        {"id": number, "category_id": 1 + digit}
        for number, digit in zip(row["objects"]["id"], row["objects"]["category"], strict=True)
    ]
    return {"segmentation": np.where(ids == 0, background, ids), "segments_info": segments}
