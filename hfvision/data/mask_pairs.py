"""Images and masks found in folders and brought together by their names; what the readers of layouts share."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from hfvision.data.cells import shown
from hfvision.data.image_folder import ONE_SUBSET, SPLITS, is_image, report_left_out, walk
from hfvision.errors import DatasetError, numbered
from hfvision.processing.label_map import LabelMap

MASK_ENDINGS = ("_mask", "_masks", "_label", "_labels", "_annotation", "_gt", "_seg", "_segmentation")

Files = dict[str, Path]  # by what an image and its mask have in common
Pairs = list[tuple[Path | None, Path | None]]  # (image, mask)


@dataclass(frozen=True)
class Benchmark:
    """A published data set that has a layout: its label map, and how its files are called."""

    label_map: LabelMap
    option: str  # the label map's name
    names: str  # a regular expression for the stems of its images
    because: str = "its files are named so"  # where that is what tells


@dataclass(frozen=True)
class MaskFolder:
    """A folder of images and masks as one of the layouts reads it."""

    layout: str  # in words
    splits: dict[str, Pairs]
    benchmark: Benchmark | None = None
    class_root: Path | None = None  # folder of the files that declare classes, where it is another
    first_number: int = 0  # in masks, of the first of the declared names, where no name is that of the background
    # mask -> map of objects, where 0 in a mask is both the first class and none; {} where it is one of them
    instances: Mapping[Path | None, Path] = field(default_factory=dict)
    lists_images: bool = False  # an image without a mask is one where nothing is marked
    conclusions: tuple[str, ...] = ()

    @property
    def masks(self) -> list[Path]:
        """The masks of all splits."""
        return [mask for pairs in self.splits.values() for _, mask in pairs if mask is not None]


def split_of(name: str) -> str:
    """The usual name of a split that a folder or list is called by; other names stay."""
    return "train" if name.lower() == ONE_SUBSET else SPLITS.get(name.lower(), name)


def files_in(folder: Path, ending: str = "", *, others_are_reported: bool = True) -> Files:
    """Image files below a folder by their path in it without suffix and `ending`; others are passed over."""
    found: Files = {}
    others, twice = [], []
    for parent, _, names in walk(folder) if folder.is_dir() else []:
        for name in sorted(names):
            path = Path(parent) / name
            key = path.relative_to(folder).with_suffix("").as_posix()
            if name.startswith(".") or not key.endswith(ending):
                continue
            if not is_image(name):
                others.append(path)
            elif found.setdefault(key.removesuffix(ending), path) != path:
                twice.append(f"{found[key.removesuffix(ending)].name} and {name}")
    if twice:
        raise DatasetError(f"{folder}: " + numbered("pair of files of one name", twice))
    if others and others_are_reported:
        report_left_out(folder, others)
    return found


def pairs_of(images: Files, masks: Files) -> Pairs:
    """Images in order, each with its mask or None; then the masks that belong to none of them."""
    partners: Files = {}
    orphans: Pairs = []
    twice = []
    for key, path in masks.items():
        mine = key if key in images else next((cut for cut in _without_ending(key) if cut in images), None)
        if mine is None:
            orphans.append((None, path))
        elif partners.setdefault(mine, path) != path:
            twice.append(f"{images[mine].name} has {partners[mine].name} and {path.name}")
    if twice:
        raise DatasetError(numbered("image with two masks", twice))
    return [(path, partners.get(key)) for key, path in images.items()] + orphans


def listed_pairs(names: Sequence[str], images: Files, masks: Files, list_file: Path, folder: str) -> Pairs:
    """The pairs that a file lists, by names with or without folders and suffix, in any system's way of writing them.

    Raises DatasetError for names that no file has.
    """
    by_name = {PurePosixPath(key).name: key for key in [*masks, *images]}
    pairs: Pairs = []
    lost = []
    for name in names:
        key = next((key for key in _keys(name) if key in images or key in masks), None)
        key = key or by_name.get(_keys(name)[-1])
        if key is None:
            lost.append(name)
        else:
            pairs.append((images.get(key), masks.get(key)))
    if lost:
        raise DatasetError(f"{list_file} lists {len(lost)} images that are not in {folder}: {shown(lost)}.")
    return pairs


def _keys(name: str) -> list[str]:
    """A listed name without suffix: as it stands, then ever less of its folders; back-slashes separate, too."""
    path = PurePosixPath(name.replace("\\", "/").lstrip("/"))
    stem = path.with_suffix("") if is_image(path.name) else path
    return ["/".join(stem.parts[start:]) for start in range(len(stem.parts))]


def _without_ending(key: str) -> Iterable[str]:
    return (key.removesuffix(ending) for ending in MASK_ENDINGS if key.endswith(ending))
