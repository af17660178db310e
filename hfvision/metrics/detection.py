"""Average precision and recall of detected objects, as COCO defines them: the numbers of pycocotools.

Paper: Lin et al. 2014, "Microsoft COCO: Common Objects in Context", arXiv 1405.0312.

The matching is done by faster-coco-eval (Apache-2.0), which computes what pycocotools does in a fraction of the time:
`pip install 'hfvision[detection]'`.

Definitions. In each image and class, detections are taken by falling score; each is right if it overlaps an object that
is still free by at least the IoU threshold. AP is the mean precision at 101 recalls, over the thresholds 0.50, 0.55 to
0.95 and the classes that have objects; AR is the mean recall. Crowds (`iscrowd`) are neither found nor missed. Small
objects have less than 32 x 32 pixels, large ones more than 96 x 96.

Cityscapes' figure of the same name (cityscapesscripts, evalInstanceLevelSemanticLabeling) is another: an overlap has to
be above the threshold, the area under the curve is the sum of its steps without COCO's 101 recalls, objects below 100
pixels are ignored, and unlabelled pixels excuse a detection as crowds do.

Shapes: B images, n detections or objects of an image, K classes, H x W pixels.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from hfvision.errors import ConfigError, HfvisionError, numbered
from hfvision.geometry import BoxForm
from hfvision.metrics.counting import Metric
from hfvision.metrics.detection_records import (
    ImageRecord,
    Objects,
    RecordReader,
    Region,
    measured_areas,
    unit_fault,
)

BACKEND = "faster_coco_eval"
KINDS = {"boxes": "bbox", "masks": "segm"}  # the backend's names of regions
PREFIXES = {"boxes": "", "masks": "mask_"}  # of figures
SIZES = ("", "_small", "_medium", "_large")  # in the order of the backend's ranges
MOST_DETECTIONS = (1, 10, 100)  # of an image and class
FAULTS_NAMED = 10


class DetectionMetric(Metric):
    """COCO's figures of boxes, masks or both.

    Precision needs all scores in order, so this metric keeps what it saw: boxes, run lengths and scores, a few kB an
    image. Its `records` are what processes exchange and `merge` takes.

    Example:
        >>> import hfvision
        >>> truth = {"boxes": [[0, 0, 8, 8]], "labels": [1]}
        >>> metric = hfvision.DetectionMetric(num_labels=2)
        >>> metric.update([truth | {"scores": [0.9]}], [truth])
        >>> metric.compute()["AP"]
        1.0
    """

    name = "hfvision_detection"

    def __init__(self, num_labels: int, regions: Sequence[Region] = ("boxes",), box_form: BoxForm = "xyxy") -> None:
        """`box_form` is that of the boxes given, detected and true, in pixels.

        Raises ConfigError naming every value that cannot work, and where faster-coco-eval is not installed.
        """
        problems = []
        if num_labels < 1:
            problems.append(f"num_labels is at least 1; got {num_labels}")
        if isinstance(regions, str) or not regions or set(regions) - set(KINDS):
            problems.append(f"regions are a list of {' and '.join(KINDS)}; got {regions!r}")
        if box_form not in get_args(BoxForm):
            problems.append(f"box_form is {', '.join(get_args(BoxForm))}; got {box_form!r}")
        if find_spec(BACKEND) is None:
            problems.append("faster-coco-eval is not installed; run pip install 'hfvision[detection]'")
        if problems:
            raise ConfigError(numbered("problem", problems))
        self.num_labels = num_labels
        self.regions: tuple[Region, ...] = tuple(region for region in get_args(Region) if region in regions)
        self.reader = RecordReader(num_labels, self.regions, box_form)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.records: list[ImageRecord] = []
        self._seen: set[int | str] = set()

    def update(self, predictions: Iterable[Mapping[str, Any]], references: Iterable[Mapping[str, Any]]) -> None:
        """Keep a batch: a dict for each image. Values are tensors on any device, arrays or lists.

        predictions: "scores" (n,), "labels" (n,), "boxes" (n, 4), "masks". references: "labels" or "class_labels" (n,),
        "boxes" (n, 4), "masks", and where known "area" (n,), "iscrowd" (n,), "image_id". Masks are arrays (n, H, W) or
        n run lengths; only the regions measured are needed. The area, which decides what is small, is else that of the
        mask or the box. An image whose id was seen counts once, since samplers of several processes repeat some.

        Raises ConfigError, naming the faults by image; then nothing of the batch is kept.
        """
        predictions, references = list(predictions), list(references)
        problems = []
        if len(predictions) != len(references):
            problems.append(f"{len(predictions)} predictions for {len(references)} references")
        records = []
        for image, (prediction, reference) in enumerate(zip(predictions, references, strict=False)):
            try:
                records.append(self.reader.read(prediction, reference))
            except HfvisionError as error:
                problems.append(f"image {image}: {error}")
        if not problems and (fault := unit_fault(records)):
            problems.append(fault)
        if problems:
            raise ConfigError(numbered("problem", problems, most=FAULTS_NAMED))
        self._keep(records)

    def add(self, *, predictions: Any, references: Any) -> None:
        """One image; the names are those that `evaluate` passes."""
        self.update([predictions], [references])

    def merge(self, *others: "Self | Sequence[ImageRecord]") -> None:
        """Add the images of others, metrics or their `records`. Raises ConfigError where settings differ."""
        for other in others:
            if not isinstance(other, DetectionMetric):
                self._keep(other)
            elif (other.num_labels, other.regions) == (self.num_labels, self.regions):
                self._keep(other.records)
            else:
                raise ConfigError(
                    "only metrics of the same settings can be merged; this one has "
                    f"num_labels {self.num_labels}, regions {self.regions}."
                )

    def result(self) -> dict[str, Any]:
        """`AP`, `AP50`, `AP75`, `AP_small`, `AP_medium`, `AP_large`, `AR1`, `AR10`, `AR100` (at most so many detections
        of an image and class), `AR_small`, `AR_medium`, `AR_large`, `per_category_AP` (K,), and the same of masks as
        `mask_AP` and so on. Shares in 0..1; NaN where there is no object to be found, for which pycocotools has -1.
        Also the `absent` classes, the number of `objects` without crowds, and of `images`.

        Raises ConfigError when no image was seen.
        """
        if not self.records:
            raise ConfigError("no image was counted; call update(predictions, references) first.")
        records = self._in_order()
        labels = np.concatenate([record.true.labels[~record.crowd] for record in records])
        objects = np.bincount(labels, minlength=self.num_labels)
        return {
            **{name: value for region in self.regions for name, value in self._figures(records, region).items()},
            "absent": np.flatnonzero(objects == 0).tolist(),
            "objects": int(objects.sum()),
            "images": len(records),
        }

    def _keep(self, records: Iterable[ImageRecord]) -> None:
        for record in records:
            if record.image_id is None or record.image_id not in self._seen:
                self.records.append(record)
            if record.image_id is not None:
                self._seen.add(record.image_id)

    def _in_order(self) -> list[ImageRecord]:
        """By id, so that processes may be merged in any order: among equal scores the earlier image counts first."""
        ids = [record.image_id for record in self.records]
        if len({type(one) for one in ids}) > 1 or ids[0] is None:
            return self.records
        return [self.records[place] for place in sorted(range(len(ids)), key=lambda place: ids[place])]  # type: ignore[arg-type, return-value]

    def _figures(self, records: Sequence[ImageRecord], region: Region) -> dict[str, Any]:
        backend = import_module(BACKEND)
        true, detected = (backend.COCO(dataset) for dataset in self._datasets(records, region))
        evaluation = backend.COCOeval_faster(true, detected, iouType=KINDS[region])
        evaluation.evaluate()
        evaluation.accumulate()
        # (thresholds, recalls, classes, sizes, most detections); recall has no second axis
        precision, recall = (np.asarray(evaluation.eval[name]) for name in ("precision", "recall"))
        figures: dict[str, Any] = {
            "AP": _mean(precision[..., 0, -1]),
            "AP50": _mean(precision[0, ..., 0, -1]),
            "AP75": _mean(precision[5, ..., 0, -1]),
            **{f"AP{size}": _mean(precision[..., place, -1]) for place, size in enumerate(SIZES) if size},
            **{f"AR{most}": _mean(recall[..., 0, place]) for place, most in enumerate(MOST_DETECTIONS)},
            **{f"AR{size}": _mean(recall[..., place, -1]) for place, size in enumerate(SIZES) if size},
            "per_category_AP": np.array([_mean(precision[:, :, label, 0, -1]) for label in range(self.num_labels)]),
        }
        return {PREFIXES[region] + name: value for name, value in figures.items()}

    def _datasets(self, records: Sequence[ImageRecord], region: Region) -> tuple[dict[str, Any], dict[str, Any]]:
        """True and detected objects in COCO's form."""
        sizes = [record.size for record in records]
        shared = {
            "images": [{"id": image, "height": size[0], "width": size[1]} for image, size in enumerate(sizes)],
            "categories": [{"id": label, "name": str(label)} for label in range(self.num_labels)],
        }
        true: list[dict[str, Any]] = []
        detected: list[dict[str, Any]] = []
        for image, record in enumerate(records):
            further = {"area": record.areas, "iscrowd": record.crowd.astype(int)}
            _annotate(true, image, record.true, region, further)
            # A detection is as large as it is itself, whatever the object that it finds.
            further = {"area": measured_areas(record.detected, region), "score": record.scores}
            _annotate(detected, image, record.detected, region, further)
        return {**shared, "annotations": true}, {**shared, "annotations": detected}


def _annotate(
    annotations: list[dict[str, Any]],
    image: int,
    objects: Objects,
    region: Region,
    further: Mapping[str, NDArray[Any]],
) -> None:
    """Append an image's. Ids count from 1: in COCO's matching an object of id 0 is never found."""
    if region == "boxes":
        assert objects.boxes is not None
        regions: list[Any] = objects.boxes.tolist()
    else:
        assert objects.masks is not None
        regions = [dict(mask) for mask in objects.masks]
    columns = {name: values.tolist() for name, values in further.items()}
    for place, (label, where) in enumerate(zip(objects.labels.tolist(), regions, strict=True)):
        annotation = {"id": len(annotations) + 1, "image_id": image, "category_id": label}
        annotation["bbox" if region == "boxes" else "segmentation"] = where
        annotations.append(annotation | {name: values[place] for name, values in columns.items()})


def _mean(shares: NDArray[np.float64]) -> float:
    """Over those there are: the backend has -1 for classes without objects. NaN if there are none."""
    known = shares[shares > -1]
    return float(known.mean()) if known.size else math.nan
