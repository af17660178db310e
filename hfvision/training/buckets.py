"""Batches of images of similar shape, so that little of a batch is padding.

The order is a function of seed and epoch alone, so that a resumed run sees the same batches. Under several processes
each gets whole batches of it, as accelerate deals them out.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from hfvision.training.loop import Samples

BATCHES_SORTED = 50  # within which the images are sorted: more pad less, fewer mix better
CLASSES_PER_DOUBLING = 8  # of area and of ratio


class BucketSampler(torch.utils.data.Sampler[int]):
    """The rows of an epoch in random order, each run of `batch_size` of them of images of similar shape.

    `sizes`: (height, width) of each row's image as the evaluation resizes it. The epoch is that of the samples, and the
    seed, too, unless one is given.
    """

    def __init__(
        self, samples: Samples, sizes: Sequence[tuple[int, int]], batch_size: int, seed: int | None = None
    ) -> None:
        self.samples = samples
        self.seed = samples.seed if seed is None else seed
        self.shapes = shapes_of(sizes)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.shapes)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self.samples.epoch).tolist())

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The rows of an epoch. What does not fill a batch comes last."""
        generator = np.random.default_rng((self.seed, epoch))
        rows = generator.permutation(len(self))
        if (self.shapes == self.shapes[0]).all():
            return rows
        many = self.batch_size * BATCHES_SORTED
        parts = [rows[start : start + many] for start in range(0, len(rows), many)]
        rows = np.concatenate([part[np.lexsort(self.shapes[part].T)] for part in parts])
        whole = len(rows) // self.batch_size * self.batch_size
        batches = generator.permutation(rows[:whole].reshape(-1, self.batch_size))
        return np.concatenate([batches.ravel(), rows[whole:]])


def shapes_of(sizes: Sequence[tuple[int, int]]) -> npt.NDArray[np.float64]:
    """(n, 2): classes of area and of ratio; images of one class pad each other by a tenth at most, and are not told
    apart, so that not the same ones meet in every epoch.
    """
    height, width = np.log2(np.array(sizes, dtype=np.float64).reshape(-1, 2).T)
    return np.round(np.stack([height + width, width - height], axis=1) * CLASSES_PER_DOUBLING)


def by_shape(sizes: Sequence[tuple[int, int]]) -> list[int]:
    """All rows, images of similar shape one after the other."""
    return np.lexsort(shapes_of(sizes).T).tolist()
