"""One linear map for every model: `nn.Linear`, computed by the faster of the two kernels that torch brings along.

Torch gives float32 products on a CPU to MKL, which leaves AVX-512 unused on processors that are not Intel's; oneDNN,
which is inside torch too, does not. Which kernel runs follows from the machine, the settings and the shapes, never
from a clock, so the same call gives the same numbers every time. Everywhere else this is torch's own `linear`.

`HFVISION_LINEAR_BACKEND` in the environment ("auto", "torch" or "onednn") is the setting to begin with.

Shapes: m rows, k inputs, n outputs.
"""

import os
import platform
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast, get_args

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.functional import linear

from hfvision.errors import ConfigError
from hfvision.layers.operators import operator, takes_operators
from hfvision.layers.plain import may_stand_plain
from hfvision.reporting import report_once
from hfvision.tracing import is_transformed

Setting = Literal["auto", "torch", "onednn"]
Backend = Literal["torch", "onednn"]
ModuleT = TypeVar("ModuleT", bound=nn.Module)

VARIABLE = "HFVISION_LINEAR_BACKEND"

# When oneDNN pays. To set a product up costs it some 25 microseconds more than MKL, which at 230 against 108 Gflop/s is
# earned back at 2.5 million multiplications on one thread, and at as many more as there are threads to share them.
SMALLEST_PRODUCT = 4_000_000  # m * k * n for each thread
SMALLEST_SIDE = 32  # of m, k and n: a product thinner than that waits for memory, whoever computes it
LONGEST_SUM = 64  # k / min(m, n): only MKL shares one long sum out, as a weight's gradient over very many rows is

# An optional choice of the user; None: the environment's, read at the first product.
_setting: Setting | None = None
_backend: Backend | None = None  # what `linear_choice` has led to; None: it was not asked since the last setting


class Choice(NamedTuple):
    """The kernel that large float32 products on this CPU go through, and the reason as a clause."""

    backend: Backend
    because: str


def linear_backend(name: str | None = None) -> str:
    """Set which kernel computes large float32 products on the CPU, if `name` is given; returns the one in use.

    "onednn" and "torch" ask for that one, "auto" decides by the machine: oneDNN on x86 processors with AVX-512 that are
    not Intel's, where it is present and right. The answer is "torch" or "onednn". The setting is the process's, all
    threads'. Raises ConfigError for another name, and for "onednn" where this torch has no working one.

    Example:
        >>> import hfvision
        >>> hfvision.linear_backend() in ("torch", "onednn")
        True
    """
    global _setting
    if name is not None:
        setting = _checked(name, "linear_backend")
        if setting == "onednn" and (fault := onednn_fault()):
            raise ConfigError(f'linear_backend("onednn") cannot be had: {fault}. Use "auto" or "torch".')
        _setting = setting
        forget_choice()
    return linear_choice().backend


def forget_choice() -> None:
    """The next product chooses anew, by the setting and the machine."""
    global _backend
    _backend = None
    linear_choice.cache_clear()


@cache
def linear_choice() -> Choice:
    """What the setting, or else the machine, leads to. Raises ConfigError for an environment that names no backend."""
    global _backend
    choice = _made_choice()
    _backend = choice.backend
    return choice


def _made_choice() -> Choice:
    setting = _setting or _checked(os.environ.get(VARIABLE) or "auto", VARIABLE)
    if setting == "torch":
        return Choice("torch", "it was asked for")
    fault = onednn_fault()
    if setting == "onednn":
        if not fault:
            return Choice("onednn", "it was asked for")
        report_once(f"{VARIABLE}=onednn cannot be followed: {fault}. torch's own products are used.")
        return Choice("torch", fault)
    if slow := _machine_without_gain():
        return Choice("torch", slow)
    return Choice("torch", fault) if fault else Choice("onednn", "MKL leaves this processor's AVX-512 unused")


def _checked(name: str, source: str) -> Setting:
    if name not in get_args(Setting):
        raise ConfigError(f'{source} is "auto", "torch" or "onednn"; got {name!r}.')
    return cast(Setting, name)


def _machine_without_gain() -> str:
    """Why oneDNN would not be faster on this machine; empty where it is."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return "this processor has no AVX-512, or torch was told not to use it"
    if not torch.backends.mkl.is_available():
        return "this torch multiplies without MKL"
    maker = _processor_maker()
    if maker in ("", "GenuineIntel"):
        return "MKL uses AVX-512 on Intel's processors" if maker else "the processor's maker is unknown"
    return ""


def _processor_maker() -> str:
    """As the processor names it, "AuthenticAMD" for example; empty where the system does not tell."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = (line.partition(":") for line in cpuinfo.read_text(encoding="utf-8").splitlines())
        return next((value.strip() for name, _, value in fields if name.strip() == "vendor_id"), "")
    words = platform.processor().replace(",", " ").split()  # Windows: "AMD64 Family 25 Model 33 ..., AuthenticAMD"
    return words[-1] if words else ""


def onednn_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(m, k) and (n, k) of any strides -> (m, n). A private operator: only called where `onednn_fault` is empty."""
    # It reads rows and transposed rows as they lie and may refuse all else. Of a bias it ignores the strides.
    x, weight = (t if t.is_contiguous() or t.t().is_contiguous() else t.contiguous() for t in (x, weight))
    bias = None if bias is None else bias.contiguous()
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))


@cache
def onednn_fault() -> str:
    """Why oneDNN's product cannot be used; empty where it is there and one small product of each kind is right."""
    with torch.no_grad():
        # Small whole numbers are exact in every format, so the answers must be too. They are written down, not drawn:
        # a probe leaves the random state as it was.
        numbers = torch.arange(44 * 40, dtype=torch.float32, device="cpu").square().remainder(11) - 5
        x, weight, bias = numbers[: 20 * 40].view(20, 40), numbers.view(44, 40), numbers[:44]
        grad = numbers[: 20 * 44].view(20, 44)
        for rows, columns, added in ((x, weight, bias), (grad, weight.t(), None), (grad.t(), x.t(), None)):
            wanted = rows.double() @ columns.double().t() + (0 if added is None else added)
            try:
                got = onednn_product(rows, columns, added)
                right = got.dtype is torch.float32 and torch.equal(got, wanted.float())
            except Exception as error:  # absent, another signature, a CPU it refuses: whatever it raises, do without it
                return f"this torch's oneDNN product does not run ({type(error).__name__})"
            if not right:
                return "this torch's oneDNN product gives wrong numbers"
    return ""


def takes_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether this product is one that oneDNN is chosen for. The reasons against that are cheap to see come first."""
    if torch.compiler.is_compiling() or _backend == "torch" or is_observed():
        return False
    if _backend is None and linear_choice().backend == "torch":
        return False
    for tensor in (x, weight) if bias is None else (x, weight, bias):
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.dtype is not torch.float32 or not tensor.is_cpu:
            return False  # another format, device or kind of tensor: quantized, distributed, fake, a tracer's
    if x.ndim == 0 or weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        return False  # torch's own product says what is wrong
    (n, k), m = weight.shape, x.shape[:-1].numel()
    return bool(
        m * k * n >= SMALLEST_PRODUCT * torch.get_num_threads()
        and min(m, k, n) >= SMALLEST_SIDE
        and k <= LONGEST_SUM * min(m, n)
        and (bias is None or bias.shape == (n,))
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
        and all(t.layout is torch.strided and not t.is_neg() for t in (x, weight))
    )


def is_observed() -> bool:
    """Whether something follows the operators one by one and has no rule for this one."""
    return bool(
        torch.jit.is_tracing()  # type: ignore[attr-defined]  # public, though not in its list of exports
        or is_transformed()
        or torch._C._len_torch_dispatch_stack()
        or forward_ad._current_level >= 0
    )


class _Product(torch.autograd.Function):
    """x (m, k), weight (n, k), bias (n) or None -> (m, n). Its gradients are such products, so all orders exist."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return onednn_product(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        x, weight, _ = inputs
        for_x, for_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if for_weight else None, weight if for_x else None)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            product(grad, weight.t()) if for_x else None,
            product(grad.t(), x.t()) if for_weight else None,
            grad.sum(0) if for_bias else None,
        )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., k) times weight (n, k) transposed, plus bias (n): (..., n), as `torch.nn.functional.linear`."""
    if takes_operators(x, weight, bias) and compiles_to_onednn():
        return product_of_graphs(x, weight, bias)
    if not takes_onednn(x, weight, bias):
        return linear(x, weight, bias)
    multiply = _Product.apply if torch.is_grad_enabled() else onednn_product
    return cast(Tensor, multiply(x.reshape(-1, x.shape[-1]), weight, bias)).view(*x.shape[:-1], weight.shape[0])


@torch.compiler.assume_constant_result  # else a compiler would follow the choice
def compiles_to_onednn() -> bool:
    """Whether graphs made now send their products to where uncompiled ones go."""
    return linear_choice().backend == "onednn"


def _empty_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@operator("product(Tensor x, Tensor weight, Tensor? bias) -> Tensor", _empty_product)
def product_of_graphs(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`product` within a compiled graph, with its gradients."""
    return product(x, weight, bias).contiguous()


def _keep_for_gradients(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    x, weight, _ = inputs
    for_x, for_weight, *_ = ctx.needs_input_grad  # torch adds one of its own
    ctx.save_for_backward(x if for_weight else None, weight if for_x else None)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    for_x, for_weight, for_bias, *_ = ctx.needs_input_grad
    rows = grad.flatten(0, -2)
    return (
        product_of_graphs(grad, weight.t(), None) if for_x else None,
        product_of_graphs(rows.t(), x.flatten(0, -2).t(), None) if for_weight else None,
        rows.sum(0) if for_bias else None,
    )


torch.library.register_autograd("hfvision::product", _gradients, setup_context=_keep_for_gradients)


@may_stand_plain
class Linear(nn.Linear):
    """`nn.Linear` through `product`: (..., k) -> (..., n). Weights, names, start values and repr are nn.Linear's."""

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias)


def plain_linears(model: ModuleT) -> ModuleT:
    """Make every Linear of the model, and the model if it is one, an exact `nn.Linear` again; returns the model.

    For tools that look for that very class, as `torch.ao.quantization.quantize_dynamic` does. No weight changes.
    """
    for module in model.modules():
        if type(module) is Linear:
            cast(nn.Module, module).__class__ = nn.Linear
    return model
