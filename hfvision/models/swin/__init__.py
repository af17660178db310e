"""Swin: model with its config, heads, windows; `microsoft` is the form of its authors' files without patch norm."""

from hfvision.models.swin.heads import SwinBackbone, SwinForImageClassification, SwinForMaskedImageModeling
from hfvision.models.swin.microsoft import (
    MicrosoftSwinBackbone,
    MicrosoftSwinConfig,
    MicrosoftSwinForImageClassification,
    MicrosoftSwinModel,
)
from hfvision.models.swin.model import SwinConfig, SwinModel, SwinPreTrainedModel

__all__ = [
    "MicrosoftSwinBackbone",
    "MicrosoftSwinConfig",
    "MicrosoftSwinForImageClassification",
    "MicrosoftSwinModel",
    "SwinBackbone",
    "SwinConfig",
    "SwinForImageClassification",
    "SwinForMaskedImageModeling",
    "SwinModel",
    "SwinPreTrainedModel",
]
