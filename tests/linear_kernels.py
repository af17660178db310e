"""Fixtures for what depends on the kernel of linear layers: a fresh choice, and oneDNN for every product."""

import pytest

import hfvision
from hfvision.layers import linear
from hfvision.layers.linear import onednn_fault

REAL, REAL_FAULT = linear.onednn_product, linear.onednn_fault


def forget_choice():
    linear._setting = None
    linear.forget_choice()
    REAL_FAULT.cache_clear()


@pytest.fixture(name="fresh_choice", autouse=True)
def fresh_choice_fixture(monkeypatch):
    """Every test begins as a new process does: nothing set, nothing probed, the rule with its shipped sizes."""
    monkeypatch.delenv(linear.VARIABLE, raising=False)
    for name, shipped in (("SMALLEST_PRODUCT", 4_000_000), ("SMALLEST_SIDE", 32), ("LONGEST_SUM", 64)):
        monkeypatch.setattr(linear, name, shipped)
    forget_choice()
    yield
    forget_choice()


@pytest.fixture(name="calls")
def calls_fixture(monkeypatch):
    """oneDNN for every product however small; the list gets the shapes (m, k, n) of each product that it computed."""
    if fault := onednn_fault():
        pytest.skip(fault)
    hfvision.linear_backend("onednn")
    for name, value in (("SMALLEST_PRODUCT", 1), ("SMALLEST_SIDE", 1), ("LONGEST_SUM", 10**9)):
        monkeypatch.setattr(linear, name, value)
    seen = []

    def counted(x, weight, bias):
        seen.append((*x.shape, len(weight)))
        return REAL(x, weight, bias)

    monkeypatch.setattr(linear, "onednn_product", counted)
    return seen
