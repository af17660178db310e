"""Seconds that a call takes: wall time, processor time, or a GPU's own."""

import time
from collections.abc import Callable
from typing import Any

import torch

from hfvision.bench.case import Setting

Clock = Callable[[Callable[[], Any]], tuple[float, Any]]  # call -> seconds, answer


def make_clock(setting: Setting) -> Clock:
    if setting.device == "cuda":
        return _gpu_time
    now = time.process_time if setting.clock == "cpu" else time.perf_counter

    def timed(call: Callable[[], Any]) -> tuple[float, Any]:
        started = now()
        answer = call()
        return now() - started, answer

    return timed


def _gpu_time(call: Callable[[], Any]) -> tuple[float, Any]:
    """From when the GPU is idle until it has done all that the call asked for."""
    started, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    started.record()
    answer = call()
    ended.record()
    torch.cuda.synchronize()
    return started.elapsed_time(ended) / 1e3, answer


def default_threads(setting: Setting) -> int:
    """One for processor time, which adds up that of all threads; else torch's own choice."""
    if setting.threads is not None:
        return setting.threads
    return 1 if setting.clock == "cpu" and setting.device == "cpu" else torch.get_num_threads()
