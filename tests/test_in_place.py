"""What goes through memory less often gives the same numbers, and leaves what somebody may look at as it is."""

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from hfvision.layers import in_place
from hfvision.layers.dense import Dense
from hfvision.layers.in_place import activated, in_strips
from hfvision.layers.linear import Linear
from tests.models import WHOLE, pixels, tiny_model


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    for name, value in (("SMALL", 0), ("LARGE", 0), ("STRIP", 4 * 64)):
        monkeypatch.setattr(in_place, name, value)


def mlp():
    return Dense(8, 32, ACT2FN["gelu"]).eval(), Dense(32, 8, nn.Dropout(0.5)).eval()


@pytest.mark.parametrize("name", ["gelu", "relu", "gelu_new", "silu"])
@pytest.mark.parametrize("layer", [Linear(8, 16), nn.Conv2d(8, 16, 3)], ids=["linear", "convolution"])
def test_activations_written_over_the_result_are_the_same_numbers(layer, name):
    x, activation = torch.randn(2, 8, 8, 8), ACT2FN[name]
    wanted = activation(layer(x)).detach()
    with torch.no_grad():
        assert torch.equal(activated(layer, activation, x), wanted)
    with torch.inference_mode():
        assert torch.equal(activated(layer, activation, x), wanted)


def test_what_an_activation_reads_is_written_over_only_in_inference(monkeypatch):
    written = []
    monkeypatch.setitem(in_place.WRITTEN_OVER, nn.ReLU, lambda y: written.append(y) or torch.relu_(y))
    layer, x = Linear(8, 16), torch.randn(4, 8)
    activated(layer, nn.ReLU(), x).sum().backward()
    assert not written and layer.weight.grad is not None
    with torch.no_grad():
        activated(nn.Identity(), nn.ReLU(), x)
        assert not written  # an identity gives what belongs to the caller
        activated(layer, nn.ReLU(), x)
    assert len(written) == 1


@torch.no_grad()
@pytest.mark.parametrize("shape", [(3, 5, 8), (7, 8), (2, 3, 2, 8), (1, 1, 8), (8,)], ids=str)
def test_strips_give_what_all_rows_at_once_give(shape):
    first, second = mlp()
    x = torch.randn(shape)
    torch.testing.assert_close(in_strips(x, first, second), second(first(x)), rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_no_more_than_a_strip_lies_between_the_steps(monkeypatch):
    first, second = mlp()
    seen = []
    after = in_place._after
    monkeypatch.setattr(in_place, "_after", lambda x, *steps: seen.append(len(x)) or after(x, *steps))
    in_strips(torch.randn(2, 5, 8), first, second)
    assert seen == [2, 2, 2, 2, 2]  # of 32 values each: 64 are a strip
    assert in_strips(torch.empty(0, 8), first, second).shape == (0, 8)


@torch.no_grad()
def test_hooks_see_everything_at_once_and_untouched():
    first, second = mlp()
    x, kept = torch.randn(6, 8), []
    wanted = in_strips(x, first, second)
    handle = first.dense.register_forward_hook(lambda module, args, y: kept.append(y))
    torch.testing.assert_close(in_strips(x, first, second), wanted)
    handle.remove()
    assert len(kept) == 1 and torch.equal(kept[0], nn.functional.linear(x, first.dense.weight, first.dense.bias))
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, y: kept.append(y))
    first(x)
    handle.remove()
    assert torch.equal(kept[1], kept[0])


@pytest.mark.parametrize("row", WHOLE, ids="-".join)
def test_models_answer_the_same_with_and_without(row, monkeypatch):
    model = tiny_model(*row)
    x = pixels(model.config)
    with torch.no_grad():
        got = model(x)
    monkeypatch.undo()
    with torch.no_grad():
        wanted = model(x)
    for one, other in zip(got.to_tuple(), wanted.to_tuple(), strict=True):
        if isinstance(one, torch.Tensor):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_gradients_flow_as_ever():
    first, second = mlp()
    x = torch.randn(5, 8, requires_grad=True)
    (got,) = torch.autograd.grad(in_strips(x, first, second).square().sum(), x)
    (wanted,) = torch.autograd.grad(second(first(x)).square().sum(), x)
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)
