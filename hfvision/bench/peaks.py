"""What the machine can do at most, and how much arithmetic a call is.

torch multiplies float32 matrices on a CPU with MKL (or whatever BLAS it was built with), and has a second library,
oneDNN, that can be twice as fast; which of the two is depends on the processor, so both are measured.
"""

import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from hfvision.bench.case import Setting
from hfvision.bench.clock import Clock
from hfvision.bench.report import Peaks
from hfvision.layers.linear import onednn_product

SIDE, TINY_SIDE, GPU_SIDE = 1536, 128, 8192  # of the matrices
ROUNDS = 5


def measure_peaks(setting: Setting, clock: Clock) -> Peaks:
    side = TINY_SIDE if setting.tiny else SIDE if setting.device == "cpu" else GPU_SIDE
    a, b = (torch.randn(side, side).to(setting.device, getattr(torch, setting.dtype)) for _ in range(2))
    calls: dict[str, Callable[[], Any]] = {"torch": lambda: torch.nn.functional.linear(a, b)}
    if setting.device == "cpu" and _onednn_works(a[:8, :8], b[:8, :8]):
        calls["onednn"] = lambda: onednn_product(a, b, None)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for _ in range(1 + ROUNDS):
            for name, call in calls.items():
                seconds[name].append(clock(call)[0])
    rates = {name: 2 * side**3 / statistics.median(times[1:]) / 1e9 for name, times in seconds.items()}
    return Peaks(rates["torch"], rates.get("onednn"))


def _onednn_works(a: Tensor, b: Tensor) -> bool:
    try:
        got = onednn_product(a.contiguous(), b.contiguous(), None)
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):  # the operator is private: it may be gone
        return False
    return bool(torch.allclose(got.float(), (a.float() @ b.float().T), rtol=0.05, atol=0.05))


class _ArithmeticCounter(TorchDispatchMode):
    """Sums up what torch's formulas, and those here, say of each operator. (torch's own FlopCounterMode also follows
    modules by hooks on their gradients, which fail in inference mode.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.flop = 0
        self.formulas = {**flop_registry, **_further_formulas()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = self.formulas.get(func._overloadpacket)
        if formula is None:  # in inference mode, operators arrive that are made of others
            with self:
                parts = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if parts is NotImplemented else parts
        answer = func(*args, **kwargs)
        self.flop += formula(*args, **kwargs, out_val=answer)
        return answer


def count_gflop(call: Callable[[], Any]) -> float:
    """The arithmetic of products, convolutions and attention in one call, a multiplication with its addition as two."""
    with _ArithmeticCounter() as counter:
        call()
    return counter.flop / 1e9


def _further_formulas() -> dict[Any, Any]:
    """For the operators that torch's registry does not know, as far as this torch has them."""
    known = {
        ("aten", "_scaled_dot_product_flash_attention_for_cpu"): _attention,
        ("aten", "_scaled_dot_product_flash_attention_for_cpu_backward"): _attention_backward,
        ("aten", "mkldnn_convolution"): _convolution,
        ("mkldnn", "_convolution_pointwise"): _convolution,
        ("mkldnn", "_linear_pointwise"): _linear,
    }
    return {
        getattr(getattr(torch.ops, space), name): formula
        for (space, name), formula in known.items()
        if hasattr(getattr(torch.ops, space), name)
    }


def _linear(x: Tensor, *_: Any, out_val: Tensor, **__: Any) -> int:
    return 2 * out_val.numel() * x.shape[-1]


def _convolution(x: Tensor, weight: Tensor, third: Any, *_: Any, out_val: Tensor, **__: Any) -> int:
    """With something to add, the operator takes it second and the weight third."""
    if isinstance(third, Tensor) and third.ndim == x.ndim:
        weight = third
    return 2 * out_val.numel() * math.prod(weight.shape[1:])


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return 2 * math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _attention_backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """The scores once more, then four products."""
    return 2 * math.prod(query.shape[:-1]) * key.shape[-2] * (3 * query.shape[-1] + 2 * value.shape[-1])


@contextmanager
def exact_products() -> Iterator[None]:
    """A GPU's short float32 formats switched off, for comparing answers."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn
