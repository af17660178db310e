"""Measuring a model on a data set, with the metrics and readers of training, and a record that its card reads.

result = evaluate("my-model", "photos/")          # also writes my-model/hfvision_evaluation.json
print(result.metrics)
"""

import json
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig

import hfvision
from hfvision.cards.records import EVALUATION, read_record, weights_digest
from hfvision.cards.tasks import auto_class_of
from hfvision.data.classification import ClassificationData
from hfvision.data.detection import DetectionData
from hfvision.data.remembering import remembered
from hfvision.data.same_images import read_written, seen_of, with_seen
from hfvision.data.segmentation import SegmentationData
from hfvision.data.sources import Source
from hfvision.errors import CheckpointReadError, ConfigError, one_line
from hfvision.licences.inheritance import RECORD_FILE
from hfvision.options import takes_options
from hfvision.reporting import report
from hfvision.row_files import check_row_file, row_file
from hfvision.starters import resolve
from hfvision.tasks import Task, task_of_auto_class
from hfvision.termination import sigterm_exits
from hfvision.training.arguments import VisionTrainingArguments
from hfvision.training.base import load_base
from hfvision.training.confusion_files import check_confusion_files, write_confusion
from hfvision.training.evaluation_options import EvaluationOptions
from hfvision.training.measured_data import data_to_measure
from hfvision.training.progress import quiet_unless_main
from hfvision.training.recording import RecordedCounter
from hfvision.training.run import digest
from hfvision.training.settings import arguments_of
from hfvision.training.train import recipe_of_row
from hfvision.writing import new_file

FILES = ("record", "predictions", "confusion")  # where this call wrote: no part of the result


@dataclass(frozen=True)
class EvaluationResult:
    """What was measured, and how: everything that the record says."""

    task: str  # the Hub's
    dataset: str
    split: str
    revision: str  # digest of the data's classes, labels and first images
    samples: int
    metrics: dict[str, float]  # shares of 0..1; and the loss, see `held_out`
    class_figure: str | None  # what `per_class` is
    per_class: dict[str, float | None]  # None: no image of that class
    date: str  # ISO, of the day
    weights: str  # SHA-256 of the weight files, or a digest of a model in memory
    versions: dict[str, str]
    device: str
    settings: dict[str, Any]
    reading: dict[str, Any]  # what was said of how the data is read, in training or in this call
    seconds: float
    trained_on: int | None = None  # images that the model was trained on; None: its training is not known
    record: str | None = None  # the file that it was written to
    predictions: str | None = None  # the file of answers by image
    confusion: tuple[str, ...] = ()  # the files of the confusion matrix


@sigterm_exits()
@takes_options(fields(EvaluationOptions), lambda given: EvaluationOptions(**given))
def evaluate(
    model: str | os.PathLike[str],
    dataset: Source | ClassificationData | SegmentationData | DetectionData,
    *,
    data_options: Mapping[str, Any] | None = None,
    options: EvaluationOptions,
) -> EvaluationResult:
    """Measure a folder, Hub id or starter on a data set: classification, segmentation, detection or panoptic, whatever
    the model is for.

    `dataset` and `data_options` go to `prepare_classification`, `prepare_segmentation` or `prepare_detection`; what the
    model's training was told about reading its data (`box_form`, `label_map`, ...) holds here, too, unless
    `data_options` say otherwise, and is reported. `split` is by default the first of validation and test that has
    labels, or the only one. Classes are matched by name, so the data may number them otherwise than the model; with
    `by_number` names do not count. `threshold` is the score from which on a panoptic query counts as a segment, and an
    object counts in the confusion of a detector.

    Images that the model's training recorded as its own are counted and reported (`trained_on`), and the split of the
    result says so. Figures are of images prepared by the model's own processor, measured at the size that they are
    stored at. `record` is the file to add the result to; True: hfvision_evaluation.json in the model's folder, where
    that is a folder of yours. An earlier result of the same weights on the same data is replaced.

    `predictions` is a file (.json, .jsonl, .csv, .parquet) for the answer to every image as it comes: a classifier's
    label and score, a segmenter's IoU and pixel accuracy of each class, a detector's objects in the form of COCO's
    results, PQ and segments of a panoptic model (see `hfvision.training.recording`). `confusion` are files for the
    classes that were taken for each other, as numbers (.json, .csv) or as a picture (.png): of images, of pixels, or of
    boxes paired at an IoU of 0.5 (see `hfvision.metrics.confusion`).

    Raises CheckpointReadError, DatasetError (also where classes do not match) and ConfigError before anything runs.

    Example:
        >>> import hfvision
        >>> digits = hfvision.load_digits()
        >>> few = {"test": digits["test"].select(range(20))}
        >>> hfvision.evaluate("vit-digits", few, record=False).metrics["accuracy"]
        1.0
    """
    started = time.monotonic()
    quiet_unless_main()
    name = os.fspath(model)
    source = resolve(name)
    to = _record_file(name, options.record)
    answers = None if options.predictions is None else Path(options.predictions)
    confusion = options.confusion
    pictures = [Path(confusion)] if isinstance(confusion, str | os.PathLike) else [Path(path) for path in confusion]
    check_confusion_files(pictures)
    if answers is not None:
        check_row_file(answers)
    task = _task(source, name)
    recipe = recipe_of_row(task)
    given = arguments_of({name: getattr(options, name) for name in ("batch_size", "precision", "workers")})
    with ExitStack() as stack:
        arguments = VisionTrainingArguments(
            stack.enter_context(tempfile.TemporaryDirectory()), batch_eval_metrics=True, label_names=["labels"], **given
        )
        with arguments.main_process_first(local=False, desc="reading model and data"):
            base = load_base(source, None, recipe.auto_class, "a model that can be measured")
            if base.missing:
                raise CheckpointReadError(
                    f"{name!r} lacks {len(base.missing)} tensors of its {type(base.model).__name__}, "
                    f"{base.missing[0]} for one: with weights made anew there is nothing to measure. Train it first."
                )
            data = data_to_measure(
                recipe, dataset, base, Path(source), options.split, options.by_number, data_options or {}
            )
        images = len(data.evaluation)
        trained_on = seen_of(data.evaluation, read_written(read_record(Path(source, RECORD_FILE)).get("images")))
        if trained_on:
            report(
                f"{trained_on:,} of {images:,} images were trained on: figures that count them are not held-out ones."
            )
        how = recipe.measure(base, data, arguments, options.threshold, dataset)
        is_main = arguments.process_index == 0
        rows = stack.enter_context(row_file(answers, how.recorder.columns)) if answers and is_main else None
        trainer = how.trainer(
            model=base.model,
            args=arguments,
            eval_dataset=how.samples,
            data_collator=how.collate,
            processing_class=base.processor,
            compute_metrics=RecordedCounter(how.counter, how.recorder, rows, bool(pictures)),
        )
        found = trainer.evaluate()
    for path in pictures if is_main else ():
        matrix = how.recorder.matrix()
        said = f"{Path(name).name or name}: {matrix.counts.sum():,} {matrix.unit}"
        write_confusion(matrix, path, f"{data.name} ({data.evaluation.split})", said)
    result = EvaluationResult(
        task=task.name,
        dataset=data.name,
        split=with_seen(data.evaluation.split, trained_on, images),
        revision=data.fingerprint,
        samples=how.counter.samples,
        metrics={**how.counter.last, "loss": found["eval_loss"]},
        class_figure=how.class_figure,
        per_class=dict(zip(data.names, how.counter.per_class, strict=True)),
        date=datetime.now(UTC).date().isoformat(),
        weights=weights_digest(Path(source)) if Path(source).is_dir() else digest(base.model, ()),
        versions={part.__name__: part.__version__ for part in (hfvision, transformers, torch)},
        device=str(base.model.device),
        settings={
            "batch_size": options.batch_size,
            "precision": options.precision,
            "by_number": options.by_number,
            **({"threshold": options.threshold} if recipe.uses_threshold else {}),
        },
        reading=remembered(data.reading),
        seconds=round(time.monotonic() - started, 2),
        trained_on=trained_on,
        record=None if to is None else str(to),
        predictions=None if answers is None else str(answers),
        confusion=tuple(map(str, pictures)),
    )
    if to is not None and is_main:
        _add(to, result)
    return result


def _task(source: str, name: str) -> Task:
    """The task of the model's own class. Raises CheckpointReadError, and ConfigError for one that is not measured."""
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise CheckpointReadError(f"cannot load a model from {name!r}: {one_line(error)}") from error
    task = task_of_auto_class(auto_class_of(config))
    if task is None or task.training is None:
        raise ConfigError(
            f"{name!r} is a {(config.architectures or ['model without a class'])[0]}; what is measured classifies, "
            "segments or detects. Fine-tune it for such a task first (hfvision train)."
        )
    return task


def _record_file(model: str, record: str | os.PathLike[str] | bool) -> Path | None:
    """Where the result goes; None for nowhere. Raises ConfigError for a file that holds something else."""
    if isinstance(record, bool):
        file = Path(model, EVALUATION) if record and Path(model).is_dir() else None
    else:
        file = Path(record)
    if file is not None and file.exists() and not read_record(file).get("evaluations"):
        raise ConfigError(f"{file} is there and holds no evaluations. Name another file for the record.")
    return file


def _add(file: Path, result: EvaluationResult) -> None:
    """Into the record, in the place of an earlier result of the same weights on the same data."""
    before = read_record(file).get("evaluations", [])
    entry = {name: value for name, value in asdict(result).items() if name not in FILES}
    same = ("task", "dataset", "split", "revision", "weights")
    kept = [one for one in before if any(one.get(name) != entry[name] for name in same)]
    if len(kept) < len(before):
        report(f"{file}: an earlier result of these weights on {result.dataset} ({result.split}) was replaced.")
    with new_file(file, ConfigError) as work:
        text = json.dumps({"evaluations": [*kept, entry]}, indent=2, ensure_ascii=False)
        work.write_text(text + "\n", encoding="utf-8")
