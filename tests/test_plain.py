"""Which modules a fast path may stand for: those that nobody has wrapped, hooked or changed."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune, weight_norm

from hfvision.layers.conv import PatchConv
from hfvision.layers.linear import Linear
from hfvision.layers.plain import dtype_of, stands_plain


class OwnTensor(torch.Tensor):
    """A subclass, as quantizers make them."""


class OwnConv(nn.Conv2d):
    """A subclass, as adapters and quantization-aware training make them."""


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


def nothing(*_):
    return None


CHANGES = {
    "a forward hook": lambda conv: conv.register_forward_hook(nothing),
    "a forward pre-hook": lambda conv: conv.register_forward_pre_hook(nothing),
    "a backward hook": lambda conv: conv.register_full_backward_hook(nothing),
    "a backward pre-hook": lambda conv: conv.register_full_backward_pre_hook(nothing),
    "a forward of its own": lambda conv: setattr(conv, "forward", nothing),
    "a parametrization": lambda conv: parametrize.register_parametrization(conv, "weight", Twice()),
    "a new weight norm": lambda conv: nn.utils.parametrizations.weight_norm(conv),
    "pruning": lambda conv: prune.l1_unstructured(conv, "weight", 0.5),
    "a tensor of another kind": lambda conv: setattr(
        conv, "weight", nn.Parameter(conv.weight.detach().as_subclass(OwnTensor))
    ),
    "its own compiled call": lambda conv: conv.compile(backend="eager"),
}


@pytest.mark.parametrize(
    "module", [nn.Conv2d(3, 4, 1), nn.Linear(3, 4), Linear(3, 4), PatchConv(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout()]
)
def test_a_module_as_it_was_made_may_be_stood_in_for(module):
    assert stands_plain(module) and stands_plain(copy.deepcopy(module).train().requires_grad_(False))


@pytest.mark.parametrize("change", CHANGES)
def test_a_module_that_somebody_has_changed_is_to_be_called(change):
    before, conv = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
    CHANGES[change](conv)
    assert not stands_plain(conv) and not stands_plain(before, conv)
    assert stands_plain(before)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
def test_the_older_weight_norm_is_to_be_called():
    assert not stands_plain(weight_norm(nn.Conv2d(3, 4, 1)))


def test_what_has_been_taken_off_again_leaves_no_trace():
    conv = nn.Conv2d(3, 4, 1)
    handle = conv.register_forward_hook(nothing)
    prune.l1_unstructured(conv, "weight", 0.5)
    handle.remove()
    prune.remove(conv, "weight")
    assert stands_plain(conv)


@pytest.mark.parametrize("module", [OwnConv(3, 4, 1), nn.Conv1d(3, 4, 1), nn.Identity()])
def test_a_module_of_another_class_is_to_be_called(module):
    assert not stands_plain(module)


def test_hooks_of_all_modules_and_a_patched_class_are_seen(monkeypatch):
    conv = nn.Conv2d(3, 4, 1)
    handle = nn.modules.module.register_module_forward_hook(nothing)
    assert not stands_plain(conv)
    handle.remove()
    assert stands_plain(conv)
    monkeypatch.setattr(nn.Conv2d, "forward", nothing)
    assert not stands_plain(conv)


def test_a_compiled_model_can_ask():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return x if stands_plain(self.conv) else self.conv(x)

    compiled = torch.compile(Model(), backend="eager", fullgraph=True)
    x = torch.randn(1, 3, 2, 2)
    assert torch.equal(compiled(x), x)


def test_the_format_of_weights_is_that_of_the_floating_point_ones():
    conv = nn.Conv2d(3, 4, 1, dtype=torch.bfloat16)
    assert dtype_of(conv, torch.float32) is torch.bfloat16
    conv.weight = nn.Parameter(torch.zeros(4, 3, 1, 1, dtype=torch.int8), requires_grad=False)
    assert dtype_of(conv, torch.float32) is torch.bfloat16  # that of its bias
    assert dtype_of(nn.ReLU(), torch.float64) is torch.float64
