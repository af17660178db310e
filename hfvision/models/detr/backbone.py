"""Any trunk as DETR reads it: maps, and where they are padding. Weights of trunks that learned another task.

Shapes: see `models.detr.resnet`.
"""

import os
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoBackbone

from hfvision.checkpoints import download, looks_like_repo_id, read
from hfvision.errors import ConfigError, numbered
from hfvision.layers.frozen_norm import FrozenBatchNorm
from hfvision.models.detr.config import DetrConfig
from hfvision.models.detr.resnet import TIMM_RESNETS, FeatureMap, ResNetTrunk, resnet_sizes
from hfvision.models.detr.resnet_layouts import layout_names, resnet_trunk
from hfvision.reporting import report, report_once
from hfvision.tracing import values_are_hidden

PaddingRule = Literal["hidden", "seen"]


class DetrTrunk(nn.Module):
    """(B, C, H, W) -> the trunk's maps, fine to coarse.

    `padding_rule` says what images that are padded look like to the trunk. "hidden": as each would look alone, so
    that what else is in the batch changes nothing. "seen": with a border of zeros, as in the source.
    """

    padding_rule: PaddingRule = "hidden"
    channels: list[int]
    model: nn.Module

    def freeze_first(self) -> None:
        """What a trunk of this kind leaves as it is: nothing, unless it is a ResNet."""

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

    model: ResNetTrunk

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        sizes = resnet_sizes(config.backbone_config, bool(config.dilation) and config.dilates_any_resnet)
        assert sizes is not None
        self.model = resnet_trunk(config.backbone_config, sizes)
        self.channels = self.model.channels
        self.freeze_first()

    def freeze_first(self) -> None:
        self.model.freeze_first()

    def maps(self, pixel_values: Tensor, padding: Tensor | None) -> list[FeatureMap]:
        return self.model(pixel_values, padding)


class DetrAnyTrunk(DetrTrunk):
    """A backbone of AutoBackbone, batch norms frozen.

    It cannot be told what is padding; so where something is, each image goes through it by itself. A compiled, exported
    or traced model has no such choice, nor has one under torch.func's vmap: there its trunk sees the padding.
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
        if padding is None or values_are_hidden():
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


class LoadedTrunk(NamedTuple):
    """Names of tensors of a trunk."""

    loaded: list[str]
    left: list[str]  # as they were, for the source has none


@torch.no_grad()
def load_trunk(model: nn.Module, source: str | os.PathLike[str] | nn.Module) -> LoadedTrunk:
    """Give a DETR's trunk the weights of a model of another task with the same trunk, wherever they lie in that.

    `source`: a folder, a Hub id or a file of weights, or a model: a classifier, a segmenter, another detector. A ResNet
    may have the layout of timm and torchvision or that of transformers. What was loaded is reported.

    Raises ConfigError for a model that is no DETR, for a source without such a trunk and for tensors of another shape,
    listing them, and CheckpointReadError for what cannot be read; the model is then as it was.

    Example:
        >>> import hfvision
        >>> resnet = {
        ...     "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
        ...     "out_features": ["stage1", "stage2"],
        ... }
        >>> config = hfvision.DetrConfig(backbone_config=resnet, d_model=32, encoder_layers=1, decoder_layers=1)
        >>> detector, other = hfvision.DetrForObjectDetection(config), hfvision.DetrForObjectDetection(config)
        >>> loaded = hfvision.load_trunk(detector, other)
    """
    trunks = [module for module in model.modules() if isinstance(module, DetrTrunk)]
    if not trunks:
        raise ConfigError(f"load_trunk gives a DETR model new weights; got a {type(model).__name__}, which is none.")
    trunk = trunks[0].model
    shown = type(source).__name__ if isinstance(source, nn.Module) else os.fspath(source)
    given = source.state_dict() if isinstance(source, nn.Module) else _stored(shown)
    wanted = trunk.state_dict()
    found = _found_in(given, trunk, wanted)
    if 2 * len(found) < len(wanted):  # a few names occur in many models
        raise ConfigError(
            f"{shown} has no trunk like {type(trunk).__name__}, of whose {len(wanted)} tensors it has {len(found)}: "
            f"it begins with {', '.join(list(given)[:2])}, wanted is {next(iter(wanted))}. Give the model the source's "
            "own config as backbone_config."
        )
    problems = [
        f"{theirs} is {tuple(given[theirs].shape)}, the trunk's {name} {tuple(wanted[name].shape)}"
        for name, theirs in found.items()
        if given[theirs].shape != wanted[name].shape
    ]
    if problems:
        raise ConfigError(
            f"the trunk of {shown} has other sizes, {numbered('mismatch', problems, most=8)}\nGive the model the "
            "source's own config as backbone_config, and change channels or image size afterwards (resize_input)."
        )
    for name, theirs in found.items():
        wanted[name].copy_(given[theirs])
    left = [name for name in wanted if name not in found]
    names = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
    rest = f"; {len(left)} stay as they were: {names}" if left else ""
    report(f"The trunk was loaded from {shown}: {len(found)} of {len(wanted)} tensors{rest}.")
    return LoadedTrunk([name for name in wanted if name in found], left)


def _stored(source: str) -> dict[str, Tensor]:
    return read(download(source) if looks_like_repo_id(source) else source).tensors


def _found_in(given: Mapping[str, Tensor], trunk: nn.Module, wanted: Mapping[str, Tensor]) -> dict[str, str]:
    """Name in the trunk -> key of the source. The source's trunk begins where the most names of one layout are met."""
    layouts = layout_names(trunk) if isinstance(trunk, ResNetTrunk) else [{name: name for name in wanted}]
    most: dict[str, str] = {}
    for names in layouts:
        theirs = set(names.values())
        beginnings = Counter(
            ".".join(parts[:cut])
            for parts in (key.split(".") for key in given)
            for cut in range(len(parts))
            if ".".join(parts[cut:]) in theirs
        )
        if not beginnings:
            continue
        (begin, _), *_ = beginnings.most_common(1)
        prefix = f"{begin}." if begin else ""
        found = {name: prefix + key for name, key in names.items() if prefix + key in given}
        most = max(most, found, key=len)
    return most
