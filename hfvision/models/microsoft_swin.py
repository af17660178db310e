"""Swin as microsoft/Swin-Transformer can configure it and the Hub's "swin" format cannot say it.

Paper:  Liu et al. 2021, "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", arXiv 2103.14030.
Source: microsoft/Swin-Transformer, option `patch_norm` (MIT).

Models with normalised patches are `models.swin`; converted files of those use that format. Shapes: as there.
"""

from huggingface_hub.dataclasses import strict

from hfvision.models.swin import SwinConfig, SwinModel
from hfvision.models.swin_heads import SwinBackbone, SwinForImageClassification


@strict
class MicrosoftSwinConfig(SwinConfig):
    """A SwinConfig with the further option of the source."""

    model_type = "microsoft_swin"

    patch_norm: bool = True  # whether the patches are normalised before the first block

    @property
    def normalizes_patches(self) -> bool:
        """Before the first block."""
        return self.patch_norm


class MicrosoftSwinModel(SwinModel):
    """The trunk."""

    config: MicrosoftSwinConfig
    config_class = MicrosoftSwinConfig


class MicrosoftSwinForImageClassification(SwinForImageClassification):
    """The trunk plus one linear layer over the mean of the last map."""

    config: MicrosoftSwinConfig
    config_class = MicrosoftSwinConfig
    trunk_class = MicrosoftSwinModel


class MicrosoftSwinBackbone(SwinBackbone):
    """The trunk as a source of feature maps."""

    config: MicrosoftSwinConfig
    config_class = MicrosoftSwinConfig
