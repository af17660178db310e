"""What the Hub calls the task of a model class."""

from typing import Any

from hfvision.registry import ARCHITECTURES, class_name

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
    wanted = (config.architectures or [None])[0]
    if known is None:
        return None
    for auto_class, model in known.models.items():
        if auto_class in TASKS and wanted in map(class_name, (model, *known.also.get(auto_class, ()))):
            return auto_class
    return None


def task_of(config: Any) -> str | None:
    """The Hub's task of that class."""
    found = auto_class_of(config)
    return TASKS[found] if found else None
