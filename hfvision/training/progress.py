"""Progress of a training run, on stderr: one bar, and one line for every evaluation."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from hfvision.errors import ConfigError
from hfvision.processes import is_main_process


def diverged(seen: str, arguments: TrainingArguments) -> ConfigError:
    """The error of a training whose numbers are none any more."""
    return ConfigError(
        f"{seen}: training has diverged. Lower the learning rate (now {arguments.learning_rate:g}) or lengthen the "
        f"warm-up (now {arguments.warmup_steps:g})."
    )


def in_words(figure: str) -> str:
    """mean_iou -> "mean IoU"."""
    return figure.replace("_", " ").replace("iou", "IoU")


class Progress(TrainerCallback):
    """Shows how far training is, `figure` being the metric that says how well it does, where there is one.

    Also ends it with ConfigError when the loss is no number any more.
    """

    def __init__(self, figure: str | None) -> None:
        self.figure = (figure or "loss").removeprefix("eval_")
        self.bar: Any = None
        self.step = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero and not args.disable_tqdm:
            # disable=None: no bar where stderr is a file, which it would fill
            self.step = state.global_step
            self.bar = logging.tqdm(total=state.max_steps, initial=state.global_step, unit="step", disable=None)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.step)
            self.step = state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise diverged(f"the training loss is {loss} at step {state.global_step}", args)
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{loss:.3f}")

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if self.bar is None or not metrics:  # not while training: the caller shows what comes out
            return
        figure, loss = metrics.get(f"eval_{self.figure}"), metrics.get("eval_loss")
        parts = [f"epoch {state.epoch or 0:.4g}", f"step {state.global_step}/{state.max_steps}", "held-out"]
        if figure is not None and self.figure != "loss":
            parts[-1] += f" {in_words(self.figure)} " + (f"{figure:.2%}" if 0 <= figure <= 1 else f"{figure:.4g}")
        line = "  ".join(parts if loss is None else [*parts, f"loss {loss:.4f}"])
        if logging.is_progress_bar_enabled():
            self.bar.write(line, file=sys.stderr)  # above the bar
        else:
            print(line, file=sys.stderr)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bar; also called when training fails."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def quiet_unless_main() -> None:
    """Of several processes the first one shows transformers' bars."""
    if not is_main_process():
        logging.disable_progress_bar()


@contextmanager
def no_bars() -> Iterator[None]:
    """Without transformers' own bars, one of which runs whenever a model is saved."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
