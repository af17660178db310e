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

from hfvision.errors import HfvisionError

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
    """Run every check; none of them raises, and none needs a network.

    Example:
        >>> import hfvision
        >>> found = {check.name: check.verdict for check in hfvision.diagnose().checks}
        >>> found["python"]
        'ok'
    """
    checks: list[Check] = [Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")]
    checks += _dependencies()
    for name, check in (
        ("compute", _compute),
        ("linear", _linear),
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
    except HfvisionError as error:  # says itself what to do
        return Check(name, "failed", str(error))
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


def _linear() -> Check:
    """The rates of both kernels and which of them linear layers take. That follows from a rule: rates only advise."""
    from hfvision.layers.linear import VARIABLE, linear_choice

    choice = linear_choice()
    rates = linear_rates()
    listed = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
    found = f"float32 products at {listed} Gflop/s; linear layers take {choice.backend}: {choice.because}"
    best = max(rates, key=lambda name: rates[name])
    if rates[best] < 1.3 * rates[choice.backend]:  # less may be what else the machine does
        return Check("linear", "ok", found)
    return Check("linear", "note", found, f"if {best} stays ahead when the machine is idle, set {VARIABLE}={best}")


def linear_rates(side: int = 1024, rounds: int = 5) -> dict[str, float]:
    """Gflop/s of each kernel that can multiply two float32 matrices of `side` rows and columns: the best of `rounds`.

    "torch" is always among them, "onednn" where this torch has a working one.
    """
    import torch

    from hfvision.layers.linear import onednn_fault, onednn_product

    kernels: dict[str, Callable[..., Any]] = {"torch": torch.nn.functional.linear}
    if not onednn_fault():
        kernels["onednn"] = onednn_product
    matrix = torch.arange(side * side, dtype=torch.float32, device="cpu").sin().view(side, side)
    seconds = dict.fromkeys(kernels, float("inf"))
    with torch.inference_mode():
        for _ in range(rounds):
            for name, multiply in kernels.items():  # in turn, so that what else runs slows both
                began = time.perf_counter()
                multiply(matrix, matrix, None)
                seconds[name] = min(seconds[name], time.perf_counter() - began)
    return {name: 2 * side**3 / spent / 1e9 for name, spent in seconds.items()}


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
