"""What may be said of a measurement: the keywords of `hfvision.training.evaluation.evaluate`, the options of `hfvision
evaluate`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from hfvision.options import option

Path = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How a model is measured, and what is written of it."""

    split: str | None = option("Split to measure on.", shown="validation, or test")
    by_number: bool = option("Match classes by number, not by name.", False, flags="--by-number/--by-name")
    threshold: float = option("Least score of a segment, or of an object in the confusion.", 0.5, min=0, max=1)
    batch_size: int = option("Images that run together.", 8, min=1)
    precision: str = option("fp32, bf16 or fp16.", "fp32")
    workers: int = option("Processes that read images.", 0)
    record: Path | bool = option(
        "File to add the result to; --no-record writes nothing.",
        True,
        shown="hfvision_evaluation.json in the model's folder",
        off="--no-record",
    )
    predictions: Path | None = option("File for the answer to every image: .json, .jsonl, .csv or .parquet.")
    confusion: Path | Sequence[Path] = option(
        "File for the classes taken for each other: .json, .csv, or .png for a picture. Repeatable.",
        (),
        repeated=True,
    )
