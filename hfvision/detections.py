"""The objects found in one image as arrays, and the forms that other tools take them in.

Forms: transformers' dicts, COCO's results (Lin et al. 2014, arXiv 1405.0312), the arguments of
`supervision.Detections`, and what `DetectionMetric` counts.

Shapes: n objects, K classes, H x W pixels of the image. Boxes are xyxy in pixels, edge to edge: the box of a whole
image is (0, 0, W, H).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from hfvision.errors import ConfigError, UnknownNameError, numbered
from hfvision.geometry import Rle, convert_boxes, decode_rle, encode_rle, masks_to_boxes
from hfvision.geometry.rle import compressed_rle

Masks: TypeAlias = NDArray[np.bool_] | tuple[Rle, ...]
Rows: TypeAlias = Sequence[int] | Sequence[bool] | NDArray[np.int64] | NDArray[np.bool_] | slice

EDGES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects found in one image. Arrays, tensors on any device and lists are taken and checked.

    Raises ConfigError naming every value that cannot be: counts that differ, boxes that are not finite or of negative
    size, scores that are NaN, classes without a name, masks of another size than the image.

    Example:
        >>> import hfvision
        >>> found = hfvision.Detections([[0, 0, 8, 6]], scores=[0.9], labels=[1], names=("cat", "dog"), size=(48, 64))
        >>> len(found.boxes), found.names[found.labels[0]]
        (1, 'dog')
    """

    boxes: NDArray[np.float64]  # (n, 4)
    scores: NDArray[np.float64]  # (n,)
    labels: NDArray[np.int64]  # (n,) classes, 0..K-1
    names: tuple[str, ...]  # (K,) of the classes
    size: tuple[int, int]  # H, W
    masks: Masks | None = None  # (n, H, W), or n run lengths, which stay as they are until pixels are asked for

    def __post_init__(self) -> None:
        boxes, scores, labels = (_array(given) for given in (self.boxes, self.scores, self.labels))
        fields: dict[str, Any] = {
            "boxes": (boxes if boxes.size else boxes.reshape(0, 4)).astype(np.float64),
            "scores": scores.astype(np.float64),
            "labels": labels if labels.size else labels.astype(np.int64),  # an empty list has no type of its own
            "names": tuple(map(str, self.names)),
            "size": tuple(map(int, self.size)),
            "masks": None if self.masks is None else _masks(self.masks, labels.size),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        if problems := self._faults():
            raise ConfigError(numbered("fault", problems))
        object.__setattr__(self, "labels", self.labels.astype(np.int64))

    def _faults(self) -> list[str]:
        count, problems = self.labels.size, []
        if len(self.size) != 2 or min(self.size) < 1:
            problems.append(f"size is the height and width of the image in pixels; got {self.size}")
        if self.labels.ndim != 1 or not np.issubdtype(self.labels.dtype, np.integer):
            problems.append(f"labels are whole numbers (n,); got {self.labels.dtype} {self.labels.shape}")
        elif len(wrong := np.unique(self.labels[(self.labels < 0) | (self.labels >= len(self.names))])):
            problems.append(f"labels are classes 0..{len(self.names) - 1}, as names has; got {wrong[:10].tolist()}")
        if self.scores.shape != (count,):
            problems.append(f"{count} labels need scores ({count},); got {self.scores.shape}")
        elif np.isnan(self.scores).any():
            problems.append(f"{int(np.isnan(self.scores).sum())} of {count} scores are NaN")
        if self.boxes.shape != (count, 4):
            problems.append(f"{count} labels need boxes ({count}, 4); got {self.boxes.shape}")
        else:
            fine = np.isfinite(self.boxes).all(axis=1) & (self.boxes[:, 2:] >= self.boxes[:, :2]).all(axis=1)
            if len(rows := np.flatnonzero(~fine)):
                problems.append(
                    f"boxes are xyxy, finite, with xmin <= xmax and ymin <= ymax; {len(rows)} of {count} are not, such "
                    f"as box {rows[0]}: {self.boxes[rows[0]].tolist()}"
                )
        return problems + self._faults_of_masks(count)

    def _faults_of_masks(self, count: int) -> list[str]:
        if self.masks is None:
            return []
        if len(self.masks) != count:
            return [f"{count} labels need {count} masks; got {len(self.masks)}"]
        sizes = {self.masks.shape[1:]} if isinstance(self.masks, np.ndarray) else {tuple(m["size"]) for m in self.masks}
        other = sorted(sizes - {self.size}) if count else []
        return [f"masks have the size of their image, {self.size}; got {other[0]}"] if other else []

    @classmethod
    def of(cls, result: Mapping[str, Any], names: Sequence[str], size: tuple[int, int]) -> Self:
        """From a dict of "boxes", "scores", "labels" and perhaps "masks", as `post_process_object_detection` gives."""
        return cls(result["boxes"], result["scores"], result["labels"], tuple(names), size, result.get("masks"))

    @classmethod
    def from_list(
        cls, objects: Iterable[Mapping[str, Any]], size: tuple[int, int], names: Sequence[str] | None = None
    ) -> Self:
        """From the dicts of transformers' pipelines: "label", "score" (None counts as 1), "box" or "mask" or both.

        size: of the image (H, W). names: of all classes; None takes those that occur, in alphabetical order. Raises
        ConfigError for dicts that lack a key, and UnknownNameError for labels that `names` has not.
        """
        rows = list(objects)
        boxed, masked = ({"label", "score", region} for region in ("box", "mask"))
        has_boxes, has_masks = (all(keys <= set(row) for row in rows) for keys in (boxed, masked))
        if not has_boxes and not has_masks:
            poor = (place for place, row in enumerate(rows) if not (boxed <= set(row) or masked <= set(row)))
            place = next(poor, 0)
            raise ConfigError(
                "every object is a dict with label, score, and a box or a mask, the same for all; "
                f"object {place} has {', '.join(map(str, rows[place]))}."
            )
        known = tuple(names) if names is not None else tuple(sorted({str(row["label"]) for row in rows}))
        if unknown := sorted({str(row["label"]) for row in rows} - set(known)):
            raise UnknownNameError(f"names has no {', '.join(unknown[:10])}; it has {', '.join(known[:20])}.")
        masks = np.stack([np.asarray(row["mask"]) != 0 for row in rows]) if rows and has_masks else None
        if has_boxes or masks is None:
            boxes: NDArray[Any] = np.array([[row["box"][edge] for edge in EDGES] for row in rows], np.float64)
        else:
            boxes = masks_to_boxes(masks)
        scores = np.array([1.0 if row["score"] is None else row["score"] for row in rows])
        labels = np.array([known.index(str(row["label"])) for row in rows], np.int64)
        return cls(boxes, scores, labels, known, size, masks)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def class_names(self) -> list[str]:
        """(n,): the name of each object's class."""
        return [self.names[label] for label in self.labels.tolist()]

    def decoded_masks(self) -> NDArray[np.bool_] | None:
        """(n, H, W)."""
        if self.masks is None or isinstance(self.masks, np.ndarray):
            return self.masks
        return np.array([decode_rle(mask) for mask in self.masks], bool).reshape(-1, *self.size)

    def mask(self, row: int) -> NDArray[np.bool_]:
        """(H, W) of one object. Raises ConfigError where there are no masks."""
        if self.masks is None:
            raise ConfigError("these detections have boxes alone, no masks.")
        mask = self.masks[row]
        return decode_rle(mask) if isinstance(mask, Mapping) else mask

    def run_lengths(self) -> list[Rle] | None:
        """n compressed run lengths."""
        if self.masks is None:
            return None
        if isinstance(self.masks, np.ndarray):
            return [encode_rle(mask) for mask in self.masks]
        return [compressed_rle(mask) for mask in self.masks]

    def take(self, rows: Rows) -> Self:
        """Some of the objects: by number, in that order, or by a condition (n,)."""
        wanted = rows if isinstance(rows, slice) else np.asarray(rows, None if len(rows) else np.int64)
        chosen = np.arange(len(self))[wanted]
        masks = self.masks
        if masks is not None:
            masks = masks[chosen] if isinstance(masks, np.ndarray) else tuple(masks[row] for row in chosen.tolist())
        return replace(
            self, boxes=self.boxes[chosen], scores=self.scores[chosen], labels=self.labels[chosen], masks=masks
        )

    def above(self, threshold: float) -> Self:
        """Those with a larger score."""
        return self.take(self.scores > threshold)

    def of_class(self, *classes: int | str) -> Self:
        """Those of the classes, given by number or name. Raises UnknownNameError for names that there are not."""
        if unknown := [one for one in classes if isinstance(one, str) and one not in self.names]:
            raise UnknownNameError(f"no class is called {', '.join(unknown)}; there are {', '.join(self.names[:50])}.")
        wanted = {number for number, name in enumerate(self.names) if number in classes or name in classes}
        return self.take(np.isin(self.labels, sorted(wanted)))

    def to_list(self, masks: bool = True) -> list[dict[str, Any]]:
        """As the object-detection pipeline of transformers: "score", "label", "box" of whole pixels; and the "mask", a
        picture of 0 and 255, where there are masks and they are wanted."""
        boxes = self.boxes.astype(np.int64).tolist()
        rows: list[dict[str, Any]] = [
            {"score": score, "label": name, "box": dict(zip(EDGES, box, strict=True))}
            for score, name, box in zip(self.scores.tolist(), self.class_names, boxes, strict=True)
        ]
        if masks and self.masks is not None:
            for place, row in enumerate(rows):
                row["mask"] = Image.fromarray(self.mask(place).astype(np.uint8) * 255)
        return rows

    def to_coco(
        self, image_id: int | str, category_ids: Mapping[int, int] | Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """COCO's results, ready for JSON: "image_id", "category_id", "bbox" (xywh), "score", and "segmentation" (run
        lengths) where there are masks. The category of a class is its number unless `category_ids` says another.

        Raises ConfigError for classes that `category_ids` lacks.
        """
        labels = self.labels.tolist()
        if category_ids is not None:
            given = dict(category_ids if isinstance(category_ids, Mapping) else enumerate(category_ids))
            if missing := sorted(set(labels) - set(given)):
                raise ConfigError(f"category_ids has none for class {', '.join(map(str, missing[:10]))}.")
            labels = [given[label] for label in labels]
        rows: list[dict[str, Any]] = [
            {"image_id": image_id, "category_id": label, "bbox": box, "score": score}
            for label, box, score in zip(
                labels, convert_boxes(self.boxes, "xyxy", "xywh").tolist(), self.scores.tolist(), strict=True
            )
        ]
        masks = self.run_lengths()
        for row, mask in zip(rows, masks or (), strict=masks is not None):
            row["segmentation"] = mask
        return rows

    def to_supervision(self) -> dict[str, Any]:
        """The arguments of `supervision.Detections`: `supervision.Detections(**found.to_supervision())`."""
        return {
            "xyxy": self.boxes.astype(np.float32),
            "mask": self.decoded_masks(),
            "confidence": self.scores.astype(np.float32),
            "class_id": self.labels,
            "data": {"class_name": np.array(self.class_names, dtype=str)},
        }

    def to_prediction(self) -> dict[str, Any]:
        """What `DetectionMetric.update` takes of an image."""
        found: dict[str, Any] = {"boxes": self.boxes, "scores": self.scores, "labels": self.labels}
        return found if self.masks is None else {**found, "masks": self.run_lengths()}


def _array(given: ArrayLike | Tensor) -> NDArray[Any]:
    if isinstance(given, Tensor):
        given = given.detach().cpu()
        given = given.float() if given.is_floating_point() else given  # numpy knows no bfloat16
    return np.asarray(given)


def _masks(given: Any, count: int) -> Masks:
    """Raises ConfigError for masks that are neither (n, H, W) nor run lengths."""
    if not isinstance(given, np.ndarray | Tensor) and len(given) and all(isinstance(one, Mapping) for one in given):
        if lacking := [place for place, one in enumerate(given) if not {"size", "counts"} <= set(one)]:
            raise ConfigError(f"run lengths have size and counts; those of mask {lacking[0]} have not.")
        return tuple(dict(one) for one in given)
    if not isinstance(given, np.ndarray | Tensor) and not len(given):
        return ()
    masks = _array(np.stack([_array(one) for one in given]) if isinstance(given, list | tuple) else given)
    if masks.ndim != 3:
        raise ConfigError(f"masks of {count} objects are an array ({count}, H, W) or run lengths; got {masks.shape}.")
    return masks if masks.dtype == bool else masks != 0
