"""The objects of an image: boxes, classes and masks that move together, read from every usual form of annotation."""

from hfvision.objects.image_objects import ImageObjects
from hfvision.objects.masks import ListedMasks, Masks, SegmentMasks
from hfvision.objects.reading import read_objects

__all__ = ["ImageObjects", "ListedMasks", "Masks", "SegmentMasks", "read_objects"]
