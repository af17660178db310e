"""Masks of classes that are drawn from objects when an image is read: outlines, run lengths, maps of segments.

Objects are drawn in the order in which they are stored, so that a later one covers an earlier one where they overlap,
as annotation tools show them; crowds are regions of their class and lie below all single objects. Pixels of no object
are the background.

Shapes: H x W pixels of an image, K classes.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt

from hfvision.data.annotation_files import Faults
from hfvision.data.class_files import BACKGROUND, IGNORE, DeclaredClass, usual_names
from hfvision.data.detected_images import segmentation_of
from hfvision.data.object_table import IMAGE, MASKS, SEGMENTS, Key, StoredSplit, file_of
from hfvision.errors import DatasetError
from hfvision.geometry import decode_segmentation
from hfvision.objects.id_maps import read_id_map

EMPTY_DRAWING = json.dumps({"objects": [], "relative": False})
IGNORED = -1  # the number of pixels that do not count, in a drawing
DRAWING = datasets.Value("large_string")  # the feature of a column of masks that are drawn: JSON


@dataclass(frozen=True)
class DrawnSplits:
    """Images with the drawings of their masks, and the classes that these are of."""

    splits: dict[str, datasets.Dataset]  # columns "image" and "mask"
    names: list[str]  # (K,)
    faults: list[str]


def drawn_splits(stored: Mapping[str, StoredSplit]) -> DrawnSplits:
    """The splits of objects as images with masks of classes: the background and then the categories, in their order."""
    names = _class_names(stored)
    number = {name: place for place, name in enumerate(names)}
    splits: dict[str, datasets.Dataset] = {}
    problems: list[str] = []
    for split, part in stored.items():
        faults = Faults(f"split {split!r}")
        columns = {"image": part.data.with_format(None)[IMAGE][:], "mask": list(_drawings(part, number, faults))}
        features = datasets.Features({"image": datasets.Image(decode=False), "mask": DRAWING})
        splits[split] = datasets.Dataset.from_dict(columns, features, split=datasets.NamedSplit(split))
        problems += [*part.faults, *faults.problems()]
    return DrawnSplits(splits, names, problems)


def is_empty(text: str | None) -> bool:
    """Whether there is no drawing, or one without an object; by its ends, since drawings may be long."""
    return text is None or text.startswith('{"objects": []') or text.endswith('"segments": []}')


def draw(text: str, size: tuple[int, int], ignore_index: int) -> npt.NDArray[Any]:
    """(H, W) numbers of classes and the ignore index.

    Raises DatasetError for outlines and maps that do not fit an image of this size, and for segments without a class.
    """
    drawing = json.loads(text)
    mask = np.zeros(size, np.int64)
    if "map" in drawing:
        mask = _of_segments(read_id_map(drawing["map"], size), drawing["segments"])
    if "classes" in drawing:
        classes, objects = (read_id_map(drawing[kind], size).astype(np.int64) for kind in ("classes", "instances"))
        mask = np.where((classes != 0) | (objects != 0), classes + 1, 0)
    for number, stored in drawing.get("objects", []):
        try:
            mask[decode_segmentation(segmentation_of(stored, size, drawing["relative"]), size)] = number
        except (TypeError, ValueError, IndexError) as error:
            raise DatasetError(f"an outline cannot be drawn: {error}") from error
    mask[mask == IGNORED] = ignore_index
    return mask


def instance_drawing(classes: str, instances: str) -> str:
    """The text of a map of classes that count from 0, where a map of objects tells the first class from no class.

    The class itself is not read off the map of objects: 256 times the class plus the object runs over where objects are
    numbered through all images.
    """
    return json.dumps({"classes": classes, "instances": instances})


def _of_segments(ids: npt.NDArray[Any], segments: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    """The class of each segment id."""
    classes = {0: 0, **{key: number for key, number in segments}}
    present, places = np.unique(ids, return_inverse=True)
    strange = [key for key in present.tolist() if key not in classes]
    if strange:
        raise DatasetError(f"its map has segments that no annotation lists: {', '.join(map(str, strange[:5]))}")
    return np.array([classes[key] for key in present.tolist()], np.int64)[places].reshape(ids.shape)


def _declared(part: StoredSplit) -> Mapping[Key, str]:
    """Category -> name, as the annotations have them."""
    return part.categories or {key: str(key) for key in part.objects.keys}


def _class_names(stored: Mapping[str, StoredSplit]) -> list[str]:
    """The background and then the categories of all splits, in the order of the first that has each."""
    names = list(dict.fromkeys(name for part in stored.values() for name in _declared(part).values()))
    if IGNORE in names:
        names = [IGNORE, *(name for name in names if name != IGNORE)]
    usual = [one.name for one in usual_names([DeclaredClass(name) for name in names], "categories")]
    return [BACKGROUND, *(name for name in usual if name != BACKGROUND)]


def _drawings(part: StoredSplit, number: Mapping[str, int], faults: Faults) -> Iterator[str]:
    """A text for each image."""
    declared, table = _declared(part), part.objects
    names = [declared.get(key) for key in table.keys]
    numbers = [0 if name is None or DeclaredClass(name).is_background else number.get(name, IGNORED) for name in names]
    cells = part.data.remove_columns([IMAGE])
    for row in range(len(part)):
        rows = table.of_image(row)
        for place in np.unique(table.classes[rows]).tolist():
            if names[place] is None:
                faults.add("objects of undeclared categories", f"{file_of(part.data, row)}: {table.keys[place]}")
        classes = [numbers[place] for place in table.classes[rows].tolist()]
        stored = cells[row]
        if SEGMENTS in stored:
            ids = [] if table.ids is None else np.asarray(table.ids)[rows].tolist()
            segments = list(zip(ids, classes, strict=True))
            yield json.dumps({"map": stored[SEGMENTS]["path"], "segments": segments})
        else:
            outlines, places = stored[MASKS], table.places[rows].tolist()
            objects = [[classes[place], outlines[places[place]]] for place in _order(table.crowd[rows])]
            bare = [number for number, outline in objects if outline in (None, "null", "[]")]
            if bare and not part.faults:
                faults.add("objects without an outline", f"{file_of(part.data, row)}: {len(bare)} of {len(objects)}")
            objects = [one for one in objects if one[1] not in (None, "null", "[]")]
            yield json.dumps({"objects": objects, "relative": part.relative_masks})


def _order(crowd: npt.NDArray[np.bool_]) -> list[int]:
    """Crowds first, each kind in the order in which it is stored."""
    return [int(place) for place in np.argsort(~crowd, kind="stable")]
