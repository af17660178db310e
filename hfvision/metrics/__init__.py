"""Metrics for whole data sets: exact, offline, mergeable over processes, usable beside `evaluate`'s own."""

from hfvision.metrics.classification import ClassificationMetric
from hfvision.metrics.detection import DetectionMetric
from hfvision.metrics.panoptic import PanopticMetric
from hfvision.metrics.segmentation import SegmentationMetric

__all__ = ["ClassificationMetric", "DetectionMetric", "PanopticMetric", "SegmentationMetric"]
