"""Samples in tar archives as WebDataset writes them: files of one name in a row, told apart by their endings.

    000001.jpg 000001.cls 000002.jpg 000002.cls ...       in FOLDER/train-000000.tar, FOLDER/train-000001.tar, ...

Nothing is unpacked: a member is an address in its archive, read when its image is. Samples come in the order of the
archives, sorted by name, and of the members in them.
"""

import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

from hfvision.data.annotation_files import split_in_name
from hfvision.data.cells import shown
from hfvision.data.image_folder import is_image
from hfvision.data.mask_pairs import split_of
from hfvision.data.tar_members import Member
from hfvision.errors import DatasetError
from hfvision.reporting import report

SUFFIXES = (".tar",)
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass
class Sample:
    """The members of one name, by their endings without the first dot: "jpg", "cls", "seg.png"."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def image(self) -> Member | None:
        """The member with a plain ending of images; the first where there are several."""
        return next(
            (member for ending, member in self.members.items() if is_image(f"a.{ending}") and "." not in ending), None
        )


def find_archives(source: Any) -> dict[str, list[Path]]:
    """Split -> archives: of a folder, a path, a path with {000..012} or *, or a list of them; {} for anything else.

    Raises DatasetError for compressed archives and for names that nothing has.
    """
    if isinstance(source, list | tuple):
        paths = [Path(one) for one in source if str(one).endswith(SUFFIXES)]
        return _by_split(paths) if paths and len(paths) == len(source) else {}
    if not isinstance(source, str | Path):
        return {}
    text = str(source)
    if Path(text).is_dir():
        folder = Path(text)
        paths = sorted(path for path in [*folder.glob("*.tar"), *folder.glob("*/*.tar")] if path.is_file())
        return _by_split(paths)
    if text.endswith(PACKED):
        raise DatasetError(f"{text} is compressed, so nothing can be read from its middle: unpack it to a .tar.")
    if not text.endswith(SUFFIXES):
        return {}
    paths = [path for name in _expanded(text) for path in _globbed(name)]
    return _by_split(paths)


def read_samples(archives: Sequence[Path]) -> list[Sample]:
    """All samples of some archives, in order. Raises DatasetError for what is no archive or holds a file twice.

    Only plain files count; links, devices and folders are passed over and reported.
    """
    samples: list[Sample] = []
    others: list[str] = []
    for path in archives:
        found: dict[str, Sample] = {}
        for member, is_plain in _members(path):
            if not is_plain:
                others.append(member.name)
                continue
            name = PurePosixPath(member.name)
            stem, _, ending = name.name.partition(".")
            if not stem or not ending or name.name.startswith("."):
                others.append(member.name)
                continue
            key = str(name.parent / stem)
            sample = found.setdefault(key, Sample(key))
            if ending.lower() in sample.members:
                raise DatasetError(f"{path} holds {member.name} twice.")
            sample.members[ending.lower()] = member
        samples += found.values()
    if others:
        report(f"members that are no plain files with an ending were left out ({len(others)}): {shown(others)}.")
    return samples


def _members(path: Path) -> Iterator[tuple[Member, bool]]:
    try:
        with tarfile.open(path, "r:") as archive:
            for entry in archive:
                if not entry.isdir():
                    plain = entry.isreg() and not entry.issparse()
                    yield Member(entry.name, str(path), entry.offset_data, entry.size), plain
    except (OSError, tarfile.TarError, EOFError) as error:
        raise DatasetError(f"{path} cannot be read as a tar archive: {error}") from error


def _by_split(paths: Sequence[Path]) -> dict[str, list[Path]]:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DatasetError(f"{len(missing)} of {len(paths)} archives are not there: {shown(missing)}.")
    splits: dict[str, list[Path]] = {}
    for path in paths:
        below = split_of(path.parent.name)
        named = split_in_name(path.stem) or (below if below != path.parent.name or below == "train" else "train")
        splits.setdefault(named, []).append(path)
    return splits


def _expanded(text: str) -> list[str]:
    """The names that {000..012} and {a,b} stand for."""
    parts = re.split(r"\{([^{}]*)\}", text)
    choices: list[list[str]] = []
    for place, part in enumerate(parts):
        span = re.fullmatch(r"(\d+)\.\.(\d+)", part) if place % 2 else None
        if span:
            width = len(span[1])
            choices.append([f"{number:0{width}}" for number in range(int(span[1]), int(span[2]) + 1)])
        else:
            choices.append(part.split(",") if place % 2 else [part])
    return ["".join(chosen) for chosen in product(*choices)]


def _globbed(name: str) -> list[Path]:
    if "*" not in name:
        return [Path(name)]
    path = Path(name)
    found = sorted(path.parent.glob(path.name))
    if not found:
        raise DatasetError(f"no archive is called {name!r} (from {Path.cwd()}).")
    return found
