"""Counting of the arithmetic that a call takes: products, convolutions and attention."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class ArithmeticCounter(TorchDispatchMode):
    """Sums up what torch's formulas, and those here, say of each operator. torch's own FlopCounterMode also follows
    modules by hooks, which fail in inference mode, and before which models step back from their fast paths: it would
    count another computation than the one that runs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flop = 0
        self.formulas = {**flop_registry, **_further_formulas()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = self.formulas.get(func._overloadpacket)
        if formula is None:  # in inference mode, operators arrive that are made of others
            with self:
                parts = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if parts is NotImplemented else parts
        answer = func(*args, **kwargs)
        self.flop += formula(*args, **kwargs, out_val=answer)
        return answer


def _further_formulas() -> dict[Any, Any]:
    """For the operators that torch's registry does not know, as far as this torch has them."""
    known = {
        ("aten", "_scaled_dot_product_flash_attention_for_cpu"): _attention,
        ("aten", "_scaled_dot_product_flash_attention_for_cpu_backward"): _attention_backward,
        ("aten", "mkldnn_convolution"): _convolution,
        ("mkldnn", "_convolution_pointwise"): _convolution,
        ("mkldnn", "_linear_pointwise"): _linear,
    }
    return {
        getattr(getattr(torch.ops, space), name): formula
        for (space, name), formula in known.items()
        if hasattr(getattr(torch.ops, space), name)
    }


def _linear(x: Tensor, *_: Any, out_val: Tensor, **__: Any) -> int:
    return 2 * out_val.numel() * x.shape[-1]


def _convolution(x: Tensor, weight: Tensor, third: Any, *_: Any, out_val: Tensor, **__: Any) -> int:
    """With something to add, the operator takes it second and the weight third."""
    if isinstance(third, Tensor) and third.ndim == x.ndim:
        weight = third
    return 2 * out_val.numel() * math.prod(weight.shape[1:])


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return 2 * math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _attention_backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """The scores once more, then four products."""
    return 2 * math.prod(query.shape[:-1]) * key.shape[-2] * (3 * query.shape[-1] + 2 * value.shape[-1])
