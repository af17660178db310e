"""Faster models whose numbers are no longer the same: asked for by name, with a report of the error that it causes."""

from hfvision.optimizing.model import optimize
from hfvision.optimizing.options import optimize_options
from hfvision.optimizing.report import OptimizationReport
from hfvision.optimizing.sample import processed_sample

__all__ = ["OptimizationReport", "optimize", "optimize_options", "processed_sample"]
