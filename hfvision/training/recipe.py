"""A task's part of `hfvision.train`: what it starts from, how its data is prepared, what a run makes of both."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from hfvision.errors import ConfigError
from hfvision.training.arguments import VisionTrainingArguments, refuse_unknown
from hfvision.training.base import Base
from hfvision.training.run import Run, Task


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
class Recipe:
    """A task's part of `hfvision.train`."""

    task: str  # whose defaults its arguments have
    figure: str  # the metric that says how well it does
    auto_class: Any
    kind: str  # "an image classifier"
    datasets: str  # what may be given as one, for the command line
    data_class: type
    prepare: Callable[..., Any]  # of the data set
    options: type[TaskOptions]
    build: Callable[[Run, Base, Any, Any], Task[Any]]

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
