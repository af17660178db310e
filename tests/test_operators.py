"""Fast paths that compiled graphs call as operators: right shapes, strides and gradients, and the models' numbers."""

import pytest
import torch

from hfvision.layers import linear
from hfvision.layers.attention import attention_of_graphs
from hfvision.layers.conv import patches_of_graphs, resized_of_graphs
from hfvision.layers.in_place import gelu_of_graphs
from hfvision.layers.linear import onednn_fault, product_of_graphs
from hfvision.layers.norm import norm_of_graphs
from hfvision.models.segformer.decoder import decoded_of_graphs
from hfvision.registry import SEMANTIC_SEGMENTATION
from tests.models import main_output, pixels, tiny_model

pytestmark = pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="graphs call them from torch 2.7")
needs_onednn = pytest.mark.skipif(bool(onednn_fault()), reason="this torch has no oneDNN product")


def numbers(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sizes_of_decoder():
    maps = [numbers(2, 4, 6, 8), numbers(2, 8, 3, 4)]
    return maps, [numbers(16, 4), numbers(16, 8)], numbers(16), numbers(5, 16), numbers(5)


WITHOUT_GRADIENTS = {
    "attention": (attention_of_graphs, (numbers(2, 3, 7, 4), numbers(2, 3, 5, 4), numbers(2, 3, 5, 4), 0.5)),
    "long attention": (
        attention_of_graphs,
        (numbers(1, 1, 600, 32), numbers(1, 1, 600, 32), numbers(1, 1, 600, 32), 1),
    ),
    "patches of maps": (patches_of_graphs, (numbers(2, 6, 5, 3).movedim(-1, 1), numbers(4, 3, 2, 2), numbers(4))),
    "patches of channels": (patches_of_graphs, (numbers(2, 3, 6, 5), numbers(4, 3, 2, 2), None)),
    "3x3 of a map made larger": (
        resized_of_graphs,
        (numbers(2, 8, 3, 4), numbers(2, 8, 3, 3), numbers(2), 12, 16, False),
    ),
    "3x3 of a map of few channels": (
        resized_of_graphs,
        (numbers(2, 2, 30, 40).movedim(1, -1).contiguous().movedim(-1, 1), numbers(2, 2, 3, 3), None, 32, 44, True),
    ),
    "activation of maps": (gelu_of_graphs, (numbers(2, 5, 3, 4).movedim(-1, 1),)),
    "norm": (norm_of_graphs, (numbers(2, 3, 4), numbers(4), numbers(4, seed=2), 1e-5)),
    "norm of transposed rows": (norm_of_graphs, (numbers(2, 4, 3).mT, numbers(4), numbers(4, seed=2), 1e-5)),
    "segformer's decoder": (decoded_of_graphs, sizes_of_decoder()),
}


@pytest.fixture(params=["torch", pytest.param("onednn", marks=needs_onednn)])
def backend(request, monkeypatch):
    """The kernel of all products, however small."""
    for name, value in (("SMALLEST_PRODUCT", 1), ("SMALLEST_SIDE", 1), ("LONGEST_SUM", 10**9)):
        monkeypatch.setattr(linear, name, value)
    monkeypatch.setattr(linear, "_setting", request.param)
    linear.forget_choice()
    yield request.param
    monkeypatch.undo()
    linear.forget_choice()


@pytest.mark.parametrize("name", WITHOUT_GRADIENTS)
def test_what_a_graph_expects_of_an_operator_is_what_it_makes(name, backend):
    function, arguments = WITHOUT_GRADIENTS[name]
    with torch.no_grad():
        torch.library.opcheck(function, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # of torch 2.14's own check
@pytest.mark.parametrize(("rows", "bias"), [((2, 3), numbers(5)), ((3,), None), ((2, 2, 2), numbers(5))])
def test_products_of_graphs_have_gradients(rows, bias, backend):
    bias = None if bias is None else bias.clone().requires_grad_()
    x, weight = numbers(*rows, 4).requires_grad_(), numbers(5, 4, seed=2).requires_grad_()
    torch.library.opcheck(product_of_graphs, (x, weight, bias))
    leaves = [leaf for leaf in (x, weight, bias) if leaf is not None]
    wanted = torch.autograd.grad(torch.nn.functional.linear(x, weight, bias).square().sum(), leaves)
    got = torch.autograd.grad(product_of_graphs(x, weight, bias).square().sum(), leaves)
    torch.testing.assert_close(got, wanted)


def graphs_of(model):
    """The model compiled by torch's own steps without generated code, and the names of what its graphs call."""
    called = []

    def backend(graph, inputs):
        from torch._dynamo.backends.debugging import aot_eager

        called.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return aot_eager(graph, inputs)

    return torch.compile(model, backend=backend, fullgraph=True, dynamic=True), called


@needs_onednn
@pytest.mark.parametrize(
    ("model_type", "operators"),
    [
        pytest.param(
            "segformer",
            {"hfvision.product", "hfvision.attention", "hfvision.conv_of_patches", "segformer_decoder"},
            marks=pytest.mark.slow,
        ),
        ("setr", {"hfvision.product", "hfvision.attention"}),
    ],
)
def test_graphs_for_inference_call_the_fast_paths(model_type, operators, monkeypatch):
    monkeypatch.setattr(linear, "_setting", "onednn")
    linear.forget_choice()
    try:
        model = tiny_model(model_type, SEMANTIC_SEGMENTATION)
        compiled, called = graphs_of(model)
        x = pixels(model.config)
        with torch.no_grad():
            torch.testing.assert_close(main_output(compiled(x)), main_output(model(x)), rtol=0, atol=1e-5)
        missing = {name for name in operators if not any(name in target for target in called)}
        assert not missing, set(called)
    finally:
        monkeypatch.undo()
        linear.forget_choice()


def test_graphs_for_inference_leave_segformers_norms_and_activations_to_torch():
    model = tiny_model("segformer", SEMANTIC_SEGMENTATION)
    compiled, called = graphs_of(model)
    x = pixels(model.config)
    with torch.no_grad():
        torch.testing.assert_close(main_output(compiled(x)), main_output(model(x)), rtol=0, atol=1e-5)
    norms = [target for target in called if "layer_norm" in target]
    assert norms and all("hfvision" in target for target in norms)
    assert any("hfvision.gelu" in target for target in called) and "gelu" not in "".join(
        target for target in called if "hfvision" not in target
    )


def test_what_stands_in_the_place_of_an_activation_is_called_in_a_graph():
    model = tiny_model("segformer", SEMANTIC_SEGMENTATION)
    x = pixels(model.config)
    hooked = model.segformer.encoder.block[0][0].mlp.dwconv.activation
    with torch.no_grad():
        before = main_output(model(x))
        hooked.register_forward_hook(lambda module, inputs, output: output + 1)
        compiled, _ = graphs_of(model)
        after = main_output(compiled(x))
        assert not torch.allclose(after, before)
        torch.testing.assert_close(after, main_output(model(x)), rtol=0, atol=1e-5)


def test_graphs_for_training_give_the_same_gradients(backend):
    model = tiny_model("vit")
    compiled, called = graphs_of(model)
    x = pixels(model.config)
    for forward in (model, compiled):
        forward(x).logits.square().sum().backward()
        gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        if forward is model:
            wanted = gradients
            model.zero_grad()
    assert any("hfvision.product" in target for target in called) == (backend == "onednn")
    assert wanted.keys() == gradients.keys()
    for name, gradient in gradients.items():
        scale = wanted[name].abs().max().item() or 1.0
        torch.testing.assert_close(gradient, wanted[name], rtol=0, atol=1e-5 * scale, msg=name)


def test_a_graph_under_a_transform_calls_no_operator(backend):
    weight = numbers(5, 4)

    def losses(x):
        return torch.func.vmap(torch.func.grad(lambda row: linear.product(row, weight).square().sum()))(x)

    x = numbers(3, 2, 4)
    torch.testing.assert_close(torch.compile(losses, backend="aot_eager")(x), losses(x))


def test_autocast_in_a_graph_is_followed(backend):
    weight = numbers(5, 4)

    def mixed(x):
        with torch.autocast("cpu", torch.bfloat16):
            return linear.product(x, weight)

    assert torch.compile(mixed, backend="aot_eager")(numbers(3, 4)).dtype is torch.bfloat16
