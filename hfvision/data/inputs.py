"""The images that a command is given: files, folders, patterns and addresses, as one list."""

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from hfvision.data.image_folder import is_image, report_left_out, walk

ADDRESSES = ("http://", "https://", "data:")


class Input(NamedTuple):
    """An image that is not read yet."""

    source: str  # a path or an address
    name: str  # of files made of it, without ending; of a folder's image with the folders between


def listed(sources: Iterable[str]) -> list[Input]:
    """Every image of files, folders (with all below them) and patterns (`*`, `?`, `[...]`, `**`), in the order given.

    Of a folder the image files are taken; others are reported with their number. Nothing is opened: what does not exist
    stays in the list, so that it is said when its turn comes.
    """
    return [one for source in sources for one in _listed(str(source))]


def _listed(source: str) -> list[Input]:
    if source.startswith(ADDRESSES):
        return [Input(source, Path(source).stem[:100])]
    if os.path.isdir(source):
        return _of_folder(Path(source), Path(source))
    if os.path.lexists(source) or not glob.has_magic(source):
        return [Input(source, Path(source).stem)]
    root = Path(*_before_magic(Path(source)))
    found: list[Input] = []
    for path in sorted(map(Path, glob.glob(source, recursive=True))):
        if not path.is_dir():
            found.append(_below(path, root))
        elif "**" not in source:  # which has listed what is in the folders, too
            found += _of_folder(path, root)
    return found or [Input(source, "")]


def _before_magic(pattern: Path) -> list[str]:
    parts = list(pattern.parts[:-1])
    magic = next((place for place, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return parts[:magic]


def _of_folder(folder: Path, root: Path) -> list[Input]:
    files = [Path(parent, name) for parent, _, names in walk(folder) for name in names if not name.startswith(".")]
    if others := [path for path in files if not is_image(path.name)]:
        report_left_out(folder, others)
    return [_below(path, root) for path in files if is_image(path.name)]


def _below(path: Path, root: Path) -> Input:
    return Input(str(path), path.relative_to(root).with_suffix("").as_posix())
