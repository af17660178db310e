"""Can this model learn these objects at all? Train on a few images until it finds what is in them.

A model, annotations and a recipe that belong together learn a handful of images by heart. Where they do not, no
further data or time will help, and the check says where to look.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from hfvision.data.detection import DetectionData
from hfvision.errors import ConfigError, DatasetError
from hfvision.training.arguments import VisionTrainingArguments, changed
from hfvision.training.base import Base
from hfvision.training.loop import EarlyEnd

FIGURE = "AP50"
REQUIRED = 0.9
IN_A_ROW = 2  # evaluations
STEPS = 3000  # at most, where the arguments name no number
EVALUATED_EVERY = 50  # steps


@dataclass(frozen=True)
class OverfitCheck:
    """What came of it."""

    passed: bool
    images: int
    best_AP50: float
    required_AP50: float
    advice: list[str]  # what to look at, where it was not passed

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def in_words(self, last_AP50: float, steps: int) -> str:
        """The verdict, and what to look at."""
        verdict = "can be learned" if self.passed else "could not be learned"
        text = (
            f"{self.images} images {verdict} by heart: AP50 {last_AP50:.2%} after {steps:,} steps, more than "
            f"{self.required_AP50:.0%} twice in a row is wanted"
        )
        return text + "".join(f"\n  look at: {advice}" for advice in self.advice)


class LearntByHeart(EarlyEnd):
    """Ends training when the objects are found."""

    figure = FIGURE

    def is_over(self, figures: Sequence[float]) -> bool:
        return len(figures) >= IN_A_ROW and min(figures[-IN_A_ROW:]) > REQUIRED


def overfit_data(data: DetectionData, images: int, seed: int) -> DetectionData:
    """So many images of the training split, chosen by the seed among those with objects, to train on and to measure.

    Raises ConfigError for a number below 1, and DatasetError where no image has objects.
    """
    if images < 1:
        raise ConfigError(f"overfit is the number of images to learn, at least 1; got {images}.")
    objects = data.train.objects
    with_objects = [row for row in range(len(data.train)) if not objects.crowd[objects.of_image(row)].all()]
    if not with_objects:
        raise DatasetError(f"no image of split {data.train.split!r} has objects to learn.")
    chosen = np.sort(np.random.default_rng(seed).permutation(with_objects)[:images])
    part = data.train.take(chosen, f"{data.train.split}, {len(chosen)} images learnt by heart")
    return replace(data, train=part, evaluation=part)


def overfit_arguments(args: VisionTrainingArguments, images: int) -> VisionTrainingArguments:
    """The same recipe, for as many steps as it may take, evaluated every few of them."""
    every = args.save_steps if args.save_strategy == "steps" else EVALUATED_EVERY
    return changed(
        args,
        max_steps=args.max_steps if args.max_steps > 0 else STEPS,
        **{"save_strategy": SaveStrategy.STEPS, "save_steps": every},
        **{"eval_strategy": IntervalStrategy.STEPS, "eval_steps": every},
        per_device_train_batch_size=min(args.per_device_train_batch_size, images),
    )


def judge(history: Sequence[Mapping[str, float]], base: Base, has_trunk: bool, data: DetectionData) -> OverfitCheck:
    """Whether the objects were found, from the evaluations of the run, and what to look at where they were not."""
    figures = [entry[FIGURE] for entry in history]
    passed = LearntByHeart().is_over(figures)
    advice = [] if passed else _advice(history, base, has_trunk, data)
    return OverfitCheck(passed, len(data.train), max(figures, default=0.0), REQUIRED, advice)


def _advice(history: Sequence[Mapping[str, float]], base: Base, has_trunk: bool, data: DetectionData) -> list[str]:
    objects, sizes = data.train.objects, data.train.sizes()
    counts = [objects.crowd[objects.of_image(row)].size for row in range(len(sizes))]
    most, queries = max(counts), base.model.config.num_queries
    sides = np.minimum(*(objects.boxes[:, 2:] - objects.boxes[:, :2]).T) / np.repeat(np.min(sizes, axis=1), counts)
    figures, last = [entry[FIGURE] for entry in history], history[-1]
    advice = []
    if most > queries:
        advice.append(f"an image has {most} objects and the model {queries} queries: ask for more (num_queries)")
    if figures[-1] > 1.1 * figures[len(figures) // 2]:
        advice.append(f"{FIGURE} was still rising ({figures[-1]:.2f}): give it more steps (max_steps)")
    if np.median(sides) < 1 / 32:
        advice.append(
            f"half of the objects are narrower than {np.median(sides):.1%} of their image's short side: let the "
            "processor resize to more pixels, or cut the images into tiles"
        )
    if last["loss_ce"] > 0.5 and last["loss_giou"] < 0.3:
        advice.append(
            f"the boxes are met (loss_giou {last['loss_giou']:.2f}) but not the classes (loss_ce "
            f"{last['loss_ce']:.2f}): look at the labels, and at eos_coefficient where most objects are not claimed"
        )
    if last["loss_giou"] > 0.6:
        advice.append(
            f"the boxes are not met (loss_giou {last['loss_giou']:.2f}): look at some of them in a picture, at "
            "box_form and relative, and at the learning rate, which may be too high or too low"
        )
    if not base.parent and not has_trunk:
        advice.append("trunk and transformer begin with new weights: start from a trained detector, or give a trunk")
    return advice or ["the learning rate, and whether some of the objects are annotated wrongly: draw them"]
