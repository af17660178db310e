"""`torch.compile` for `optimize`: kept where it pays on the sample, and said what it takes with and without."""

import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

ROUNDS = 5  # calls of each kind, in turn; the fastest counts, which other work on the machine disturbs least
DEFAULT = "inductor"

Run = Callable[[], Any]  # the model on the sample


def compile_model(model: PreTrainedModel, run: Run, backend: bool | str) -> str:
    """Compile the model in place with dynamic shapes; returns what was done, in words.

    It stays as it is where the backend fails, and where it is the default one and makes the sample take longer: a
    backend asked for by name is kept.
    """
    name = backend if isinstance(backend, str) else DEFAULT
    model.compile(dynamic=True, backend=name)
    try:
        run()  # it is then that torch compiles
    except Exception as error:  # what a missing compiler raises depends on the backend and the version of torch
        model._compiled_call_impl = None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"it is not compiled, because {name} failed: {reason}"
    compiled, uncompiled = _fastest_runs(model, run)
    took = f"the sample takes {compiled * 1e3:.3g} ms, and {uncompiled * 1e3:.3g} ms uncompiled"
    if compiled > uncompiled and not isinstance(backend, str):
        model._compiled_call_impl = None
        return f"it is not compiled, because {name} makes it slower here: {took}"
    return f"it is compiled by {name} with dynamic shapes: {took}"


def _fastest_runs(model: PreTrainedModel, run: Run) -> tuple[float, float]:
    """Seconds that the compiled model and the uncompiled one take, measured in turn."""
    call = model._compiled_call_impl
    seconds: dict[bool, float] = {}
    try:
        for _ in range(ROUNDS):
            for is_compiled in (True, False):
                model._compiled_call_impl = call if is_compiled else None
                took = run_seconds(run, model.device)
                seconds[is_compiled] = min(took, seconds.get(is_compiled, took))
    finally:
        model._compiled_call_impl = call
    return seconds[True], seconds[False]


def run_seconds(run: Run, device: torch.device) -> float:
    """Of wall time, work that a GPU has been given included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
