"""A DETR made ready to learn: its classes, queries, loss and trunk, for boxes and for panoptic segmentation alike."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from hfvision.data.detection import DetectedImages, DetectionData
from hfvision.errors import ConfigError, numbered
from hfvision.layers.frozen_norm import FrozenBatchNorm
from hfvision.losses.detection import DetectionLoss
from hfvision.models.detr.backbone import DetrTrunk, load_trunk
from hfvision.models.detr.heads import DetrDetector
from hfvision.models.detr.model import DetrModel
from hfvision.options import option
from hfvision.processing.detection import DetectionImageProcessor
from hfvision.reporting import report
from hfvision.starters import resolve
from hfvision.training.arguments import VisionTrainingArguments
from hfvision.training.base import Base, check_images_fit, fit_head
from hfvision.training.detection_augmentation import DetectionAugmentation, ObjectAugment, changed_processor
from hfvision.training.parameter_groups import backbone_parameters, mask_parameters, part_of
from hfvision.training.recipe import TaskOptions, without_smoothing

PRETRAINED_TRUNK_RATE = 0.1  # times the learning rate, as the original trains its trunk
# Times the learning rate: until a new mask head knows where its queries look, its gradients are next to nothing.
NEW_MASK_HEAD_RATE = 4.0
LARGEST_SIDE = 800  # short side of the images of DETR's published models
SIDE_STEP = 32  # pixels per place of a trunk's last map
CLASSIFIER = "class_labels_classifier"  # what a file lacks that holds no detector

Trunk = str | os.PathLike[str] | PreTrainedModel
Augmentation = DetectionAugmentation | ObjectAugment | Literal["standard"] | None


@dataclass(frozen=True, kw_only=True)
class DetectorOptions(TaskOptions):
    """What is chosen of a detector beside model, data and arguments; see `train_detection`.

    Raises ConfigError naming every value that cannot work.
    """

    augment: Augmentation = option(
        "The standard recipe: cut out, scaled, mirrored, other colors.",
        "standard",
        fields=DetectionAugmentation,
        panel="Augmentation",
    )
    trunk: Trunk | None = option("Classifier or segmenter (folder, Hub id) that the backbone's weights are taken from.")
    num_queries: int | None = option("The most objects found in an image.", shown="the model's", flags="--queries")
    loss: Mapping[str, Any] | None = option("", fields=DetectionLoss, make=dict)

    def __post_init__(self) -> None:
        known = {"class_cost", "bbox_cost", "giou_cost", "eos_coefficient", "weights"}
        rules = {
            f"num_queries is a whole number of at least 1; got {self.num_queries}": self.num_queries is None
            or (isinstance(self.num_queries, int) and self.num_queries >= 1),
            f"loss has {', '.join(sorted(known))}; got {', '.join(map(str, self.loss or ()))}": not self.loss
            or set(self.loss) <= known,
        }
        if problems := [problem for problem, holds in rules.items() if not holds]:
            raise ConfigError(numbered("problem", problems))

    def check(self, args: VisionTrainingArguments) -> VisionTrainingArguments:
        return without_smoothing(args)


@dataclass(frozen=True)
class Detector:
    """A model ready to learn, and what was decided about it."""

    base: Base
    model: DetrDetector
    new_head: list[str]  # tensors made anew
    loss: DetectionLoss
    trunk_rate_factor: float
    mask_rate_factor: float | None  # None: no masks
    trunk_from: str | None  # the name of what the trunk's weights come from, where it is not the model itself
    trunk_source: str | None = None  # where its files are

    def plan(self) -> dict[str, Any]:
        """What decides the weights, as JSON values."""
        return {
            "loss": self.loss.describe(),
            "trunk": self.trunk_from,
            "trunk_rate_factor": self.trunk_rate_factor,
            "mask_rate_factor": self.mask_rate_factor,
            "num_queries": self.model.config.num_queries,
        }

    def described(self) -> dict[str, str]:
        """The same for the card."""
        loss = self.loss.describe()
        weights = ", ".join(f"{name} {weight:g}" for name, weight in loss.pop("weights").items())
        rate = f"{self.trunk_rate_factor:g} times the learning rate" if self.trunk_rate_factor else "does not learn"
        masks = (
            {} if self.mask_rate_factor is None else {"mask head": f"{self.mask_rate_factor:g} times the learning rate"}
        )
        return {
            "loss": ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in loss.items()),
            "loss weights": f"{weights}; all decoder layers",
            "queries": str(self.model.config.num_queries),
            "trunk": rate + (f", weights from {self.trunk_from}" if self.trunk_from else ""),
            **masks,
        }


def prepare_detector(
    base: Base,
    data: DetectionData,
    options: DetectorOptions,
    model_class: type[DetrDetector],
    backbone_lr_multiplier: float | None,
) -> Detector:
    """Give the model of `base` the classes of the data, and what the options ask for.

    Raises ConfigError where model, processor, data or options do not fit.
    """
    model = _checked(base, model_class)
    has_new_weights = base.origin == "new" or base.name is None
    if has_new_weights and base.processor_by_default:
        base = replace(base, processor=_small_processor(base.processor, data.train))
    for part in (data.train, data.evaluation):
        check_images_fit(base, part.split, len(part), _reader_of_images(part))
    base = replace(base, has_head=not any(CLASSIFIER in name for name in base.missing))
    new_head = fit_head(base, data.names) + _missing_of_the_head(base)
    if options.num_queries is not None:
        new_head += resize_queries(model, options.num_queries)
    trunk_from = trunk_source = None
    if options.trunk is not None:
        given = options.trunk
        load_trunk(model, given if isinstance(given, nn.Module) else resolve(os.fspath(given)))
        trunk_from = type(given).__name__ if isinstance(given, nn.Module) else Path(given).name
        trunk_source = _source_of(given)
    new_trunk = has_new_weights and options.trunk is None
    rate = backbone_lr_multiplier
    if rate is None:
        rate = 1.0 if new_trunk else PRETRAINED_TRUNK_RATE
    _set_what_learns(model, new_trunk, rate)
    loss = _loss(model, options.loss or {})
    model.detection_loss = loss
    model.loss_of_all_layers = True
    new_masks = has_new_weights or any(name.startswith("mask_head.") for name in base.missing)
    mask_rate = (NEW_MASK_HEAD_RATE if new_masks else 1.0) if mask_parameters(model) else None
    return Detector(base, model, list(dict.fromkeys(new_head)), loss, rate, mask_rate, trunk_from, trunk_source)


def _source_of(trunk: Trunk) -> str | None:
    """What a trunk is called by whoever asks for its licence; None for a model made in memory."""
    if isinstance(trunk, nn.Module):
        return getattr(trunk.config, "_name_or_path", "") or None
    return os.fspath(trunk)


@torch.no_grad()
def resize_queries(model: DetrDetector, count: int) -> list[str]:
    """Give the model so many queries: the first ones are kept, further ones start anew. Returns what was made anew."""
    inner = part_of(model, DetrModel)
    old = inner.query_position_embeddings
    if (before := old.num_embeddings) == count:
        return []
    new = nn.Embedding(count, old.embedding_dim, device=old.weight.device, dtype=old.weight.dtype)
    kept = min(before, count)
    new.weight[:kept] = old.weight[:kept]
    inner.query_position_embeddings = new
    for config in {
        id(part.config): part.config for part in model.modules() if isinstance(part, PreTrainedModel)
    }.values():
        if hasattr(config, "num_queries"):
            config.num_queries = count
    report(
        f"{before} queries became {count}: {kept} are kept" + (f", {count - kept} start anew." if count > kept else ".")
    )
    name = next(name for name, module in model.named_modules() if module is new)
    return [f"{name}.weight"] if count > kept else []


def _checked(base: Base, model_class: type[DetrDetector]) -> DetrDetector:
    """The model. Raises ConfigError where it or the processor is of another task."""
    problems = []
    if not isinstance(base.model, model_class):
        problems.append(f"the model is a {model_class.__name__} of hfvision; got {type(base.model).__name__}")
    if not isinstance(base.processor, DetectionImageProcessor):
        problems.append(f"the processor takes boxes, as DetrImageProcessor does; got {type(base.processor).__name__}")
    if problems or not isinstance(base.model, DetrDetector):
        raise ConfigError(numbered("problem", problems))
    return base.model


def _reader_of_images(part: DetectedImages) -> Callable[[int], Any]:
    return lambda row: part.read(row)[0]


def _missing_of_the_head(base: Base) -> list[str]:
    """The tensors that a file lacked, but for the trunk's."""
    trunk = {id(parameter) for parameter in backbone_parameters(base.model)}
    of_trunk = {name for name, parameter in base.model.named_parameters() if id(parameter) in trunk}
    return [name for name in base.missing if name not in of_trunk]


def _small_processor(processor: Any, part: DetectedImages) -> Any:
    """The processor for new weights, which need not be trained at the size of the published ones."""
    short, long = (round(float(np.median(sides))) for sides in np.sort(np.array(part.sizes()), axis=1).T)
    side = min(LARGEST_SIDE, max(SIDE_STEP, round(short / SIDE_STEP) * SIDE_STEP))
    longest = max(side, round(side * max(5 / 3, long / short)))
    report(
        f"new weights: images are resized to a short side of {side} pixels (at most {longest}), as the data has them."
    )
    return changed_processor(processor, size={"shortest_edge": side, "longest_edge": longest})


def _set_what_learns(model: DetrDetector, new_trunk: bool, rate: float) -> None:
    """All of a new trunk, which cannot have been trained; of another all but a ResNet's stem and first stage."""
    inner = part_of(model, DetrModel)
    if not rate:
        inner.freeze_backbone()
    elif new_trunk:
        inner.unfreeze_backbone()
        if any(isinstance(module, FrozenBatchNorm) for module in part_of(model, DetrTrunk).modules()):
            report(
                "the trunk has new weights and batch norms that DETR keeps frozen, so nothing normalises what it "
                "learns. Start it from a trained classifier (trunk=FOLDER, --trunk FOLDER), or take a trunk with "
                "layer norms (SegFormer, Swin, ViT) as backbone_config."
            )


def _loss(model: DetrDetector, changes: Mapping[str, Any]) -> DetectionLoss:
    own = model.default_loss
    weights = {**own.weights, **changes.get("weights", {})}
    return replace(own, **{**changes, "weights": weights})
