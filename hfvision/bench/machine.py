"""What a table of times has to say about the machine it was made on."""

import datetime
import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

# Of the processor's flags, those that decide which kernels run.
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "asimd", "sve", "bf16")
PACKAGES = ("hfvision", "torch", "transformers", "timm", "torchvision", "numpy", "pillow")


def describe_machine(device: str) -> dict[str, Any]:
    """Names and versions, ready for JSON."""
    info = _cpuinfo()
    described: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "vendor": info.get("vendor_id", ""),
        "flags": [flag for flag in FLAGS if flag in f"{info.get('flags', '')} {info.get('Features', '')}".split()],
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        described["gpu"] = f"{properties.name}, {properties.total_memory >> 20} MiB"
        described["cuda"] = torch.version.cuda
    return described


def _cpuinfo() -> dict[str, str]:
    """The lines about the first core, where the system has them."""
    path = Path("/proc/cpuinfo")
    first = path.read_text(encoding="utf-8").split("\n\n")[0] if path.exists() else ""
    return dict(re.findall(r"^(.+?)\s*:\s*(.*)$", first, flags=re.MULTILINE))


def _version(package: str) -> str | None:
    if package == "hfvision":
        from hfvision import __version__

        return __version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
