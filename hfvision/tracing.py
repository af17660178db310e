"""What code may ask while something follows it instead of only running it: compilers, exporters, tracers, transforms.

Imports nothing of hfvision, so that everything can import it.
"""

import operator

import torch
from torch import Tensor

_is_exporting = getattr(torch.compiler, "is_exporting", None)

Side = int | Tensor  # a length: a number, or its stand-in while torch.jit.trace records


def sizes_are_symbols() -> bool:
    """Whether a graph is made that holds for tensors of other sizes, too: by torch.compile, torch.export or
    torch.jit.trace. A size then decides no branch: what holds for all sizes is computed.
    """
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]  # public all the same


def may_guard_sizes() -> bool:
    """Whether a compiler makes the graph for running alone, and another one for other sizes where it has to; what is
    exported has to hold for all. False where torch (before 2.7) does not tell the two apart.
    """
    return _is_exporting is not None and torch.compiler.is_compiling() and not _is_exporting()


def fix_size(x: Tensor) -> None:
    """Let a compiler make a graph for images (B, C, H, W) of this height and width alone, for all batches."""
    if may_guard_sizes():
        for side in x.shape[-2:]:
            operator.index(side)  # what it takes as wanting the number


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
    return torch.sym_min(one, other)


def greater(one: Side, other: Side) -> Side:
    """The larger of two lengths."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return torch.maximum(torch.as_tensor(one), torch.as_tensor(other))
    return torch.sym_max(one, other)
