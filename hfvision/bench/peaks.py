"""What the machine can do at most, and how much arithmetic a call is.

torch multiplies float32 matrices on a CPU with MKL (or whatever BLAS it was built with), and has a second library,
oneDNN, that can be twice as fast; which of the two is depends on the processor, so both are measured.
"""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hfvision.arithmetic import ArithmeticCounter
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


def count_gflop(call: Callable[[], Any]) -> float:
    """The arithmetic of products, convolutions and attention in one call, a multiplication with its addition as two."""
    with ArithmeticCounter() as counter:
        call()
    return counter.flop / 1e9


@contextmanager
def exact_products() -> Iterator[None]:
    """A GPU's short float32 formats switched off, for comparing answers."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn
