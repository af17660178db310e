"""ResNets as trunks of DETR: batch norms that never change, and padding that never shows.

Paper:  He et al. 2015, "Deep Residual Learning for Image Recognition", arXiv 1512.03385. Dilated last stage ("DC5"):
        Carion et al. 2020, "End-to-End Object Detection with Transformers", arXiv 2005.12872, section 4.
Source: facebookresearch/detr (Apache-2.0) for what is frozen and how the last stage is dilated. Names of weights are
        those of the Hub's "detr" files, which hold their trunks in two layouts, see `models.detr.resnet_layouts`.

Images of a batch are padded to one size. A convolution would see what the layers before it have made of the padding,
and at the edge of an image alone it sees zeros; so padding is set to zero wherever a kernel reaches beyond one place.

Shapes: B images, C channels, H x W pixels, h x w places of a map, F channels of a map. Padding is (B, 1, h, w), True
        where a place lies outside the image, or None where nothing is padded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import ResNetConfig
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.timm_backbone.configuration_timm_backbone import TimmBackboneConfig

from hfvision.layers.conv import channels_last
from hfvision.layers.frozen_norm import ConvAndNorm
from hfvision.layers.linear import is_observed
from hfvision.layers.patch_embedding import called, check_images, kernel_of, replace_kernel, with_channels
from hfvision.layers.plain import dtype_of, stands_plain
from hfvision.models.base import InputGeometry, InputPart

STEM_STRIDE = 4  # pixels per place of the map behind the first convolution and the pooling
REDUCTION = 4  # how much narrower the middle of a bottleneck is
STRIP = 2**19  # numbers of a map that a thread ends a block with at a time, 2 MB that stay in its cache

# The ResNets of timm that are built here: (blocks of each stage, whether these are bottlenecks).
TIMM_RESNETS = {
    "resnet18": ([2, 2, 2, 2], False),
    "resnet34": ([3, 4, 6, 3], False),
    "resnet50": ([3, 4, 6, 3], True),
    "resnet101": ([3, 4, 23, 3], True),
}


@dataclass(frozen=True)
class ResNetSizes:
    """What both layouts are built from."""

    num_channels: int
    stem_width: int
    widths: Sequence[int]  # F of each stage
    depths: Sequence[int]  # blocks of each stage
    bottleneck: bool
    strides: Sequence[int]  # of each stage, before dilation
    output_stride: int  # pixels per place beyond which a stage dilates its kernels and keeps its size
    used: Sequence[int]  # indices of the maps that are read: 0 is the stem's, then those of the stages
    stride_in_first: bool = False  # whether the first convolution of a bottleneck has its stride, not the second
    activation: str = "relu"


class StagePlan(NamedTuple):
    """Of one stage."""

    stride: int
    first_dilation: int  # of the first block; a dilated stage begins with the dilation of the one before
    dilation: int  # of the others


def resnet_sizes(config: Any, dilation: bool = False) -> ResNetSizes | None:
    """Those of a trunk's config; None for one that is no ResNet of this file. `dilation`: of the last stage."""
    if isinstance(config, TimmBackboneConfig):
        if config.backbone not in TIMM_RESNETS:
            return None
        depths, bottleneck = TIMM_RESNETS[config.backbone]
        indices = config.out_indices or [-1]
        return ResNetSizes(
            num_channels=config.num_channels,
            stem_width=64,
            widths=[width * (REDUCTION if bottleneck else 1) for width in (64, 128, 256, 512)],
            depths=depths,
            bottleneck=bottleneck,
            strides=(1, 2, 2, 2),
            output_stride=config.output_stride or 32,
            used=[index % (len(depths) + 1) for index in indices],
        )
    if not isinstance(config, ResNetConfig):
        return None
    strides = [2 if stage or config.downsample_in_first_stage else 1 for stage in range(len(config.depths or ()))]
    return ResNetSizes(
        num_channels=config.num_channels,
        stem_width=config.embedding_size,
        widths=list(config.hidden_sizes or ()),
        depths=list(config.depths or ()),
        bottleneck=config.layer_type == "bottleneck",
        strides=strides,
        output_stride=16 if dilation else 2 ** (2 + sum(stride == 2 for stride in strides)),
        used=[index % (len(strides) + 1) for index in config.out_indices or [-1]],
        stride_in_first=config.downsample_in_bottleneck,
        activation=config.hidden_act,
    )


def stage_plans(sizes: ResNetSizes) -> Iterator[StagePlan]:
    reached, dilation = STEM_STRIDE, 1
    for stride in sizes.strides:
        before = dilation
        if reached * stride > sizes.output_stride:
            stride, dilation = 1, dilation * stride
        reached *= stride
        yield StagePlan(stride, before, dilation)


def blank(x: Tensor, padding: Tensor | None, value: float = 0.0) -> Tensor:
    """(B, F, h, w) with one value wherever there is padding."""
    return x if padding is None else x.masked_fill(padding, value)


def below_each_other(x: Tensor) -> Tensor:
    """(B, F, h, w) -> (1, F, B * h, w): the images of a batch as one; for maps in channels-last order only a view."""
    return x.permute(0, 2, 3, 1).flatten(0, 1).unsqueeze(0).permute(0, 3, 1, 2)


def thinned(padding: Tensor | None, stride: int) -> Tensor | None:
    """The padding of the map after a convolution of that stride: each place is read around every stride-th one."""
    if padding is None or stride == 1:
        return padding
    return nn.functional.max_pool2d(padding.float(), 1, stride).bool()  # whose size torch.export knows to be the map's


def activated_in_place(activation: nn.Module, x: Tensor) -> Tensor:
    """activation(x) of a map that is never read again."""
    if type(activation) is nn.ReLU and stands_plain(activation):
        return x.relu_()
    activated: Tensor = activation(x)
    return activated


def convolution(inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """Without a bias, which the norm after it has."""
    padding = dilation * (size // 2)
    return nn.Conv2d(inputs, outputs, size, stride=stride, padding=padding, dilation=dilation, bias=False)


def branch_convolutions(sizes: ResNetSizes, inputs: int, outputs: int, stride: int, dilation: int) -> list[nn.Conv2d]:
    """Those of one block: 3x3 twice, or 1x1, 3x3 and 1x1 around a narrow middle."""
    if not sizes.bottleneck:
        return [convolution(inputs, outputs, 3, stride, dilation), convolution(outputs, outputs, 3, 1, dilation)]
    middle = outputs // REDUCTION
    first, second = (stride, 1) if sizes.stride_in_first else (1, stride)
    return [
        convolution(inputs, middle, 1, first),
        convolution(middle, middle, 3, second, dilation),
        convolution(middle, outputs, 1),
    ]


class ResNetBlock(GradientCheckpointingLayer):
    """A few convolutions, added to the input: (B, F, h, w) -> (B, F', h', w'). The layouts name its parts."""

    activation: nn.Module

    def branch(self) -> list[ConvAndNorm]:
        raise NotImplementedError

    def way_past(self) -> ConvAndNorm | None:
        """What brings the input to the width and stride of the branch; None where it has both."""
        raise NotImplementedError

    def stride(self) -> int:
        return 1 if (way_past := self.way_past()) is None else way_past.kernel.stride

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        shortcut = x if (way_past := self.way_past()) is None else way_past(x)
        *steps, last = self.branch()
        for step in steps:
            x = step.rectified(x if step.kernel.size == 1 else blank(x, padding))  # whatever the block ends with
            padding = thinned(padding, step.kernel.stride)
        if self._ends_in_strips(last, shortcut):
            is_own = way_past is not None and way_past.is_plain()
            return self._ended_in_strips(last, x, shortcut, in_place=is_own)
        return activated_in_place(
            self.activation, last.plus(x if last.kernel.size == 1 else blank(x, padding), shortcut)
        )

    def _ends_in_strips(self, last: ConvAndNorm, shortcut: Tensor) -> bool:
        """In inference on a CPU, where a large map would go through memory once for each of three steps."""
        return (
            not torch.compiler.is_compiling()
            and not torch.is_grad_enabled()
            and not is_observed()
            and shortcut.is_cpu
            and shortcut.numel() > STRIP * torch.get_num_threads()
            and shortcut.is_contiguous(memory_format=torch.channels_last)
            and last.kernel.size == 1
            and last.is_plain()
            and stands_plain(self.activation)
        )

    def _ended_in_strips(self, last: ConvAndNorm, x: Tensor, shortcut: Tensor, in_place: bool) -> Tensor:
        """The same a few rows at a time, for a last convolution that reads each place by itself. `in_place`: whether
        the shortcut is the block's own, to be written over."""
        out = shortcut if in_place else torch.empty_like(shortcut)
        rows = max(1, STRIP * torch.get_num_threads() // shortcut[0, :, 0].numel())
        strips = [below_each_other(one).split(rows, dim=2) for one in (x, shortcut, out)]
        for narrow, past, ended in zip(*strips, strict=True):
            ended.copy_(activated_in_place(self.activation, last.plus(narrow, past)))
        return out


class ResNetStage(nn.Module):
    """Some blocks one after another: a map and its padding -> the map behind them. The layouts hold the blocks."""

    def blocks(self) -> list[ResNetBlock]:
        raise NotImplementedError

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        for block in self.blocks():
            x, padding = block(x, padding), thinned(padding, block.stride())
        return x

    def stride(self) -> int:
        return prod([block.stride() for block in self.blocks()])


class FeatureMap(NamedTuple):
    """One of a trunk's maps, (B, F, h, w), and its padding."""

    values: Tensor
    padding: Tensor | None


class Place(NamedTuple):
    """Of a convolution and its norm in a ResNet; the stem has no block, and what goes past a block no step of it."""

    stage: int | None = None
    block: int | None = None
    step: int | None = None


class ResNetTrunk(nn.Module, InputPart):
    """(B, C, H, W) -> the maps that are read, fine to coarse. The layouts name the parts."""

    def __init__(self, sizes: ResNetSizes) -> None:
        super().__init__()
        self.num_channels, self.used = sizes.num_channels, sorted(sizes.used)
        self.channels = [[sizes.stem_width, *sizes.widths][index] for index in self.used]
        self.activation = ACT2FN[sizes.activation]

    @staticmethod
    def beginnings(place: Place) -> tuple[str, str]:
        """What the names of a convolution and of its norm begin with."""
        raise NotImplementedError

    def stem(self) -> ConvAndNorm:
        raise NotImplementedError

    def stages(self) -> list[ResNetStage]:
        raise NotImplementedError

    def freeze_first(self) -> None:
        """Stem and first stage do not learn, as in the source."""
        for module in (self.stem().conv, self.stages()[0]):
            module.requires_grad_(False)

    def forward(self, pixel_values: Tensor, padding: Tensor | None = None) -> list[FeatureMap]:
        """Raises ImageShapeError unless the images have the stem's channel count."""
        stem = self.stem()
        check_images(pixel_values, self.num_channels)
        x = pixel_values.to(dtype_of(stem.conv, pixel_values.dtype))
        x = channels_last(blank(x, padding))
        x = stem(x)
        x = activated_in_place(self.activation, x) if stem.is_plain() else self.activation(x)
        padding = thinned(padding, 2)
        x = nn.functional.max_pool2d(blank(x, padding, torch.finfo(x.dtype).min), 3, stride=2, padding=1)
        padding = thinned(padding, 2)
        x = blank(x, padding)
        maps = [FeatureMap(x, padding)]
        for stage in self.stages()[: self.used[-1]]:
            x, padding = stage(x, padding), thinned(padding, stage.stride())
            maps.append(FeatureMap(x, padding))
        return [maps[index] for index in self.used]

    @torch.no_grad()
    def resize_input_part(self, geometry: InputGeometry) -> list[str]:
        conv, before, rule = self.stem().conv, self.num_channels, geometry.channel_init
        if geometry.num_channels == before:
            return []
        replace_kernel(conv, with_channels(kernel_of(conv), geometry.num_channels, rule))
        self.num_channels = geometry.num_channels
        return [f"the stem's {before} channels became {geometry.num_channels} ({called(rule)})"]
