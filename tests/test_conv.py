"""Convolutions that are computed as products."""

import pytest
import torch

from hfvision.layers import conv
from hfvision.layers.conv import PatchConv


@pytest.fixture
def products(monkeypatch):
    """Those that are computed."""
    taken, multiply = [], conv.product
    monkeypatch.setattr(conv, "product", lambda *given: taken.append(given) or multiply(*given))
    return taken


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_patches_that_do_not_overlap_are_one_product(products, size, bias):
    torch.manual_seed(0)
    layer = PatchConv(4, 6, size, stride=size, bias=bias).double()
    x = torch.randn(2, 4, 7, 11, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    plain = torch.nn.functional.conv2d(x, layer.weight, layer.bias, stride=size)
    out = layer(x)
    assert len(products) == 1
    torch.testing.assert_close(out, plain)
    weights = torch.randn_like(plain)
    inputs = (x, *layer.parameters())
    wanted = torch.autograd.grad((plain * weights).sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad((out * weights).sum(), inputs), wanted)
    out.relu_()  # the result is the caller's, to change in place


def test_maps_that_lie_otherwise_are_convolved(products):
    torch.manual_seed(0)
    layer, x = PatchConv(4, 6, 2, stride=2), torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(layer(x), torch.nn.functional.conv2d(x, layer.weight, layer.bias, stride=2))
    assert layer(x[0]).shape == (6, 4, 4)  # one image without a batch, as torch's
    assert products == []
