"""Which old pixel a new one shows when a grid is resized without mixing: for masks and label maps.

Source: the algorithm (not the code) of Pillow's nearest-neighbour resizing, MIT-CMU licence.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=64)
def nearest_places(length: int, wanted: int) -> NDArray[np.int64]:
    """(wanted,): the old pixel under the centre of each new one, found by adding up steps as Pillow does.

    In its mode I;16 alone Pillow multiplies instead, and takes the other of two pixels at times where a centre falls on
    their border. Here the neighbour is the same whatever holds the numbers.
    """
    steps = np.full(wanted, length / wanted)
    steps[0] *= 0.5
    return np.minimum(np.add.accumulate(steps).astype(np.int64), length - 1)
