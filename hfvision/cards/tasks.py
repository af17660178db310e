"""What the Hub calls the task of a model class."""

from typing import Any

from hfvision.registry import ARCHITECTURES

TASKS = {  # the Hub's, by the auto class that gives the model
    "AutoModel": "image-feature-extraction",
    "AutoModelForImageClassification": "image-classification",
    "AutoModelForMaskedImageModeling": "image-feature-extraction",
    "AutoModelForSemanticSegmentation": "image-segmentation",
    "AutoModelForImageSegmentation": "image-segmentation",
    "AutoModelForUniversalSegmentation": "image-segmentation",
    "AutoModelForObjectDetection": "object-detection",
}


def auto_class_of(config: Any) -> str | None:
    """The auto class that gives the class in `architectures`; None where hfvision has no such class."""
    known = ARCHITECTURES.get(config.model_type)
    found = known.named((config.architectures or [])[:1]) if known else None
    return found[0] if found and found[0] in TASKS else None


def task_of(config: Any) -> str | None:
    """The Hub's task of that class."""
    found = auto_class_of(config)
    return TASKS[found] if found else None
