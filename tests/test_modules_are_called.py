"""A module that holds weights is called, whatever somebody has put in its place or around it.

Fast paths stand in for modules (merged projections, norms folded into kernels, products, rows a few at a time). Here
all of them are taken whatever the size, and modules are hooked, wrapped and changed as adapters, quantizers, pruning
and attribution do it. `test_plain` says that each of these changes is seen; here each kind of module of every model
is hooked in turn, which finds a fast path that asks too few of those it stands for, and the other changes are made to
all modules at once and compared with the same weights set directly.
"""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize, prune
from transformers.utils.generic import ModelOutput

from hfvision.errors import ConfigError
from hfvision.layers import in_place
from hfvision.models.bit import BitConvolution, as_stored
from hfvision.models.detr import heads as detr_heads
from hfvision.models.detr import resnet as detr_resnet
from hfvision.models.segformer import decoder as segformer_decoder
from tests.models import WHOLE, pixels, tiny_model

ROUNDING = {"rtol": 1e-4, "atol": 1e-4}  # other orders of summation, through a whole model of outputs of order one
TIMM = {"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [1, 2, 3, 4]}
VARIANTS = [
    ("setr", "AutoModelForSemanticSegmentation", {"decoder_type": "naive"}),
    ("setr", "AutoModelForSemanticSegmentation", {"decoder_type": "pup"}),
    ("setr", "AutoModelForSemanticSegmentation", {"decoder_type": "mla"}),
    ("segmenter", "AutoModelForSemanticSegmentation", {"decoder_type": "linear"}),
    ("detr", "AutoModelForObjectDetection", {"position_embedding_type": "learned"}),
    ("detr", "AutoModelForImageSegmentation", {"backbone_config": TIMM}),
]
# PEFT 0.21 asks transformers 5.24 by a name that this has given up.
PEFT = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
MODELS = [(*row, {}) for row in WHOLE] + VARIANTS


@pytest.fixture(autouse=True)
def every_fast_path_is_taken(monkeypatch):
    for module, name, value in (
        (in_place, "SMALL", 0),
        (in_place, "LARGE", 0),
        (in_place, "STRIP", 4 * 64),
        (detr_resnet, "STRIP", 100),
        (detr_heads, "QUERIES_AT_ONCE", 2),
        (segformer_decoder, "STRIP", 1),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.fixture(params=MODELS, ids=lambda row: "-".join([*row[:2], *(str(value)[:20] for value in row[2].values())]))
def model(request):
    model_type, auto_class, fields = request.param
    model = tiny_model(model_type, auto_class, **fields)
    for module in model.modules():
        if getattr(module, "running_var", None) is not None:  # norms that change something
            module.running_var.uniform_(0.5, 1.5)
            module.running_mean.normal_(std=0.2)
    return model


def answers(model, x):
    """All that a model answers, each tensor of order one."""
    return [one for value in model(x).values() for one in (value if isinstance(value, tuple | list) else [value])]


def assert_equal(got, wanted):
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        scale = other.abs().max().clamp_min(1e-3)
        torch.testing.assert_close(one / scale, other / scale, **ROUNDING)


def differ(got, wanted):
    return any(not torch.allclose(one, other, **ROUNDING) for one, other in zip(got, wanted, strict=True))


def weighted(model):
    """Name -> module, of those that hold weights and can be called."""
    return {
        name: module
        for name, module in model.named_modules()
        if type(module).forward is not nn.Module.forward
        and any(True for _ in (*module.parameters(), *module.buffers()))
    }


def holders(model):
    """Those that hold weights themselves, one of each kind: what has one name in modules of one class."""
    kinds = {}
    for name, module in weighted(model).items():
        if [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            parent, _, own = name.rpartition(".")
            if own.isdigit():
                parent, _, own = parent.rpartition(".")
            kinds[type(model.get_submodule(parent)), own, type(module)] = name
    return list(kinds.values())


def kernels(model, *, merging=False):
    """Name -> module, of linear maps and convolutions; merging: those into which PEFT merges what it has trained."""
    found = {name: one for name, one in model.named_modules() if isinstance(one, nn.Linear | nn.Conv2d)}
    if merging:
        found = {
            name: one
            for name, one in found.items()
            if getattr(one, "groups", 1) == 1 and getattr(one, "standardize", as_stored) is as_stored
        }
    return found


def nothing(module, args, output):
    return None


def noised(module):
    """Changes the weights that it holds itself."""
    with torch.no_grad():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point():
                tensor.mul_(1.5).add_(0.1)


@pytest.mark.parametrize("with_gradients", [False, True])
def test_all_that_matter_are_called(model, with_gradients):
    x, fired = pixels(model.config), set()
    with torch.set_grad_enabled(with_gradients):
        plain = answers(model, x)
        for name, module in weighted(model).items():
            module.register_forward_hook(lambda *_, name=name: fired.add(name))
        assert_equal(answers(model, x), plain)
        unused = copy.deepcopy(model)  # a norm that no answer reads, a head of another task
        for name, module in weighted(unused).items():
            module._forward_hooks.clear()
            if name not in fired:
                noised(module)
        assert_equal(answers(unused, x), plain)
    assert fired


@torch.no_grad()
def test_a_hook_on_any_one_sees_and_changes_what_the_paper_says(model):
    x, kept, hooks = pixels(model.config), [], {}

    def changed(module, args, output):
        if isinstance(output, ModelOutput):  # a decoder's
            return type(output)(**{field: one * 1.5 for field, one in output.items()})
        value, *others = output if isinstance(output, tuple) else (output,)
        kept.extend((one, one.clone()) for one in (value, args[0]))
        return (value * 1.5, *others) if others else value * 1.5

    names = holders(model)
    for name in names:
        handle = model.get_submodule(name).register_forward_hook(changed)
        alone = answers(model, x)
        assert all(torch.equal(one, other) for one, other in kept), f"{name}: written over after it was seen"
        for other, module in weighted(model).items():
            if other != name:
                hooks[other] = module.register_forward_hook(nothing)
        try:
            assert_equal(alone, answers(model, x))
        except AssertionError as error:
            raise AssertionError(f"{name} alone changes the answer otherwise than in the plain definition") from error
        for one in (handle, *hooks.values()):
            one.remove()
        kept.clear()
    assert len(names) > 3


class Int8(torch.Tensor):
    """A weight in 8 bits, as quantizers bring it into a module: it goes through layers and nothing else."""

    layers = (F.linear, F.conv2d)

    @staticmethod
    def __new__(cls, weight):
        return torch.Tensor._make_wrapper_subclass(cls, weight.shape, dtype=weight.dtype)

    def __init__(self, weight):
        self.scale = weight.abs().amax() / 127
        self.numbers = (weight / self.scale).round().to(torch.int8)

    def wide(self):
        return self.numbers * self.scale

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function in cls.layers:
            args = [one.wide() if isinstance(one, Int8) else one for one in args]
            return function(*args, **(kwargs or {}))
        return super().__torch_function__(function, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        if operator in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return args[0]
        raise NotImplementedError(f"{operator} of a weight in 8 bits")


@torch.no_grad()
def test_weights_in_8_bits_go_through_their_layers(model):
    x, direct = pixels(model.config), copy.deepcopy(model)
    for name, module in kernels(model).items():
        if isinstance(module, BitConvolution) and module.standardize is not as_stored:
            continue  # it makes another kernel of its weight, which is more than a layer
        weight = Int8(module.weight.detach())
        module.weight = nn.Parameter(weight, requires_grad=False)
        direct.get_submodule(name).weight.copy_(weight.wide())
    assert_equal(answers(model, x), answers(direct, x))


class Scaled(nn.Module):
    def forward(self, weight):
        return 1.25 * weight


def parametrized(module):
    parametrize.register_parametrization(module, "weight", Scaled())


def pruned(module):
    prune.l1_unstructured(module, "weight", 0.4)


def normed(module):
    nn.utils.parametrizations.weight_norm(module)
    module.parametrizations.weight.original0.data *= 1.25


@pytest.mark.parametrize("change", [parametrized, pruned, normed])
def test_weights_that_are_made_of_others_answer_and_learn_as_those_set_directly(model, change):
    x, direct = pixels(model.config), copy.deepcopy(model)
    before = {}
    for name, module in kernels(model).items():
        change(module)
        direct.get_submodule(name).weight.data.copy_(module.weight)
        before[name] = module.weight  # in the graph of what it is made of
    assert_equal(answers(model, x), answers(direct, x))
    with torch.no_grad():
        assert_equal(answers(model, x), answers(direct, x))
    sources = [p for p in model.parameters() if p.requires_grad]
    sum(one.square().mean() for one in answers(model, x)).backward()
    sum(one.square().mean() for one in answers(direct, x)).backward()
    got = [p.grad for p in sources if p.grad is not None]
    assert got
    learnt = {name: direct.get_submodule(name).weight.grad for name in before}
    for name, module in kernels(direct).items():
        wanted, weight = learnt[name], model.get_submodule(name)
        if wanted is None:
            continue
        source = weight.weight_orig if change is pruned else weight.parametrizations.weight
        if change is pruned:
            assert_equal([source.grad], [wanted * weight.weight_mask])
        elif change is parametrized:
            assert_equal([source.original.grad], [1.25 * wanted])
        else:
            length = source.original1.detach().flatten(1).norm(dim=1)
            along = (wanted * source.original1.detach()).flatten(1).sum(1) / length
            assert_equal([source.original0.grad.flatten()], [along])
        assert module.weight.grad is not None


@PEFT
def test_low_rank_adapters_answer_learn_and_merge_as_the_sums_that_they_stand_for(model):
    x, targets = pixels(model.config), [*kernels(model, merging=True)]
    base = answers(model, x)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    wrapped = {name: one for name, one in adapted.named_modules() if hasattr(one, "lora_A")}
    assert len(wrapped) == len(targets)
    with torch.no_grad():
        for one in wrapped.values():
            one.lora_A["default"].weight.normal_(std=0.1)
            one.lora_B["default"].weight.normal_(std=0.1)
    sums = {name: one.get_delta_weight("default") for name, one in wrapped.items()}
    merged = copy.deepcopy(adapted).merge_and_unload()
    got = answers(adapted, x)
    assert differ(got, base)
    assert_equal(got, answers(merged, x))
    with torch.no_grad():
        assert_equal(answers(adapted, x), answers(merged, x))
    for parameter in merged.parameters():
        parameter.requires_grad_()
    sum(one.square().mean() for one in got).backward()
    sum(one.square().mean() for one in answers(merged, x)).backward()
    for name, one in wrapped.items():
        grad = merged.get_submodule(name.removeprefix("base_model.model.")).weight.grad
        if grad is None:
            continue
        pair = (one.lora_A["default"].weight, one.lora_B["default"].weight)
        assert_equal([p.grad for p in pair], torch.autograd.grad(sums[name], pair, grad))


@PEFT
def test_an_adapter_on_a_standardized_convolution_adds_to_its_output():
    model = tiny_model("vit-hybrid")
    name = next(name for name, one in model.named_modules() if isinstance(one, BitConvolution))
    conv, x = model.get_submodule(name), pixels(model.config)
    seen = {}
    conv.register_forward_hook(lambda module, args, output: seen.update(x=args[0], y=output))
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=[name], init_lora_weights=False))
    wrapped = next(one for one in adapted.modules() if hasattr(one, "lora_A"))
    wrapped.register_forward_hook(lambda module, args, output: seen.update(sum=output))
    adapted(x)
    added = wrapped.lora_B["default"](wrapped.lora_A["default"](seen["x"])) * wrapped.scaling["default"]
    assert wrapped.lora_A["default"].standardize is as_stored and added.abs().max() > 1e-3
    torch.testing.assert_close(seen["sum"], seen["y"] + added)


@torch.no_grad()
def test_a_dropout_or_a_norm_that_alone_is_in_training_mode_is_heeded():
    model = tiny_model("segformer", "AutoModelForSemanticSegmentation")
    x, head = pixels(model.config), model.decode_head
    before = model(x).logits
    head.dropout.p = 0.5
    assert torch.equal(model(x).logits, before)
    head.dropout.train()  # Monte Carlo dropout
    assert not torch.equal(model(x).logits, model(x).logits)
    head.dropout.eval()
    head.batch_norm.train()
    mean = head.batch_norm.running_mean.clone()
    assert not torch.allclose(model(x).logits, before) and not torch.equal(head.batch_norm.running_mean, mean)


@PEFT
@pytest.mark.parametrize("model_type", ["vit", "vit-hybrid", "swin", "segformer", "detr"])
def test_images_of_other_channels_are_for_models_without_an_adapter_on_their_first_convolution(model_type):
    model = tiny_model(model_type, "AutoModel")
    convs = ((name, one) for name, one in model.named_modules() if isinstance(one, nn.Conv2d))
    first = next(name for name, one in convs if one.in_channels == 3)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=[first])).get_base_model()
    with pytest.raises(ConfigError, match="in the place of the first convolution stands a Conv2d"):
        adapted.resize_input(num_channels=4)
    assert adapted(pixels(adapted.config)) is not None
