"""Image processors by task, for images of any kind; see `base` for what they take.

`OWN_PROCESSORS` are those of no model family, by name ("module:class"): the registry makes AutoImageProcessor know them.
"""

OWN_PROCESSORS = ("hfvision.processing.classification:MultispectralImageProcessor",)
