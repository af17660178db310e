"""What a run needs to train a detector, put together: samples, batches, trainer, ends."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from hfvision.data.detection import DetectedImages, DetectionData
from hfvision.licences import shown
from hfvision.losses.detection import WEIGHTS
from hfvision.processing.options import make_plan
from hfvision.training.augmentation import scaled_size
from hfvision.training.base import Base, check_images_fit, set_drop_path
from hfvision.training.detection_augmentation import (
    DetectionAugmentation,
    ObjectPreparation,
    object_preparation,
)
from hfvision.training.detection_samples import DetectedSamples, collate
from hfvision.training.detector import Augmentation, Detector
from hfvision.training.detector_trainer import DetectorTrainer, ObjectCounter
from hfvision.training.loop import EarlyEnd
from hfvision.training.recipe import Measuring
from hfvision.training.recording import Recorder
from hfvision.training.run import Run, Task, TrainingResult, described, listed

Outcome = TypeVar("Outcome", bound=TrainingResult)

PATIENCE = 12  # evaluations without progress, where weights are pretrained; new ones are left to learn to the end


def detector_task(
    run: Run,
    name: str,
    result: type[Outcome],
    detector: Detector,
    data: DetectionData,
    counter: ObjectCounter,
    *,
    augment: Augmentation,
    ends: Sequence[EarlyEnd] = (),
    masks: bool = False,
    logged: Sequence[str] = (),
    further: Mapping[str, float] | None = None,
) -> Task[Outcome]:
    """The task of a run; `logged` are the figures that its history has beside the one that decides, `further` is what
    plan and card say of this task alone.

    Raises ConfigError for an augmentation that is none, and stochastic depth that there is not.
    """
    processor, args = detector.base.processor, run.args
    if augment == "standard":
        augment = DetectionAugmentation()
    patience = args.early_stopping_patience
    if patience is None:
        patience = 0 if detector.base.origin == "new" or args.eval_strategy == "no" else PATIENCE
    further = further or {}
    set_drop_path(detector.model, args.drop_path_rate)
    plan = {**detector.plan(), "augment": described(augment), "patience": patience, **further}
    terms = [term for term in WEIGHTS if masks or term not in ("loss_mask", "loss_dice")]
    return Task(
        name=name,
        result=result,
        base=detector.base,
        data=data,
        new_head=detector.new_head,
        train=DetectedSamples(data.train, object_preparation(processor, augment, masks), args.seed),
        evaluation=DetectedSamples(data.evaluation, ObjectPreparation(processor, masks=masks), stored=True),
        collate=collate,
        counter=counter,
        plan=plan,
        parents=[(shown(source), source)] if (source := detector.trunk_source) else [],
        described={
            **detector.described(),
            "augmentation": listed(described(augment)),
            "early stop": f"after {patience} evaluations without progress" if patience else "none",
            **{name: f"{value:g}" for name, value in further.items()},
        },
        trainer=partial(
            DetectorTrainer,
            mask_rate_factor=detector.mask_rate_factor,
            train_sizes=image_sizes(data.train, processor),
            evaluation_sizes=image_sizes(data.evaluation, processor),
        ),
        class_figure=run.figure,
        logged=(*logged, *terms),
        callbacks=ends,
        backbone_lr_multiplier=detector.trunk_rate_factor,
        patience=patience,
    )


def measure_objects(
    base: Base, data: DetectionData, counter: ObjectCounter, recorder: Recorder, figure: str, *, masks: bool = False
) -> Measuring:
    """How a detector is measured, `figure` being what its counter has of each class."""
    part = data.evaluation
    check_images_fit(base, part.split, len(part), lambda row: part.read(row)[0])
    return Measuring(
        counter=counter,
        trainer=partial(DetectorTrainer, evaluation_sizes=image_sizes(part, base.processor)),
        samples=DetectedSamples(part, ObjectPreparation(base.processor, masks=masks), stored=True),
        collate=collate,
        class_figure=figure,
        recorder=recorder,
    )


def image_sizes(part: DetectedImages, processor: Any) -> list[tuple[int, int]]:
    """(height, width) of each image as the processor makes it."""
    plan = make_plan(processor.to_dict(), {})
    return [scaled_size((height, width), plan) for height, width in part.sizes()]
