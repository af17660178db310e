"""Cells of a data set: reading them, telling them apart, and finding those that cannot be read before training."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import datasets
import numpy as np
import pyarrow.compute as pc
from PIL.Image import Image
from transformers.utils import logging

from hfvision.data.tar_members import with_content
from hfvision.errors import DatasetError, ImageReadError
from hfvision.processing.reading import Bands, open_image
from hfvision.reporting import report

FINGERPRINT_IMAGES = 64  # of each split
EXAMPLES = 5  # shown of each kind of fault

Result = TypeVar("Result")


class Digest(Protocol):
    """What hashlib's digests have in common."""

    def update(self, data: bytes, /) -> None: ...


def decoded(value: Any, feature: Any) -> Any:
    """The image of a cell as PIL (upright, whatever EXIF says) or array; one from a file with bands is `Bands`.

    Raises ImageReadError.
    """
    if value is None:
        raise ImageReadError("there is no image")
    if not isinstance(feature, datasets.Image):
        return np.asarray(value, dtype=feature.dtype)
    opened = open_image(with_content(value))
    image = Bands.of(opened) if opened.has_bands else opened.image
    return image.convert(feature.mode) if feature.mode and isinstance(image, Image) else image


def missing_rows(data: datasets.Dataset, column: str) -> list[int]:
    """The rows whose cell of an image column holds nothing."""
    cells = data.select_columns([column]).with_format("arrow")
    empty: list[bool] = []
    for batch in cells.iter(batch_size=1000):
        values = batch[column].combine_chunks()
        nothing = values.is_null()
        if isinstance(data.features[column], datasets.Image):
            nothing = pc.or_(nothing, pc.and_(*(pc.struct_field(values, name).is_null() for name in ("bytes", "path"))))
        empty.extend(nothing.to_pylist())
    return [row for row, is_empty in enumerate(empty) if is_empty]


def digest_cells(digest: Digest, data: datasets.Dataset, column: str) -> None:
    """Add the first images of a column, or their file names where they are files."""
    for row in range(min(FINGERPRINT_IMAGES, len(data))):
        value = data[row][column]
        content = value.get("bytes") or str(value.get("path")) if isinstance(value, dict) else str(value)
        digest.update(content if isinstance(content, bytes) else content.rsplit("/", 1)[-1].encode())


def rows_to_check(split: str, images: int, at_most: int) -> list[int]:
    """Rows to decode before training, evenly spread if there are more than `at_most`, which is then reported."""
    rows = np.unique(np.linspace(0, images - 1, min(at_most, images)).astype(int)).tolist()
    if len(rows) < images:
        report(
            f"{len(rows):,} of the {images:,} images in split {split!r} were decoded to check them; "
            "check_images=... (--check-images) sets how many."
        )
    return rows


def in_threads(function: Callable[[int], Result], rows: Sequence[int], split: str) -> Iterator[Result]:
    """`function` of every row, in order; decoders leave the interpreter lock. Long work has a bar on stderr."""
    bar = logging.tqdm(total=len(rows), desc=f"checking {split}", unit="image", delay=1, leave=False, disable=None)
    with bar, ThreadPoolExecutor() as threads:
        try:
            for result in threads.map(function, rows):
                bar.update()
                yield result
        except BaseException:  # Ctrl-C does not wait for what has not begun
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def cases(what: str, faults: Sequence[str], count: int | None = None) -> str:
    """A problem with the first of its cases below it, one a line; `count` where only the first are written out."""
    count = len(faults) if count is None else count
    more = f"\n        and {count - EXAMPLES} more" if count > EXAMPLES else ""
    return f"{what}:" + "".join(f"\n        {message}" for message in faults[:EXAMPLES]) + more


def left_out(what: str, faults: Sequence[str], count: int) -> str:
    """The report of things that were left out of `count`, with the first of them."""
    return cases(f"{len(faults):,} of {count:,} were left out: {what}", faults)


def shown(names: Iterable[str | Path]) -> str:
    """The first few names, or names of files, and how many more there are."""
    listed = [name.name if isinstance(name, Path) else name for name in names]
    more = f" and {len(listed) - EXAMPLES} more" if len(listed) > EXAMPLES else ""
    return ", ".join(listed[:EXAMPLES]) + more


def shown_rows(rows: Sequence[int]) -> str:
    return "row " + ", ".join(map(str, rows[:EXAMPLES])) + (", ..." if len(rows) > EXAMPLES else "")


def check_number_of_images(check_images: int) -> None:
    """Raises DatasetError for a negative number."""
    if check_images < 0:
        raise DatasetError(f"check_images is a number of images to decode, 0 for none; got {check_images}.")
