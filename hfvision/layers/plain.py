"""Modules that may be stood in for: a fast path computes from their weights what calling them would give.

Whoever puts something in the place of a module, or around it, expects it to be called: adapters, quantizers, hooks,
parametrizations, pruning, offloading. So a fast path is taken only where `stands_plain` says of every module it stands
for that calling it could do nothing else; everywhere else the modules are called, one after another, as the paper has
them. In which mode they are (training, running statistics) is for the fast path to ask.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

ClassT = TypeVar("ClassT", bound=type[nn.Module])

PLAIN_TENSORS = (Tensor, nn.Parameter, type(None))  # exactly: a subclass may hold anything, 4-bit numbers or a shard

# The classes that fast paths know, and the forward of each: one that somebody has patched is not what it was.
_forwards: dict[type[nn.Module], Callable[..., Any]] = {}


def may_stand_plain(known: ClassT) -> ClassT:
    """Let `stands_plain` know a class of ours; a decorator."""
    _forwards[known] = known.forward
    return known


for _class in (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.Dropout, nn.ReLU, nn.Sequential):
    may_stand_plain(_class)


def stands_plain(*modules: nn.Module) -> bool:
    """Whether to call each of these modules is to compute what its class says from its own tensors, unseen. Which class
    that is, and with which options, is for the fast path to ask.

    Each is exactly of a class that fast paths know, with that class's forward, without hooks, its own or those of all
    modules, without parametrizations, compiled by itself no more than wrapped, and its tensors are plain ones.
    """
    if _all_are_hooked():
        return False
    for module in modules:
        if _forwards.get(type(module)) is not type(module).forward or _is_altered(module):
            return False
        for parameter in module._parameters.values():
            if type(parameter) not in PLAIN_TENSORS:
                return False
        for buffer in module._buffers.values():
            if type(buffer) not in PLAIN_TENSORS:
                return False
    return True


def _all_are_hooked() -> bool:
    """Whether there are hooks of all modules."""
    return bool(
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )


def _is_altered(module: nn.Module) -> bool:
    """Whether calling this one module does more, or other things, than its class's forward."""
    own = module.__dict__
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in own  # accelerate's hooks, for example
        or "weight" in own  # made anew before each call, from tensors of other names
        or own.get("_compiled_call_impl") is not None
    )


def dtype_of(module: nn.Module, otherwise: torch.dtype) -> torch.dtype:
    """The floating-point format of a module's weights, whatever may be wrapped around them; `otherwise`: of one that
    has only others."""
    return next((one.dtype for one in module.parameters() if one.is_floating_point()), otherwise)
