"""Progress of a training run, on stderr: one bar, and one line for every evaluation."""

import math
import sys
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils.logging import tqdm

from hfvision.errors import ConfigError


class Progress(TrainerCallback):
    """Shows how far training is. Also ends it with ConfigError when the loss is no number any more."""

    def __init__(self) -> None:
        self.bar: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            # disable=None: no bar where stderr is a file, which it would fill
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", disable=None)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

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
            raise ConfigError(
                f"the training loss is {loss} at step {state.global_step}: training has diverged. Lower the learning "
                f"rate (now {args.learning_rate:g}) or lengthen the warm-up (now {args.warmup_steps:g})."
            )
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
        if not state.is_world_process_zero or not metrics:
            return
        line = (
            f"epoch {state.epoch or 0:.4g}  step {state.global_step}/{state.max_steps}  "
            f"held-out accuracy {metrics['eval_accuracy']:.2%}  loss {metrics['eval_loss']:.4f}"
        )
        if self.bar is None:
            print(line, file=sys.stderr)
        else:
            self.bar.write(line, file=sys.stderr)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bar; also called when training fails."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
