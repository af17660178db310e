"""`segment_raster`: the label map of an image that is too large for memory, from file to file."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging

from hfvision.errors import ConfigError
from hfvision.models.semantic import SemanticModel
from hfvision.pipelines.any_image import plan_of
from hfvision.pipelines.image_segmentation import WHOLE
from hfvision.pipelines.loading import load_pipeline
from hfvision.pipelines.maps import Tally, class_colours, class_names, map_dtype
from hfvision.pipelines.mosaic import WINDOWS, Mosaic, Reader, segment
from hfvision.pipelines.raster_maps import SCORE_WRITERS, WRITERS, check_destination, new_map
from hfvision.pipelines.raster_sources import Source, bounded_cache, check_values, naming_window, open_source
from hfvision.pipelines.windows import make_tiling
from hfvision.processing.base import ImageProcessor
from hfvision.reporting import report, report_once

TILE = 512


def segment_raster(
    model: Any,
    source: Any,
    destination: Any,
    *,
    processor: Any = None,
    tile: int | tuple[int, int] | None = None,
    overlap: float | None = None,
    stride: int | tuple[int, int] | None = None,
    blend: str | None = None,
    scores: Any = None,
    batch_size: int = WINDOWS,
    progress: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Segment an image of any size, in windows, into a file.

    source: an array or memory map, the path of a .npy file, a GeoTIFF (a window at a time where rasterio is installed),
    any other picture, or an open rasterio file. destination: a path that ends in .png (palette), .tif (palette, and the
    source's georeference through rasterio) or .npy; `scores`, if given, a .npy or .tif for the probability of each
    pixel's class. The image is not resized. `tile` (default: the processor's window_size, or 512), `overlap`, `stride`,
    `blend` and `batch_size` are as in the image-segmentation pipeline, whose result this equals; further options are
    the image processor's, such as input_range= and bands=.

    Returns {"destination", "size": (H, W), "windows", "labels": as in the pipeline}. Raises what the processor raises
    with the place of the window, ImageReadError and ImageWriteError; a file is complete or not there at all.

    Example:
        >>> import tempfile, numpy as np, hfvision
        >>> from pathlib import Path
        >>> image = np.zeros((100, 150, 3), dtype=np.uint8)
        >>> done = hfvision.segment_raster(
        ...     "segformer-digit-scenes", image, Path(tempfile.mkdtemp()) / "map.png", progress=False
        ... )
        >>> done["size"], done["windows"]
        ((100, 150), 1)
    """
    model, processor = _loaded(model, processor)
    if tile is None:
        tile = getattr(processor, "window_size", None) or TILE
    tiling = make_tiling(tile=tile, overlap=overlap, stride=stride, blend=blend)
    names = class_names(model)
    colours = class_colours(processor, len(names))
    outputs = [_Output(Path(destination), map_dtype(len(names)), colours)]
    check_destination(outputs[0].path, "classes", WRITERS)
    if scores is not None:
        outputs.append(_Output(Path(scores), np.float32, None))
        check_destination(outputs[1].path, "scores", SCORE_WRITERS)
    plan = plan_of(processor, **options)
    if plan.size is not None:
        resize = dict(plan.size)
        report_once(f"Windows see an image at its own resolution: the processor's resize to {resize} is left out.")
    tally = Tally(names)
    with ExitStack() as stack:
        stack.enter_context(bounded_cache())
        image = stack.enter_context(open_source(source, plan))
        check_values(image, plan)
        if image.georeference and outputs[0].path.suffix.lower() not in (".tif", ".tiff"):
            report(f"{outputs[0].path.name} cannot say where on earth the image is; a .tif can.")
        writers = [
            stack.enter_context(new_map(out.path, image.size, out.dtype, out.colours, image.georeference))
            for out in outputs
        ]
        bar = stack.enter_context(logging.tqdm(unit="window", disable=None if progress else True))
        read = _reader(image, processor, options)
        mosaic = Mosaic(model, read, image.size, tiling, batch_size=batch_size, on_windows=bar.update)
        bar.reset(mosaic.windows)
        for _, strip, sure in segment([mosaic], want_scores=True):
            image.release()
            parts = [part.cpu().numpy() for part in (strip, sure) if part is not None]
            tally.add(*parts)
            for write, out, part in zip(writers, outputs, parts, strict=False):  # scores only where they are asked for
                write(part.astype(out.dtype))
    return {
        "destination": str(destination),
        "size": image.size,
        "windows": mosaic.windows,
        "labels": tally.labels(),
    }


@dataclass(frozen=True)
class _Output:
    path: Path
    dtype: Any
    colours: npt.NDArray[np.uint8] | None


def _loaded(model: Any, processor: Any) -> tuple[SemanticModel, ImageProcessor]:
    """Raises ConfigError for what is not a semantic model and an image processor of hfvision."""
    if not isinstance(model, PreTrainedModel):
        loaded: Any = load_pipeline(str(model))
        model, processor = loaded.model, loaded.image_processor if processor is None else processor
    if not isinstance(model, SemanticModel) or not isinstance(processor, ImageProcessor):
        raise ConfigError(
            "segment_raster takes a model of hfvision that gives a class to every pixel, and processor=, an image "
            f"processor of hfvision; got {type(model).__name__} and {type(processor).__name__}."
        )
    return model.eval(), processor


def _reader(image: Source, processor: Any, options: dict[str, Any]) -> Reader:
    options = {**options, **image.options, **WHOLE, "do_resize": False, "return_tensors": "pt"}

    def read(top: int, left: int, height: int, width: int) -> Tensor:
        with naming_window(top, left, height, width):
            return processor(images=image.read(top, left, height, width), **options)["pixel_values"][0]

    return read
