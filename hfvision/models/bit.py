"""BiT: a ResNet of weight-standardised convolutions and group norms; here the stem of the hybrid ViT.

Paper:  Kolesnikov et al. 2019, "Big Transfer (BiT)", arXiv 1912.11370.
        Weight standardisation: Qiao et al. 2019, arXiv 1903.10520.
Source: google-research/vision_transformer, its ResNet (Apache-2.0), re-expressed in PyTorch. Names of weights are those
        of the Hub's "bit" files, of which this is the bottleneck form with SAME padding.

Shapes: B images, C channels, H x W pixels, h x w places of a feature map, F channels of a feature map.
"""

from collections.abc import Callable, Iterable
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import BitConfig
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from hfvision.layers.drop_path import DropPath, linear_rates
from hfvision.layers.patch_embedding import pair, replace_kernel
from hfvision.tracing import sizes_are_symbols

Standardization = Literal["variance", "deviation", "none"]

STEM_STRIDE = 4  # pixels per place of the feature map behind the first convolution and the pooling


def by_variance(kernel: Tensor) -> Tensor:
    """(w - mean) / sqrt(variance + 1e-8) over each output channel: the rule of the Hub's files."""
    return nn.functional.layer_norm(kernel, kernel.shape[1:], eps=1e-8)


def by_deviation(kernel: Tensor) -> Tensor:
    """(w - mean) / (deviation + 1e-5) over each output channel: the rule of google-research/vision_transformer."""
    wide = kernel.to(torch.promote_types(kernel.dtype, torch.float32))  # 1e-5 is too fine for half precision
    variance, mean = torch.var_mean(wide, dim=(1, 2, 3), correction=0, keepdim=True)
    return ((wide - mean) / (variance.sqrt() + 1e-5)).to(kernel.dtype)


def as_stored(kernel: Tensor) -> Tensor:
    return kernel


STANDARDIZE: dict[str, Callable[[Tensor], Tensor]] = {
    "variance": by_variance,
    "deviation": by_deviation,
    "none": as_stored,
}


def same_padded(x: Tensor, kernel_size: int, stride: int, dilation: int = 1) -> Tensor:
    """Zeros around (B, F, h, w), so that a window makes ceil(h / stride) steps; an odd pixel goes to the end."""
    reach = (kernel_size - 1) * dilation + 1
    if reach == 1 and (stride == 1 or not sizes_are_symbols()):
        return x  # a window of one pixel needs no padding; symbolic sizes need the sum below to see ceil(h / stride)
    # Written so that torch.export can bound the padded size: what the steps span, less what is there.
    height, width = ((side + stride - 1) // stride * stride - stride + reach - side for side in x.shape[-2:])
    top, left = (height // 2, width // 2) if reach > 1 else (0, 0)
    return nn.functional.pad(x, (left, width - left, top, height - top))


class BitConvolution(nn.Conv2d):
    """(B, F, h, w) -> (B, F', ceil(h / stride), ceil(w / stride)), with a kernel standardised at each call."""

    def __init__(self, *sizes: Any, rule: Standardization = "none", **options: Any) -> None:
        """`sizes` and `options`: those of nn.Conv2d, as which tools make modules of the same class, an adapter's two
        convolutions for example. Without a rule the kernel is applied as it is."""
        super().__init__(*sizes, **options)
        self.standardize = STANDARDIZE[rule]

    def forward(self, x: Tensor) -> Tensor:
        x = same_padded(x, self.kernel_size[0], self.stride[0], self.dilation[0])
        kernel = self.standardize(self.weight)
        return nn.functional.conv2d(x, kernel, self.bias, self.stride, dilation=self.dilation, groups=self.groups)

    @torch.no_grad()
    def set_kernel(self, kernel: Tensor) -> None:
        """Take over a kernel (F', F, k, k) for other channels, to be applied as it is."""
        replace_kernel(self, kernel)
        self.standardize = as_stored


class BitEmbedder(nn.Module):
    """(B, C, H, W) -> (B, F, ceil(H / 4), ceil(W / 4))."""

    def __init__(self, config: BitConfig, num_channels: int, rule: Standardization, norm_eps: float) -> None:
        super().__init__()
        self.convolution = BitConvolution(num_channels, config.embedding_size, 7, rule=rule, stride=2, bias=False)
        self.norm = nn.GroupNorm(config.num_groups, config.embedding_size, eps=norm_eps)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.activation(self.norm(self.convolution(pixel_values)))
        return nn.functional.max_pool2d(same_padded(x, 3, stride=2), kernel_size=3, stride=2)


class BitShortcut(nn.Module):
    """What the first bottleneck of a stage adds: its input at the stage's width and stride."""

    def __init__(
        self, config: BitConfig, inputs: int, outputs: int, stride: int, rule: Standardization, norm_eps: float
    ) -> None:
        super().__init__()
        self.conv = BitConvolution(inputs, outputs, 1, rule=rule, stride=stride, bias=False)
        self.norm = nn.GroupNorm(config.num_groups, outputs, eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class BitBottleneck(GradientCheckpointingLayer):
    """1x1, 3x3 and 1x1 convolutions around a narrow middle, added to the input. (B, F, h, w) -> (B, F', h', w')."""

    def __init__(
        self,
        config: BitConfig,
        inputs: int,
        outputs: int,
        stride: int,
        dilation: int,
        shortcut: bool,
        drop_path_rate: float,
        rule: Standardization,
        norm_eps: float,
    ) -> None:
        super().__init__()
        middle = _in_eights(outputs / 4)
        self.downsample = BitShortcut(config, inputs, outputs, stride, rule, norm_eps) if shortcut else None
        self.conv1 = BitConvolution(inputs, middle, 1, rule=rule, bias=False)
        self.norm1 = nn.GroupNorm(config.num_groups, middle, eps=norm_eps)
        self.conv2 = BitConvolution(middle, middle, 3, rule=rule, stride=stride, dilation=dilation, bias=False)
        self.norm2 = nn.GroupNorm(config.num_groups, middle, eps=norm_eps)
        self.conv3 = BitConvolution(middle, outputs, 1, rule=rule, bias=False)
        self.norm3 = nn.GroupNorm(config.num_groups, outputs, eps=norm_eps)
        self.activation = ACT2FN[config.hidden_act]
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.activation(self.norm1(self.conv1(x)))
        x = self.activation(self.norm2(self.conv2(x)))
        x = self.norm3(self.conv3(x))
        return self.activation(shortcut + (x if self.drop_path is None else self.drop_path(x)))


class BitStage(nn.Module):
    def __init__(self, layers: Iterable[BitBottleneck]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class BitEncoder(nn.Module):
    def __init__(self, config: BitConfig, rule: Standardization, norm_eps: float) -> None:
        super().__init__()
        rates = iter(linear_rates(config.drop_path_rate, sum(config.depths)))
        inputs, dilation = config.embedding_size, 1
        self.stages = nn.ModuleList()
        for stage, (depth, size, stride) in enumerate(
            zip(config.depths, config.hidden_sizes, stage_strides(config), strict=False)
        ):
            outputs = _in_eights(size * config.width_factor)
            before, dilation = dilation, dilation if stride == 2 or stage == 0 else 2 * dilation
            layers = []
            for index in range(depth):
                first = index == 0
                layers.append(
                    BitBottleneck(
                        config,
                        inputs,
                        outputs,
                        stride=stride if first else 1,
                        dilation=min(before, 2) if first else dilation,
                        shortcut=first,
                        drop_path_rate=next(rates),
                        rule=rule,
                        norm_eps=norm_eps,
                    )
                )
                inputs = outputs
            self.stages.append(BitStage(layers))


class BitTrunk(nn.Module):
    """(B, C, H, W) -> (B, F, h, w): the feature map after the last stage that `out_features` names."""

    def __init__(
        self,
        config: BitConfig,
        num_channels: int,
        stem_rule: Standardization,
        rule: Standardization,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.embedder = BitEmbedder(config, num_channels, stem_rule, norm_eps)
        self.encoder = BitEncoder(config, rule, norm_eps)
        self.stages_used = stages_used(config)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.embedder(pixel_values)
        for stage in self.encoder.stages[: self.stages_used]:
            x = stage(x)
        return x


def stages_used(config: BitConfig) -> int:
    """How many stages lie before the feature map that is read; 0: it is the embedder's."""
    indices: Any = config.out_indices
    return int(indices[-1]) % (len(config.depths) + 1)


def stage_strides(config: BitConfig) -> list[int]:
    """The stride of each stage: 1 of the first, then 2 until `output_stride` is reached."""
    strides: list[int] = []
    for stage in range(len(config.depths)):
        reached = STEM_STRIDE * prod(strides) >= config.output_stride
        strides.append(1 if stage == 0 or reached else 2)
    return strides


def feature_channels(config: BitConfig) -> int:
    """F of the feature map that is read."""
    used = stages_used(config)
    return _in_eights(config.hidden_sizes[used - 1] * config.width_factor) if used else config.embedding_size


def feature_stride(config: BitConfig) -> int:
    """Pixels per place of the feature map that is read."""
    return STEM_STRIDE * prod(stage_strides(config)[: stages_used(config)])


def feature_size(config: BitConfig, image_size: int | Iterable[int]) -> tuple[int, int]:
    """(h, w) of the feature map of an image: each stride divides, rounding up."""
    height, width = pair(image_size)
    for stride in (2, 2, *stage_strides(config)[: stages_used(config)]):
        height, width = -(-height // stride), -(-width // stride)
    return height, width


def _in_eights(channels: float) -> int:
    """The nearest multiple of 8, at least 8, and none that loses more than a tenth."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8
