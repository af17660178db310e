"""Which kernel linear layers take: a rule about machine, setting and shapes, and a probe of the operator."""

import platform
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

import hfvision
from hfvision import doctor
from hfvision.errors import ConfigError
from hfvision.layers import linear
from hfvision.layers.linear import Linear, linear_choice, onednn_fault
from tests.linear_kernels import forget_choice, fresh_choice_fixture  # noqa: F401


def test_only_products_worth_it_are_taken(monkeypatch):
    monkeypatch.setattr(linear, "_made_choice", lambda: linear.Choice("onednn", "the test says so"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)

    def taken(m, k, n):
        return linear.takes_onednn(torch.empty(m, k), torch.empty(n, k))

    assert taken(197, 192, 192) and taken(49, 768, 768)
    assert not taken(100, 192, 192)  # 3.7 million multiplications
    assert not taken(1, 3000, 3000) and not taken(3000, 3000, 4) and not taken(3000, 16, 3000)
    assert not taken(64, 16384, 64) and taken(256, 4096, 256)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert not taken(197, 768, 768) and taken(1576, 768, 768)


MACHINES = {
    "AMD with AVX-512": ("vendor_id : AuthenticAMD\n", "AVX512", True, "onednn"),
    "Intel with AVX-512": ("vendor_id\t: GenuineIntel\n", "AVX512", True, "torch"),
    "AMD without AVX-512": ("vendor_id : AuthenticAMD\n", "AVX2", True, "torch"),
    "ARM": ("CPU implementer : 0x41\n", "SVE256", False, "torch"),
    "not told": ("", "AVX512", True, "torch"),
    "another library": ("vendor_id : AuthenticAMD\n", "AVX512", False, "torch"),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_the_machine_decides_and_never_a_clock(machine, monkeypatch):
    cpuinfo, capability, mkl, wanted = MACHINES[machine]
    monkeypatch.setattr(
        linear, "Path", lambda name: SimpleNamespace(exists=lambda: True, read_text=lambda **_: cpuinfo)
    )
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    monkeypatch.setattr(linear, "onednn_fault", lambda: "")
    assert hfvision.linear_backend() == wanted
    assert linear_choice().because


@pytest.mark.parametrize(
    "said, maker", [("AMD64 Family 25 Model 33 Stepping 0, AuthenticAMD", "AuthenticAMD"), ("", "")]
)
def test_the_processors_maker_without_cpuinfo(said, maker, monkeypatch):
    monkeypatch.setattr(linear, "Path", lambda name: SimpleNamespace(exists=lambda: False))
    monkeypatch.setattr(platform, "processor", lambda: said)
    assert linear._processor_maker() == maker


def absent(x, weight, bias, attr, scalars, algorithm):
    raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")


FAULTY = {
    "absent": absent,
    "another signature": lambda x, weight, bias: F.linear(x, weight, bias),
    "no bias": lambda x, weight, bias, *rest: F.linear(x, weight),
    "slightly wrong": lambda x, weight, bias, *rest: F.linear(x, weight, bias) + 1e-3,
    "wrong only for transposed weights": lambda x, weight, bias, *rest: (
        F.linear(x, weight, bias) if weight.is_contiguous() else x @ weight.reshape(x.shape[1], -1)
    ),
    "another shape": lambda x, weight, bias, *rest: F.linear(x, weight, bias)[None],
    "another dtype": lambda x, weight, bias, *rest: F.linear(x, weight, bias).double(),
}


@pytest.mark.parametrize("kind", FAULTY)
def test_a_faulty_operator_is_never_used(kind, monkeypatch, caplog):
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", FAULTY[kind])
    monkeypatch.setattr(linear, "_machine_without_gain", lambda: "")
    assert hfvision.linear_backend() == "torch" and "oneDNN" in linear_choice().because
    with pytest.raises(ConfigError, match=r'cannot be had: .*Use "auto" or "torch"'):
        hfvision.linear_backend("onednn")
    monkeypatch.setenv(linear.VARIABLE, "onednn")
    forget_choice()
    linear.report_once.cache_clear()
    layer = Linear(512, 512)
    x = torch.randn(400, 512)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), rtol=0, atol=0)
    layer(x)
    assert [r.message for r in caplog.records if linear.VARIABLE in r.message] == [
        f"{linear.VARIABLE}=onednn cannot be followed: {onednn_fault()}. torch's own products are used."
    ]


def test_the_probe_is_right_in_any_surroundings_and_draws_no_number():
    if fault := onednn_fault():
        pytest.skip(fault)
    state = torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"), torch.inference_mode():
        onednn_fault.cache_clear()
        assert onednn_fault() == ""
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        onednn_fault.cache_clear()
        assert onednn_fault() == ""
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(torch.get_rng_state(), state)


def test_setting_the_backend(monkeypatch):
    assert hfvision.linear_backend("torch") == "torch" == hfvision.linear_backend()
    if not onednn_fault():
        assert hfvision.linear_backend("onednn") == "onednn" == hfvision.linear_backend()
    monkeypatch.setattr(linear, "_machine_without_gain", lambda: "the test says so")
    assert hfvision.linear_backend("auto") == "torch"
    with pytest.raises(ConfigError, match='"auto", "torch" or "onednn"; got \'mkl\''):
        hfvision.linear_backend("mkl")
    assert hfvision.linear_backend() == "torch"


def test_the_environment_sets_it_until_a_call_does(monkeypatch):
    monkeypatch.setattr(linear, "_machine_without_gain", lambda: "")
    monkeypatch.setattr(linear, "onednn_fault", lambda: "")
    monkeypatch.setenv(linear.VARIABLE, "torch")
    assert hfvision.linear_backend() == "torch"
    assert hfvision.linear_backend("auto") == "onednn"
    monkeypatch.setenv(linear.VARIABLE, "fast")
    assert hfvision.linear_backend() == "onednn"
    forget_choice()
    with pytest.raises(ConfigError, match=r'HFVISION_LINEAR_BACKEND is "auto", "torch" or "onednn"; got \'fast\''):
        hfvision.linear_backend()


@pytest.mark.parametrize(
    "rates, verdict, advice",
    [
        ({"torch": 100.0, "onednn": 220.0}, "note", f"set {linear.VARIABLE}=onednn"),
        ({"torch": 100.0, "onednn": 110.0}, "ok", ""),
        ({"torch": 100.0}, "ok", ""),
    ],
)
def test_doctor_shows_both_rates_and_advises_without_choosing(rates, verdict, advice, monkeypatch):
    hfvision.linear_backend("torch")
    monkeypatch.setattr(doctor, "linear_rates", lambda: rates)
    check = doctor._linear()
    assert check.verdict == verdict and check.advice.endswith(advice)
    assert "linear layers take torch: it was asked for" in check.found and "torch 100" in check.found
    assert hfvision.linear_backend() == "torch"


def test_the_rates_are_of_every_kernel_that_works():
    rates = doctor.linear_rates(side=64, rounds=1)
    assert rates.keys() == {"torch"} | (set() if onednn_fault() else {"onednn"})
    assert all(rate > 0 for rate in rates.values())
