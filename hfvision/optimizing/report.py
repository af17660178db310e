"""What an optimisation did to a model's outputs, weighed on a sample of images.

Shapes: B images, K classes (without "no object"), h x w places of a map, Q queries of a detector.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hfvision.geometry import box_iou, convert_boxes

MAIN_OUTPUTS = ("logits", "reconstruction", "last_hidden_state", "feature_maps")


@dataclass(frozen=True)
class OptimizationReport:
    """What was done, and the error that it causes on the sample; `print` shows it in words.

    Example:
        >>> import torch, hfvision
        >>> model = hfvision.create("deit-tiny-patch16-224", num_hidden_layers=1).eval()
        >>> report = hfvision.optimize(model, dtype="bfloat16").optimization
        >>> isinstance(report, hfvision.OptimizationReport), report.bytes_after < report.bytes_before
        (True, True)
    """

    steps: tuple[str, ...]  # what was done, in words
    sample: str  # which images
    output: str  # the output that is compared: logits, where the model has them
    cosine: float  # between the outputs before and after, of the image where it is least
    largest_difference: float
    largest_value: float  # before; the scale of the difference
    agreement: float | None  # share of answers that are the same; None where the model gives none
    answers: str  # what an answer is: the label of an image, of a place, of a query
    box_iou: float | None  # of detectors: mean overlap of the boxes of a query before and after
    parameters: int
    bytes_before: int  # of the weights
    bytes_after: int  # with the packed copies that are made on the CPU

    def __str__(self) -> str:
        lines = [f"optimised: {'; '.join(self.steps)}."]
        agreement = "" if self.agreement is None else f", {self.agreement:.2%} of {self.answers} the same"
        boxes = "" if self.box_iou is None else f", boxes overlap by {self.box_iou:.4f}"
        lines.append(
            f"On {self.sample}: {self.output} differ by {self.largest_difference:.3g} at most (largest value "
            f"{self.largest_value:.3g}), cosine {self.cosine:.6f}{agreement}{boxes}."
        )
        lines.append(
            f"{self.parameters:,} parameters in {self.bytes_after / 1e6:.1f} MB, before {self.bytes_before / 1e6:.1f}."
        )
        return "\n    ".join(lines)


@dataclass(frozen=True)
class Comparison:
    """See OptimizationReport."""

    output: str
    cosine: float
    largest_difference: float
    largest_value: float
    agreement: float | None
    answers: str
    box_iou: float | None


def compare(before: Any, after: Any, config: Any) -> Comparison:
    """Outputs of a model for the same images before and after."""
    name = next(name for name in (*MAIN_OUTPUTS, *before) if before.get(name) is not None)
    old, new = (_tensor(outputs[name]) for outputs in (before, after))
    cosines = nn.functional.cosine_similarity(old.flatten(1), new.flatten(1), dim=1)
    agreement, answers, boxes = None, "", None
    if name == "logits":
        agreement, answers = _agreement(old, new, config)
    if before.get("pred_boxes") is not None:
        answers = "the queries' classes"
        old_boxes, new_boxes = (
            convert_boxes(_tensor(outputs["pred_boxes"]).flatten(0, 1), "cxcywh", "xyxy") for outputs in (before, after)
        )
        boxes = box_iou(old_boxes, new_boxes).mean().item()
    return Comparison(
        output=name,
        cosine=cosines.min().item(),
        largest_difference=(old - new).abs().max().item(),
        largest_value=old.abs().max().item(),
        agreement=agreement,
        answers=answers,
        box_iou=boxes,
    )


def _tensor(output: Any) -> Tensor:
    """Of feature maps the last, on the CPU in double precision."""
    output = output[-1] if isinstance(output, (tuple, list)) else output
    return output.detach().cpu().double()


def _agreement(old: Tensor, new: Tensor, config: Any) -> tuple[float | None, str]:
    """old, new: (B, K), (B, N, K) or (B, K, h, w). Regression has no answers that could agree."""
    several = getattr(config, "problem_type", None)
    if several == "regression":
        return None, ""
    axis, what = (1, "the places' classes") if old.ndim == 4 else (-1, "the images' first labels")
    if several == "multi_label_classification" or old.shape[axis] == 1:
        if several is None and old.ndim < 4:
            return None, ""  # one number per image: a regression that does not say so
        return ((old > 0) == (new > 0)).double().mean().item(), "the yes-or-no answers"
    return (old.argmax(axis) == new.argmax(axis)).double().mean().item(), what
