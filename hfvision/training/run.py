"""One training run, whatever the task: a folder claimed by a plan, training that resumes bit for bit, files, card.

    run = Run("out", args, figure="accuracy", resume=False)
    task = Task(...)            # base model, data, samples, what counts
    result = run.train(task)

Which image comes when, how it is augmented and what dropout hides are functions of the seed alone, so an interrupted
run that is resumed ends with the same weights as one that was not.
"""

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
import transformers
from transformers import EvalPrediction, PreTrainedModel, TrainerCallback, set_seed
from transformers.trainer_utils import enable_full_determinism

import hfvision
from hfvision.cards import ClassTable, Result, model_card, write_card
from hfvision.data.remembering import remembered
from hfvision.data.same_images import seen_of, with_seen, written
from hfvision.errors import ConfigError, numbered
from hfvision.licences import LicenceReport, inherit, of_parent, write_licence_files
from hfvision.reading_options import ReadingOptions
from hfvision.reporting import report
from hfvision.termination import sigterm_exits
from hfvision.training.arguments import VisionTrainingArguments, changed
from hfvision.training.base import Base
from hfvision.training.loop import Collate, Samples
from hfvision.training.progress import in_words, no_bars, quiet_unless_main
from hfvision.training.pushing import push_finished
from hfvision.training.run_folder import RunFolder
from hfvision.training.settings import further_arguments_of, settings_of
from hfvision.training.trainer import Trainer
from hfvision.writing import write_errors


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What came out. Each task adds its own figures, shares of 0..1."""

    output_dir: str
    metrics: dict[str, float]  # of the held-out images; the loss, too
    per_class: dict[str, float | None]  # None: no held-out image of that class
    samples: int  # held-out images
    split: str  # of the held-out images
    train_samples: int
    steps: int
    epochs: float
    history: list[dict[str, float]]  # step, figure, loss of every evaluation during training
    new_head: list[str]  # tensors made anew; empty when the classes are the model's own
    resumed_from: int | None  # step
    seconds: float  # that the call took which finished the run
    trained_on: int | None = None  # held-out images that are training images, too; None: nobody looked
    # Of every time that the run was lengthened {"step", "schedule": "restarted" or "stretched"}, see RunFolder.
    lengthened: list[dict[str, Any]] = field(default_factory=list)

    @property
    def measured_on(self) -> str:
        """In words: "360 held-out images (test)"."""
        return f"{self.samples:,} {'' if self.trained_on else 'held-out '}images ({self.split})"

    @property
    def summary(self) -> str:
        """The figures that count, in words."""
        return ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())

    @property
    def passed(self) -> bool:
        """Whether a check came out well that was asked for."""
        return True

    def in_words(self) -> str:
        """The figures, and how to use the model."""
        return (
            f"{self.summary} on {self.measured_on} after {self.steps:,} steps\nThe model is in {self.output_dir}: "
            f"hfvision predict IMAGE --model {self.output_dir}"
        )


Outcome = TypeVar("Outcome", bound=TrainingResult)


class Counter(Protocol):
    """Trainer's compute_metrics, called batch by batch; the figures are those of the last evaluation."""

    last: dict[str, float]
    samples: int
    per_class: list[float | None]

    def __call__(self, batch: EvalPrediction, compute_result: bool = True) -> dict[str, float]: ...


class Data(Protocol):
    """What every data set says, whatever its labels are."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def citation(self) -> str: ...
    @property
    def license(self) -> str: ...
    @property
    def reading(self) -> ReadingOptions: ...


@dataclass(frozen=True, kw_only=True)
class Task(Generic[Outcome]):
    """What one task puts into a run."""

    name: str  # the Hub's: "image-classification"
    result: type[Outcome]  # what it has beyond a TrainingResult are names of metrics
    base: Base
    data: Data
    new_head: list[str]
    train: Samples
    evaluation: Samples
    collate: Collate
    counter: Counter
    plan: Mapping[str, Any]  # what decides the weights beside model, data and settings
    described: Mapping[str, str]  # the same for the card
    parents: Sequence[tuple[str, str]] = ()  # name and place of models beside the base whose weights are in this one
    trainer: Callable[..., Trainer] = Trainer
    head_lr_multiplier: float = 1.0  # where the arguments leave it open, as the next two
    backbone_lr_multiplier: float = 1.0
    patience: int = 0  # evaluations without progress after which training ends; 0: never
    class_figure: str | None = None  # what `per_class` is; with it the card has a table of the classes
    logged: Sequence[str] = ()  # what the history has of every evaluation beside the figure and the loss
    callbacks: Sequence[TrainerCallback] = ()
    ended: Sequence[Callable[[], None]] = ()  # called when the run is over, however it ends


class Run:
    """A folder and arguments; raises ConfigError unless the folder is new, empty, or a run to resume."""

    def __init__(
        self, output_dir: str | os.PathLike[str], args: VisionTrainingArguments, *, figure: str, resume: bool
    ) -> None:
        self.started = time.monotonic()
        self.args = args
        self.figure = figure  # the metric that says how well it does
        self.resume = resume
        self.folder = RunFolder(output_dir)
        _check_of_a_run(args, self.folder.path)
        self.arguments = self._arguments(args)
        self.is_main = self.arguments.process_index == 0
        if self.is_main:
            self.folder.check(resume)
        quiet_unless_main()
        enable_full_determinism(args.seed) if args.full_determinism else set_seed(args.seed)

    def _arguments(self, args: VisionTrainingArguments) -> VisionTrainingArguments:
        """The arguments that the trainer of a run gets: its folder, its metric, predictions counted batch by batch."""
        metric = args.metric_for_best_model or self.figure
        greater = args.greater_is_better
        return changed(
            args,
            output_dir=str(self.folder.path),
            metric_for_best_model=metric,
            greater_is_better=not metric.endswith("loss") if greater is None else greater,
            batch_eval_metrics=True,
            label_names=["labels"],
            label_smoothing_factor=0.0,  # the task's loss smooths, or has refused to
        )

    def main_first(self) -> AbstractContextManager[None]:
        """Of several processes the first runs the block before the others do, so that what it fetches is there."""
        first: AbstractContextManager[None] = self.arguments.main_process_first(
            local=False, desc="reading model and data"
        )
        return first

    @sigterm_exits()
    def train(
        self,
        task: Task[Outcome],
        *,
        license: str | None = None,
        notes: Sequence[str] = (),
        callbacks: Sequence[TrainerCallback] = (),
    ) -> Outcome:
        """Train, measure, write. On failure, Ctrl-C and SIGTERM what can be resumed stays, otherwise nothing does."""
        try:
            return self._train(task, license, notes, callbacks)
        finally:
            for call in task.ended:
                call()

    def _train(
        self, task: Task[Outcome], license: str | None, notes: Sequence[str], callbacks: Sequence[TrainerCallback]
    ) -> Outcome:
        with self.arguments.main_process_first(local=False, desc="claiming the output folder"):
            if self.is_main:
                with write_errors(self.folder.path, ConfigError):
                    self.folder.claim(self._plan(task), self.resume)
            finished, before = self.folder.result(), self.folder.before()
            checkpoint = self.folder.last_checkpoint()
        if finished is not None:
            report(f"{self.folder.path} holds this run, finished; nothing was trained.")
            self._push()
            return task.result(**{**finished, "output_dir": str(self.folder.path)})
        if before is not None:
            self.arguments = self._arguments(self._of_the_rest(before))
            task.train.epochs_before = math.ceil(before["epochs"])
        args = changed(
            self.arguments,
            head_lr_multiplier=self._head_lr_multiplier(task),
            backbone_lr_multiplier=self._backbone_lr_multiplier(task),
            early_stopping_patience=task.patience,
        )
        try:
            trainer = task.trainer(
                model=task.base.model,
                args=args,
                train_dataset=task.train,
                eval_dataset=task.evaluation,
                data_collator=task.collate,
                processing_class=task.base.processor,
                compute_metrics=task.counter,
                callbacks=[*task.callbacks, *callbacks],
            )
            if before is not None:
                trainer.take_weights(self.folder.path)
            trainer.train(None if checkpoint is None else str(checkpoint))
            metrics = trainer.evaluate()
            if before is not None and args.load_best_model_at_end and self._was_better(before, metrics):
                trainer.take_weights(self.folder.path)
                metrics = trainer.evaluate()
        except BaseException:
            if self.is_main:
                self.folder.give_up()
            raise
        result = self._result(task, trainer, metrics, checkpoint, before)
        if self.is_main:
            terms = self._licence(task, result, license)
            card = self._card(task, result, terms, notes)

            def save(to: Path) -> None:
                task.base.model.save_pretrained(to)
                task.base.processor.save_pretrained(to)
                write_card(to, card)
                write_licence_files(to, terms.all(), terms.repositories())

            record = {name: value for name, value in asdict(result).items() if name != "output_dir"}  # it may be moved
            with no_bars():
                further = {
                    "reading": remembered(task.data.reading),
                    "licence": terms.to_dict(),
                    "images": written(getattr(task.train.part, "digests", None)),  # for those who measure it later
                }
                self.folder.finish(save, record, further)
        self._push()
        return result

    def _push(self) -> None:
        """Push the finished folder where the arguments want that."""
        if self.args.push_to_hub and self.is_main:
            push_finished(self.args, self.folder.path)

    def _of_the_rest(self, before: Mapping[str, Any]) -> VisionTrainingArguments:
        """The arguments for what is added to a finished run: other random numbers, and the rest of its length."""
        args = self.args
        seed = (args.seed + before["steps"]) % 2**32
        if args.max_steps > 0:
            return changed(args, seed=seed, max_steps=args.max_steps - before["steps"])
        return changed(args, seed=seed, num_train_epochs=args.num_train_epochs - before["epochs"])

    def _was_better(self, before: Mapping[str, Any], metrics: Mapping[str, float]) -> bool:
        metric = (self.arguments.metric_for_best_model or self.figure).removeprefix("eval_")
        earlier, best = before["metrics"][metric], metrics[f"eval_{metric}"]
        was_better = earlier > best if self.arguments.greater_is_better else earlier < best
        if was_better:
            report(
                f"no evaluation of what was added reached the {in_words(metric)} of before, {earlier:.4f} (the "
                f"best {best:.4f}): the weights stay as they were."
            )
        return bool(was_better)

    def _head_lr_multiplier(self, task: Task[Outcome]) -> float:
        return self.args.head_lr_multiplier or task.head_lr_multiplier

    def _backbone_lr_multiplier(self, task: Task[Outcome]) -> float:
        given = self.args.backbone_lr_multiplier
        return task.backbone_lr_multiplier if given is None else given

    def _further(self, task: Task[Outcome]) -> dict[str, Any]:
        """Arguments beside the settings that decide the weights, but for those that the task's plan says itself."""
        elsewhere = {"early_stopping_patience": "patience", "backbone_lr_multiplier": "trunk_rate_factor"}
        found = further_arguments_of(self.args)
        return {name: value for name, value in found.items() if elsewhere.get(name, "") not in task.plan}

    def _plan(self, task: Task[Outcome]) -> dict[str, Any]:
        """What two calls must share to be the same run. A model in memory may have been made at random anew."""
        base = task.base
        return {
            "task": task.name,
            "model": {
                "class": type(base.model).__name__,
                "from": Path(base.name).name if base.name else None,
                "weights": digest(base.model, task.new_head) if base.origin == "file" else None,
                "parameters": base.model.num_parameters(),
            },
            "data": {
                "name": task.data.name,
                "fingerprint": task.data.fingerprint,
                "images": [len(task.train), len(task.evaluation)],
                "classes": len(task.data.names),
            },
            **task.plan,
            "settings": settings_of(self.args),
            **({"arguments": further} if (further := self._further(task)) else {}),
        }

    def _result(
        self,
        task: Task[Outcome],
        trainer: Trainer,
        metrics: Mapping[str, float],
        checkpoint: Path | None,
        before: Mapping[str, Any] | None,
    ) -> Outcome:
        """What the trainer found, `metrics` being its last evaluation."""
        measured = {name: metrics[f"eval_{name}"] for name in (*task.counter.last, "loss")}
        steps, epochs, history = (before["steps"], before["epochs"], before["history"]) if before else (0, 0.0, [])
        names = (self.figure, "loss", *task.logged)
        part = task.evaluation.part
        trained_on = seen_of(part, getattr(task.train.part, "digests", None))
        return task.result(
            **{field.name: measured[field.name] for field in fields(task.result) if field.name in measured},
            output_dir=str(self.folder.path),
            metrics=measured,
            per_class=dict(zip(task.data.names, task.counter.per_class, strict=True)),
            samples=task.counter.samples,
            split=with_seen(part.split, trained_on, len(part)),
            train_samples=len(task.train),
            steps=steps + trainer.state.global_step,
            epochs=round(epochs + (trainer.state.epoch or 0.0), 4),
            history=[
                *history,
                *(
                    {"step": steps + entry["step"]} | {name: entry[f"eval_{name}"] for name in names}
                    for entry in trainer.state.log_history[:-1]  # the last is the final evaluation
                    if f"eval_{self.figure}" in entry
                ),
            ],
            new_head=task.new_head,
            resumed_from=steps + int(checkpoint.name.rpartition("-")[2]) if checkpoint else None,
            seconds=time.monotonic() - self.started,
            trained_on=trained_on,
            lengthened=self.folder.lengthened() if self.is_main else [],
        )

    def _licence(self, task: Task[Outcome], result: Outcome, license: str | None) -> LicenceReport:
        """The licence of the result: the strictest of what is stated and what it was made from; overruling is reported.

        What a model's maker states settles parents that state nothing.
        """
        base = task.base
        parents = [of_parent(base.name or "", base.source)] if base.source else []
        parents += [of_parent(name, source) for name, source in task.parents]
        terms = inherit(Path(result.output_dir).resolve().name, license, parents)
        if terms.overruled:
            stricter = next(parent.model for parent in terms.parents if parent.licence.key == terms.licence.key)
            report(
                f"licence: {license!r} was given, but {stricter} is under {terms.licence.name}, which is stricter: "
                "that holds for this model, too."
            )
        if terms.conflict:
            report(f"licence: {terms.conflict}")
        return terms

    def _card(self, task: Task[Outcome], result: Outcome, terms: LicenceReport, notes: Sequence[str]) -> str:
        """The model card of the result."""
        base, data = task.base, task.data
        remarks = list(notes)
        if not terms.licence.stated and base.origin != "new":
            remarks.append(
                "No licence was stated for the model that this one was made from: ask its authors before use."
            )
        if self.args.load_best_model_at_end:
            metric = in_words(self.arguments.metric_for_best_model or self.figure)
            remarks.append(f"The checkpoint was chosen by the {metric} on the same held-out images, which flatters it.")
        if result.trained_on:
            remarks.append(
                f"{result.trained_on:,} of the {len(task.evaluation):,} images that it was measured on are training "
                "images, too: the figures are not held-out ones."
            )
        if data.citation or data.license:
            remarks.append(f"Data: {data.citation or data.name} Licence of the data: {data.license or 'not stated'}.")
        training = {
            "images": f"{result.train_samples:,}",
            "steps": f"{result.steps:,} ({result.epochs:g} epochs)",
            **{
                name.replace("_", " "): value
                for name, value in (settings_of(self.args) | self._further(task)).items()
                if value is not None
            },
            **({"schedule": _in_words(result.lengthened)} if result.lengthened else {}),
            **task.described,
            "head rate factor": f"{self._head_lr_multiplier(task):g}",
            "weights at the start": "random" if base.origin == "new" else "the base model's",
            "head": "new, for these classes" if result.new_head or base.origin == "new" else "the model's own",
            "software": ", ".join(f"{part.__name__} {part.__version__}" for part in (hfvision, transformers, torch)),
        }
        for name in ("epochs", "max steps"):
            training.pop(name, None)  # "steps" says both
        return model_card(
            base.model.config,
            name=Path(result.output_dir).resolve().name,
            license=terms,
            task=task.name,
            datasets=[data.name],
            base_model=base.parent,
            training=training,
            results=[
                Result(task.name, data.name, result.split, name, value, result.samples)
                for name, value in result.metrics.items()
                if name != "loss"
            ],
            classes=None if task.class_figure is None else ClassTable(task.class_figure, result.per_class),
            notes=remarks,
            preprocessing=base.processor.to_dict(),
        )


def _check_of_a_run(args: VisionTrainingArguments, folder: Path) -> None:
    """Raises ConfigError for arguments that a Trainer of one's own can use and a run of a task cannot."""
    problems = []
    if args.output_dir not in ("trainer_output", str(folder)):
        problems.append(
            f"output_dir is {args.output_dir!r} in args and {str(folder)!r} in the call: give it there alone"
        )
    if args.remove_unused_columns:
        problems.append("remove_unused_columns would drop the images before they are prepared; leave it at False")
    if args.resume_from_checkpoint is not None:
        problems.append("resume_from_checkpoint: a run knows its last checkpoint; say resume=True instead")
    if args.prediction_loss_only:
        problems.append("prediction_loss_only would leave nothing to measure; leave it at False")
    if problems:
        raise ConfigError(numbered("problem", problems))


def _in_words(lengthened: Sequence[Mapping[str, Any]]) -> str:
    """ "restarted at step 60, stretched at step 80"."""
    return "lengthened: " + ", ".join(f"{entry['schedule']} at step {entry['step']:,}" for entry in lengthened)


def digest(model: PreTrainedModel, without: Iterable[str]) -> str:
    """Hexadecimal digest of the weights but for those named."""
    left_out = set(without)
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in model.state_dict().items():
        if name not in left_out:
            digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def called(augment: object | None) -> str | None:
    """The name of an augmentation for plan and card."""
    return None if augment is None else getattr(augment, "__qualname__", type(augment).__qualname__)


def described(augment: object | None) -> dict[str, Any] | str | None:
    """An augmentation for plan and card: the settings of a recipe, the name of a function."""
    return augment.describe() if hasattr(augment, "describe") else called(augment)


def listed(values: Mapping[str, Any] | str | None) -> str:
    """The same in words: {"flip": 0.5} -> "flip 0.5"."""
    if not isinstance(values, Mapping):
        return values or "none"
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items() if value is not None)
