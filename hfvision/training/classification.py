"""Fine-tuning an image classifier: model + data set -> a folder that `pipeline("image-classification")` loads.

    result = train_classification("vit-digits", "photos/", "out", settings=TrainingSettings(epochs=5))

Which image comes when, how it is augmented and what dropout hides are functions of the seed alone, so an interrupted
run that is resumed ends with the same weights as one that was not.
"""

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    EvalPrediction,
    PreTrainedModel,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

import hfvision
from hfvision.cards import Result, model_card, write_card
from hfvision.data.classification import ClassificationData, prepare_classification
from hfvision.data.readers import Source
from hfvision.errors import CheckpointReadError, ConfigError, DatasetError
from hfvision.layers.patch_embedding import pair
from hfvision.metrics.classification import ClassificationMetric
from hfvision.registry import ARCHITECTURES, load
from hfvision.reporting import report
from hfvision.starters import resolve
from hfvision.training.arguments import TrainingSettings
from hfvision.training.base_card import license_of
from hfvision.training.distillation import Distillation
from hfvision.training.head import class_names, replace_head
from hfvision.training.loop import Augment, EpochOfSamples, OldCheckpoints, QuietTrainer, Samples
from hfvision.training.progress import Progress, diverged, no_bars
from hfvision.training.run_folder import RunFolder

TASK = "image-classification"
UNKNOWN_LICENSE = "unknown"  # the Hub's word for it
MODES_LOOKED_AT = 256  # images of the training split whose modes are tried on the processor


@dataclass(frozen=True)
class TrainingResult:
    """What came out. Accuracies are shares of the held-out images, 0..1."""

    output_dir: str
    accuracy: float
    metrics: dict[str, float]  # accuracy, top_5_accuracy (six classes or more), mean_class_accuracy, loss
    per_class: dict[str, float | None]  # None: no held-out image of that class
    samples: int  # held-out images
    split: str  # of the held-out images
    train_samples: int
    steps: int
    epochs: float
    history: list[dict[str, float]]  # step, accuracy, loss of every evaluation during training
    new_head: list[str]  # tensors made anew; empty when the classes are the model's own
    resumed_from: int | None  # step
    seconds: float  # that the call took which finished the run


def train_classification(
    model: str | os.PathLike[str] | PreTrainedModel,
    dataset: Source | ClassificationData,
    output_dir: str | os.PathLike[str],
    *,
    settings: TrainingSettings | None = None,
    processor: Any = None,
    augment: Augment | None = None,
    distillation: Distillation | None = None,
    data_options: Mapping[str, Any] | None = None,
    resume: bool = False,
    license: str | None = None,
    notes: Sequence[str] = (),
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingResult:
    """Train on `dataset`, measure on held-out images, and write config, weights, processor and card to `output_dir`.

    `model` is a Hub id, a folder, a starter's name, or a model (trained in place; give its `processor`, or one with the
    family's defaults at the config's image size is made). Other classes than the model's own get a new head. `dataset`
    and `data_options` go to `prepare_classification`. `augment(image, generator)` changes a training image before the
    processor; its generator depends on seed, epoch and row only. `distillation` has a
    DeiTForImageClassificationWithTeacher learn from a teacher as well. `license` defaults to the base model's.

    `output_dir` is a new or empty folder. With `resume` it may hold the same run, interrupted: it continues after the
    last checkpoint; finished: its result is returned. On failure what can be resumed stays, otherwise nothing does.

    Raises DatasetError, ConfigError or CheckpointReadError before anything is written, and ConfigError if training
    diverges.
    """
    started = time.monotonic()
    settings = settings or TrainingSettings()
    folder = RunFolder(output_dir)
    arguments = settings.arguments(folder.path)
    is_main = arguments.process_index == 0
    if is_main:
        folder.check(resume)
    set_seed(settings.seed)
    base = _base(model, processor)
    data = dataset
    if not isinstance(data, ClassificationData):
        data = prepare_classification(data, **(data_options or {}))
    new_head = _fit_head(base, data.names)
    if settings.drop_path:
        _set_drop_path(base.model, settings.drop_path)
    collate = Collator(base.processor)
    _check_images_fit(base.model, data, collate)
    loss = None if distillation is None else distillation.loss_for(base.model)
    with arguments.main_process_first(local=False, desc="claiming the output folder"):
        if is_main:
            folder.claim(_plan(base, data, settings, augment, distillation, new_head), resume)
        finished = folder.result()
        checkpoint = folder.last_checkpoint()
    if finished is not None:
        report(f"{folder.path} holds this run, finished; nothing was trained.")
        return TrainingResult(**{**finished, "output_dir": str(folder.path)})

    samples = Samples(data.train, augment, settings.seed)
    counter = AccuracyCounter(len(data.names), arguments)
    progress = Progress()
    trainer = QuietTrainer(
        model=base.model,
        args=arguments,
        train_dataset=samples,
        eval_dataset=Samples(data.evaluation),
        data_collator=collate,
        processing_class=base.processor,
        compute_metrics=counter,
        compute_loss_func=loss,
        preprocess_logits_for_metrics=_logits_only,
        callbacks=[EpochOfSamples(samples), OldCheckpoints(folder), progress, *callbacks],
    )
    try:
        trainer.train_on(checkpoint)
        metrics = trainer.evaluate()
    except BaseException:
        progress.close()
        if is_main:
            folder.give_up()
        raise
    finally:
        if loss is not None:
            loss.remove()
    result = _result(folder, data, new_head, trainer, counter, metrics, checkpoint, time.monotonic() - started)
    if is_main:
        card = _card(base, data, settings, result, augment, distillation, license, notes)

        def save(to: Path) -> None:
            base.model.save_pretrained(to)
            base.processor.save_pretrained(to)
            write_card(to, card)

        record = {name: value for name, value in asdict(result).items() if name != "output_dir"}  # it may be moved
        with no_bars():
            folder.finish(save, record)
    return result


class Collator:
    """Samples -> {"pixel_values": (B, C, H, W), "labels": (B,)}."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        try:
            batch = self.processor(images=[sample["image"] for sample in samples], return_tensors="pt")
        except ValueError as error:  # what processors raise, hfvision's own errors included
            rows = ", ".join(str(sample["row"]) for sample in samples)
            raise DatasetError(f"the image processor cannot take the images of rows {rows}: {error}") from error
        return {
            "pixel_values": batch["pixel_values"],
            "labels": torch.tensor([sample["label"] for sample in samples]),
        }


class AccuracyCounter:
    """Trainer's compute_metrics, called batch by batch: counts, and gives the figures at the last one.

    Raises ConfigError when the model's scores are no numbers.
    """

    def __init__(self, num_labels: int, arguments: TrainingArguments) -> None:
        self.arguments = arguments
        self.metric = ClassificationMetric(num_labels)
        self.last: dict[str, float] = {}
        self.samples = 0
        self.per_class: list[float | None] = []

    def __call__(self, batch: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        scores, labels = torch.as_tensor(batch.predictions).float().cpu(), torch.as_tensor(batch.label_ids).cpu()
        if scores.isnan().any():
            raise diverged("the model's scores are no numbers", self.arguments)
        self.metric.update(scores.numpy(), labels.numpy())
        if not compute_result:
            return {}
        self.per_class = self.metric.per_class()
        self.last = self.metric.compute()
        self.samples = int(self.last.pop("samples"))
        return dict(self.last)


def _logits_only(logits: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """What is counted, even if the model's config asks for hidden states or attention maps as well."""
    return logits[0] if isinstance(logits, tuple) else logits


@dataclass(frozen=True)
class _Base:
    """What training starts from."""

    name: str | None  # Hub id, folder or starter; None: a model made from a config
    source: str | None  # where its files are
    model: PreTrainedModel
    processor: Any
    has_head: bool  # whether the classifier of the model was trained, too
    from_file: bool = True


def _base(model: str | os.PathLike[str] | PreTrainedModel, processor: Any) -> _Base:
    """Model and processor, in float32. Raises CheckpointReadError and ConfigError."""
    if isinstance(model, PreTrainedModel):
        if model.dtype != torch.float32:
            report(f"the model was converted from {model.dtype} to float32 for training.")
        name = getattr(model.config, "_name_or_path", "") or None
        return _Base(name, name, model.float(), processor or _default_processor(model), True, from_file=False)
    name = os.fspath(model)
    source = resolve(name)
    try:
        loaded, loading = AutoModelForImageClassification.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise CheckpointReadError(f"cannot load an image classifier from {name!r}: {error}") from error
    missing = set(loading["missing_keys"])
    trunk = sorted(key for key in missing if key.startswith(f"{loaded.base_model_prefix}."))
    if trunk:
        report(f"{len(trunk)} tensors of the trunk are not in {name!r} and start at random, {trunk[0]} for one.")
    if processor is None:
        try:
            processor = AutoImageProcessor.from_pretrained(source)
        except (OSError, ValueError):
            processor = _default_processor(loaded)
    return _Base(name, source, loaded, processor, has_head=len(missing) == len(trunk))


def _default_processor(model: PreTrainedModel) -> Any:
    """The family's processor with its defaults, at the image size of the config."""
    model_type = model.config.model_type
    if model_type not in ARCHITECTURES:
        raise ConfigError(f"no image processor is known for a {model_type!r} model without one: give processor=...")
    height, width = pair(model.config.image_size)
    options: dict[str, Any] = {"size": {"height": height, "width": width}}
    if model.config.num_channels != 3:
        options |= {name: [0.5] * model.config.num_channels for name in ("image_mean", "image_std")}
    processor = load(ARCHITECTURES[model_type].processor)(**options)
    report(f"the model came without an image processor: {type(processor).__name__} at {height}x{width} is used.")
    return processor


def _fit_head(base: _Base, names: Sequence[str]) -> list[str]:
    """Make the model's classes `names`; returns the tensors made anew, none if they were its classes already."""
    model = base.model
    own = class_names(model) if base.has_head else []
    model.config.problem_type = "single_label_classification"
    if own == list(names):
        return []
    head = replace_head(model, names)
    report(
        f"the head was replaced: {len(own) or 'no'} classes became {len(names)} ({', '.join(head)} start anew; "
        "everything else is kept)."
    )
    return head


def _set_drop_path(model: PreTrainedModel, rate: float) -> None:
    if not hasattr(model, "set_drop_path_rate"):
        raise ConfigError(f"{type(model).__name__} has no stochastic depth to set; leave drop_path at 0.")
    model.set_drop_path_rate(rate)  # type: ignore[operator]


def _check_images_fit(model: PreTrainedModel, data: ClassificationData, collate: Collator) -> None:
    """Try one image of each mode (RGB, L, ...) before training. Raises DatasetError or ConfigError."""
    tried: set[Any] = set()
    for part in (data.train, data.evaluation):
        for row in range(min(MODES_LOOKED_AT, len(part))):
            image = part.read(row)
            kind = getattr(image, "mode", None) or (image.ndim, image.shape[0])
            if kind in tried:
                continue
            tried.add(kind)
            channels = collate([{"image": image, "label": 0, "row": row}])["pixel_values"].shape[1]
            wanted = getattr(model.config, "num_channels", channels)
            if channels != wanted:
                raise ConfigError(
                    f"the model takes {wanted} channels; image {row} of split {part.split!r} ({kind}) has {channels} "
                    f"after the processor. Load the model with num_channels={channels}, or change the processor."
                )


def _result(
    folder: RunFolder,
    data: ClassificationData,
    new_head: list[str],
    trainer: QuietTrainer,
    counter: AccuracyCounter,
    metrics: Mapping[str, float],
    checkpoint: Path | None,
    seconds: float,
) -> TrainingResult:
    """What the trainer found, `metrics` being its last evaluation."""
    return TrainingResult(
        output_dir=str(folder.path),
        accuracy=metrics["eval_accuracy"],
        metrics={name: metrics[f"eval_{name}"] for name in (*counter.last, "loss")},
        per_class=dict(zip(data.names, counter.per_class, strict=True)),
        samples=counter.samples,
        split=data.evaluation.split,
        train_samples=len(data.train),
        steps=trainer.state.global_step,
        epochs=round(trainer.state.epoch or 0.0, 4),
        history=[
            {"step": entry["step"], "accuracy": entry["eval_accuracy"], "loss": entry["eval_loss"]}
            for entry in trainer.state.log_history[:-1]  # the last is the final evaluation
            if "eval_accuracy" in entry
        ],
        new_head=new_head,
        resumed_from=int(checkpoint.name.rpartition("-")[2]) if checkpoint else None,
        seconds=seconds,
    )


def _plan(
    base: _Base,
    data: ClassificationData,
    settings: TrainingSettings,
    augment: Augment | None,
    distillation: Distillation | None,
    new_head: Sequence[str],
) -> dict[str, Any]:
    """What two calls must have in common to be the same run. A model in memory may have been made at random anew."""
    return {
        "task": TASK,
        "model": {
            "class": type(base.model).__name__,
            "from": Path(base.name).name if base.name else None,
            "weights": _digest(base.model, new_head) if base.from_file else None,
            "parameters": base.model.num_parameters(),
        },
        "data": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "images": [len(data.train), len(data.evaluation)],
            "classes": len(data.names),
        },
        "augment": _called(augment),
        "distillation": None if distillation is None else _teaching(distillation),
        "settings": settings.of_the_weights(),
    }


def _teaching(distillation: Distillation) -> dict[str, Any]:
    return distillation.describe() | {"weights": _digest(distillation.teacher, ())}


def _digest(model: PreTrainedModel, without: Sequence[str]) -> str:
    """Hexadecimal digest of the weights but for those named."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in model.state_dict().items():
        if name not in without:
            digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def _card(
    base: _Base,
    data: ClassificationData,
    settings: TrainingSettings,
    result: TrainingResult,
    augment: Augment | None,
    distillation: Distillation | None,
    license: str | None,
    notes: Sequence[str],
) -> str:
    """The model card of the result."""
    license = license or (license_of(base.source) if base.source else None)
    remarks = list(notes)
    if license is None:
        remarks.append("No licence was stated for the model that this one was made from: ask its authors before use.")
    if settings.keep_best:
        remarks.append("The checkpoint was chosen by the accuracy on the same held-out images, which flatters it.")
    if data.citation or data.license:
        remarks.append(f"Data: {data.citation or data.name} Licence of the data: {data.license or 'not stated'}.")
    training = {
        "images": f"{result.train_samples:,}",
        "steps": f"{result.steps:,} ({result.epochs:g} epochs)",
        **({} if distillation is None else {"distillation": _listed(distillation.describe())}),
        **{name.replace("_", " "): value for name, value in settings.of_the_weights().items() if value is not None},
        "augmentation": _called(augment) or "none",
        "head": "new, for these classes" if result.new_head else "the model's own",
        "software": ", ".join(f"{part.__name__} {part.__version__}" for part in (hfvision, transformers, torch)),
    }
    for name in ("epochs", "max steps"):
        training.pop(name, None)  # "steps" says both
    results = [
        Result(TASK, data.name, data.evaluation.split, name, value, result.samples)
        for name, value in result.metrics.items()
        if name.endswith("accuracy")
    ]
    return model_card(
        base.model.config,
        name=Path(result.output_dir).resolve().name,
        license=license or UNKNOWN_LICENSE,
        task=TASK,
        datasets=[data.name],
        base_model=base.name,
        training=training,
        results=results,
        notes=remarks,
        preprocessing=base.processor.to_dict(),
    )


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _called(augment: Augment | None) -> str | None:
    return None if augment is None else getattr(augment, "__qualname__", type(augment).__qualname__)
