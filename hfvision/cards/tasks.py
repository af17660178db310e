"""What the Hub calls the task of a model class."""

from typing import Any

from hfvision.registry import ARCHITECTURES
from hfvision.tasks import TASKS, task_of_auto_class

NAMES = {auto_class: task.name for task in TASKS for auto_class in task.auto_classes}  # the Hub's, by auto class


def auto_class_of(config: Any) -> str | None:
    """The auto class that gives the class in `architectures`; None where hfvision has no such class."""
    known = ARCHITECTURES.get(config.model_type)
    found = known.named((config.architectures or [])[:1]) if known else None
    return found[0] if found and found[0] in NAMES else None


def task_of(config: Any) -> str | None:
    """The Hub's task of that class."""
    found = task_of_auto_class(auto_class_of(config))
    return found.name if found else None
