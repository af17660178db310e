"""The decoder of SegFormer, computed at the resolution of each stage.

Paper:  Xie et al. 2021, "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
        arXiv 2105.15203, section 3.2. See `models.segformer` for the source and the names of weights.

Shapes: B images, h x w places of a stage's map, D its width, E the decoder's width, K labels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hfvision.layers.linear import Linear, product

STRIP = 2**20  # numbers of a map (B, rows, w, E) that exist at a time in inference


class SegformerProjection(nn.Module):
    """The weights of a linear layer to the decoder's width, under the name `proj`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = Linear(inputs, outputs)


class SegformerDecodeHead(nn.Module):
    """(B, D, h, w) of each stage -> (B, K, h, w) of the first.

    As the paper has it, each map is projected to width E, upsampled to the first one's size, and all are joined and
    fused by one more linear layer. Linear layers over channels commute with upsampling over places, so here each
    stage's share of the fusing layer is multiplied into its projection; maps are fused at their own size, upsampled,
    and summed.
    """

    def __init__(self, inputs: Sequence[int], width: int, dropout: float, labels: int) -> None:
        super().__init__()
        self.linear_c = nn.ModuleList(SegformerProjection(size, width) for size in inputs)
        self.linear_fuse = nn.Conv2d(width * len(inputs), width, kernel_size=1, bias=False)
        self.batch_norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(width, labels, kernel_size=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._at_once(maps)
        return self._in_strips(maps)

    def _at_once(self, maps: Sequence[Tensor]) -> Tensor:
        weights, bias = self._fused()
        fine = _linear(maps[0], weights[0], bias)
        size = (fine.shape[2], fine.shape[3])
        for coarse, weight in zip(maps[1:], weights[1:], strict=True):
            fine = fine + _resized(_linear(coarse, weight), size)
        fine = self.dropout(nn.functional.relu(self.batch_norm(fine)))
        return _linear(fine, self.classifier.weight.flatten(1), self.classifier.bias).contiguous()

    def _in_strips(self, maps: Sequence[Tensor]) -> Tensor:
        """The same for inference, a few rows at a time: no map of E channels exists at the first stage's size."""
        norm, (weights, bias) = self.batch_norm, self._fused()
        scale = norm.weight * (norm.get_buffer("running_var") + norm.eps).rsqrt()
        weights = [scale.unsqueeze(1) * weight for weight in weights]
        bias = scale * (bias - norm.get_buffer("running_mean")) + norm.bias
        first = maps[0].permute(0, 2, 3, 1)
        coarse = [_linear(one, weight) for one, weight in zip(maps[1:], weights[1:], strict=True)]
        height, width = first.shape[1:3]
        mixes = [_row_mix(one.shape[2], height, one.dtype) for one in coarse]
        kernel = self.classifier.weight.flatten(1)
        logits = first.new_empty(len(first), len(kernel), height, width, dtype=bias.dtype)
        rows = max(1, STRIP // max(1, len(first) * width * len(bias)))
        for top in range(0, height, rows):
            strip = product(first[:, top : top + rows], weights[0], bias)  # (B, rows, w, E)
            for one, mix in zip(coarse, mixes, strict=True):
                mix = mix[top : top + rows]
                touched = mix.any(dim=0).nonzero()
                low, high = int(touched[0]), int(touched[-1]) + 1
                band = _resized(one[:, :, low:high], (high - low, width)).permute(0, 2, 3, 1)
                mix = mix[:, low:high].to(strip).expand(len(strip), -1, -1)
                strip.flatten(2).baddbmm_(mix, band.flatten(2))
            for image, places in zip(logits, strip.relu_().flatten(1, 2), strict=True):
                image[:, top : top + rows] = product(kernel, places).unflatten(1, (-1, width))  # (K, rows * w)
        return logits.add_(self.classifier.get_parameter("bias").view(-1, 1, 1))

    def _fused(self) -> tuple[list[Tensor], Tensor]:
        """For each stage a weight (E, D), and one bias (E,): its projection and its share of the fusing layer, which
        has the last stage first."""
        shares = self.linear_fuse.weight.flatten(1).chunk(len(self.linear_c), dim=1)[::-1]  # of (E, E) each
        stages: Any = self.linear_c
        pairs = [(share, stage.proj) for share, stage in zip(shares, stages, strict=True)]
        biases = torch.stack([share @ proj.bias for share, proj in pairs])
        return [share @ proj.weight for share, proj in pairs], biases.sum(dim=0)


def _linear(maps: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(B, D, h, w) -> (B, E, h, w), in channels-last order."""
    return product(maps.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _row_mix(rows: int, wanted: int, dtype: torch.dtype) -> Tensor:
    """(wanted, rows): how bilinear upsampling mixes `rows` rows into the `wanted` ones. On the CPU."""
    each = torch.eye(rows, dtype=torch.promote_types(dtype, torch.float32))
    return _resized(each.view(1, 1, rows, rows), (wanted, rows))[0, 0]
