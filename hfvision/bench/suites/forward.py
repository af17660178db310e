"""Inference, from pixels to what the model answers."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from hfvision.bench.case import Case, Goal, Pair, Setting, Unavailable
from hfvision.bench.suites import families as f
from hfvision.bench.suites.segmenter import segmenter
from hfvision.bench.twins import images, timm_twins, twins

TIMM_EPS = {f.VIT: 1e-6, f.SWIN: 1e-5}  # of timm's layer norms


def forward(
    setting: Setting,
    reference: str,
    fields: f.Fields,
    batch: int,
    size: tuple[int, ...],
    timm: str | None = None,
) -> Pair:
    """Logits, and boxes where there are any."""
    sizes = f.sizes(reference, setting, fields)
    size = f.size_of(setting, *size)
    pixels = images(setting, batch, size)
    if setting.peer == "timm":
        if timm is None or setting.tiny:
            raise Unavailable("timm has no such model")
        theirs, ours = timm_twins(reference, timm, setting, **{**sizes, "layer_norm_eps": TIMM_EPS[reference]})
        return Pair(_inference(lambda: theirs(pixels)), _inference(lambda: ours(pixels).logits))
    theirs, ours = twins(reference, setting, **sizes)
    resampled = reference == f.VIT and size[0] != theirs.config.image_size
    asked = {"interpolate_pos_encoding": True} if resampled else {}  # which transformers wants to be told
    return Pair(_inference(lambda: _answers(theirs(pixels, **asked))), _inference(lambda: _answers(ours(pixels))))


def _inference(call: Any) -> Any:
    def run() -> Any:
        with torch.inference_mode():
            return call()

    return run


def _answers(outputs: Any) -> dict[str, Tensor]:
    return {name: outputs[name] for name in ("logits", "pred_boxes") if name in outputs}


def _case(
    name: str, reference: str, fields: f.Fields, batch: int, size: tuple[int, ...], goal: Goal, timm: str | None = None
) -> Case:
    build = partial(forward, reference=reference, fields=fields, batch=batch, size=size, timm=timm)
    return Case(name, build, goal, peers=("transformers", "timm") if timm else ("transformers",))


_UPERNET: f.Fields = {"backbone_config": {"model_type": "swin", **f.SWIN_TINY, "out_features": f.STAGES}}
_DETR: f.Fields = {"backbone_config": f.RESNET_50}
_SMALLER = 0.25  # of the peer's memory

CASES = (
    _case("vit-tiny", f.VIT, f.VIT_TINY, 1, (224,), Goal(1.6, 1.0), "vit_tiny_patch16_224"),
    _case("vit-small", f.VIT, f.VIT_SMALL, 1, (224,), Goal(1.8, 1.0), "vit_small_patch16_224"),
    _case("vit-base", f.VIT, f.VIT_BASE, 1, (224,), Goal(2.0, 1.0), "vit_base_patch16_224"),
    _case("vit-base-batch-8", f.VIT, f.VIT_BASE, 8, (224,), Goal(1.9, 1.0), "vit_base_patch16_224"),
    _case("swin-tiny", f.SWIN, f.SWIN_TINY, 1, (224,), Goal(2.0, 1.05), "swin_tiny_patch4_window7_224"),
    _case("swin-tiny-batch-8", f.SWIN, f.SWIN_TINY, 8, (224,), Goal(1.8, 1.05), "swin_tiny_patch4_window7_224"),
    _case("swin-base", f.SWIN, f.SWIN_BASE, 1, (224,), Goal(2.0, 1.05), "swin_base_patch4_window7_224"),
    _case("segformer-b0", f.SEGFORMER, f.MIT_B0, 1, (512,), Goal(4.5, 2.5, _SMALLER)),
    _case("segformer-b2", f.SEGFORMER, f.MIT_B2, 1, (512,), Goal(6.0, 2.2, _SMALLER)),
    _case("segformer-b5", f.SEGFORMER, f.MIT_B5, 1, (512,), Goal(3.5, 1.7, _SMALLER)),
    _case("upernet-swin-tiny", f.UPERNET, _UPERNET, 1, (512,), Goal(1.25, 1.1)),
    Case("segmenter-small", segmenter, Goal(1.7), unit="of the pixels"),
    _case("detr-resnet-50", f.DETR, _DETR, 1, (800, 1066), Goal(2.0, 1.5)),
    _case("detr-resnet-50-batch-2", f.DETR, _DETR, 2, (800, 1066), Goal(2.0, 1.5)),
)
