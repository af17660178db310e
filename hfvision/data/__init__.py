"""Data sets: readers, checks before training, and the handwritten digits that demos and tests use."""

from hfvision.data.classification import ClassificationData, LabelledImages, prepare_classification
from hfvision.data.digits import load_digits
from hfvision.data.readers import load_image_dataset

__all__ = [
    "ClassificationData",
    "LabelledImages",
    "load_digits",
    "load_image_dataset",
    "prepare_classification",
]
