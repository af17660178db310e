"""Terms of the data that published weights were trained on; those of the weights are another matter.

Names are those of the catalogue's `datasets`. The terms are said as their owners' pages say them, in short: they are
no legal advice, and change.
"""

from collections.abc import Iterable

_IMAGENET = (
    "is given out for non-commercial research and teaching, on terms that who downloads it accepts "
    "(https://image-net.org/download); its images belong to their photographers"
)
TERMS = {
    "imagenet-1k": f"ImageNet-1k {_IMAGENET}.",
    "imagenet-21k": f"ImageNet-21k {_IMAGENET}.",
    "imagenet-22k": f"ImageNet-22k (ImageNet-21k as the Swin authors count its classes) {_IMAGENET}.",
    "ade20k": (
        "ADE20K's annotations are for research (https://ade20k.csail.mit.edu/terms); its images belong to their "
        "photographers."
    ),
    "cityscapes": (
        "Cityscapes is given out for non-commercial use (https://www.cityscapes-dataset.com/license): research, "
        "teaching, evaluation. Whether that reaches models trained on it is for you to find out before commercial use."
    ),
    "coco-2017": (
        "COCO's annotations are under CC BY 4.0 (https://cocodataset.org/#termsofuse); its images under the terms of "
        "Flickr and of their photographers."
    ),
    "coco-2017-panoptic": "COCO's panoptic annotations are under CC BY 4.0, like the others.",
    "pascal-context": (
        "PASCAL-Context's annotations are on images of PASCAL VOC 2010, which come from Flickr, under its terms and "
        "their photographers'."
    ),
}
# What the Hub calls them, where it has them under one name that everybody's cards use.
ON_HUB = {"imagenet-22k": "imagenet-21k", "coco-2017": "coco", "coco-2017-panoptic": "coco"}


def data_terms(datasets: Iterable[str]) -> list[str]:
    """A sentence for each data set whose terms are known."""
    return [TERMS[name] for name in dict.fromkeys(datasets) if name in TERMS]


def hub_datasets(datasets: Iterable[str]) -> list[str]:
    """The names for the front matter, each once."""
    return list(dict.fromkeys(ON_HUB.get(name, name) for name in datasets))
