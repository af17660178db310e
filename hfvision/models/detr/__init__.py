"""DETR: config, backbone, layers, model and heads; `facebook` has the form of its authors' files."""

from hfvision.models.detr.backbone import load_trunk
from hfvision.models.detr.config import DetrConfig
from hfvision.models.detr.facebook import (
    FacebookDetrConfig,
    FacebookDetrForObjectDetection,
    FacebookDetrForSegmentation,
    FacebookDetrModel,
)
from hfvision.models.detr.heads import DetrForObjectDetection, DetrForSegmentation
from hfvision.models.detr.model import DetrModel, DetrPreTrainedModel

__all__ = [
    "DetrConfig",
    "DetrForObjectDetection",
    "DetrForSegmentation",
    "DetrModel",
    "DetrPreTrainedModel",
    "FacebookDetrConfig",
    "FacebookDetrForObjectDetection",
    "FacebookDetrForSegmentation",
    "FacebookDetrModel",
    "load_trunk",
]
