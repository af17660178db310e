"""Swin as microsoft/Swin-Transformer can configure it and the Hub's "swin" format cannot say it.

Paper:  Liu et al. 2021, "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", arXiv 2103.14030.
Source: microsoft/Swin-Transformer, option `patch_norm` (MIT).

Models with normalised patches are `models.swin`; converted files of those use that format. Shapes: as there.
"""

from huggingface_hub.dataclasses import strict

from hfvision.models.swin.heads import SwinBackbone, SwinForImageClassification
from hfvision.models.swin.model import SwinConfig, SwinModel


@strict
class MicrosoftSwinConfig(SwinConfig):
    """A SwinConfig with the further option of the source.

    Example:
        >>> import hfvision
        >>> hfvision.MicrosoftSwinConfig(patch_norm=False, use_absolute_embeddings=True).patch_norm
        False
    """

    model_type = "microsoft_swin"

    patch_norm: bool = True  # whether the patches are normalised before the first block

    @property
    def normalizes_patches(self) -> bool:
        """Before the first block."""
        return self.patch_norm


class MicrosoftSwinModel(SwinModel):
    """The trunk.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.MicrosoftSwinConfig(
        ...     image_size=32, patch_size=2, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=4
        ... )
        >>> model = hfvision.MicrosoftSwinModel(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 32, 32)).last_hidden_state.shape)
        (2, 64, 16)
    """

    config: MicrosoftSwinConfig
    config_class = MicrosoftSwinConfig


class MicrosoftSwinForImageClassification(SwinForImageClassification):
    """The trunk plus one linear layer over the mean of the last map.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.MicrosoftSwinConfig(
        ...     image_size=32, patch_size=2, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=4, num_labels=3
        ... )
        >>> model = hfvision.MicrosoftSwinForImageClassification(config).eval()
        >>> tuple(model(torch.zeros(2, 3, 32, 32)).logits.shape)
        (2, 3)
    """

    config: MicrosoftSwinConfig
    config_class = MicrosoftSwinConfig
    trunk_class = MicrosoftSwinModel


class MicrosoftSwinBackbone(SwinBackbone):
    """The trunk as a source of feature maps.

    Example:
        >>> import torch, hfvision
        >>> config = hfvision.MicrosoftSwinConfig(
        ...     image_size=32, patch_size=2, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=4,
        ...     out_features=["stage2"]
        ... )
        >>> [tuple(one.shape) for one in hfvision.MicrosoftSwinBackbone(config)(torch.zeros(1, 3, 32, 32)).feature_maps]
        [(1, 16, 8, 8)]
    """

    config: MicrosoftSwinConfig
    config_class = MicrosoftSwinConfig
