"""Models compiled by torch's default backend: ours against ours uncompiled, and against transformers' compiled too.

Both have the same goal: compiling never costs anything. What it takes to compile is not timed.
"""

import shutil
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from hfvision.bench.case import Case, Goal, Pair, Setting, Unavailable
from hfvision.bench.suites import families as f
from hfvision.bench.twins import images, twins

Peer = Literal["ours", "theirs"]  # who stands on the other side: our own model in eager mode, or theirs compiled


def compiled(setting: Setting, reference: str, fields: f.Fields, size: tuple[int, ...], against: Peer) -> Pair:
    """Inference, one image."""
    if setting.peer != "transformers":
        raise Unavailable("it is compared with transformers")
    if not setting.tiny and setting.device == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++", "cl"))):
        raise Unavailable("torch.compile needs a C++ compiler on a CPU")
    theirs, ours = twins(reference, setting, **f.sizes(reference, setting, fields))
    pixels = images(setting, 1, f.size_of(setting, *size))
    backend = "eager" if setting.tiny else "inductor"  # whether everything runs, not how fast it is
    faster = torch.compile(ours, backend=backend)
    other = ours if against == "ours" else torch.compile(theirs, backend=backend)
    return Pair(_inference(other, pixels), _inference(faster, pixels))


def _inference(model: Any, pixels: Tensor) -> Callable[[], dict[str, Tensor]]:
    def run() -> dict[str, Tensor]:
        with torch.no_grad():
            outputs = model(pixels)
        return {name: outputs[name] for name in ("logits", "pred_boxes") if name in outputs}

    return run


def _cases(name: str, reference: str, fields: f.Fields, *size: int) -> tuple[Case, ...]:
    peers: tuple[tuple[Peer, str], ...] = (("ours", "uncompiled"), ("theirs", "compiled"))
    return tuple(
        Case(
            f"{name}-against-{what}",
            partial(compiled, reference=reference, fields=fields, size=size, against=against),
            Goal(1.0),
            counts_flops=False,
            measures_memory=False,
        )
        for against, what in peers
    )


CASES = (
    *_cases("vit-tiny", f.VIT, f.VIT_TINY, 224),
    *_cases("swin-tiny", f.SWIN, f.SWIN_TINY, 224),
    *_cases("segformer-b0", f.SEGFORMER, f.MIT_B0, 512),
    *_cases("detr-resnet-50", f.DETR, {"backbone_config": f.RESNET_50}, 800, 1066),
)
