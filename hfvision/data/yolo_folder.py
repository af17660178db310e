"""YOLO labels: one text file for each image, one line for each object, numbers in units of the image.

    FOLDER/data.yaml                 names: [cat, dog] or {0: cat, 1: dog}; train, val, test: folders, lists of folders,
                                     or text files of image paths, relative to `path` or to the file
    FOLDER/images/SPLIT/a.jpg        FOLDER/labels/SPLIT/a.txt      or SPLIT/images/ and SPLIT/labels/, or no SPLIT
    FOLDER/a.jpg                     FOLDER/a.txt                   labelImg; also FOLDER/SPLIT/
    FOLDER/obj.data                  names = obj.names, train = train.txt, valid = ...      Darknet, CVAT, Datumaro
    FOLDER/classes.txt               the names, where no other file has them; also in labels/

A line is "class centre_x centre_y width height", or "class x y x y x y ..." for an outline or a turned box, whose box
is the smallest around it. With `kpt_shape` in the YAML file the box is followed by points, which are left out. An image
without a label file has no objects. A YAML file that names no images (supervision) gives the names of classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hfvision.data.annotation_files import NamedFiles, by_stem, text_lines
from hfvision.data.class_names import CLASS_FILES, names_beside, names_in_file
from hfvision.data.image_folder import SPLITS, folders_in, is_image, walk
from hfvision.data.object_rows import ObjectRows
from hfvision.data.object_table import Key, StoredSplit
from hfvision.errors import DatasetError

YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
YAML_SPLITS = ("train", "val", "valid", "validation", "test")
IMAGES, LABELS = "images", "labels"
NO_LABELS = {*CLASS_FILES, "train.txt", "val.txt", "valid.txt", "test.txt"}  # text files that may lie beside labels
SNIFFED = 20  # text files that are looked into

Names = Mapping[Key, str] | None


def find_yolo_yaml(path: Path) -> Path | None:
    """The file that describes a data set: the path itself, or one in the folder with "names" and images in it."""
    if path.is_file():
        return path if path.suffix.lower() in (".yaml", ".yml") else None
    described = (candidate for candidate in _yaml_files(path) if _read_yaml(candidate).keys() & set(YAML_SPLITS))
    return next(described, None)


def find_darknet_file(path: Path) -> Path | None:
    """Darknet's description of a data set: the path itself, or one in the folder, with lists of images in it."""
    candidates = [path] if path.is_file() else [path / "obj.data", *sorted(path.glob("*.data"))]
    files = (file for file in candidates if file.suffix.lower() == ".data" and file.is_file())
    return next((file for file in files if _darknet(file).keys() & {"train", "valid", "val", "test"}), None)


def find_yolo_images(folder: Path) -> dict[str, list[Path]]:
    """Split -> images, of a folder without a description; empty for a folder that has no labels in text files."""
    if not folder.is_dir():
        return {}
    roots: dict[str, list[Path]] = {}
    if (folder / IMAGES).is_dir() and _has_labels(folder / LABELS):
        below = {path: SPLITS[path.name.lower()] for path in folders_in(folder / IMAGES) if path.name.lower() in SPLITS}
        for path, split in below.items():
            roots.setdefault(split, []).append(path)
        roots = roots or {"train": [folder / IMAGES]}
    for path in folders_in(folder):
        if path.name.lower() in SPLITS and (path / IMAGES).is_dir() and _has_labels(path / LABELS):
            roots.setdefault(SPLITS[path.name.lower()], []).append(path / IMAGES)
    if roots:
        return {split: [image for root in paths for image in _images_below(root)] for split, paths in roots.items()}
    beside = {path: SPLITS[path.name.lower()] for path in folders_in(folder) if path.name.lower() in SPLITS}
    flat: dict[str, list[Path]] = {}
    for path, split in beside.items():
        if _has_labels_beside(path):
            flat.setdefault(split, []).extend(by_stem(path).values())
    own = next((path for path in (folder, folder / IMAGES) if not flat and _has_labels_beside(path)), None)
    return flat or ({"train": list(by_stem(own).values())} if own else {})


def read_yolo_yaml(path: Path, masks: bool) -> dict[str, StoredSplit]:
    """The splits that a YAML file lists. Raises DatasetError for a file without names or with folders that are none."""
    content = _read_yaml(path)
    names = _names(content, path)
    base = path.parent / str(content.get("path") or ".")
    roots = [base, path.parent] if base.is_dir() else [path.parent]
    splits = {
        SPLITS[key]: [image for entry in _entries(content[key]) for image in _images_of(entry, roots, path)]
        for key in YAML_SPLITS
        if content.get(key)
    }
    if not splits:
        splits = find_yolo_images(path.parent)
    if not splits:
        raise DatasetError(f"{path} names no images: it needs train: FOLDER, and val: FOLDER.")
    return _read(splits, names, masks, f"YOLO ({path.name})", _keypoints(content, path))


def read_yolo_images(folder: Path, splits: Mapping[str, Sequence[Path]], masks: bool) -> dict[str, StoredSplit]:
    """The splits of a folder whose images are known; names of classes are those of a YAML file, or one of
    `CLASS_FILES`."""
    described = next(_yaml_files(folder), None)
    if described is not None:
        content = _read_yaml(described)
        return _read(splits, _names(content, described), masks, "YOLO", _keypoints(content, described))
    roots = (folder, folder / LABELS, *(path.parent for paths in splits.values() for path in paths[:1]))
    beside = next((root for root in roots if any((root / name).is_file() for name in CLASS_FILES)), None)
    named = None if beside is None else names_beside(beside)
    return _read(splits, None if named is None else dict(enumerate(named)), masks, "YOLO")


def read_darknet_file(path: Path, masks: bool) -> dict[str, StoredSplit]:
    """The splits that Darknet's file lists. Paths in it are those of the machine that trains: only their ends count.

    Raises DatasetError for lists that are nowhere.
    """
    content, named = _darknet(path), NamedFiles(path.parent)
    names: Names = None
    if content.get("names"):
        place = named.find(content["names"])
        if place is None:
            raise DatasetError(f"{path} names the classes in {content['names']!r}, which is nowhere in {path.parent}.")
        names = dict(enumerate(names_in_file(named.folder / place)))
    splits: dict[str, list[Path]] = {}
    lost: list[str] = []
    for key in ("train", "valid", "val", "test"):
        if content.get(key):
            place = named.find(content[key])
            if place is None:
                raise DatasetError(f"{path} lists {key} = {content[key]!r}, which is nowhere in {path.parent}.")
            lines = text_lines(named.folder / place)
            found = [(line, named.find(line)) for line in lines]
            lost += [line for line, image in found if image is None]
            splits[SPLITS[key]] = [named.folder / image for _, image in found if image is not None]
    read = _read(splits, names, masks, f"YOLO of Darknet ({path.name})")
    if lost:
        first = next(iter(read.values()))
        first.faults.append(f"images that are listed but not in {path.parent} ({len(lost):,}): {lost[0]}")
    return read


def _read(
    splits: Mapping[str, Sequence[Path]], names: Names, masks: bool, layout: str, points: tuple[int, int] | None = None
) -> dict[str, StoredSplit]:
    return {split: _split(split, paths, names, masks, layout, points) for split, paths in splits.items()}


def _split(
    split: str, paths: Sequence[Path], names: Names, masks: bool, layout: str, points: tuple[int, int] | None
) -> StoredSplit:
    rows = ObjectRows(split, masks)
    without_file = 0
    for path in paths:
        rows.add_image(path)
        labels = _label_file(path)
        if not labels.is_file():
            without_file += 1
            continue
        try:
            lines = labels.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            rows.faults.add("label files that cannot be read", f"{labels}: {error}")
            continue
        for number, line in enumerate(lines, start=1):
            if line.strip():
                _read_line(rows, line, f"{labels.name}, line {number}", points)
    if without_file:
        rows.conclusions.append(
            f"{without_file:,} of {len(paths):,} images of split {split!r} have no label file: they have no objects"
        )
    for labels in _orphans(paths):
        rows.faults.add("label files without an image", str(labels.name))
    return rows.stored(layout, box_form="cxcywh", relative=True, relative_masks=True, categories=names)


def _read_line(rows: ObjectRows, line: str, where: str, points: tuple[int, int] | None) -> None:
    found = _object(line, points)
    if isinstance(found, str):
        rows.faults.add("lines that cannot be read", f"{where}: {found}")
        return
    label, box, outline = found
    rows.add_object(label, box, None if outline is None else [outline], name=where)
    if points is not None:
        rows.leave_out("sets of keypoints", "the boxes before them are read")


def _object(line: str, points: tuple[int, int] | None) -> tuple[int, list[float], list[float] | None] | str:
    """Class, box (cxcywh) and outline of a line; a text says what is wrong with it.

    `points` are how many keypoints follow the box, and how many numbers each has.
    """
    try:
        label, *numbers = map(float, line.split())
    except ValueError:
        return f"{line[:60]!r} are not numbers"
    if not label.is_integer():
        return f"the class {label} is no whole number"
    if points is not None:
        expected = 4 + points[0] * points[1]
        if len(numbers) != expected:
            return f"{len(numbers)} numbers; with kpt_shape: [{points[0]}, {points[1]}] there are {expected}"
        return int(label), numbers[:4], None
    if len(numbers) == 4:
        return int(label), numbers, None
    if len(numbers) < 6 or len(numbers) % 2:
        count = "a box and its score? Labels have no scores" if len(numbers) == 5 else f"{len(numbers)} numbers"
        poses = "; keypoints need kpt_shape: [number, 2 or 3] in the YAML file" if len(numbers) > 5 else ""
        return f"{count}; after the class come 4 numbers of a box, or x and y of three or more corners{poses}"
    across, down = numbers[::2], numbers[1::2]
    left, top, right, bottom = min(across), min(down), max(across), max(down)
    return int(label), [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], numbers


def _keypoints(content: Mapping[str, Any], path: Path) -> tuple[int, int] | None:
    """`kpt_shape` of a YAML file; None without it. Raises DatasetError where it is none."""
    shape = content.get("kpt_shape")
    if shape is None:
        return None
    is_shape = isinstance(shape, list) and len(shape) == 2 and all(type(number) is int for number in shape)
    if not is_shape or shape[0] < 1 or shape[1] not in (2, 3):
        raise DatasetError(f"{path}: kpt_shape is [number of keypoints, 2 or 3 numbers of each]; got {shape}.")
    return shape[0], shape[1]


def _yaml_files(folder: Path) -> Iterator[Path]:
    """The YAML files in a folder with names of classes, those of usual names first."""
    candidates = [folder / name for name in YAML_NAMES] + sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    return (file for file in dict.fromkeys(candidates) if file.is_file() and "names" in _read_yaml(file))


def _darknet(path: Path) -> dict[str, str]:
    """The entries of a file of lines "key = value"."""
    pairs = (line.partition("=") for line in text_lines(path) if not line.startswith("#"))
    return {key.strip(): value.strip() for key, is_pair, value in pairs if is_pair}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    return content if isinstance(content, dict) else {}


def _names(content: Mapping[str, Any], path: Path) -> dict[Key, str]:
    names = content.get("names")
    found = names if isinstance(names, dict) else dict(enumerate(names)) if isinstance(names, list) else {}
    if not found or not all(isinstance(key, int) for key in found):
        raise DatasetError(
            f"{path} has no names of classes: it needs names: [first, second, ...] or {{0: first, 1: second}}; got "
            f"names: {str(names)[:80]}."
        )
    count = content.get("nc")
    if isinstance(count, int) and count != len(found):
        raise DatasetError(f"{path} has {len(found)} names of classes, but nc: {count}. Correct one of them.")
    return {key: str(name) for key, name in found.items()}


def _entries(value: Any) -> list[str]:
    return [str(entry) for entry in value] if isinstance(value, list) else [str(value)]


def _images_of(entry: str, roots: Sequence[Path], yaml_file: Path) -> list[Path]:
    """The images of a folder or of a text file that lists them."""
    # Exports are often meant to be run from another folder: their "../train/images" lies beside the file.
    tried = [root / name for root in roots for name in dict.fromkeys((entry, entry.removeprefix("../")))]
    found = next((path for path in tried if path.exists()), None)
    if found is None:
        raise DatasetError(
            f"{yaml_file} lists {entry!r}, which is nowhere: looked for {', '.join(map(str, tried))}. Correct it, or "
            "set path: to the folder that it is relative to."
        )
    if found.is_dir():
        return _images_below(found)
    named = NamedFiles(found.parent)
    return [
        next((root / line for root in (found.parent, *roots) if (root / line).is_file()), None)
        or found.parent / (named.find(line) or line)
        for line in text_lines(found)
    ]


def _images_below(folder: Path) -> list[Path]:
    return [Path(parent) / name for parent, _, names in walk(folder) for name in names if is_image(name)]


def _has_labels(folder: Path) -> bool:
    return folder.is_dir() and next(folder.rglob("*.txt"), None) is not None


def _has_labels_beside(folder: Path) -> bool:
    """Whether text files lie beside images of their names, and hold labels."""
    images = by_stem(folder)
    files = [path for path in sorted(folder.glob("*.txt")) if path.stem in images] if images else []
    lines = [line for path in files[:SNIFFED] for line in text_lines(path)]
    return bool(files) and all(not isinstance(_object(line, None), str) for line in lines[:SNIFFED])


def _label_file(image: Path) -> Path:
    """a/labels/b.txt for a/images/b.jpg; beside the image where it is, or where no folder is called images."""
    beside = image.with_suffix(".txt")
    parts = list(image.parts)
    places = [place for place, part in enumerate(parts[:-1]) if part == IMAGES]
    if places:
        parts[places[-1]] = LABELS
    found = Path(*parts).with_suffix(".txt")
    return beside if beside.is_file() and not found.is_file() else found


def _orphans(images: Sequence[Path]) -> list[Path]:
    """Label files beside the images' own whose image is nowhere."""
    folders: dict[Path, set[Path]] = {}
    for path in images:
        folders.setdefault(_label_file(path).parent, set()).add(path.parent)
    found = []
    for labels, pictures in sorted(folders.items()):
        stems = {stem for folder in pictures for stem in by_stem(folder)}
        files = sorted(labels.glob("*.txt")) if labels.is_dir() else []
        found += [path for path in files if path.stem not in stems and path.name not in NO_LABELS]
    return found
