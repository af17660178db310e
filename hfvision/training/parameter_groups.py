"""Parameters that learn at a rate of their own: a model's head, its backbone, the masks of a panoptic DETR."""

from typing import Any

from torch import nn

from hfvision.errors import ConfigError
from hfvision.models.detr.backbone import DetrTrunk
from hfvision.models.detr.heads import DetrBoxAttention, DetrDetector, DetrMaskHead
from hfvision.models.detr.model import DetrModel


def head_parameters(model: Any) -> list[nn.Parameter]:
    """What a model has beside its backbone; of a DETR what turns the decoder's vectors into classes, boxes and masks.

    Raises ConfigError for a model that has no head apart.
    """
    inner = {id(parameter) for parameter in _inner(model).parameters()}
    head = [parameter for parameter in model.parameters() if id(parameter) not in inner]
    if not inner or not head:
        raise ConfigError(f"{type(model).__name__} has no backbone apart from its head; leave head_lr_multiplier at 1.")
    return head


def backbone_parameters(model: Any) -> list[nn.Parameter]:
    """What makes feature maps or tokens of images. Raises ConfigError for a model that has none apart from its head."""
    if isinstance(model, DetrDetector):
        return list(part_of(model, DetrTrunk).parameters())
    if not (backbone := list(_inner(model).parameters())):
        raise ConfigError(f"{type(model).__name__} has no backbone apart from its head: leave backbone_lr_multiplier.")
    return backbone


def mask_parameters(model: Any) -> list[nn.Parameter]:
    """What makes the masks of a panoptic model, beside what finds its objects; of a detector nothing."""
    parts = [module for module in model.modules() if isinstance(module, DetrBoxAttention | DetrMaskHead)]
    return [parameter for part in parts for parameter in part.parameters()]


def part_of(model: nn.Module, kind: type[Any]) -> Any:
    """The first part of a model that is of a kind."""
    return next(module for module in model.modules() if isinstance(module, kind))


def _inner(model: Any) -> nn.Module:
    if isinstance(model, DetrDetector):
        inner: nn.Module = part_of(model, DetrModel)
        return inner
    named = getattr(model, getattr(model, "base_model_prefix", "") or "_", None)
    return named if isinstance(named, nn.Module) else nn.Module()
