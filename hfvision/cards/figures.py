"""Figures in a card: measured here, or quoted with their source; both in the front matter, neither ever unmarked."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hfvision.cards.text import table
from hfvision.errors import ConfigError

MEASURED = "measured"
CLASSES_SHOWN = 200
METRIC_TYPES = {
    "top-1 accuracy": "accuracy",
    "top-5 accuracy": "top_5_accuracy",
    "mIoU": "mean_iou",
    "box AP": "AP",
    "mask AP": "mask_AP",
}


@dataclass(frozen=True)
class Result:
    """One figure: `value` of `metric` over `samples` samples of `dataset`/`split`.

    `source` is "measured" for figures that this model was evaluated for; anything else says who published the figure,
    and the card shows it as quoted. With a `url` quoted figures are in the front matter, too, with name and address of
    the source. Raises ConfigError for a value that is no finite number or a count below one.
    """

    task: str
    dataset: str
    split: str
    metric: str
    value: float
    samples: int | None = None  # of a measured figure always
    source: str = MEASURED
    url: str | None = None  # of the source
    revision: str | None = None  # of the data
    date: str | None = None  # when it was measured
    percent: bool = False  # the unit of `value`; measured figures are shares

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ConfigError(f"A result is a finite number, got {self.metric} = {self.value} on {self.dataset}.")
        if (self.samples is None and self.measured) or (self.samples is not None and self.samples < 1):
            raise ConfigError(
                f"{self.metric} on {self.dataset} says {self.samples} samples; give the number it was measured on."
            )

    @property
    def measured(self) -> bool:
        return self.source == MEASURED

    @property
    def metric_type(self) -> str:
        """The Hub's word, where authors have several: "mIoU (several scales and flips)" is a mean_iou."""
        return next((kind for word, kind in METRIC_TYPES.items() if self.metric.startswith(word)), self.metric)


@dataclass(frozen=True)
class ClassTable:
    """A figure for each class; None: there was nothing to measure it on."""

    figure: str  # "IoU"
    values: Mapping[str, float | None]


def model_index(name: str, results: Sequence[Result]) -> list[dict[str, Any]] | None:
    """The `model-index` of a card with the results of one model, None for no results that belong there.

    The Hub has one source for all metrics of an entry. huggingface_hub's own writer makes one entry of all that share
    task and data, so quoted figures beside measured ones would get no source, or the measured ones a wrong one: here
    they have entries of their own.
    """
    entries = defaultdict(list)
    for one in results:
        if one.measured or one.url:
            entries[one.task, one.dataset, one.split, one.revision, one.source, one.url].append(one)
    if not entries:
        return None
    return [{"name": name, "results": [_entry(*key, metrics) for key, metrics in entries.items()]}]


def _entry(
    task: str, dataset: str, split: str, revision: str | None, source: str, url: str | None, metrics: list[Result]
) -> dict[str, Any]:
    quoted = source != MEASURED
    return {
        "task": {"type": task},
        "dataset": {
            "name": dataset,
            "type": dataset,
            "split": split,
            **({"revision": revision} if revision else {}),
        },
        "metrics": [
            {
                "type": one.metric_type,
                "value": one.value,
                **({"name": f"{one.metric}{' in per cent' * one.percent}, quoted, not measured"} if quoted else {}),
                **({"args": {"samples": one.samples}} if one.samples else {}),
                **({"verified": False} if quoted else {}),
            }
            for one in metrics
        ],
        **({"source": {"name": source, "url": url}} if quoted else {}),
    }


def results_table(results: Sequence[Result]) -> str:
    rows = [
        (
            result.task,
            f"{result.dataset} ({result.split})",
            result.metric,
            f"{result.value:.6g}{' %' * result.percent}",
            f"{result.samples:,}" if result.samples else "not said",
            marked(result),
        )
        for result in results
    ]
    return table(("task", "data", "metric", "value", "samples", "source"), rows)


def class_table(found: ClassTable) -> str:
    """Best first, since that is what a reader of a long table looks for; at most CLASSES_SHOWN."""
    ranked = sorted(found.values.items(), key=lambda row: -1.0 if row[1] is None else row[1], reverse=True)
    rows = [(name, "not measured" if value is None else f"{value:.4f}") for name, value in ranked[:CLASSES_SHOWN]]
    more = len(ranked) - len(rows)
    return table(("class", found.figure), rows) + (f"\n\nand {more:,} more classes." if more else "")


def marked(result: Result) -> str:
    """Where a figure comes from, in words: no figure stands in a card without them."""
    if result.measured:
        return MEASURED + (f" {result.date}" if result.date else "")
    source = f"[{result.source}]({result.url})" if result.url else result.source
    return f"quoted from {source}, not measured"
