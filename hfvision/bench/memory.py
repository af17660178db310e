"""How much memory a call needs beyond what was held before it: the peak, measured in a process of its own.

    python -m hfvision.bench.memory '{"suite": ..., "case": ..., "side": "ours", "setting": {...}}'

builds the case, lets go of the other side, calls once to warm up, and measures the second call. On a CPU it is the
peak of the resident set, which Linux lets a process reset; elsewhere there is no number. On a GPU it is what torch's
allocator gave out.
"""

import ctypes
import dataclasses
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hfvision.bench.case import Case, Setting, Side

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PACKAGE_PARENT = Path(__file__).parents[2]


class ChildFailed(RuntimeError):
    """The child process failed; the message is the last line of what it said."""


def can_measure(setting: Setting) -> bool:
    return setting.device == "cuda" or (STATUS.exists() and os.access(RESET, os.W_OK))


def measure_in_child(suite: str, case: Case, side: Side, setting: Setting, threads: int) -> float:
    """Megabytes."""
    from hfvision.layers.linear import linear_backend

    order: dict[str, Any] = {"suite": suite, "case": case.name, "side": side, "setting": dataclasses.asdict(setting)}
    order |= {"threads": threads, "linear_backend": linear_backend()}
    done = subprocess.run(
        [sys.executable, "-m", "hfvision.bench.memory", json.dumps(order)],
        capture_output=True,
        text=True,
        env=child_environment(),
        check=False,
    )
    if done.returncode:
        raise ChildFailed((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return float(done.stdout.strip().splitlines()[-1])


def child_environment() -> dict[str, str]:
    """Where a child finds this very package."""
    path = os.pathsep.join(filter(None, [str(PACKAGE_PARENT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def extra_megabytes(case: Case, side: Side, setting: Setting) -> float:
    import torch

    pair = case.build(setting)
    call = pair.theirs if side == "theirs" else pair.ours
    del pair
    call()  # kernels are chosen, workspaces allocated
    gc.collect()
    if setting.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.synchronize()
        held = float(torch.cuda.memory_allocated())
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - held) / 1e6
    _give_back_freed_memory()
    RESET.write_text("5")
    held = _resident("VmRSS")
    call()
    return (_resident("VmHWM") - held) / 1e6


def _resident(field: str) -> float:
    """Bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return float(line.split()[1]) * 1024


def _give_back_freed_memory() -> None:
    """Pages that the allocator keeps would be used again without showing in the peak."""
    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def main() -> None:
    import torch

    from hfvision.bench.suites import load_suite
    from hfvision.layers.linear import linear_backend

    order = json.loads(sys.argv[1])
    torch.set_num_threads(order["threads"])
    linear_backend(order["linear_backend"])
    torch.manual_seed(0)
    case = next(case for case in load_suite(order["suite"]) if case.name == order["case"])
    print(extra_megabytes(case, order["side"], Setting(**order["setting"])))


if __name__ == "__main__":
    main()
