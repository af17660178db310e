"""WebDataset archives as data sets: images with a class, or with a mask, by the endings of their files.

a.jpg  a.cls                 a whole number or a name; or a field "label", "class" or "cls" of a.json
a.jpg  a.seg.png             a mask; also a.mask.png, a.png beside a.jpg
a.jpg  a.json                objects: {"objects": {"bbox": [...], "category": [...]}}
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from hfvision.data.cells import shown
from hfvision.data.class_names import names_beside
from hfvision.data.labelled_files import LabelledFiles, Labels
from hfvision.data.sources import Source
from hfvision.data.tar_members import Member
from hfvision.data.tar_samples import Sample, find_archives, read_samples
from hfvision.errors import DatasetError

ARCHIVES = "webdataset"  # the name of this layout
CLASS_ENDINGS = ("cls", "cls.txt", "label", "label.txt", "txt")
CLASS_FIELDS = ("label", "cls", "class", "class_name", "category")
MASK_ENDINGS = ("seg.png", "mask.png", "segmentation.png", "label.png", "seg.tif", "mask.tif", "png")
OBJECT_FIELDS = ("objects", "annotations")


def tar_labels(source: Source) -> LabelledFiles | None:
    """The images of archives with their classes; None for a source that is no archive."""
    archives = find_archives(source)
    splits: dict[str, list[tuple[str, Labels]]] = {}
    faults: list[str] = []
    for split, paths in archives.items():
        rows: list[tuple[str, Labels]] = []
        strange: list[str] = []
        for sample, image in _with_images(read_samples(paths), split, faults):
            try:
                rows.append((image.address, _labels_of(sample)))
            except (ValueError, DatasetError) as error:
                strange.append(f"{sample.key}: {error}")
        if strange:
            faults.append(_several("labels that cannot be read", split, strange))
        splits[split] = rows
    if not splits:
        return None
    names = _names_beside(archives)
    found = {label for rows in splits.values() for _, labels in rows for label in labels}
    numbered = all(label.isdigit() for label in found)
    if names and numbered and all(int(label) < len(names) for label in found):
        splits = {
            split: [(path, tuple(names[int(label)] for label in labels)) for path, labels in rows]
            for split, rows in splits.items()
        }
        classes = names
    else:
        classes = sorted(found, key=lambda label: (0, int(label), "") if numbered else (1, 0, label))
    return LabelledFiles("WebDataset archives", splits, classes, faults=tuple(faults))


def tar_masks(source: Source) -> tuple[dict[str, datasets.Dataset], list[str] | None, list[str]] | None:
    """Splits with the columns image and mask, the names of the classes, and faults; None for no archive."""
    archives = find_archives(source)
    faults: list[str] = []
    splits: dict[str, datasets.Dataset] = {}
    features = datasets.Features({"image": datasets.Image(decode=False), "mask": datasets.Image(decode=False)})
    for split, paths in archives.items():
        samples = _with_images(read_samples(paths), split, faults)
        columns = {
            "image": [_cell(image) for _, image in samples],
            "mask": [_cell(_mask_of(sample, image)) for sample, image in samples],
        }
        splits[split] = datasets.Dataset.from_dict(columns, features, split=datasets.NamedSplit(split))
    return (splits, _names_beside(archives), faults) if splits else None


def tar_objects(source: Source) -> datasets.DatasetDict | None:
    """Splits with the column image and the fields of each sample's JSON, objects among them; None for no archive.

    Raises DatasetError listing samples without an image or without JSON.
    """
    archives = find_archives(source)
    splits: dict[str, datasets.Dataset] = {}
    for split, paths in archives.items():
        faults: list[str] = []
        rows: list[dict[str, Any]] = []
        strange: list[str] = []
        for sample, image in _with_images(read_samples(paths), split, faults):
            try:
                content = _json_of(sample)
                objects = next(content[name] for name in OBJECT_FIELDS if name in content)
                rows.append({"image": _cell(image), "objects": objects})
            except StopIteration:
                strange.append(f"{sample.key}: no field {' or '.join(OBJECT_FIELDS)} in its JSON")
            except (ValueError, DatasetError) as error:
                strange.append(f"{sample.key}: {error}")
        if strange:
            faults.append(_several("samples without objects", split, strange))
        if faults:
            raise DatasetError(f"{shown(paths)}: " + "; ".join(faults))
        data = datasets.Dataset.from_list(rows, split=datasets.NamedSplit(split))
        splits[split] = data.cast_column("image", datasets.Image(decode=False))
    return datasets.DatasetDict(splits) if splits else None


def _with_images(samples: list[Sample], split: str, faults: list[str]) -> list[tuple[Sample, Member]]:
    pairs = [(sample, sample.image) for sample in samples]
    bare = [sample.key for sample, image in pairs if image is None]
    if bare:
        faults.append(_several("samples without an image", split, bare))
    return [(sample, image) for sample, image in pairs if image is not None]


def _labels_of(sample: Sample) -> Labels:
    """The class that a sample's files name; () where they name none. Raises ValueError, DatasetError."""
    for ending in CLASS_ENDINGS:
        if ending in sample.members:
            text = sample.members[ending].read().decode("utf-8-sig").strip()
            if len(text.splitlines()) > 1 or len(text) > 200:
                raise ValueError(f"{ending} holds no class, but text: {text[:40]!r}")
            return (text,) if text else ()
    content = _json_of(sample) if "json" in sample.members else {}
    value = next((content[name] for name in CLASS_FIELDS if content.get(name) is not None), None)
    if isinstance(value, list):
        return tuple(map(str, value))
    return () if value is None else (str(value),)


def _mask_of(sample: Sample, image: Member) -> Member | None:
    """The first of the usual endings of masks, the image itself aside."""
    found = (sample.members[ending] for ending in MASK_ENDINGS if ending in sample.members)
    return next((member for member in found if member != image), None)


def _json_of(sample: Sample) -> Mapping[str, Any]:
    if "json" not in sample.members:
        raise ValueError("no JSON")
    content = json.loads(sample.members["json"].read())
    if not isinstance(content, dict):
        raise ValueError("its JSON is no object")
    return content


def _names_beside(archives: Mapping[str, list[Path]]) -> list[str] | None:
    folders = {folder for paths in archives.values() for path in paths for folder in (path.parent, path.parent.parent)}
    return next((names for folder in sorted(folders, reverse=True) if (names := names_beside(folder))), None)


def _several(what: str, split: str, cases: list[str]) -> str:
    return f"{what} in split {split!r} ({len(cases)}): {shown(cases)}"


def _cell(member: Member | None) -> dict[str, Any] | None:
    return None if member is None else {"bytes": None, "path": member.address}
