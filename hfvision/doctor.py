"""`hfvision doctor`: what is installed, what the machine offers, and whether it all works together."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

Verdict = Literal["ok", "note", "failed"]


@dataclass(frozen=True)
class Check:
    """One line of the report. "note": works, but worth knowing; "failed": something is broken."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        return all(check.verdict != "failed" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        return {"healthy": self.healthy, "checks": [asdict(check) for check in self.checks]}

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        lines = []
        for check in self.checks:
            lines.append(f"{check.verdict:<6}  {check.name:<{width}}  {check.found}")
            if check.advice:
                lines.append(f"{'':<6}  {'':<{width}}  -> {check.advice}")
        return "\n".join(lines)


def diagnose() -> Diagnosis:
    """Run every check; none of them raises, and none needs a network."""
    checks: list[Check] = [Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")]
    checks += _dependencies()
    for name, check in (
        ("compute", _compute),
        ("torchvision", _torchvision),
        ("hub", _hub),
        ("registration", _registration),
        ("prediction", _prediction),
    ):
        checks.append(_guarded(name, check))
    return Diagnosis(tuple(checks))


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:  # a broken installation may raise anything; the report must still come out whole
        return Check(name, "failed", f"{type(error).__name__}: {error}", "reinstall hfvision and its dependencies")


def _dependencies() -> Iterator[Check]:
    try:
        required = importlib.metadata.requires("hfvision") or []
    except importlib.metadata.PackageNotFoundError:
        yield Check("hfvision", "note", "runs from a source tree", "pip install -e . to have its dependencies checked")
        return
    yield Check("hfvision", "ok", importlib.metadata.version("hfvision"))
    for requirement in map(Requirement, required):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue  # of an extra
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Check(requirement.name, "failed", "missing", f'pip install "{requirement}"')
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        advice = "" if fits else f'hfvision wants {requirement.specifier}: pip install "{requirement}"'
        yield Check(requirement.name, "ok" if fits else "failed", version, advice)


def _compute() -> Check:
    import torch

    found = f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()} on {_processor()}"
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is not None:
        name = torch.cuda.get_device_name() if accelerator.type == "cuda" else accelerator.type
        found += f"; {torch.accelerator.device_count()} x {name}"
    return Check("compute", "ok", found)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (model := re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text(encoding="utf-8"))):
        return model.group(1)
    return platform.processor() or platform.machine()


def _torchvision() -> Check:
    """hfvision does not use it, but transformers imports it where it is installed, and a mismatch breaks that."""
    if "torchvision" not in {d.metadata["Name"] for d in importlib.metadata.distributions()}:
        return Check("torchvision", "ok", "not installed, and not needed")
    done = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Check("torchvision", "ok", f"{importlib.metadata.version('torchvision')} imports")
    reason = done.stderr.strip().splitlines()[-1]
    return Check("torchvision", "failed", f"installed but does not import: {reason}", "pip uninstall torchvision")


def _hub() -> Check:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 1e9
    found = f"{constants.ENDPOINT}, cache {cache} ({free:.0f} GB free)"
    if constants.is_offline_mode():
        return Check("hub", "note", found + ", offline", "unset HF_HUB_OFFLINE to download models")
    if not os.access(existing, os.W_OK):
        return Check("hub", "failed", found, f"{existing} cannot be written to: set HF_HOME to a folder that can")
    return Check("hub", "ok" if free > 5 else "note", found, "" if free > 5 else "little space for downloads is left")


def _registration() -> Check:
    from transformers import AutoConfig

    from hfvision.registry import ARCHITECTURES

    ours = [name for name in ARCHITECTURES if type(AutoConfig.for_model(name)).__module__.startswith("hfvision.")]
    if len(ours) == len(ARCHITECTURES):
        return Check("registration", "ok", f"transformers gives hfvision's classes for {', '.join(ours)}")
    switched_off = os.environ.get("HFVISION_REGISTER") == "0"
    advice = "HFVISION_REGISTER=0 is set" if switched_off else "call hfvision.register()"
    return Check("registration", "note" if switched_off else "failed", f"only {', '.join(ours) or 'none'}", advice)


def _prediction() -> Check:
    from hfvision.data.digits import load_digits
    from hfvision.pipelines.predict import predict

    digits = load_digits()["test"].select(range(16))
    began = time.perf_counter()
    answers = predict(list(digits["image"]), "vit-digits", top_k=1, batch_size=16)
    seconds = time.perf_counter() - began
    names = digits.features["label"].names
    right = sum(answer[0]["label"] == names[label] for answer, label in zip(answers, digits["label"], strict=True))
    found = f"vit-digits reads {right} of 16 held-out digits, {seconds:.1f} s with loading"
    return Check(
        "prediction", "ok" if right >= 14 else "failed", found, "" if right >= 14 else "wrong numbers: report it"
    )
