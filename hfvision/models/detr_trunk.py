"""Any trunk as DETR reads it: maps, and where they are padding.

Shapes: see `models.detr_resnet`.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoBackbone

from hfvision.errors import ConfigError
from hfvision.models.detr_config import DetrConfig
from hfvision.models.detr_resnet import TIMM_RESNETS, FeatureMap, FrozenBatchNorm, resnet_sizes, resnet_trunk
from hfvision.reporting import report_once

PaddingRule = Literal["hidden", "seen"]


class DetrTrunk(nn.Module):
    """(B, C, H, W) -> the trunk's maps, fine to coarse.

    `padding_rule` says what images that are padded look like to the trunk. "hidden": as each would look alone, so
    that what else is in the batch changes nothing. "seen": with a border of zeros, as in the source.
    """

    padding_rule: PaddingRule = "hidden"
    channels: list[int]
    model: nn.Module

    def forward(self, pixel_values: Tensor, padding: Tensor | None) -> list[FeatureMap]:
        """The padding of a map is given where it is hidden, for what reads the map to hide it too."""
        return self.maps(pixel_values, padding if self.padding_rule == "hidden" else None)

    def maps(self, pixel_values: Tensor, padding: Tensor | None) -> list[FeatureMap]:
        """The padding that is given is hidden."""
        raise NotImplementedError


def nearest(padding: Tensor, values: Tensor) -> Tensor:
    """The padding of a map by the nearest pixel, however the map came about."""
    return nn.functional.interpolate(padding.float(), size=values.shape[-2:]).bool()


class DetrResNetTrunk(DetrTrunk):
    """A ResNet of ours, whose stem and first stage do not learn."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        sizes = resnet_sizes(config.backbone_config, config.dilation and config.dilates_any_resnet)
        assert sizes is not None
        self.model = resnet_trunk(config.backbone_config, sizes)
        self.channels = self.model.channels
        self.model.freeze_first()

    def maps(self, pixel_values: Tensor, padding: Tensor | None) -> list[FeatureMap]:
        return self.model(pixel_values, padding)


class DetrAnyTrunk(DetrTrunk):
    """A backbone of AutoBackbone, batch norms frozen.

    It cannot be told what is padding; so where something is, each image goes through it by itself. A compiled model
    has no such choice, and its trunk sees the padding.
    """

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        try:
            backbone = AutoBackbone.from_config(config.backbone_config)
        except ImportError as error:
            name = getattr(config.backbone_config, "backbone", None)
            raise ConfigError(
                f"the trunk {name!r} is one of timm's, which is not installed; without it there are "
                f"{', '.join(TIMM_RESNETS)}. Install timm, or choose another backbone_config."
            ) from error
        self.channels = list(backbone.channels)
        self.model = getattr(backbone, "_backbone", backbone)  # files hold the weights of timm's model itself
        freeze_batch_norms(self.model)

    def maps(self, pixel_values: Tensor, padding: Tensor | None) -> list[FeatureMap]:
        if padding is None or torch.compiler.is_compiling():
            return [FeatureMap(values, None) for values in self._whole(pixel_values)]
        return self._each_alone(pixel_values, ~padding[:, 0])

    def _whole(self, pixel_values: Tensor) -> list[Tensor]:
        outputs = self.model(pixel_values)
        return list(outputs if isinstance(outputs, list | tuple) else outputs.feature_maps)

    def _each_alone(self, pixel_values: Tensor, real: Tensor) -> list[FeatureMap]:
        heights, widths = real.any(dim=2).sum(dim=1).tolist(), real.any(dim=1).sum(dim=1).tolist()
        alone = [
            self._whole(image[None, :, :height, :width])
            for image, height, width in zip(pixel_values, heights, widths, strict=True)
        ]
        return [joined(list(maps)) for maps in zip(*alone, strict=True)]


def joined(maps: list[Tensor]) -> FeatureMap:
    """Maps (1, F, h_i, w_i) of several images as one (B, F, h, w), padded with zeros at the bottom and right."""
    height, width = (max(one.shape[axis] for one in maps) for axis in (2, 3))
    values, padding = [], []
    for one in maps:
        around = (0, width - one.shape[3], 0, height - one.shape[2])
        values.append(nn.functional.pad(one, around))
        padding.append(nn.functional.pad(one.new_zeros(1, 1, *one.shape[2:]), around, value=1.0).bool())
    return FeatureMap(torch.cat(values), torch.cat(padding))


def freeze_batch_norms(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                frozen = FrozenBatchNorm(child.num_features)
                frozen.load_state_dict({key: child.state_dict()[key] for key in frozen.state_dict()}, assign=True)
                setattr(module, name, frozen)


def trunk_of(config: DetrConfig) -> DetrTrunk:
    trunk: Any = config.backbone_config
    sizes = resnet_sizes(trunk)
    if config.dilation and not config.dilates_any_resnet and trunk.model_type != "timm_backbone":
        report_once(
            f"dilation=True concerns trunks that are named as timm does (backbone='resnet50'); this one, of model_type "
            f"{trunk.model_type!r}, stays as its own config says, as in transformers."
        )
    return DetrAnyTrunk(config) if sizes is None else DetrResNetTrunk(config)
