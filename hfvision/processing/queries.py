"""What the queries of a detector's outputs say, read with care: arguments that cannot work are refused by name.

Shapes: B images, Q queries, K classes (and "no object", the last logit), h x w places of a mask, H x W pixels; n the
queries of an image that are kept.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from hfvision.errors import ConfigError, numbered
from hfvision.upsampling import Size

AXES = {"logits": "(B, Q, K + 1)", "pred_boxes": "(B, Q, 4)", "pred_masks": "(B, Q, h, w)"}
MADE_BY = {"logits": "every DETR", "pred_boxes": "DetrForObjectDetection", "pred_masks": "DetrForSegmentation"}


@dataclass(frozen=True)
class MaskQueries:
    """Queries of one image that have a class."""

    scores: Tensor  # (n,) in 0..1
    labels: Tensor  # (n,) int64
    masks: Tensor  # (n, h, w) logits

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> Self:
        return type(self)(self.scores[rows], self.labels[rows], self.masks[rows])


def read_outputs(outputs: Any, *names: str) -> list[Tensor]:
    """The fields of these names, without gradients, of the same B and Q.

    Raises ConfigError for outputs that lack one, and for shapes and values (NaN) that no model should give.
    """
    named = isinstance(outputs, Mapping)
    fields: dict[str, Any] = {name: outputs.get(name) if named else getattr(outputs, name, None) for name in names}
    if missing := [name for name, value in fields.items() if not isinstance(value, Tensor)]:
        raise ConfigError(
            f"the outputs have no {' and no '.join(missing)}; "
            f"{' and '.join(MADE_BY[name] for name in missing)} gives them: pass what the model returns."
        )
    queries, problems = fields[names[0]].shape[:2], []
    for name, value in fields.items():
        fits = value.ndim == AXES[name].count(",") + 1 and value.shape[:2] == queries
        if name == "logits":
            fits = fits and value.shape[-1] > 1
        elif name == "pred_boxes":
            fits = fits and value.shape[-1] == 4
        if not fits:
            problems.append(f"{name} is {AXES[name]}; got {tuple(value.shape)}")
        elif bool(value.isnan().any()):
            rows = value.flatten(1).isnan().any(dim=1).nonzero()[:, 0].tolist()
            problems.append(f"{name} has NaN for images {rows[:10]} of the batch: the model or its input is damaged")
    if problems:
        raise ConfigError(numbered("fault", problems))
    return [value.detach() for value in fields.values()]


def mask_queries(logits: Tensor, masks: Tensor, threshold: float) -> list[MaskQueries]:
    """(B, Q, K + 1), (B, Q, h, w) -> the queries of each image whose best answer is a class that scores above
    `threshold`."""
    scores, labels = logits.softmax(dim=-1).max(dim=-1)
    kept = (labels != logits.shape[-1] - 1) & (scores > threshold)
    return [
        MaskQueries(*(values[rows] for values in image))
        for *image, rows in zip(scores, labels, masks, kept, strict=True)
    ]


def extents_of(pixel_mask: Tensor | None, images: int) -> list[Size] | None:
    """(B, H, W), 1 on pixels of the image and 0 on padding -> each image's height and width, at the top left.

    Raises ConfigError for another shape, and for an image without pixels.
    """
    if pixel_mask is None:
        return None
    if pixel_mask.ndim != 3 or len(pixel_mask) != images:
        raise ConfigError(
            f"pixel_mask is (B, H, W), as the processor gives it, for {images} images; got {tuple(pixel_mask.shape)}."
        )
    held = pixel_mask != 0
    heights, widths = held.any(dim=2).sum(dim=1).tolist(), held.any(dim=1).sum(dim=1).tolist()
    if 0 in heights:
        raise ConfigError(f"pixel_mask is 0 everywhere for image {heights.index(0)}: it is 1 on the image's pixels.")
    return list(zip(heights, widths, strict=True))


def without_padding(masks: Iterable[Tensor], pixel_mask: Tensor | None) -> list[Tensor]:
    """(.., h, w) of each padded image -> the places (.., h', w') that the image would have had alone.

    A trunk of stride s has a place for each s pixels begun. Raises ConfigError as `extents_of`.
    """
    masks = list(masks)
    if pixel_mask is None:
        return masks
    padded, cut = pixel_mask.shape[1:], []
    for one, extent in zip(masks, extents_of(pixel_mask, len(masks)) or (), strict=True):
        height, width = (_places(*sides) for sides in zip(one.shape[-2:], extent, padded, strict=True))
        cut.append(one[..., :height, :width])
    return cut


def _places(places: int, extent: int, padded: int) -> int:
    stride = -(-padded // places)
    if -(-padded // stride) == places:
        return -(-extent // stride)
    return -(-extent * places // padded)  # no whole stride: the same share


def check_shares(**shares: float) -> None:
    """Raises ConfigError naming every argument that is not in 0..1."""
    problems = [f"{name} is a share in 0..1; got {value!r}" for name, value in shares.items() if not _is_share(value)]
    if problems:
        raise ConfigError(numbered("problem", problems))


def _is_share(value: Any) -> bool:
    try:
        return 0 <= float(value) <= 1
    except (TypeError, ValueError):
        return False


def checked_labels(label_ids: Iterable[int] | None, labels: int) -> frozenset[int]:
    """Classes to fuse, of 0..K-1. Raises ConfigError naming those that the model does not have."""
    given = frozenset(() if label_ids is None else map(int, label_ids))
    if unknown := sorted(label for label in given if not 0 <= label < labels):
        raise ConfigError(f"label_ids_to_fuse are classes of the model, 0..{labels - 1}; got {unknown[:10]}.")
    return given
