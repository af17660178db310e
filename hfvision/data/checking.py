"""A data set read exactly as training reads it, without a model: its report, or the reason that training would refuse.

found = check_dataset("street/", "detection", box_form="xyxy")
print(found.report.text() if found.accepted else found.refusal)
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from hfvision.data.classification import prepare_classification
from hfvision.data.dataset_report import DatasetReport
from hfvision.data.detection import prepare_detection
from hfvision.data.segmentation import prepare_segmentation
from hfvision.data.sources import Source, name_of
from hfvision.errors import ConfigError, DatasetError, UnknownNameError
from hfvision.reading_options import CLASSIFICATION, DETECTION, PANOPTIC, SEGMENTATION
from hfvision.reporting import kept_back
from hfvision.tasks import reading_named

PREPARE: dict[str, Callable[..., Any]] = {
    CLASSIFICATION: prepare_classification,
    SEGMENTATION: prepare_segmentation,
    DETECTION: prepare_detection,
    PANOPTIC: partial(prepare_detection, panoptic=True),
}


@dataclass(frozen=True)
class DatasetCheck:
    """Findings about a data set."""

    dataset: str  # its name
    task: str  # classification, segmentation, detection, panoptic
    report: DatasetReport | None  # None where training would refuse it
    notes: tuple[str, ...]  # what the readers said beside the report
    refusal: str | None  # the error of training, with all that is wrong

    @property
    def accepted(self) -> bool:
        """Whether training would take it."""
        return self.refusal is None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "dataset": self.dataset,
            "task": self.task,
            "accepted": self.accepted,
            "refusal": self.refusal,
            "report": None if self.report is None else self.report.to_dict(),
            "notes": list(self.notes),
        }


def check_dataset(dataset: Source, task: str, **options: Any) -> DatasetCheck:
    """Read, choose splits, number classes, check; `options` are those of `ReadingOptions` that the task has.

    Nothing is reported meanwhile: all is in the answer. Raises ConfigError for a task or an option that is none.

    Example:
        >>> import hfvision
        >>> check = hfvision.check_dataset("digits", "image-classification")
        >>> [(split.split, split.images) for split in check.report.splits]
        [('train', 1437), ('test', 360)]
    """
    try:
        task = reading_named(task)
    except UnknownNameError as error:
        raise ConfigError(str(error)) from None
    report, refusal = None, None
    with kept_back() as said:
        try:
            report = PREPARE[task](dataset, **options).report
        except DatasetError as error:
            refusal = str(error)
    text = None if report is None else report.text()
    notes = tuple(message for message in said if message != text)
    return DatasetCheck(name_of(dataset), task, report, notes, refusal)
