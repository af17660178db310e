"""Boxes and masks, in torch and numpy: forms, overlaps, run lengths, polygons."""

from hfvision.geometry.boxes import (
    BoxForm,
    box_area,
    box_ios,
    box_iou,
    boxes_to_pixels,
    boxes_to_unit,
    clip_boxes,
    convert_boxes,
    generalized_box_iou,
)
from hfvision.geometry.masks import boxes_to_masks, decode_segmentation, masks_to_boxes
from hfvision.geometry.polygons import polygons_to_mask
from hfvision.geometry.rle import Rle, decode_rle, encode_rle, rle_area
from hfvision.geometry.sampling import nearest_places

__all__ = [
    "BoxForm",
    "Rle",
    "box_area",
    "box_ios",
    "box_iou",
    "boxes_to_masks",
    "boxes_to_pixels",
    "boxes_to_unit",
    "clip_boxes",
    "convert_boxes",
    "decode_rle",
    "decode_segmentation",
    "encode_rle",
    "generalized_box_iou",
    "masks_to_boxes",
    "nearest_places",
    "polygons_to_mask",
    "rle_area",
]
