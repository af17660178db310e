"""Data sets: readers, checks before training, and the handwritten digits that demos and tests use."""

from hfvision.data.classification import ClassificationData, LabelledImages, prepare_classification
from hfvision.data.detected_images import DetectedImages
from hfvision.data.detection import DetectionData, prepare_detection
from hfvision.data.digits import load_digit_scenes, load_digits
from hfvision.data.readers import load_image_dataset
from hfvision.data.segmentation import SegmentationData, prepare_segmentation
from hfvision.data.segmented_images import SegmentedImages

__all__ = [
    "ClassificationData",
    "DetectedImages",
    "DetectionData",
    "LabelledImages",
    "SegmentationData",
    "SegmentedImages",
    "load_digit_scenes",
    "load_digits",
    "load_image_dataset",
    "prepare_classification",
    "prepare_detection",
    "prepare_segmentation",
]
