"""The two layouts in which the Hub's "detr" files hold ResNets: the names of their parts.

That of timm and torchvision is `TimmResNet`, that of transformers' own ResNet `HubResNet`; both compute what
`models.detr.resnet` says. Shapes: as there.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.models.timm_backbone.configuration_timm_backbone import TimmBackboneConfig

from hfvision.errors import ConfigError
from hfvision.layers.frozen_norm import ConvAndNorm, FrozenBatchNorm, Kernel
from hfvision.layers.plain import may_stand_plain
from hfvision.models.detr.resnet import (
    Place,
    ResNetBlock,
    ResNetSizes,
    ResNetStage,
    ResNetTrunk,
    branch_convolutions,
    convolution,
    stage_plans,
)

STEM_KERNEL = Kernel(7, 2)


class TimmBlock(ResNetBlock):
    """conv1, bn1, conv2, bn2 (conv3, bn3) and downsample."""

    def __init__(self, sizes: ResNetSizes, inputs: int, outputs: int, stride: int, dilation: int) -> None:
        super().__init__()
        convs = branch_convolutions(sizes, inputs, outputs, stride, dilation)
        for number, conv in enumerate(convs, start=1):
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", FrozenBatchNorm(conv.out_channels))
        self.kernels = [Kernel.of(conv) for conv in convs]
        self.kernel_past = Kernel(1, stride)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(convolution(inputs, outputs, 1, stride), FrozenBatchNorm(outputs))
        self.activation = ACT2FN[sizes.activation]

    def branch(self) -> list[ConvAndNorm]:
        parts: Any = self._modules
        return [
            ConvAndNorm(parts[f"conv{step}"], parts[f"bn{step}"], kernel)
            for step, kernel in enumerate(self.kernels, start=1)
        ]

    def way_past(self) -> ConvAndNorm | None:
        parts: Any = self.downsample
        return None if parts is None else ConvAndNorm(parts[0], parts[1], self.kernel_past, holder=parts)


class TimmStage(nn.Sequential, ResNetStage):
    """0, 1, ..."""

    forward = ResNetStage.forward

    def blocks(self) -> list[ResNetBlock]:
        blocks: Any = self
        return list(blocks)


class TimmResNet(ResNetTrunk):
    """conv1, bn1 and layer1 to layer4."""

    def __init__(self, sizes: ResNetSizes) -> None:
        super().__init__(sizes)
        self.conv1 = nn.Conv2d(sizes.num_channels, sizes.stem_width, 7, stride=2, padding=3, bias=False)
        self.bn1 = FrozenBatchNorm(sizes.stem_width)
        for number, blocks in enumerate(_stages(sizes, TimmBlock), start=1):
            self.add_module(f"layer{number}", TimmStage(*blocks))

    @staticmethod
    def beginnings(place: Place) -> tuple[str, str]:
        stage, block, step = place
        if stage is None:
            return "conv1", "bn1"
        inside = f"layer{stage + 1}.{block}"
        if step is None:
            return f"{inside}.downsample.0", f"{inside}.downsample.1"
        return f"{inside}.conv{step + 1}", f"{inside}.bn{step + 1}"

    def stem(self) -> ConvAndNorm:
        return ConvAndNorm(self.conv1, self.bn1, STEM_KERNEL)

    def stages(self) -> list[ResNetStage]:
        stages: Any = self._modules
        return [part for name, part in stages.items() if name.startswith("layer")]


@may_stand_plain
class HubUnit(nn.Module):
    """convolution and normalization."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = conv
        self.normalization = FrozenBatchNorm(conv.out_channels)
        self.kernel = Kernel.of(conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.normalization(self.convolution(x))

    def pair(self) -> ConvAndNorm:
        return ConvAndNorm(self.convolution, self.normalization, self.kernel, holder=self)


class HubBlock(ResNetBlock):
    """layer.0, layer.1 (layer.2) and shortcut."""

    def __init__(self, sizes: ResNetSizes, inputs: int, outputs: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = HubUnit(convolution(inputs, outputs, 1, stride))
        convs = branch_convolutions(sizes, inputs, outputs, stride, dilation)
        self.layer = nn.ModuleList(HubUnit(conv) for conv in convs)
        self.activation = ACT2FN[sizes.activation]

    def branch(self) -> list[ConvAndNorm]:
        units: Any = self.layer
        return [unit.pair() for unit in units]

    def way_past(self) -> ConvAndNorm | None:
        return None if self.shortcut is None else self.shortcut.pair()


class HubStage(ResNetStage):
    """layers.0, layers.1, ..."""

    def __init__(self, blocks: list[ResNetBlock]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(blocks)

    def blocks(self) -> list[ResNetBlock]:
        layers: Any = self.layers
        return list(layers)


class HubResNet(ResNetTrunk):
    """embedder.embedder and encoder.stages.N.layers.M."""

    def __init__(self, sizes: ResNetSizes) -> None:
        super().__init__(sizes)
        self.embedder = nn.Module()
        self.embedder.embedder = HubUnit(
            nn.Conv2d(sizes.num_channels, sizes.stem_width, 7, stride=2, padding=3, bias=False)
        )
        self.encoder = nn.Module()
        self.encoder.stages = nn.ModuleList(HubStage(blocks) for blocks in _stages(sizes, HubBlock))

    @staticmethod
    def beginnings(place: Place) -> tuple[str, str]:
        stage, block, step = place
        inside = f"encoder.stages.{stage}.layers.{block}"
        unit = f"{inside}.shortcut" if step is None else f"{inside}.layer.{step}"
        unit = "embedder.embedder" if stage is None else unit
        return f"{unit}.convolution", f"{unit}.normalization"

    def stem(self) -> ConvAndNorm:
        unit: Any = self.embedder.embedder
        return unit.pair()

    def stages(self) -> list[ResNetStage]:
        stages: Any = self.encoder.stages
        return list(stages)


def _stages(sizes: ResNetSizes, block: type[TimmBlock] | type[HubBlock]) -> Iterator[list[ResNetBlock]]:
    inputs = sizes.stem_width
    for outputs, depth, plan in zip(sizes.widths, sizes.depths, stage_plans(sizes), strict=True):
        blocks: list[ResNetBlock] = [block(sizes, inputs, outputs, plan.stride, plan.first_dilation)]
        blocks += [block(sizes, outputs, outputs, 1, plan.dilation) for _ in range(depth - 1)]
        yield blocks
        inputs = outputs


def resnet_trunk(config: Any, sizes: ResNetSizes) -> ResNetTrunk:
    """The trunk in the layout that files with this config have. Raises ConfigError for sizes that cannot work."""
    if not sizes.depths or len(sizes.depths) != len(sizes.widths) or min(sizes.depths) < 1:
        raise ConfigError(
            "a ResNet has stages of at least one block, and a width for each: depths and hidden_sizes are lists of one "
            f"length; got {list(sizes.depths)} and {list(sizes.widths)}."
        )
    return (TimmResNet if isinstance(config, TimmBackboneConfig) else HubResNet)(sizes)


def layout_names(trunk: ResNetTrunk) -> list[dict[str, str]]:
    """For each layout the names that it has for the tensors of a trunk: {name in the trunk: name in the layout}."""
    places: list[tuple[Place, ConvAndNorm]] = [(Place(), trunk.stem())]
    for stage, blocks in enumerate(trunk.stages()):
        for number, block in enumerate(blocks.blocks()):
            places += [(Place(stage, number, step), unit) for step, unit in enumerate(block.branch())]
            if (way_past := block.way_past()) is not None:
                places.append((Place(stage, number), way_past))
    own = {id(tensor): name for name, tensor in trunk.state_dict(keep_vars=True).items()}
    return [
        {
            own[id(tensor)]: f"{beginning}.{name}"
            for place, unit in places
            for beginning, module in zip(layout.beginnings(place), unit[:2], strict=True)
            for name, tensor in module.state_dict(keep_vars=True).items()
        }
        for layout in (TimmResNet, HubResNet)
    ]
