"""Tasks: one literal table under the Hub's names, which catalog, cards, pipelines, training and the Hub's pages read.

from hfvision.tasks import TASKS, tasks_named

for task in tasks_named("image-segmentation"):
    print(task.kind, task.auto_class, task.parts["metric"])
"""

from hfvision.tasks.examples import Example
from hfvision.tasks.lookup import reading_named, task_of_auto_class, task_of_class, tasks_named
from hfvision.tasks.table import PIPELINES, TASKS, Task

__all__ = [
    "PIPELINES",
    "TASKS",
    "Example",
    "Task",
    "reading_named",
    "task_of_auto_class",
    "task_of_class",
    "tasks_named",
]
