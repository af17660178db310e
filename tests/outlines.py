"""Which pixels lie near an outline: where two ways to draw a polygon may differ."""

import numpy as np


def near_edges(corners, size, reach):
    """(H, W): the pixels whose centre lies within `reach` of the outline."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    near = np.zeros(size, bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        length = max((x1 - x0) ** 2 + (y1 - y0) ** 2, 1e-12)
        along = np.clip(((columns - x0) * (x1 - x0) + (rows - y0) * (y1 - y0)) / length, 0, 1)
        near |= np.hypot(columns - x0 - along * (x1 - x0), rows - y0 - along * (y1 - y0)) <= reach
    return near
