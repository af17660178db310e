"""Fast paths in the graphs of torch.compile: as operators, which a graph calls and does not look into.

What a fast path asks for (sizes, settings, private operators of torch) is then asked each time that the graph runs, so
that one graph is right for all sizes and as fast as the uncompiled model where a compiler's own code would be slower.

Once released, an operator whose answer gets other shapes or strides gets another name, too: inductor keeps compiled
graphs on disk and knows the operators in them by their names alone (findings/inductor_cache_custom_operators.sh).
"""

from collections.abc import Callable
from typing import Any, ParamSpec, cast

import torch
from torch import Tensor

from hfvision.layers.plain import PLAIN_TENSORS
from hfvision.tracing import is_transformed, may_guard_sizes

P = ParamSpec("P")
Function = Callable[P, Tensor]


def operator(schema: str, made: Function[P]) -> Callable[[Function[P]], Function[P]]:
    """An operator of the CPU from the function under it; a decorator, whose result graphs may call.

    schema: its name and arguments, as `torch.library.define` takes them. `made`: an empty tensor of the answer's shape
    and strides, which the function has to keep to.
    """
    name, _, arguments = schema.partition("(")

    def define(function: Function[P]) -> Function[P]:
        torch.library.define(f"hfvision::{name}", f"({arguments}", tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(f"hfvision::{name}", "cpu")(function)
        torch.library.register_fake(f"hfvision::{name}")(made)
        defined: Any = getattr(torch.ops.hfvision, name)
        return cast(Function[P], defined.default)

    return define


def takes_operators(*tensors: Tensor | None) -> bool:
    """Whether this is being compiled, for running and not for a file, and these may go into operators: plain float32
    on the CPU, without autocast or transforms. Where gradients are wanted, the operator has to have them.
    """
    return (
        may_guard_sizes()
        and not is_transformed()
        and not torch.is_autocast_enabled("cpu")
        and all(map(_is_taken, tensors))
    )


def _is_taken(tensor: Tensor | None) -> bool:
    if tensor is None:
        return True
    return type(tensor) in PLAIN_TENSORS and tensor.is_cpu and tensor.dtype is torch.float32
