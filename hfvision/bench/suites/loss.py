"""Losses and their gradients alone."""

import torch
from torch import Tensor, nn

from hfvision.bench.case import Case, Goal, Pair, Setting
from hfvision.bench.suites import families as f
from hfvision.bench.twins import their_class

LAYERS, QUERIES, BOXES = 6, 100, 20


def detr_loss(setting: Setting) -> Pair:
    """Eight images of 20 objects each, the answers of six decoder layers; gives the loss and its gradients."""
    from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

    from hfvision.losses.detection import DetectionLoss

    batch = 2 if setting.tiny else 8
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(LAYERS, batch, QUERIES, f.OBJECT_CLASSES + 1, generator=generator).to(setting.device)
    boxes = torch.rand(LAYERS, batch, QUERIES, 4, generator=generator).mul(0.4).add(0.1).to(setting.device)
    labels = [
        {
            "class_labels": torch.randint(0, f.OBJECT_CLASSES, (BOXES,), generator=generator).to(setting.device),
            "boxes": torch.rand(BOXES, 4, generator=generator).mul(0.4).add(0.1).to(setting.device),
        }
        for _ in range(batch)
    ]
    config = their_class("detr.configuration_detr:DetrConfig")(
        backbone_config=None, use_timm_backbone=False, num_labels=f.OBJECT_CLASSES, auxiliary_loss=True
    )
    of_layers = DetectionLoss(f.OBJECT_CLASSES)

    def theirs(logits: Tensor, boxes: Tensor) -> Tensor:
        args = logits[-1], labels, setting.device, boxes[-1], config
        return ForObjectDetectionLoss(*args, outputs_class=logits, outputs_coord=boxes)[0]

    def ours(logits: Tensor, boxes: Tensor) -> Tensor:
        return of_layers(logits, boxes, labels)[0]

    return Pair(lambda: _with_gradients(theirs, logits, boxes), lambda: _with_gradients(ours, logits, boxes))


def pixel_loss(setting: Setting) -> Pair:
    """Cross-entropy at 512 x 512 of logits at 128 x 128, two images of 150 classes; gives it and its gradient."""
    from hfvision.losses.segmentation import SegmentationLoss
    from hfvision.upsampling import Upsampling

    side, classes = (32, 7) if setting.tiny else (512, f.PIXEL_CLASSES)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, side // 4, side // 4, generator=generator).to(setting.device)
    labels = torch.randint(0, classes, (2, side, side), generator=generator).to(setting.device)
    of_pixels = SegmentationLoss()

    def theirs(logits: Tensor) -> Tensor:
        upsampled = nn.functional.interpolate(logits, size=(side, side), mode="bilinear", align_corners=False)
        return nn.functional.cross_entropy(upsampled, labels, ignore_index=255)

    def ours(logits: Tensor) -> Tensor:
        return of_pixels(logits, labels, Upsampling((side, side)))

    return Pair(lambda: _with_gradients(theirs, logits), lambda: _with_gradients(ours, logits))


def _with_gradients(loss, *inputs: Tensor) -> list[Tensor]:  # type: ignore[no-untyped-def]
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    value = loss(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


CASES = (
    Case("detr-loss", detr_loss, Goal(4.0), tolerance=1e-5, counts_flops=False),
    Case("pixel-loss", pixel_loss, tolerance=1e-5, counts_flops=False),
)
