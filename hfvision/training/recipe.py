"""A task's part of `hfvision.train`: what it starts from, how its data is prepared, what a run makes of both."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from hfvision.errors import ConfigError
from hfvision.tasks import reading_named
from hfvision.training.arguments import VisionTrainingArguments, refuse_unknown
from hfvision.training.base import Base
from hfvision.training.loop import Samples
from hfvision.training.recording import Recorder
from hfvision.training.run import Run, Task
from hfvision.training.trainer import Trainer


class TaskOptions:
    """Base of the options of a task, a dataclass: what is chosen beside model, data and arguments."""

    def check(self, args: VisionTrainingArguments) -> VisionTrainingArguments:
        """The arguments as these options need them. Raises ConfigError where both contradict each other."""
        return args

    def changed_data(self, data: Any, args: VisionTrainingArguments) -> Any:
        """The data as these options need it."""
        return data

    def reading(self) -> dict[str, Any]:
        """Options of reading that hold unless others are given."""
        return {}

    def finished(self, result: Any, base: Base, data: Any) -> Any:
        """The result as these options need it."""
        return result


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How a task's models are measured."""

    counter: Any
    trainer: Callable[..., Trainer]
    samples: Samples
    collate: Callable[..., Any]
    class_figure: str  # what the counter has of each class
    recorder: Recorder


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A task's part of `hfvision.train` and `evaluate`."""

    task: str  # whose defaults its arguments have
    figure: str  # the metric that says how well it does
    auto_class: Any
    kind: str  # "an image classifier"
    datasets: str  # what may be given as one, for the command line
    data_class: type
    prepare: Callable[..., Any]  # of the data set
    options: type[TaskOptions]
    build: Callable[[Run, Base, Any, Any], Task[Any]]
    # Of a base, data, arguments, the score from which on an answer counts, and the data set as it was given.
    measure: Callable[[Base, Any, VisionTrainingArguments, float, Any], Measuring]
    uses_threshold: bool = False  # whether the figures depend on that score

    @property
    def reading(self) -> str:
        """How its data is read: one of `hfvision.reading_options.TASKS`."""
        return reading_named(self.task)

    def options_of(self, given: dict[str, Any]) -> TaskOptions:
        """The options of a call. Raises UnknownNameError for names that are none."""
        known = [one.name for one in fields(self.options)]  # type: ignore[arg-type]
        refuse_unknown(given, known, f"the options of {self.task}", "option")
        return self.options(**given)


def without_smoothing(args: VisionTrainingArguments) -> VisionTrainingArguments:
    """The arguments. Raises ConfigError where they smooth labels, which is for classifiers."""
    if args.label_smoothing_factor:
        raise ConfigError(
            f"label_smoothing_factor is for classifiers, which have one label for each image; got "
            f"{args.label_smoothing_factor}. Leave it at 0."
        )
    return args
