"""Limits that a process puts on itself before it touches what strangers made: a model, an image, a table.

Nothing here is a full sandbox: the process runs as the same user. It has bounded memory and file sizes, dumps no core,
inherits no secrets from its parent's environment and, where Linux lets an ordinary user do so, has no network.
"""

import ctypes
import os
import sys
from typing import BinaryIO

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h


def confine(memory: int, file_size: int = 64 << 20, cpu_seconds: int | None = None) -> None:
    """Bound this process: `memory` bytes of address space, `file_size` bytes of any file that it writes.

    Call it first, while there is one thread. Systems without these limits run without them.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER | CLONE_NEWNET)  # refused on some systems
    try:
        import resource
    except ImportError:  # Windows has none
        return
    limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, file_size)]
    if sys.platform.startswith("linux"):
        limits.append((resource.RLIMIT_AS, memory))
    if cpu_seconds is not None:
        limits.append((resource.RLIMIT_CPU, cpu_seconds))
    for kind, wanted in limits:
        most = resource.getrlimit(kind)[1]
        bound = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(kind, (bound, bound))


def own_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output for this process's protocol alone; whatever else is printed goes to standard error."""
    reading, writing = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return os.fdopen(reading, "rb"), os.fdopen(writing, "wb", buffering=0)


def clean_environment(package_parent: str, home: str) -> dict[str, str]:
    """What a confined process is told: where Python and hfvision are, an empty home, and no secrets."""
    kept = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "PYTHONPATH": package_parent,
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": home,
        "TMPDIR": home,
        "USER": "try",
        "HF_HOME": home,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(min(4, os.cpu_count() or 1)),
    }
