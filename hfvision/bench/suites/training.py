"""A training step: forward pass, loss, backward pass, AdamW. No dropout, so that both sides do the same.

What is compared before the timing: the loss and the gradient of every parameter, of the first step. Gradients that are
zero in exact arithmetic are left out by name: softmax does not see what is added to all keys, the batch norm of
SegFormer's head takes out what is added to all places, and DETR's first decoder layer attends among queries that still
have equal values.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from hfvision.bench.case import Case, Goal, Pair, Setting
from hfvision.bench.compare import difference, gradient_difference
from hfvision.bench.suites import families as f
from hfvision.bench.twins import gradients_by_stored_name, images, twins

ZERO = (
    "key.bias",
    "k_proj.bias",
    *(f"decoder.layers.0.self_attn.{name}" for name in ("q_proj.weight", "q_proj.bias", "k_proj.weight")),
)
TRAINED_STAGES = ("stages.1.", "stages.2.", "stages.3.")  # of DETR's trunk, as its paper does; transformers: none


def training_step(setting: Setting, reference: str, fields: f.Fields, batch: int, size: int) -> Pair:
    sizes = f.sizes(reference, setting, fields)
    theirs, ours = twins(reference, setting, training=True, **sizes)
    zero = ZERO + (_zero_in_segformer(sizes) if reference == f.SEGFORMER else ())
    if reference == f.DETR:
        for model in (theirs, ours):
            for name, parameter in model.named_parameters():
                if "backbone" in name:
                    parameter.requires_grad_(any(stage in name for stage in TRAINED_STAGES))
    batch = 2 if setting.tiny else batch
    pixels = images(setting, batch, f.size_of(setting, size))
    labels = _labels(reference, sizes["num_labels"], batch, pixels)

    def loss(model: Any) -> Tensor:
        model.zero_grad()
        value: Tensor = model(pixels, labels=labels).loss
        value.backward()
        return value.detach()

    def check() -> float:
        of_losses = difference(loss(theirs), loss(ours))
        gradients = gradients_by_stored_name(theirs), gradients_by_stored_name(ours)
        return max(of_losses, gradient_difference(*gradients, zero))

    optimizers = {id(model): torch.optim.AdamW(model.parameters(), lr=1e-5) for model in (theirs, ours)}

    def step(model: Any) -> Tensor:
        value = loss(model)
        optimizers[id(model)].step()
        return value

    return Pair(lambda: step(theirs), lambda: step(ours), check)


def _zero_in_segformer(sizes: f.Fields) -> tuple[str, ...]:
    stages = len(sizes["hidden_sizes"])
    projections = tuple(f"decode_head.linear_c.{stage}.proj.bias" for stage in range(stages))
    return (*projections, f"encoder.layer_norm.{stages - 1}.bias")


def _labels(reference: str, count: int, batch: int, pixels: Tensor) -> Any:
    generator = torch.Generator().manual_seed(3)
    if reference == f.DETR:
        return [
            {
                "class_labels": torch.randint(0, count, (8,), generator=generator).to(pixels.device),
                "boxes": torch.rand(8, 4, generator=generator).mul(0.4).add(0.1).to(pixels.device),
            }
            for _ in range(batch)
        ]
    shape = (batch, *pixels.shape[2:]) if reference in (f.SEGFORMER, f.UPERNET) else (batch,)
    return torch.randint(0, count, shape, generator=generator).to(pixels.device)


def _case(name: str, reference: str, fields: f.Fields, batch: int, size: int, goal: Goal, tolerance: float) -> Case:
    build = partial(training_step, reference=reference, fields=fields, batch=batch, size=size)
    return Case(name, build, goal, tolerance=tolerance, unit="of a gradient's length")


NORMED = 5e-3  # statistics of one or two images, and attention of a random DETR, amplify rounding

CASES = (
    _case("segformer-b0-step", f.SEGFORMER, f.MIT_B0, 2, 512, Goal(2.8), NORMED),
    _case("segformer-b2-step", f.SEGFORMER, f.MIT_B2, 1, 512, Goal(3.0), NORMED),
    _case("vit-base-step", f.VIT, f.VIT_BASE, 4, 224, Goal(1.6, 1.0), 1e-4),
    _case("swin-tiny-step", f.SWIN, f.SWIN_TINY, 4, 224, Goal(1.3, 1.0), 1e-4),
    _case("detr-resnet-50-step", f.DETR, {"backbone_config": f.RESNET_50, "dropout": 0.0}, 1, 512, Goal(), NORMED),
)
