"""Linear equals nn.Linear wherever nn.Linear works, with oneDNN's kernel where that is faster and right."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.utils import checkpoint

import hfvision
from hfvision.layers import linear
from hfvision.layers.linear import Linear, onednn_fault, plain_linears, product
from tests.linear_kernels import calls_fixture, fresh_choice_fixture  # noqa: F401


def close(ours, theirs):
    scale = theirs.abs().max().item() if theirs.numel() else 0.0
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 * max(scale, 1.0))


def pair(inputs=24, outputs=40, bias=True):
    """A Linear and an nn.Linear with the same weights."""
    ours = Linear(inputs, outputs, bias=bias)
    theirs = nn.Linear(inputs, outputs, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def gradients(layer, x, g):
    x = x.detach().clone().requires_grad_()
    layer.zero_grad()
    (layer(x) * g).sum().backward()
    return [x.grad, *(p.grad for p in layer.parameters())]


# Equal numbers


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (1, 24), (7, 24), (3, 5, 24), (2, 3, 4, 24)])
def test_outputs_and_gradients_equal_torchs(calls, shape, bias):
    ours, theirs = pair(bias=bias)
    x, g = torch.randn(shape), torch.randn(*shape[:-1], 40)
    close(ours(x), theirs(x))
    for got, wanted in zip(gradients(ours, x, g), gradients(theirs, x, g), strict=True):
        close(got, wanted)
    with torch.no_grad():
        close(ours(x), theirs(x))
    with torch.inference_mode():
        close(ours(x), theirs(x))
    rows = x[..., 0].numel()
    assert {(rows, 24, 40), (rows, 40, 24), (40, rows, 24)} == set(calls)


@pytest.mark.parametrize("sides", [(1, 24, 40), (7, 1, 40), (7, 24, 1), (1, 1, 1)])
def test_sides_of_one_are_right(calls, sides):
    m, k, n = sides
    ours, theirs = pair(k, n)
    x, g = torch.randn(m, k), torch.randn(m, n)
    for got, wanted in zip(gradients(ours, x, g), gradients(theirs, x, g), strict=True):
        close(got, wanted)
    column = torch.randn(m, k + 3)[:, :k]
    close(ours(column), theirs(column))
    assert calls


def strided_inputs():
    return {
        "transposed": torch.randn(24, 7).t(),
        "permuted": torch.randn(3, 24, 5).permute(0, 2, 1),
        "every second": torch.randn(14, 48)[::2, ::2],
        "slice of wider rows": torch.randn(7, 30)[:, 3:27],
        "one row seven times": torch.randn(1, 24).expand(7, 24),
        "one number": torch.randn(()).expand(7, 24),
        "overlapping windows": torch.randn(60).unfold(0, 24, 3),
        "unaligned": torch.randn(7 * 24 + 1)[1:].view(7, 24),
        "negated view": torch.randn(7, 24, dtype=torch.complex64).conj().imag,
    }


@pytest.mark.parametrize("name", strided_inputs())
def test_strides_do_not_matter(calls, name):
    ours, theirs = pair()
    x = strided_inputs()[name]
    close(ours(x), theirs(x))
    # The same tensor as weight: 7 outputs, or 15 of the one with three axes.
    weight, rows = x.flatten(0, -2) if name == "permuted" else x, torch.randn(6, 24)
    close(product(rows, weight), F.linear(rows, weight))


def test_gradient_that_is_one_number_everywhere(calls):
    ours, theirs = pair()
    x = torch.randn(7, 24)
    ours(x).sum().backward()
    theirs(x).sum().backward()
    close(ours.weight.grad, theirs.weight.grad)
    assert calls


def test_empty_batches_have_empty_outputs_and_zero_gradients(calls):
    layer = Linear(24, 40)
    x = torch.zeros(0, 5, 24, requires_grad=True)
    out = layer(x)
    out.sum().backward()
    assert out.shape == (0, 5, 40) and x.grad.shape == (0, 5, 24)
    assert not layer.weight.grad.any() and calls == []


def test_inputs_that_do_not_fit_raise_as_torchs_do(calls):
    ours, theirs = pair()
    for x in (torch.randn(7, 23), torch.randn(()), torch.randn(7, 24, dtype=torch.float64), [1.0]):
        with pytest.raises((RuntimeError, TypeError)) as wanted:
            theirs(x)
        with pytest.raises(wanted.type):
            ours(x)
    with pytest.raises(RuntimeError):
        product(torch.randn(7, 24), torch.randn(40, 24), torch.randn(39))


def test_numbers_that_vanish_or_blow_up_are_kept(calls):
    ours, theirs = pair(bias=False)
    for value in (float("nan"), float("inf"), 1e-42, 3e38):
        x = torch.randn(7, 24)
        x[2, 3] = value
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5, equal_nan=True)


# Differentiation beyond one backward pass


def test_second_and_third_derivatives(calls):
    ours, theirs = pair(6, 5)
    x = torch.randn(4, 6)

    def thrice(layer):
        a = x.clone().requires_grad_()
        value = layer(a).pow(4).sum()
        found = []
        for _ in range(3):
            da, dw = torch.autograd.grad(value, (a, layer.weight), create_graph=True)
            found += [da, dw]
            value = da.pow(2).sum() + dw.pow(2).sum()
        return found

    for got, wanted in zip(thrice(ours), thrice(theirs), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())
    assert calls


def test_many_gradients_at_once(calls):
    ours, theirs = pair(6, 5)
    x = torch.randn(4, 6)
    wanted = torch.autograd.functional.jacobian(theirs, x, vectorize=True)
    torch.testing.assert_close(torch.autograd.functional.jacobian(ours, x, vectorize=True), wanted)
    hessian = torch.autograd.functional.hessian(lambda t: theirs(t).pow(3).sum(), x, vectorize=True)
    close(torch.autograd.functional.hessian(lambda t: ours(t).pow(3).sum(), x, vectorize=True), hessian)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")  # from torch 2.14 on, in its own parts, too
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # forward mode in torch itself uses it
def test_torch_func(calls):
    ours, theirs = pair(6, 5)
    x, v = torch.randn(4, 6), torch.randn(4, 6)
    weights = dict(ours.named_parameters())
    for transform in (
        lambda f: torch.func.vmap(f)(x),
        lambda f: torch.func.jacrev(f)(x),
        lambda f: torch.func.jacfwd(f)(x),
        lambda f: torch.func.hessian(lambda t: f(t).pow(3).sum())(x),
        lambda f: torch.func.jvp(f, (x,), (v,))[1],
        lambda f: torch.func.vmap(torch.func.grad(lambda t: f(t).pow(2).sum()))(x),
    ):
        close(transform(ours), transform(theirs))
    close(torch.func.functional_call(ours, weights, (x,)), theirs(x))
    per_weight = torch.func.grad(lambda w: torch.func.functional_call(ours, w, (x,)).pow(2).sum())(weights)
    theirs(x).pow(2).sum().backward()
    close(per_weight["weight"], theirs.weight.grad)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")  # from torch 2.14 on, in its own parts, too
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # forward mode in torch itself uses it
def test_forward_mode_also_over_a_backward_pass(calls):
    ours, theirs = pair(6, 5)
    x, v = torch.randn(4, 6), torch.randn(4, 6)

    def tangents(layer):
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x.clone().requires_grad_(), v)
            out = layer(dual)
            (grad,) = torch.autograd.grad(out.pow(2).sum(), dual, create_graph=True)
            unpack = torch.autograd.forward_ad.unpack_dual
            return unpack(out).tangent.detach(), unpack(grad).tangent.detach()

    for got, wanted in zip(tangents(ours), tangents(theirs), strict=True):
        close(got, wanted)


# What is done with outputs, weights and modules


def test_outputs_may_be_changed_in_place(calls):
    ours, theirs = pair()
    for shape in ((7, 24), (3, 5, 24)):
        x = torch.randn(shape)
        found = []
        for layer in (ours, theirs):
            layer.zero_grad()
            out = layer(x)
            out[..., 0] = 0
            out.mul_(2).relu_().sum().backward()
            found.append((out.detach(), layer.weight.grad.clone()))
        close(found[0][0], found[1][0])
        close(found[0][1], found[1][1])
    assert calls


def test_weights_changed_in_place_are_seen_and_stale_ones_refused(calls):
    ours, theirs = pair()
    x = torch.randn(7, 24, requires_grad=True)
    with torch.no_grad():
        for layer in (ours, theirs):
            layer.weight.mul_(3)
    close(ours(x), theirs(x))
    out = ours(x)
    with torch.no_grad():
        ours.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_only_what_a_frozen_layer_needs_is_kept(calls):
    layer = Linear(24, 40).requires_grad_(False)
    x = torch.randn(7, 24, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        layer(x).sum().backward()
    assert kept == [layer.weight.shape]
    assert x.grad is not None and layer.weight.grad is None
    assert not layer(x.detach()).requires_grad


def test_weights_shared_by_two_layers_collect_both_gradients(calls):
    ours, theirs = pair(24, 24)
    x = torch.randn(7, 24)
    for layer, kind in ((ours, Linear), (theirs, nn.Linear)):
        other = kind(24, 24)
        other.weight = layer.weight
        nn.init.zeros_(other.bias)
        other(layer(x)).pow(2).sum().backward()
    close(ours.weight.grad, theirs.weight.grad)
    assert calls


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        lambda layer: parametrizations.weight_norm(layer),
        lambda layer: parametrizations.orthogonal(layer),
    ],
    ids=["pruned", "weight norm", "orthogonal"],
)
def test_pruned_and_parametrized_weights(calls, change):
    ours, theirs = pair(24, 24)
    x = torch.randn(7, 24)
    torch.manual_seed(1)
    change(ours)
    torch.manual_seed(1)
    change(theirs)
    close(ours(x), theirs(x))
    ours(x).pow(2).sum().backward()
    theirs(x).pow(2).sum().backward()
    for got, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        close(got.grad, wanted.grad)
    assert calls


def test_a_layer_wrapped_by_an_adapter(calls):
    class LowRank(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base_layer = base.requires_grad_(False)
            self.down, self.up = nn.Linear(24, 2, bias=False), nn.Linear(2, 40, bias=False)

        def forward(self, x):
            return self.base_layer(x) + self.up(self.down(x))

    ours, theirs = pair()
    adapted, x = LowRank(ours), torch.randn(7, 24)
    close(adapted(x), theirs(x) + adapted.up(adapted.down(x)))
    with torch.no_grad():
        ours.weight += adapted.up.weight @ adapted.down.weight
    close(ours(x), theirs(x) + adapted.up(adapted.down(x)))


def test_it_is_an_nn_linear_in_name_copies_and_files(calls):
    ours, theirs = pair()
    assert isinstance(ours, nn.Linear) and repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(7, 24)
    ours(x)
    assert ours.__dict__.keys() == theirs.__dict__.keys()  # nothing is cached in the module
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(copied) is Linear
        torch.testing.assert_close(copied(x), ours(x), rtol=0, atol=0)


def test_transformers_initialises_it_as_it_does_nn_linear():
    config = hfvision.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    model = hfvision.ViTModel(config)
    layer = Linear(200, 200)
    nn.init.ones_(layer.bias)
    model._init_weights(layer)
    assert not layer.bias.any()
    assert layer.weight.std().item() == pytest.approx(config.initializer_range, rel=0.1)


@pytest.mark.filterwarnings("ignore:.*deprecated")  # torch.ao, by torch
def test_dynamic_quantization_after_plain_linears():
    model = nn.Sequential(Linear(24, 40), nn.ReLU(), Linear(40, 8))
    x, before = torch.randn(7, 24), copy.deepcopy(model)
    assert plain_linears(model) is model and {type(m) for m in model if m is not model[1]} == {nn.Linear}
    assert plain_linears(Linear(2, 3)).__class__ is nn.Linear
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert "DynamicQuantizedLinear" in repr(quantized)
    assert (quantized(x) - before(x)).abs().max() < 0.05


# Where torch's own product is taken


def test_other_formats_and_devices(calls):
    ours, theirs = pair()
    x = torch.randn(7, 24)
    for dtype in (torch.float64, torch.bfloat16):
        a, b = copy.deepcopy(ours).to(dtype), copy.deepcopy(theirs).to(dtype)
        torch.testing.assert_close(a(x.to(dtype)), b(x.to(dtype)), rtol=0, atol=0)
    assert copy.deepcopy(ours).to("meta")(x.to("meta")).shape == (7, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        assert ours(torch.empty(7, 24)).shape == (7, 40)
    assert calls == []


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # said by torch whenever the switch is used
def test_what_follows_operators_sees_linear(calls):
    from torch.utils.flop_counter import FlopCounterMode

    ours, theirs = pair()
    x = torch.randn(7, 24)
    with FlopCounterMode(display=False) as counter:
        ours(x)
    assert counter.get_total_flops() == 2 * 7 * 24 * 40
    with torch.backends.mkldnn.flags(enabled=False):
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    assert calls == []


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")  # from torch 2.14 on, in its own parts, too
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_tracing_and_graphs(calls):
    ours, theirs = pair()
    x = torch.randn(7, 24)
    traced = torch.jit.trace(ours, x)
    close(traced(torch.randn_like(x) * 0 + x), theirs(x))
    close(torch.fx.symbolic_trace(ours)(x), theirs(x))
    assert "linear" in str(traced.graph) and "mkldnn" not in str(traced.graph)


def test_compile_and_export(calls):
    ours, theirs = pair()
    x = torch.randn(7, 24)
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    for got, wanted in zip(gradients(compiled, x, torch.ones(())), gradients(theirs, x, torch.ones(())), strict=True):
        close(got, wanted)
    assert bool(calls) == hasattr(torch.compiler, "is_exporting")  # graphs call the product, from torch 2.7
    calls.clear()
    program = torch.export.export(ours, (x,), dynamic_shapes=({0: torch.export.Dim("rows")},))
    assert "aten.linear" in str(program.graph) and "mkldnn" not in str(program.graph)
    close(program.module()(torch.cat([x, x])), torch.cat([theirs(x)] * 2))
    assert calls == []


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_gradients_are_the_same(calls, reentrant):
    ours, _ = pair()
    x = torch.randn(7, 24, requires_grad=True)
    ours(x).pow(2).sum().backward()
    wanted = [x.grad.clone(), ours.weight.grad.clone()]
    x.grad = ours.weight.grad = None
    checkpoint.checkpoint(ours, x, use_reentrant=reentrant).pow(2).sum().backward()
    torch.testing.assert_close([x.grad, ours.weight.grad], wanted, rtol=0, atol=0)
    assert calls


def test_numbers_repeat_under_deterministic_algorithms_and_follow_threads(calls):
    ours, theirs = pair(96, 200)
    x, threads = torch.randn(3, 50, 96), torch.get_num_threads()
    try:
        torch.use_deterministic_algorithms(True)
        with torch.no_grad():
            for count in (1, 2, 3, 1):
                torch.set_num_threads(count)
                torch.testing.assert_close(ours(x), ours(x), rtol=0, atol=0)
                close(ours(x), theirs(x))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    assert calls


def test_gradient_hooks_of_parameters_fire(calls):
    ours, _ = pair()
    seen = []
    for parameter in ours.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: seen.append(tuple(p.grad.shape)))
    ours(torch.randn(7, 24)).sum().backward()
    assert sorted(seen) == [(40,), (40, 24)]


def test_threads_that_meet_at_the_first_product_agree(calls):
    onednn_fault.cache_clear()
    linear.forget_choice()
    ours, theirs = pair()
    x, barrier, outs = torch.randn(7, 24), threading.Barrier(8), []

    def work():
        barrier.wait()
        outs.append(ours(x).detach())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outs) == 8
    for out in outs:
        close(out, theirs(x))


def test_a_whole_model_has_equal_outputs_and_gradients_under_both_kernels(calls):
    config = hfvision.SwinConfig(
        image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=5
    )
    model = hfvision.SwinForImageClassification(config).eval()
    pixels = torch.randn(2, 3, 32, 32)

    def run(backend):
        hfvision.linear_backend(backend)
        model.zero_grad()
        out = model(pixels, labels=torch.tensor([1, 3]))
        out.loss.backward()
        # A key's bias moves all scores of a row alike, so its gradient is zero in exact arithmetic, noise in floats.
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if not n.endswith("key.bias")}
        return out.logits.detach(), grads

    (logits, grads), (plain_logits, plain_grads) = run("onednn"), run("torch")
    assert len(calls) > 20
    torch.testing.assert_close(logits, plain_logits, rtol=0, atol=1e-5 * plain_logits.abs().max().item())
    for name, wanted in plain_grads.items():
        torch.testing.assert_close(grads[name], wanted, rtol=0, atol=1e-5 * wanted.abs().max().item(), msg=name)
