"""The code of a card that runs as it stands."""

import json

from hfvision.tasks import TASKS

PIPELINE = """\
import hfvision
from transformers import pipeline

predict = pipeline("{task}", model={name})
print(predict("image.png"))  # a path, an address, a PIL image or an array"""
EXAMPLES = {task.name: task.example.card for task in TASKS if task.example}
INSTALL = "`pip install hfvision`, then:"


def snippet(name: str, task: str) -> str:
    """The code that loads `name`, a folder or Hub id, and uses it on an image."""
    return EXAMPLES.get(task, PIPELINE).format(name=json.dumps(name, ensure_ascii=False), task=task)


def fenced(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}\n```"
