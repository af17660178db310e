"""The decoder of SegFormer, computed at the resolution of each stage.

Paper:  Xie et al. 2021, "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
        arXiv 2105.15203, section 3.2. See `models.segformer` for the source and the names of weights.

Shapes: B images, h x w places of a stage's map, D its width, E the decoder's width, K labels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hfvision.layers.conv import PatchConv, keeps_size
from hfvision.layers.linear import Linear, product
from hfvision.layers.operators import operator, takes_operators
from hfvision.layers.plain import may_stand_plain, stands_plain
from hfvision.tracing import values_are_hidden

STRIP = 2**20  # numbers of a map (B, rows, w, E) that exist at a time in inference


@may_stand_plain
class SegformerProjection(nn.Module):
    """A linear layer to the decoder's width, under the name `proj`: (B, D, h, w) -> (B, h * w, E)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = Linear(inputs, outputs)

    def forward(self, maps: Tensor) -> Tensor:
        return self.proj(maps.flatten(2).mT)


class SegformerDecodeHead(nn.Module):
    """(B, D, h, w) of each stage -> (B, K, h, w) of the first.

    As the paper has it, each map is projected to width E, upsampled to the first one's size, and all are joined and
    fused by one more linear layer. Linear layers over channels commute with upsampling over places, so where these
    modules may be stood in for, each stage's share of the fusing layer is multiplied into its projection; maps are
    fused at their own size, upsampled, and summed.
    """

    def __init__(self, inputs: Sequence[int], width: int, dropout: float, labels: int) -> None:
        super().__init__()
        self.linear_c = nn.ModuleList(SegformerProjection(size, width) for size in inputs)
        self.linear_fuse = PatchConv(width * len(inputs), width, kernel_size=1, bias=False)
        self.batch_norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        self.classifier = PatchConv(width, labels, kernel_size=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        if not self._may_merge():
            return self._finished(self._joined(maps))
        if not torch.is_grad_enabled() and self._may_end_in_strips():
            if not values_are_hidden():
                return _decoded_in_strips(*self._maps_and_weights(maps))
            if takes_operators(*maps, self.classifier.weight):
                return decoded_of_graphs(*self._maps_and_weights(maps))
        return self._finished(self._merged(maps))

    def _may_merge(self) -> bool:
        """Whether a projection and its share of the fusing layer may be one."""
        stages: Any = self.linear_c
        projections = [stage.proj for stage in stages if type(stage) is SegformerProjection]
        return (
            len(projections) == len(stages)
            and stands_plain(self.linear_fuse, *stages, *projections)
            and keeps_size(self.linear_fuse, 1)
            and self.linear_fuse.bias is None
            and all(isinstance(proj, nn.Linear) and proj.bias is not None for proj in projections)
        )

    def _may_end_in_strips(self) -> bool:
        norm = self.batch_norm
        return (
            isinstance(norm, nn.BatchNorm2d)
            and isinstance(self.dropout, nn.Dropout)
            and stands_plain(norm, self.dropout, self.classifier)
            and not (norm.training or norm.running_mean is None or norm.weight is None)
            and not (self.dropout.training and self.dropout.p)
            and keeps_size(self.classifier, 1)
            and self.classifier.bias is not None
        )

    def _joined(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, E, h, w), by calling each module."""
        size = (maps[0].shape[2], maps[0].shape[3])
        stages = zip(self.linear_c, maps, strict=True)
        projected = [_resized(project(one).mT.unflatten(2, one.shape[2:]), size) for project, one in stages]
        return self.linear_fuse(torch.cat(projected[::-1], dim=1))

    def _merged(self, maps: Sequence[Tensor]) -> Tensor:
        """The same, by merged weights."""
        weights, bias = self._fused()
        fine = _linear(maps[0], weights[0], bias)
        size = (fine.shape[2], fine.shape[3])
        for coarse, weight in zip(maps[1:], weights[1:], strict=True):
            fine = fine + _resized(_linear(coarse, weight), size)
        return fine

    def _finished(self, fine: Tensor) -> Tensor:
        """(B, E, h, w) -> logits (B, K, h, w)."""
        return self.classifier(self.dropout(nn.functional.relu(self.batch_norm(fine)))).contiguous()

    def _maps_and_weights(self, maps: Sequence[Tensor]) -> "_MapsAndWeights":
        """What `_decoded_in_strips` takes, the norm multiplied into the weights."""
        norm, (weights, bias) = self.batch_norm, self._fused()
        scale = norm.weight * (norm.get_buffer("running_var") + norm.eps).rsqrt()
        return (
            list(maps),
            [scale.unsqueeze(1) * weight for weight in weights],
            scale * (bias - norm.get_buffer("running_mean")) + norm.bias,
            self.classifier.weight.flatten(1),
            self.classifier.get_parameter("bias"),
        )

    def _fused(self) -> tuple[list[Tensor], Tensor]:
        """For each stage a weight (E, D), and one bias (E,): its projection and its share of the fusing layer, which
        has the last stage first."""
        shares = self.linear_fuse.weight.flatten(1).chunk(len(self.linear_c), dim=1)[::-1]  # of (E, E) each
        stages: Any = self.linear_c
        pairs = [(share, stage.proj) for share, stage in zip(shares, stages, strict=True)]
        biases = torch.stack([share @ proj.bias for share, proj in pairs])
        return [share @ proj.weight for share, proj in pairs], biases.sum(dim=0)


_MapsAndWeights = tuple[list[Tensor], list[Tensor], Tensor, Tensor, Tensor]


def _decoded_in_strips(
    maps: list[Tensor], weights: list[Tensor], bias: Tensor, kernel: Tensor, kernel_bias: Tensor
) -> Tensor:
    """All of it for inference, a few rows at a time: no map of E channels exists at the first stage's size.

    maps: (B, D, h, w) of each stage; weights: (E, D) of each, and one bias (E,); kernel: (K, E), the classifier's,
    kernel_bias: (K,). Returns logits (B, K, h, w).
    """
    first = maps[0].permute(0, 2, 3, 1)
    coarse = [_linear(one, weight) for one, weight in zip(maps[1:], weights[1:], strict=True)]
    height, width = first.shape[1:3]
    mixes = [_row_mix(one.shape[2], height, one.dtype) for one in coarse]
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
    return logits.add_(kernel_bias.view(-1, 1, 1))


def _empty_logits(
    maps: list[Tensor], weights: list[Tensor], bias: Tensor, kernel: Tensor, kernel_bias: Tensor
) -> Tensor:
    return bias.new_empty(maps[0].shape[0], kernel.shape[0], *maps[0].shape[2:])


@operator(
    "segformer_decoder(Tensor[] maps, Tensor[] weights, Tensor bias, Tensor kernel, Tensor kernel_bias) -> Tensor",
    _empty_logits,
)
def decoded_of_graphs(
    maps: list[Tensor], weights: list[Tensor], bias: Tensor, kernel: Tensor, kernel_bias: Tensor
) -> Tensor:
    """`_decoded_in_strips` in a compiled graph, where no gradients are wanted."""
    return _decoded_in_strips(maps, weights, bias, kernel, kernel_bias)


def _linear(maps: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(B, D, h, w) -> (B, E, h, w), in channels-last order."""
    return product(maps.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _row_mix(rows: int, wanted: int, dtype: torch.dtype) -> Tensor:
    """(wanted, rows): how bilinear upsampling mixes `rows` rows into the `wanted` ones. On the CPU."""
    each = torch.eye(rows, dtype=torch.promote_types(dtype, torch.float32))
    return _resized(each.view(1, 1, rows, rows), (wanted, rows))[0, 0]
