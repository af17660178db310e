"""Images too large to decode at once, a window at a time.

Shapes: a source has C channels of H x W pixels; where C stands in an array is found out once, for all of it.
"""

import mmap
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from hfvision.errors import HfvisionError, ImageReadError, ImageValueError
from hfvision.processing.channels import FIRST, channels_first, convert_bands
from hfvision.processing.files import DOWNLOAD_SECONDS
from hfvision.processing.options import Plan
from hfvision.processing.rasters import has_rasterio
from hfvision.processing.reading import Opened, open_image
from hfvision.processing.values import is_own_scale
from hfvision.reporting import report
from hfvision.upsampling import Size

GEOTIFF = (".tif", ".tiff", ".vrt", ".jp2")  # that rasterio reads a window at a time, where it is installed
CACHE_MEGABYTES = 64  # of decoded blocks, which GDAL would otherwise let grow to a share of all memory


class Source(Protocol):
    """`options` are what the image processor has to be told of a window; `georeference` is for a map of the image."""

    size: Size
    floating: bool
    options: dict[str, Any]
    georeference: dict[str, Any]

    def read(self, top: int, left: int, height: int, width: int) -> Any:
        """The window as an array (C, height, width) or a PIL image."""

    def release(self) -> None:
        """Called now and then: what was read before is not needed any more."""


class ArraySource:
    """An array in memory or mapped from a file."""

    def __init__(self, array: Any, plan: Plan) -> None:
        self.array = channels_first(array, plan.channels)
        self.size = self.array.shape[1], self.array.shape[2]
        self.floating = "float" in str(array.dtype)
        self.options = {"input_data_format": FIRST}
        self.georeference: dict[str, Any] = {}
        self.mapped = _mapping(self.array)

    def read(self, top: int, left: int, height: int, width: int) -> Any:
        return self.array[:, top : top + height, left : left + width]

    def release(self) -> None:
        if self.mapped is not None:  # the pages stay in the system's cache, but no longer count as this process's
            self.mapped.madvise(mmap.MADV_DONTNEED)


class PictureSource:
    """A PIL image."""

    def __init__(self, picture: Image.Image) -> None:
        self.picture = picture
        self.size = picture.height, picture.width
        self.floating = picture.mode == "F"
        self.options: dict[str, Any] = {}
        self.georeference: dict[str, Any] = {}

    def read(self, top: int, left: int, height: int, width: int) -> Any:
        return self.picture.crop((left, top, left + width, top + height))

    def release(self) -> None:
        """The image stays."""


class RasterioSource:
    """A file open in rasterio; a band of transparency is passed over where the model takes one band less."""

    def __init__(self, dataset: Any, plan: Plan) -> None:
        self.dataset = dataset
        self.size = dataset.height, dataset.width
        self.floating = any(np.dtype(name).kind == "f" for name in dataset.dtypes)
        self.options = {"input_data_format": FIRST}
        placed = dataset.crs is not None or not dataset.transform.is_identity
        self.georeference = {"crs": dataset.crs, "transform": dataset.transform} if placed else {}
        self.bands = list(dataset.indexes)
        if plan.channels.wanted == len(self.bands) - 1 and dataset.colorinterp[-1].name == "alpha":
            report(f"{dataset.name} has a band of transparency: it is passed over.")
            self.bands.pop()

    def read(self, top: int, left: int, height: int, width: int) -> Any:
        try:
            return self.dataset.read(self.bands, window=((top, top + height), (left, left + width)))
        except Exception as error:  # GDAL's drivers raise many kinds for a damaged block
            raise ImageReadError(f"{self.dataset.name} is damaged: {error}") from error

    def release(self) -> None:
        """The cache is bounded."""


def check_values(image: Source, plan: Plan) -> None:
    """What floating-point numbers mean is found out from all of an image, which a window is not.

    Raises ImageValueError where that would have to be found out.
    """
    if image.floating and plan.factor is not None and plan.input_range is None and not is_own_scale(plan.factor):
        raise ImageValueError(
            "the pixels are floating-point numbers, and one window does not tell what they mean.\n"
            "    Say it with input_range=(black, white), or use do_rescale=False with image_mean and image_std in the "
            "image's own units."
        )


@contextmanager
def naming_window(top: int, left: int, height: int, width: int) -> Iterator[None]:
    """Errors of a window say where it is."""
    try:
        yield
    except HfvisionError as error:
        place = f"rows {top} to {top + height - 1}, columns {left} to {left + width - 1}"
        raise type(error)(f"{place}: {error}") from error


@contextmanager
def open_source(source: Any, plan: Plan, timeout: float | None = DOWNLOAD_SECONDS) -> Iterator[Source]:
    """An array, a tensor, an open rasterio file, the path of an array (.npy), or a picture as `read_image` takes it.

    Raises ImageReadError for what is none of these, and ImageShapeError as the image processor does.
    """
    if hasattr(source, "crs"):
        yield RasterioSource(source, plan)
        return
    suffix = Path(source).suffix.lower() if isinstance(source, str | os.PathLike) else ""
    if suffix in GEOTIFF and has_rasterio() and os.path.exists(source):
        with _opened(source) as dataset:
            if dataset.colorinterp[0].name != "palette":  # its indices are no colours: Pillow knows them
                yield RasterioSource(dataset, plan)
                return
    opened = Opened(_mapped_file(Path(source))) if suffix == ".npy" else open_image(source, timeout=timeout)
    if isinstance(opened.image, Image.Image):
        needs_colours = opened.was_read and plan.channels.wanted is None and plan.channels.convert_rgb is None
        yield PictureSource(opened.image.convert("RGB") if needs_colours else opened.image)
        return
    if opened.is_channels_last:
        array, channels = convert_bands(opened, plan.channels, Counter())
        yield ArraySource(array, replace(plan, channels=channels))
    else:
        yield ArraySource(opened.image, plan)


@contextmanager
def bounded_cache() -> Iterator[None]:
    """Where rasterio is installed, its cache may not grow as it otherwise would, and missing georeference is fine."""
    if not has_rasterio():
        yield
        return
    rasterio = import_module("rasterio")
    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=CACHE_MEGABYTES):
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


def _opened(path: Any) -> Any:
    rasterio = import_module("rasterio")
    try:
        return rasterio.open(path)
    except rasterio.errors.RasterioIOError as error:
        raise ImageReadError(f"{path} is not an image that rasterio can open: {error}") from error


def _mapped_file(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ImageReadError(f"there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise ImageReadError(f"{path} is not a NumPy array that can be mapped: {error}") from error


def _mapping(array: Any) -> mmap.mmap | None:
    """The file mapping that an array is a view of, unless its pages hold changes that no file has."""
    while array is not None and not isinstance(array, mmap.mmap):
        if isinstance(array, np.memmap) and array.mode == "c":
            return None
        array = getattr(array, "base", None)
    return array if hasattr(mmap.mmap, "madvise") else None
