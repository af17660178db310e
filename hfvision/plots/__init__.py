"""Pictures of what models do, drawn with Pillow alone: attention maps, overlays, sheets of predictions."""

from hfvision.plots.attention import Explanation, attention_map, explain_attention
from hfvision.plots.colours import colourize
from hfvision.plots.confusion import confusion_sheet
from hfvision.plots.detection import detection_overlay, detection_sheet
from hfvision.plots.panoptic import panoptic_overlay, panoptic_sheet
from hfvision.plots.pictures import overlay
from hfvision.plots.segmentation import segmentation_overlay, segmentation_sheet
from hfvision.plots.sheet import prediction_sheet

__all__ = [
    "Explanation",
    "attention_map",
    "colourize",
    "confusion_sheet",
    "detection_overlay",
    "detection_sheet",
    "explain_attention",
    "overlay",
    "panoptic_overlay",
    "panoptic_sheet",
    "prediction_sheet",
    "segmentation_overlay",
    "segmentation_sheet",
]
