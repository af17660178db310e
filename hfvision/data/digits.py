"""Handwritten digits without a network: single images, and scenes of several digits with exact masks and boxes.

The images are described, with their source and licence (CC BY 4.0), in `hfvision.data.uci_digits`; the scenes composed
of them in `hfvision.data.scenes`.
"""

from hfvision.data.scenes import load_digit_scenes
from hfvision.data.uci_digits import (
    CITATION,
    LICENSE,
    PARQUET,
    counts_to_grey,
    grey_to_counts,
    held_out_rows,
    load_digits,
    write_parquet,
)

__all__ = [
    "CITATION",
    "LICENSE",
    "PARQUET",
    "counts_to_grey",
    "grey_to_counts",
    "held_out_rows",
    "load_digit_scenes",
    "load_digits",
    "write_parquet",
]
