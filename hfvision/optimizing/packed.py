"""Linear maps in bfloat16 whose weights are kept, beside themselves, in the order in which oneDNN reads them.

torch reorders a bfloat16 weight in every product; doing it once saves that. The operator is one of torch's private
ones, so it is tried out before it is used.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hfvision.layers.linear import is_observed
from hfvision.layers.plain import may_stand_plain


@cache
def can_pack() -> bool:
    """Whether this torch has the operator and it gives the right product on this CPU."""
    numbers = torch.arange(48 * 40, dtype=torch.float32, device="cpu").sin().bfloat16()  # leaves the random state alone
    weight, x, bias = numbers.view(48, 40), numbers[:240].view(2, 40, 3).mT, numbers[:48]
    with torch.no_grad():
        wanted = F.linear(x.float(), weight.float(), bias.float())
        try:
            supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
            got = _product(x, _reordered(weight), bias)
        except Exception:  # absent, another signature, a CPU it refuses: whatever it raises, do without it
            return False
    return bool(supported) and got.shape == wanted.shape and bool((got.float() - wanted).abs().max() < 0.05)


def _reordered(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight)


def _product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """(..., k) and (n, k), packed -> (..., n). A bias with gaps in memory would be misread without a word."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, None if bias is None else bias.contiguous(), "none", [], "")


@may_stand_plain
class PackedLinear(nn.Linear):
    """An nn.Linear for inference in bfloat16 on the CPU: (..., in) -> (..., out). Elsewhere it is an nn.Linear.

    The packed weight follows the weight: it is made anew when that is changed, moved or replaced, and it is neither
    copied nor saved.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self._packs(x):
            return F.linear(x, self.weight, self.bias)
        return _product(x, self._packed(), self.bias)

    def _packs(self, x: Tensor) -> bool:
        weight, bias = self.weight, self.bias
        wants_gradient = x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
        return bool(
            not torch.compiler.is_compiling()
            and not is_observed()
            and type(x) in (Tensor, nn.Parameter)
            and x.dtype is weight.dtype is torch.bfloat16
            and x.device.type == weight.device.type == "cpu"
            and x.numel() > 0
            and x.shape[-1:] == weight.shape[1:]  # else torch's own product says what is wrong
            and not (torch.is_grad_enabled() and wants_gradient)
            and not weight.is_inference()  # has no count of its changes
            and not torch.is_autocast_enabled("cpu")
            and torch.backends.mkldnn.enabled
        )

    def _packed(self) -> Tensor:
        weight = self.weight
        kept: tuple[Tensor, int, Tensor] | None = self.__dict__.get("_kept")
        if kept is None or kept[0].data_ptr() != weight.data_ptr() or kept[1] != weight._version:
            # The alias keeps the memory from being given to another weight at the same address.
            kept = weight.detach(), weight._version, _reordered(weight.detach())
            self.__dict__["_kept"] = kept
        return kept[2]

    @property
    def packed_bytes(self) -> int:
        """Of the packed weight, once there is one."""
        return self.weight.nbytes if "_kept" in self.__dict__ else 0

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_kept"}


def pack_linears(model: nn.Module, names: list[str]) -> None:
    """Pack the weights of these linear maps."""
    for name in names:
        linear = model.get_submodule(name)
        linear.__class__ = PackedLinear
