"""Metrics that count as they go: exact, offline, mergeable over processes, usable beside `evaluate`'s own."""

from hfvision.metrics.classification import ClassificationMetric
from hfvision.metrics.segmentation import SegmentationMetric

__all__ = ["ClassificationMetric", "SegmentationMetric"]
