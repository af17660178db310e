"""Label maps for people to look at: colours laid over the image, and sheets of image, truth and prediction."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from hfvision.errors import ConfigError, numbered
from hfvision.plots.painting import IGNORED, Colours, Key, Names, painted, picture_of, with_legend
from hfvision.plots.panels import panel_faults, panel_sheet
from hfvision.plots.pictures import enlarged


def segmentation_overlay(
    image: Any,
    classes: Any,
    colours: Colours | None = None,
    names: Names | None = None,
    opacity: float = 0.5,
    legend: bool = True,
    *,
    outlines: bool = True,
    ignore_index: int | None = 255,
    size: tuple[int, int] | None = None,
) -> Image.Image:
    """The image in grey with every class in its colour: RGB, and below it a legend with the share of each class.

    image: whatever `read_image` takes, grey or RGB. classes: (H, W) whole numbers, of the image's size; pixels of
    `ignore_index` are striped. Or an answer of the image-segmentation pipeline with output="map", or of `predict`: then
    colours and names are the answer's, and no pixel is left out. Else, without `colours` each class has the one of
    `class_palette`, whatever the image, and without `names` classes are called by their numbers. The image is in grey,
    so that colours are those of the legend: `opacity` 0 shows it alone, 1 the colours alone, and `outlines` are always
    opaque. `size` (width, height) enlarges the picture, pixel by pixel.

    Raises ConfigError naming every argument that cannot work, and ImageReadError.

    Example:
        >>> import numpy as np, PIL.Image, hfvision
        >>> classes = np.zeros((48, 64), dtype=np.uint8)
        >>> hfvision.segmentation_overlay(PIL.Image.new("RGB", (64, 48)), classes, names=["sky", "sea"]).mode
        'RGB'
    """
    if isinstance(classes, Mapping):
        colours = classes.get("colours") if colours is None else colours
        names = classes.get("names") if names is None else names
        classes, ignore_index = classes["classes"], None
    picture, labels = picture_of(image), _label_map(classes)
    _check([picture], [labels], opacity, ignore_index)
    labels = np.where(labels == ignore_index, IGNORED, labels)
    key = Key(np.unique(labels).tolist(), colours, names)
    drawn = painted(picture, labels, key, opacity, outlines, size or picture.size)
    if not legend:
        return drawn
    return with_legend(drawn, key, _shares([labels], key))


def segmentation_sheet(
    images: Sequence[Any],
    predictions: Sequence[Any],
    truths: Sequence[Any] | None = None,
    colours: Colours | None = None,
    names: Names | None = None,
    opacity: float = 0.7,
    *,
    title: str = "",
    subtitle: str = "",
    outlines: bool = True,
    ignore_index: int | None = 255,
    columns: int | None = None,
    tile: int = 168,
) -> Image.Image:
    """One card for each image: the image, its true label map and the predicted one side by side; a legend at the foot.

    Images, maps, colours, names and opacity are as for `segmentation_overlay`. With `truths` the caption of a card says
    which share of its pixels is right, those without a true class left out. `columns` is the number of cards beside
    each other, `tile` the side of a picture in pixels, which scales everything else. Raises ConfigError naming every
    argument that cannot work.

    Example:
        >>> import numpy as np, PIL.Image, hfvision
        >>> image, classes = PIL.Image.new("RGB", (64, 48)), np.zeros((48, 64), dtype=np.uint8)
        >>> hfvision.segmentation_sheet([image], [classes], truths=[classes], names=["sky", "sea"]).mode
        'RGB'
    """
    maps = {"truth": truths, "prediction": predictions} if truths is not None else {"prediction": predictions}
    if problems := panel_faults(images, maps, columns, tile):
        raise ConfigError(numbered("problem", problems))
    pictures = [picture_of(image) for image in images]
    labels = {name: [_label_map(classes) for classes in given] for name, given in maps.items()}
    for kind in labels.values():
        _check(pictures, kind, opacity, ignore_index)
    labels = {name: [np.where(one == ignore_index, IGNORED, one) for one in given] for name, given in labels.items()}
    all_maps = [one for given in labels.values() for one in given]
    key = Key((int(one) for given in all_maps for one in np.unique(given)), colours, names)

    cards = []
    for place, picture in enumerate(pictures):
        shown = enlarged(picture, (tile, tile))
        regions = [painted(picture, given[place], key, opacity, outlines, shown.size) for given in labels.values()]
        cards.append([shown, *regions])
    captions = None
    if truths is not None:
        captions = [_right(*pair) for pair in zip(labels["prediction"], labels["truth"], strict=True)]
    occur = sorted(_shares(all_maps, key), key=lambda one: (one == IGNORED, one))
    return panel_sheet(
        cards,
        ("image", *labels),
        captions,
        key,
        dict.fromkeys(occur, ""),
        title=title,
        subtitle=subtitle,
        columns=columns,
        tile=tile,
    )


def _label_map(classes: Any) -> np.ndarray:
    """(H, W) int64. Raises ConfigError."""
    values = np.asarray(classes.detach().cpu() if isinstance(classes, torch.Tensor) else classes)
    if values.ndim != 2 or values.dtype.kind not in "iub":
        raise ConfigError(f"a label map is (H, W) whole numbers; got {values.dtype} {values.shape}.")
    return values.astype(np.int64)


def _check(
    pictures: Sequence[Image.Image], maps: Sequence[np.ndarray], opacity: float, ignore_index: int | None
) -> None:
    problems = []
    for picture, labels in zip(pictures, maps, strict=True):
        height, width = labels.shape
        if (width, height) != picture.size:
            problems.append(f"the label map is {height}x{width} and the image {picture.height}x{picture.width}")
        outside = labels[(labels < 0) & (labels != ignore_index)]
        if outside.size:
            problems.append(f"classes are at least 0, or ignore_index {ignore_index}; got {outside.min()}")
    if not 0 <= opacity <= 1:
        problems.append(f"opacity lies in 0..1; got {opacity}")
    if problems:
        raise ConfigError(numbered("problem", problems))


def _right(labels: np.ndarray, truth: np.ndarray) -> str:
    known = truth != IGNORED
    return f"{(labels == truth)[known].mean():.1%} of pixels right" if known.any() else "no true class"


def _shares(maps: Sequence[np.ndarray], key: Key) -> dict[int, str]:
    """The share of all pixels that each painted class has, the largest first; last what has no class."""
    total = sum(labels.size for labels in maps)
    shown = [*(one for one, colour in key.colours.items() if colour is not None), IGNORED]
    counts = {one: sum(int((labels == one).sum()) for labels in maps) for one in shown}
    ordered = sorted((one for one in counts if counts[one]), key=lambda one: (one == IGNORED, -counts[one]))
    return {one: f"{counts[one] / total:.1%}" for one in ordered}
