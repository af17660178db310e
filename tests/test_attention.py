"""Attention of long sequences in strips, and when it is left to torch's fused attention."""

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import hfvision
from hfvision.layers import attention, linear
from tests.linear_kernels import fresh_choice_fixture  # noqa: F401 - for every test
from tests.models import pixels, tiny_model

SCALING = 0.3
LONG_VIT = {"image_size": 96, "patch_size": 4, "hidden_size": 128, "num_attention_heads": 2}  # 577 tokens
ROUNDING = {"rtol": 0, "atol": 1e-5}  # outputs of order one, summed in another order: 5e-6 was seen without AVX-512


@pytest.fixture
def onednn():
    if fault := linear.onednn_fault():
        pytest.skip(fault)
    hfvision.linear_backend("onednn")


@pytest.fixture
def unused(monkeypatch):
    """Makes a function of the module fail if it is called."""

    def forbid(name):
        monkeypatch.setattr(attention, name, lambda *args, **kwargs: pytest.fail(f"{name} was called"))

    return forbid


def tokens(queries=700, keys=700, size=64, **options):
    """As the linear layers leave them: (B, H, N, d) views of (B, N, D)."""
    counts = (queries, keys, keys)
    return [torch.randn(2, n, 3 * size, **options).unflatten(2, (3, size)).transpose(1, 2) for n in counts]


def fused(query, key, value):
    return sdpa_attention_forward(torch.nn.Identity(), query, key, value, None, scaling=SCALING, is_causal=False)[0]


@torch.no_grad()
@pytest.mark.parametrize(
    ("queries", "keys", "size"), [(700, 700, 64), (2500, 150, 32), (520, 4096, 64), (1030, 1030, 40)]
)
def test_long_sequences_give_what_the_fused_attention_gives(onednn, unused, monkeypatch, queries, keys, size):
    parts = tokens(queries, keys, size)
    wanted = fused(*parts)
    unused("sdpa_attention_forward")
    rows = []
    monkeypatch.setattr(attention, "product", lambda x, w: rows.append(len(x)) or linear.product(x, w))
    got, maps = attention.sdpa_attention(torch.nn.Identity(), *parts, None, scaling=SCALING)
    torch.testing.assert_close(got, wanted, **ROUNDING)
    assert maps is None and got.is_contiguous()
    assert max(rows) <= 1024 and max(rows) * keys <= max(2**18, 256 * keys)  # the maps are never there as a whole


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({"queries": 400}, {}),
        ({"dtype": torch.float64}, {}),
        ({"dtype": torch.bfloat16}, {}),
        ({"requires_grad": True}, {}),
        ({"device": "meta"}, {}),
        ({}, {"attention_mask": torch.ones(1, 1, 700, 700, dtype=torch.bool).tril()}),
        ({}, {"dropout": 0.1}),
        ({}, {"is_causal": True}),
        ({"queries": 500, "keys": 3}, {}),
    ],
    ids=lambda fields: "-".join(fields) or "-",
)
def test_all_else_is_left_to_the_fused_attention(onednn, unused, options, arguments):
    unused("_attention_in_strips")
    query, key, value = tokens(**options)
    arguments = {"attention_mask": None, "scaling": SCALING, **arguments}
    mixed, _ = attention.sdpa_attention(torch.nn.Identity(), query, key, value, **arguments)
    assert mixed.shape == (2, query.shape[2], 3, 64)


@torch.no_grad()
def test_strips_are_for_the_machines_and_settings_that_onednn_is_for(onednn, unused):
    unused("_attention_in_strips")
    parts = tokens()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attention.sdpa_attention(torch.nn.Identity(), *parts, None, scaling=SCALING)
    hfvision.linear_backend("torch")
    attention.sdpa_attention(torch.nn.Identity(), *parts, None, scaling=SCALING)


@torch.no_grad()
def test_a_replaced_attention_function_is_the_one_that_is_used(onednn, unused, monkeypatch):
    """Whoever registers another "sdpa" gets it, for long sequences too."""
    unused("_attention_in_strips")
    model = tiny_model("vit", **LONG_VIT)
    calls = []

    def replacement(*args, **kwargs):
        calls.append(kwargs["scaling"])
        return sdpa_attention_forward(*args, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", replacement)
    model(pixels(model.config))
    assert len(calls) == model.config.num_hidden_layers


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        ("vit", LONG_VIT),
        ("segformer", {"hidden_sizes": [64, 64], "num_attention_heads": [1, 1]}),
    ],
)
def test_models_give_the_same_numbers_with_strips_as_without(onednn, monkeypatch, model_type, fields):
    model = tiny_model(model_type, **fields)
    x = pixels(model.config, size=(96, 96) if model_type == "vit" else (256, 256))
    wanted = model(x).logits.detach()  # gradients are wanted: fused
    calls = []
    strips = attention._attention_in_strips
    monkeypatch.setattr(attention, "_attention_in_strips", lambda *args: calls.append(1) or strips(*args))
    with torch.inference_mode():
        got = model(x).logits
    assert calls
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())
