"""What code may ask while something follows it instead of only running it: compilers, exporters, tracers, transforms.

Imports nothing of hfvision, so that everything can import it.
"""

import torch
from torch import Tensor

Side = int | Tensor  # a length: a number, or its stand-in while torch.jit.trace records


def sizes_are_symbols() -> bool:
    """Whether a graph is made that holds for tensors of other sizes, too: by torch.compile, torch.export or
    torch.jit.trace. A size then decides no branch: what holds for all sizes is computed.
    """
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]  # public all the same


def values_are_hidden() -> bool:
    """Whether the numbers in tensors cannot be looked at, or are not those that the code will meet: in such a graph, or
    under a transform of torch.func.
    """
    return sizes_are_symbols() or is_transformed()


def is_transformed() -> bool:
    """Whether this runs under a transform of torch.func: grad, vmap, jvp, functionalize."""
    return torch._C._are_functorch_transforms_active()


def lesser(one: Side, other: Side) -> Side:
    """The smaller of two lengths."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return torch.minimum(torch.as_tensor(one), torch.as_tensor(other))
    return torch.sym_min(one, other)  # type: ignore[no-any-return]


def greater(one: Side, other: Side) -> Side:
    """The larger of two lengths."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return torch.maximum(torch.as_tensor(one), torch.as_tensor(other))
    return torch.sym_max(one, other)  # type: ignore[no-any-return]
