"""Photos made on the fly: smooth areas, edges and some grain, so that a JPEG file of them is as large as a real one."""

import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np
from PIL import Image

from hfvision.bench.twins import smooth_noise


class Folder:
    """A temporary folder that goes when this object does."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="hfvision-bench-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class Photos(Folder):
    """JPEG files of one size."""

    def __init__(self, count: int, width: int, height: int) -> None:
        super().__init__()
        self.paths = [str(self.path / f"{index}.jpg") for index in range(count)]
        grain = np.random.default_rng(0)
        base = smooth_noise(3, (height, width), coarse=9, rough=0.0).numpy().transpose(1, 2, 0)
        for index, path in enumerate(self.paths):
            shifted = np.roll(base, index * width // count, axis=1)
            pixels = 128 + 25 * shifted + 40 * np.sign(shifted[..., ::-1]) + grain.normal(0, 4, shifted.shape)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
