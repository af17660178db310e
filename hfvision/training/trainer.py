"""hfvision's Trainer: transformers' Trainer, with what training on images needs beside it.

    trainer = hfvision.Trainer(model, args, train_dataset=..., eval_dataset=..., data_collator=..., compute_metrics=...)
    trainer.train(resume_from_checkpoint=True)

- A resumed run ends with the bits of one that was not interrupted, whenever it was killed: evaluations draw no random
  numbers of training's, data sets with `set_epoch` are told the epoch, checkpoints that a kill left incomplete are
  passed over, and a run that was killed between its last step and its end trains no further.
- The loss of a step is that of one large batch, however it is dealt out over batches and processes (`StepMeans`), and
  the loss of an evaluation is the mean over its images, whatever the batches and processes.
- Head and backbone learn at rates of their own; training ends early; nothing is written to stdout.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, TrainOutput
from transformers.utils.hub import hf_api

from hfvision.errors import ConfigError, HfvisionError, one_line
from hfvision.losses.problem_types import SINGLE
from hfvision.publishing.hub import explained
from hfvision.training.accumulation import StepMeans
from hfvision.training.arguments import VisionTrainingArguments, changed
from hfvision.training.classification_loss import LabelLoss
from hfvision.training.held_out import KnownLosses, losses_of_images
from hfvision.training.loop import EarlyEnd, EpochOfSamples, NoProgress, WorkersThatStay
from hfvision.training.parameter_groups import backbone_parameters, head_parameters, mask_parameters
from hfvision.training.progress import Progress, no_bars
from hfvision.training.pushing import push_checkpoint, report_failed_uploads
from hfvision.training.run_checkpoints import LAST_FILE, last_complete, remove_old


class Trainer(StepMeans, transformers.Trainer):
    """transformers' Trainer for images; takes its arguments, with VisionTrainingArguments or its own.

    Raises ConfigError where model, data and arguments do not fit together.

    Example:
        >>> import hfvision
        >>> config = hfvision.ViTConfig(image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=1,
        ...     num_attention_heads=2, intermediate_size=32)
        >>> model = hfvision.ViTForImageClassification(config)
        >>> trainer = hfvision.Trainer(model, hfvision.VisionTrainingArguments("out", report_to="none"))
        >>> trainer.args.head_lr_multiplier is None
        True
    """

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        compute_loss_func: Callable[..., Any] | None = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        **options: Any,
    ) -> None:
        args = VisionTrainingArguments("tmp_trainer") if args is None else args
        if eval_dataset is None and getattr(args, "evaluates_by_default", False):
            args = changed(args, eval_strategy=IntervalStrategy.NO)
        _resolve_metric(args)
        self.held_out = KnownLosses()
        self.save_total_limit = args.save_total_limit
        self.uploads: dict[str, list[Any]] = {}  # jobs by the name of the checkpoint
        self.progress = Progress(args.metric_for_best_model)
        ours: list[TrainerCallback] = [WorkersThatStay(), OldCheckpoints(self), self.progress]
        if hasattr(train_dataset, "set_epoch"):
            ours.insert(0, EpochOfSamples(train_dataset))
        if patience := getattr(args, "early_stopping_patience", None):
            ours.append(NoProgress(args.metric_for_best_model or "loss", patience, bool(args.greater_is_better)))
        smoothing = args.label_smoothing_factor
        given = {
            "data_collator": data_collator,
            "train_dataset": train_dataset,
            "eval_dataset": eval_dataset,
            **options,
        }
        given |= {"processing_class": processing_class, "compute_loss_func": compute_loss_func}
        try:
            super().__init__(model, args, callbacks=[*ours, *(callbacks or ())], **given)
        except HfvisionError:
            raise
        except (ValueError, RuntimeError, ImportError) as error:
            raise ConfigError(one_line(error)) from error
        self.remove_callback(PrinterCallback)  # these write to stdout
        self.remove_callback(ProgressCallback)
        if smoothing:
            self._smooth(smoothing)
        config: Any = getattr(self.model, "config", None)
        if config is not None:
            vars(config).pop("use_cache", None)  # set by Trainer, and no field of an image model

    def _smooth(self, share: float) -> None:
        """Of one label for each image, as a mean over the step; Trainer's own smoothing takes all logits for words'."""
        problem = getattr(getattr(self.model, "config", None), "problem_type", None)
        classifies = "ForImageClassification" in type(self.model).__name__
        if not classifies or problem not in (None, SINGLE) or self.compute_loss_func is not None:
            raise ConfigError(
                f"label_smoothing_factor is for classifiers with one label for each image and no loss of their own; "
                f"got {type(self.model).__name__}. Leave it at 0."
            )
        self.label_smoother = None
        self.compute_loss_func = LabelLoss(None, share)

    # Rates

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        is_new = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **kwargs)
        factors = self.rate_factors() if is_new else {}
        for group in list(optimizer.param_groups) if factors else []:
            parameters = group["params"]
            group["params"] = [parameter for parameter in parameters if id(parameter) not in factors]
            for factor in sorted(set(factors.values())):
                some = [parameter for parameter in parameters if factors.get(id(parameter)) == factor]
                optimizer.add_param_group({**group, "params": some, "lr": group["lr"] * factor})
        return optimizer

    def rate_factors(self) -> dict[int, float]:
        """By the id of a parameter: times the learning rate, for those that do not learn at the rate of the rest."""
        factors: dict[int, float] = {}
        for name, parameters in (
            ("head_lr_multiplier", head_parameters),
            ("backbone_lr_multiplier", backbone_parameters),
        ):
            factor = getattr(self.args, name, None)
            if factor not in (None, 1.0):
                factors |= {id(parameter): factor for parameter in parameters(self.model)}
        return factors

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """The gradients of a panoptic DETR's masks are clipped by themselves: beside those of the boxes, thousands of
        times larger, nothing would be left of them. Sharded parameters are clipped together.
        """
        masks = mask_parameters(model)
        if not masks or self.is_deepspeed_enabled or self.is_fsdp_enabled:
            return super()._clip_grad_norm(model)
        of_masks = {id(parameter) for parameter in masks}
        others = [parameter for parameter in model.parameters() if id(parameter) not in of_masks]
        norm = self.accelerator.clip_grad_norm_(others, self.args.max_grad_norm)  # which also takes off fp16's scale
        nn.utils.clip_grad_norm_(masks, self.args.max_grad_norm)
        return norm

    # Training, from the beginning or from a checkpoint

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train to the last step, from the beginning or from a checkpoint: a folder, or True for the last complete one
        in `output_dir`. Raises ConfigError where that has none, or one without what a run needs to go on.
        """
        checkpoint = self._checkpoint(resume_from_checkpoint)
        try:
            if checkpoint is not None and self._was_trained(checkpoint):
                return TrainOutput(self.state.global_step, 0.0, {})
            with self._unlimited():
                output: TrainOutput = super().train(None if checkpoint is None else str(checkpoint), *args, **kwargs)
        except BaseException:
            self.progress.close()
            raise
        report_failed_uploads(self)
        self.remove_old_checkpoints()  # those that were being uploaded
        return output

    def _checkpoint(self, wanted: str | bool | None) -> Path | None:
        if not wanted:
            return None
        found = last_complete(Path(str(self.args.output_dir))) if wanted is True else Path(wanted)
        if found is None or not (found / LAST_FILE).exists():
            raise ConfigError(f"{found or self.args.output_dir} holds no complete checkpoint to resume from.")
        if self.args.save_only_model:
            raise ConfigError(
                f"{found} was saved with save_only_model, without the optimizer's state: training cannot go on from it."
            )
        return found

    def _was_trained(self, checkpoint: Path) -> bool:
        """Whether the checkpoint is that of the last step; then its weights are loaded, or the best one's if wanted.

        A run can be killed between its last step and its end, and Trainer would then train one step too many.
        """
        state = TrainerState.load_from_json(str(checkpoint / LAST_FILE))
        ends = [callback for callback in self.callback_handler.callbacks if isinstance(callback, EarlyEnd)]
        if self.args.max_steps > 0:
            is_end = state.global_step >= self.args.max_steps
        else:
            is_end = state.global_step >= state.max_steps and (state.epoch or 0) > self.args.num_train_epochs - 1e-6
        if not is_end and not any(end.is_reached(state) for end in ends):
            return False
        best = state.best_model_checkpoint if self.args.load_best_model_at_end else None
        self.take_weights(checkpoint.parent / Path(best).name if best else checkpoint)
        self.state = state
        return True

    def take_weights(self, folder: Path) -> None:
        """Load the weights of a saved model of the same class."""
        model: Any = self.model
        model.load_state_dict(type(model).from_pretrained(folder, dtype=torch.float32).state_dict())

    # Checkpoints

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        with no_bars():
            super().save_model(*args, **kwargs)

    def remove_old_checkpoints(self) -> None:
        """Remove all but the last `save_total_limit`, the best one where it is wanted, and those being uploaded."""
        args = self.args
        newest = last_complete(Path(str(args.output_dir)))
        wants_best = args.load_best_model_at_end or args.save_strategy == SaveStrategy.BEST
        best = self.state.best_model_checkpoint if wants_best else None
        kept = {name for name, jobs in self.uploads.items() if not all(job.done() for job in jobs)}
        if args.should_save and newest is not None:
            remove_old(newest, self.save_total_limit, kept if best is None else {*kept, Path(best).name})

    @contextmanager
    def _unlimited(self) -> Iterator[None]:
        """Without Trainer's own removal of checkpoints, which goes by the times of files."""
        self.args.save_total_limit = None
        try:
            yield
        finally:
            self.args.save_total_limit = self.save_total_limit

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.is_world_process_zero():
            self.uploads |= {Path(checkpoint_folder).name: push_checkpoint(self, Path(checkpoint_folder))}

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().init_hf_repo(*args, **kwargs)
        except Exception as error:  # of huggingface_hub and its HTTP client
            raise explained(error, self.args.hub_model_id or Path(str(self.args.output_dir)).name, hf_api()) from error

    # Evaluation

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        share_buffers(self.model)
        with torch.random.fork_rng(devices=[]):  # starting a data loader draws a number
            found: dict[str, float] = super().evaluate(*args, **kwargs)
        wanted = (self.args.metric_for_best_model or "").removeprefix("eval_")
        if self.is_in_train and wanted and f"eval_{wanted}" not in found and "metric_key_prefix" not in kwargs:
            names = sorted(name.removeprefix("eval_") for name in found)
            raise ConfigError(f"metric_for_best_model is one of {', '.join(names)}; got {wanted!r}.")
        return found

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> Any:
        self.held_out = KnownLosses()
        found = super().evaluation_loop(dataloader, description, *args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        if found.metrics is not None and (loss := self.held_out.mean()) is not None:
            found.metrics[f"{prefix}_loss"] = loss
        return found

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs.get("labels")
        found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inside: Any = self.accelerator.unwrap_model(self.model)
        if return_outputs and not inside.training and self.compute_loss_func is None:
            losses = losses_of_images(inside, found[1], labels, inputs)
            if losses is not None:
                gathered: Any = self.accelerator.gather_for_metrics(losses)
                self.held_out.add(gathered)
        return found


class OldCheckpoints(TrainerCallback):
    """Removes what a new checkpoint replaces."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.remove_old_checkpoints()


def _resolve_metric(args: TrainingArguments) -> None:
    """Give arguments that need a metric and name none the loss, as Trainer does."""
    asks = (
        args.load_best_model_at_end,
        args.save_strategy == SaveStrategy.BEST,
        args.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"),
        getattr(args, "early_stopping_patience", None),
    )
    if args.metric_for_best_model is None and any(asks):
        args.metric_for_best_model = "loss"
    if args.metric_for_best_model is not None and args.greater_is_better is None:
        args.greater_is_better = not args.metric_for_best_model.endswith("loss")


def share_buffers(model: Any) -> None:
    """Give every process the buffers of the first, which are saved: batch norms have seen other images in each."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)
