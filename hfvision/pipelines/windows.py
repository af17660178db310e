"""Windows over an image, and how a model's coarse answers for them become the image's pixels.

Bilinear upsampling, the weights of windows that overlap, a resize of the whole and mirroring are all linear, and each
acts on rows and on columns separately. So one sparse matrix for each side of the image says everything (its rows are
pixels, its columns the places of all windows' coarse grids), and the logits of any block of pixels are
`vertical @ coarse @ horizontal.T`: no window is ever upsampled as a whole.

Shapes: n windows along a side of S pixels, each of L pixels with h places on its coarse grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from hfvision.errors import ConfigError, UnknownNameError, numbered
from hfvision.upsampling import Size

BLENDS = ("gauss", "mean", "none")
RULES = ("segmenter", "mmseg")
OVERLAP = 0.25  # of neighbouring windows, as a share of one
SIGMA = 0.125  # standard deviation of the Gaussian, likewise


@dataclass(frozen=True)
class Side:
    """The windows along one side of an image: all of one length, the last one moved back to end where the image ends.

    The sliding windows of mmsegmentation and of Segmenter are both these; an image that is shorter has one window.
    """

    size: int
    window: int  # L, at most the size
    starts: tuple[int, ...]

    @classmethod
    def of(cls, size: int, window: int, stride: int) -> "Side":
        last = max(size - window, 0)
        return cls(size, min(window, size), (*range(0, last, stride), last))

    def weights(self, blend: str) -> npt.NDArray[np.float64]:
        """(n, S): the share of each window in each pixel. The shares of a pixel sum to 1, and are 0 outside a window.

        "gauss" falls off towards the window's border, "mean" is even, "none" takes the window with the nearest centre.
        """
        place = np.arange(self.size) - np.array(self.starts)[:, None]  # of the pixel within the window
        from_centre = np.abs(place - (self.window - 1) / 2)
        if blend == "gauss":
            shares = np.exp(-((from_centre / (SIGMA * self.window)) ** 2) / 2)
        elif blend == "mean":
            shares = np.ones_like(from_centre)
        else:
            shares = (from_centre.argmin(axis=0) == np.arange(len(self.starts))[:, None]).astype(np.float64)
        shares *= (place >= 0) & (place < self.window)
        return shares / shares.sum(axis=0)

    def matrix(self, places: int, padded: int, blend: str) -> Any:
        """(S, n * h): the pixels of the side from the windows' coarse grids of `places` = h.

        `padded` is the length that the model brought the window to; what lies beyond L is cut off.
        """
        upsampled = bilinear(padded, places)[: self.window].tocoo()
        weights = self.weights(blend)
        windows = np.arange(len(self.starts))[:, None]
        rows = np.array(self.starts)[:, None] + upsampled.row  # (n, what one window has)
        columns = windows * places + upsampled.col
        values = weights[windows, rows] * upsampled.data
        shape = (self.size, len(self.starts) * places)
        matrix = sparse.csr_matrix((values.ravel(), (rows.ravel(), columns.ravel())), shape=shape)
        matrix.eliminate_zeros()
        return matrix


def bilinear(size: int, places: int) -> Any:
    """(size, places): a resize from `places` to `size` with half-pixel centres, as torch does it without antialias."""
    source = np.maximum((np.arange(size) + 0.5) * (places / size) - 0.5, 0)
    low = np.minimum(source.astype(np.int64), places - 1)
    high = np.minimum(low + 1, places - 1)
    share = source - low
    rows = np.arange(size)
    values = np.concatenate([1 - share, share])
    return sparse.csr_matrix((values, (np.tile(rows, 2), np.concatenate([low, high]))), shape=(size, places))


@dataclass(frozen=True)
class Tiling:
    """Which windows, and what becomes of them where they overlap."""

    window: Size | None = None  # None: the whole image
    stride: Size = (1, 1)
    blend: str = "mean"
    enlarge: bool = False  # an image whose short side is below the window, until it is not

    def sides(self, size: Size) -> tuple[Side, Side]:
        """The windows along the height and along the width of an image."""
        lengths = self.window or size
        vertical, horizontal = (Side.of(*numbers) for numbers in zip(size, lengths, self.stride, strict=True))
        return vertical, horizontal

    def enlarged(self, size: Size) -> Size:
        """The size at which an image of `size` is cut into windows."""
        short = min(size)
        if not self.enlarge or self.window is None or short >= self.window[0]:
            return size
        height, width = (int(self.window[0] * (side / short)) for side in size)
        return height, width


def make_tiling(
    tile: int | Sequence[int] | None = None,
    overlap: float | None = None,
    stride: int | Sequence[int] | None = None,
    blend: str | None = None,
    rule: str | None = None,
    stored: tuple[Any, Any] = (None, None),
) -> Tiling:
    """The options of a call as a Tiling.

    tile and stride are pixels, or (height, width); overlap is a share of the tile. `rule` is an original's own way,
    with the window and stride that the image processor has `stored`, unless the call says others. Raises
    UnknownNameError and ConfigError, listing all faults.
    """
    for name, value, known in (("rule", rule, RULES), ("blend", blend, BLENDS)):
        if value is not None and value not in known:
            raise UnknownNameError(f"no {name} is called {value!r}; there are {', '.join(known)}.")
    problems: list[str] = []
    if rule is not None:
        tile = stored[0] if tile is None else tile
        stride = stored[1] if stride is None and overlap is None else stride
        if blend not in (None, "mean"):
            problems.append(f"rule={rule!r} takes the mean of windows that overlap; got blend={blend!r}")
    window, step = _pair("tile", tile, problems), _pair("stride", stride, problems)
    if tile is None:
        why = "the image processor has no window_size" if rule else "the other options are about windows"
        problems.append(f"tile= is missing, the side of a window in pixels: {why}")
    if overlap is not None and not 0 <= overlap < 1:
        problems.append(f"overlap is the share of a tile that its neighbour repeats, from 0 to below 1; got {overlap}")
    elif stride is not None and overlap is not None:
        problems.append(f"overlap={overlap} and stride={stride} say the same: leave one of them out")
    elif rule is not None and stride is None and overlap is None:
        problems.append("stride=, in pixels; the image processor has no window_stride")
    elif window and step and any(s > w for s, w in zip(step, window, strict=True)):
        problems.append(f"stride={stride} is more than tile={tile}: it would leave pixels out")
    if rule == "segmenter" and window and window[0] != window[1]:
        problems.append(f"rule='segmenter' has square windows; got tile={tile}")
    if problems or window is None:
        raise ConfigError(numbered("fault", problems))
    if step is None:
        kept = 1 - (OVERLAP if overlap is None else overlap)
        step = max(1, round(window[0] * kept)), max(1, round(window[1] * kept))
    return Tiling(window, step, blend or ("gauss" if rule is None else "mean"), enlarge=rule == "segmenter")


def _pair(name: str, value: Any, problems: list[str]) -> Size | None:
    if value is None:
        return None
    sides = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, Sequence) else ()
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        problems.append(f"{name} is a positive number of pixels, or (height, width); got {value!r}")
        return None
    return sides
