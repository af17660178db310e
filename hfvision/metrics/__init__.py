"""Metrics that count as they go: exact, offline, mergeable over processes, usable beside `evaluate`'s own."""

from hfvision.metrics.classification import ClassificationMetric

__all__ = ["ClassificationMetric"]
