"""What a semantic segmentation model is trained with, from coarse logits and full-size label maps.

Papers: Milletari et al. 2016, "V-Net", arXiv 1606.04797 (dice).
        Lin et al. 2017, "Focal Loss for Dense Object Detection", arXiv 1708.02002 (focal).
        Berman et al. 2018, "The Lovász-Softmax loss", arXiv 1705.08790 (lovasz).

One class is two: logits z of a model with K = 1 stand for (0, z), whose softmax is (1 - sigmoid(z), sigmoid(z)). So
cross-entropy becomes the binary one, and the others follow.

Shapes: B images, K classes, h x w places of the grid, H x W pixels, S classes of a batch, P = B * H * W.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from hfvision.errors import ConfigError, numbered
from hfvision.losses.counts import ItemCount, StepCounts, check_classes, share_of_step, step_count
from hfvision.losses.fused import is_traced, upsampled_sum
from hfvision.upsampling import Upsampling, upsample

PixelAverage = Literal["valid", "all"]  # over the pixels that are not ignored, or over all pixels

PIXEL_TERMS = ("cross_entropy", "focal")  # means over pixels
REGION_TERMS = ("dice", "lovasz")  # means over the classes that occur in the batch
TERMS = (*PIXEL_TERMS, *REGION_TERMS)
ALWAYS_SAID = ("terms", "ignore_index", "average")


@dataclass(frozen=True)
class SegmentationLoss:
    """The loss of coarse logits (B, K, h, w) against label maps (B, H, W) of class indices.

    `terms` are added up: "cross_entropy", "dice+cross_entropy", "0.5*lovasz+focal".

    cross_entropy: over pixels. focal: the same times (1 - p)^gamma. dice: for each class that occurs among the labels,
    1 - (2 overlap + 1) / (probabilities + pixels + 1), summed over the batch. lovasz: for each class that occurs, the
    convex extension of 1 - IoU over the batch. With one class (K = 1) that class counts even where it does not occur.

    `average` is for the sums over pixels: "valid" divides by the pixels that are not ignored (by their weights, if
    there are class weights), "all" by B * H * W, as the original SegFormer, SETR and UPerNet do.

    Raises ConfigError naming every setting that cannot work.

    Example:
        >>> import torch, hfvision
        >>> model = hfvision.create("segformer-b0-ade20k-512", num_labels=5, depths=(1, 1, 1, 1))
        >>> model.pixel_loss = hfvision.SegmentationLoss(terms="dice+cross_entropy")
        >>> labels = torch.zeros(1, 64, 64, dtype=torch.long)
        >>> model(torch.zeros(1, 3, 64, 64), labels=labels).loss.ndim
        0
    """

    ignore_index: int = 255
    average: PixelAverage = "valid"
    terms: str = "cross_entropy"
    class_weights: tuple[float, ...] | None = None  # K of them; they weigh pixels, and classes in dice and lovasz
    label_smoothing: float = 0.0  # of the cross-entropy: the share that is spread over all classes
    focal_gamma: float = 2.0
    focal_alpha: float | None = None  # K = 1: the factor of the class's pixels; the others have 1 - alpha
    _weights: Mapping[str, float] = field(init=False, repr=False, compare=False)  # of the terms

    def __post_init__(self) -> None:
        if self.class_weights is not None:
            object.__setattr__(self, "class_weights", tuple(map(float, self.class_weights)))
        weights, problems = _read_terms(self.terms)
        object.__setattr__(self, "_weights", weights)
        class_weights = self.class_weights if self.class_weights is not None else (1.0,)
        rules = {
            f"ignore_index is a whole number; got {self.ignore_index!r}": isinstance(self.ignore_index, int),
            f"average is {' or '.join(get_args(PixelAverage))}; got {self.average!r}": self.average
            in get_args(PixelAverage),
            f"class_weights are at least 0 and not all 0; got {self.class_weights}": max(class_weights, default=0) > 0
            and all(0 <= weight < math.inf for weight in class_weights),
            f"label_smoothing is a share from 0 to below 1; got {self.label_smoothing}": 0 <= self.label_smoothing < 1,
            f"focal_gamma is at least 0; got {self.focal_gamma}": 0 <= self.focal_gamma < math.inf,
            f"focal_alpha lies between 0 and 1; got {self.focal_alpha}": self.focal_alpha is None
            or 0 < self.focal_alpha < 1,
        }
        problems += [problem for problem, holds in rules.items() if not holds]
        if not problems:
            needs = {"label_smoothing": "cross_entropy", "focal_gamma": "focal", "focal_alpha": "focal"}
            problems += [
                f"{name}={value} changes nothing without the term {needs[name]}; terms are {self.terms}"
                for name, value in self._changed().items()
                if name in needs and needs[name] not in weights
            ]
        if problems:
            raise ConfigError(numbered("problem", problems))

    def __call__(
        self, logits: Tensor, labels: Tensor, upsampling: Upsampling, num_items_in_batch: ItemCount = None
    ) -> Tensor:
        """A scalar, float32 (float64 for such logits). Where every pixel is ignored, it and its gradients are 0.

        num_items_in_batch: how many pixels the batches of a step have, see `losses.counts`. Given the mapping of
        `step_counts`, losses of the batches add up to the mean over the step by `average`. Given Trainer's number,
        which knows no ignored pixels but those of -100, they add up to the sum over pixels divided by it, as
        transformers' own losses. Losses of regions are averaged over the batches.

        Raises ConfigError for settings that do not fit K and labels that are no whole numbers, and DatasetError for
        labels outside 0..K-1 (0..1 for K = 1), with their values and counts.
        """
        classes = logits.shape[1]
        self._check(labels, classes)
        labels = labels.long()
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if classes == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        weights = self._of_classes(logits)
        loss = logits.new_zeros(())
        if any(term in self._weights for term in PIXEL_TERMS):
            loss = loss + self._pixels(logits, labels, upsampling, weights, num_items_in_batch)
        if any(term in self._weights for term in REGION_TERMS):
            regions = self._regions(logits, labels, upsampling, weights, one_class=classes == 1)
            loss = loss + regions * _share_of_images(labels, num_items_in_batch)
        return loss

    def step_counts(self, labels: Tensor, classes: int) -> StepCounts:
        """What labels (B, H, W) add to the counts of a step, float64: the pixels that the loss divides by, and images.

        classes: K of the logits that they are compared with.
        """
        weights = self._of_classes(torch.zeros((), dtype=torch.float64, device=labels.device))
        pixels = self._counted_pixels(labels.long(), weights).double()
        return {"pixels": pixels, "images": torch.full_like(pixels, len(labels))}

    def describe(self) -> dict[str, Any]:
        """What a record of training says, ready for JSON; `SegmentationLoss(**description)` is the same loss."""
        said = {name: getattr(self, name) for name in ALWAYS_SAID} | self._changed()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in said.items()}

    def _changed(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init and getattr(self, f.name) != f.default}

    def _check(self, labels: Tensor, classes: int) -> None:
        problems = []
        if labels.is_floating_point():
            problems.append(f"labels are whole numbers; got {labels.dtype}")
        if self.class_weights is not None and len(self.class_weights) != classes:
            problems.append(f"class_weights has {len(self.class_weights)} values for {classes} classes")
        if self.focal_alpha is not None and classes != 1:
            problems.append(f"focal_alpha is for one class, here are {classes}; give class_weights instead")
        if problems:
            raise ConfigError(numbered("problem", problems))
        remedy = "Map these values to classes, or set ignore_index."
        check_classes(labels, max(classes, 2), self.ignore_index, "pixel", remedy)

    def _of_classes(self, logits: Tensor) -> Tensor | None:
        """The class weights as a tensor, two for one class; None where all are 1."""
        if self.class_weights is None:
            return None
        given = self.class_weights if len(self.class_weights) > 1 else (1.0, *self.class_weights)
        return logits.new_tensor(given)

    def _pixels(
        self,
        logits: Tensor,
        labels: Tensor,
        upsampling: Upsampling,
        weights: Tensor | None,
        num_items_in_batch: ItemCount,
    ) -> Tensor:
        total = upsampled_sum(self._pixel_sum(logits, weights), logits, labels, upsampling)
        if num_items_in_batch is None:
            counted = self._counted_pixels(labels, weights).to(total.dtype)
        elif isinstance(num_items_in_batch, Mapping):
            counted = num_items_in_batch["pixels"].to(total)
        else:
            counted = step_count(num_items_in_batch, total).to(total.dtype)
        return total / torch.where(counted > 0, counted, 1)

    def _counted_pixels(self, labels: Tensor, weights: Tensor | None) -> Tensor:
        """A scalar: what the sum over the pixels of these labels is divided by."""
        if self.average == "all":
            return torch.tensor(labels.numel(), device=labels.device)
        valid = labels != self.ignore_index
        if weights is None:
            return valid.sum()
        return (weights[labels.masked_fill(~valid, 0)] * valid).sum()

    def _pixel_sum(self, logits: Tensor, weights: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
        """The sum over pixels of the terms that have one, of logits (B, K, H, W) and labels (B, H, W)."""
        ignored: dict[str, Any] = {"ignore_index": self.ignore_index}
        of_focal = weights
        if self.focal_alpha is not None:
            of_focal = logits.new_tensor([1 - self.focal_alpha, self.focal_alpha])
            of_focal = of_focal if weights is None else of_focal * weights

        def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
            return nn.functional.cross_entropy(
                logits, labels, weights, reduction="sum", label_smoothing=self.label_smoothing, **ignored
            )

        def focal(logits: Tensor, labels: Tensor) -> Tensor:
            log_probabilities = logits.log_softmax(dim=1)
            surprise = nn.functional.nll_loss(log_probabilities, labels, reduction="none", **ignored)
            losses = nn.functional.nll_loss(log_probabilities, labels, of_focal, reduction="none", **ignored)
            doubt = -torch.expm1(-surprise)  # 1 - p; a power of it has no slope at 0, where the loss is 0 anyway
            return (doubt.clamp(min=torch.finfo(doubt.dtype).tiny) ** self.focal_gamma * losses).sum()

        sums = {"cross_entropy": cross_entropy, "focal": focal}
        chosen = [(weight, sums[term]) for term, weight in self._weights.items() if term in sums]

        def pixel_sum(logits: Tensor, labels: Tensor) -> Tensor:
            first, *others = (weight * term(logits, labels) for weight, term in chosen)
            return sum(others, start=first)

        return pixel_sum

    def _regions(
        self, logits: Tensor, labels: Tensor, upsampling: Upsampling, weights: Tensor | None, one_class: bool
    ) -> Tensor:
        """The mean over classes of the terms that compare regions."""
        count = logits.shape[1]
        valid = (labels != self.ignore_index).flatten()
        flat = labels.flatten().masked_fill(~valid, count)  # (P,): ignored pixels are a class of their own
        if one_class:
            occurs = torch.arange(count, device=labels.device) == 1
        else:
            occurs = torch.zeros(count + 1, dtype=torch.bool, device=labels.device).index_fill(0, flat, True)[:count]
        # Traced code has a fixed number of classes and gives those that do not occur no weight.
        compared = torch.arange(count, device=labels.device)
        compared = compared if is_traced(labels) else compared[occurs]
        probabilities = upsample(logits, upsampling).softmax(dim=1)[:, compared]
        probabilities = probabilities.transpose(0, 1).flatten(1) * valid  # (B, S, H, W) -> (S, P)
        members = flat == compared[:, None]  # (S, P)
        losses = sum(
            self._weights[term] * region_loss(probabilities, members)
            for term, region_loss in (("dice", _dice), ("lovasz", _lovasz))
            if term in self._weights
        )
        share = (occurs if weights is None else occurs * weights).to(logits.dtype)[compared]
        return (losses * share).sum() / torch.where(share.sum() > 0, share.sum(), 1)


def _share_of_images(labels: Tensor, num_items_in_batch: ItemCount) -> Tensor | float:
    """How much the loss of this batch counts in the mean over the batches of a step."""
    if num_items_in_batch is None:
        return 1.0
    if isinstance(num_items_in_batch, Mapping):
        return (len(labels) / num_items_in_batch["images"]).to(labels.device)
    return share_of_step(labels, num_items_in_batch)


def _dice(probabilities: Tensor, members: Tensor) -> Tensor:  # (S, P), (S, P) of truth -> (S,)
    overlap = (probabilities * members).sum(dim=1)
    return 1 - (2 * overlap + 1) / (probabilities.sum(dim=1) + members.sum(dim=1) + 1)


def _lovasz(probabilities: Tensor, members: Tensor) -> Tensor:  # (S, P), (S, P) of truth -> (S,)
    """Errors in falling order, each times what 1 - IoU grows by when its pixel, too, is taken to be wrong."""
    errors, order = (members.to(probabilities.dtype) - probabilities).abs().sort(dim=1, descending=True)
    is_member = members.gather(1, order)
    size = members.sum(dim=1, keepdim=True)
    intersection = size - is_member.cumsum(dim=1)
    union = (size + (~is_member).cumsum(dim=1)).to(errors.dtype)
    # A member lost leaves the intersection; another pixel joins the union. Differences of IoUs would cancel in float32.
    growth = torch.where(is_member, 1 / union, intersection / (union * (union - 1).clamp(min=1)))
    first = torch.arange(errors.shape[1], device=errors.device) == 0
    growth = torch.where(size > 0, growth, first.to(growth.dtype))  # a class that does not occur is lost at once
    return (errors * growth).sum(dim=1)


def _read_terms(terms: str) -> tuple[dict[str, float], list[str]]:
    """The weights of the terms in "0.5*dice+cross_entropy", and what is wrong with them."""
    weights: dict[str, float] = {}
    problems = []
    for part in str(terms).split("+"):
        factor, star, name = part.rpartition("*")
        name = name.strip()
        try:
            weight = float(factor) if star else 1.0
        except ValueError:
            weight = math.nan
        if name not in TERMS:
            problems.append(f"terms are {', '.join(TERMS)}, joined by +; got {name!r}")
        elif name in weights:
            problems.append(f"terms has {name} twice; write 2*{name}")
        if not 0 < weight < math.inf:
            problems.append(f"the weight of a term is a number above 0, as in 0.5*dice; got {part.strip()!r}")
        weights[name] = weight
    return weights, problems
