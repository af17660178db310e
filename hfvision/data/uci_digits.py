"""1,797 handwritten digits, 8 x 8 pixels, in one parquet file of this package: real images without a network.

Source:  Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
         doi 10.24432/C50P49; the test part (13 writers), in the order in which scikit-learn ships it.
Licence: CC BY 4.0. Changed here: counts became grey values, the images were divided into two splits.

The original stores for each of 8 x 8 cells how many of its 16 points bear ink. `counts_to_grey` maps 0..16 onto 0..255
(ink is white), `grey_to_counts` maps back without loss. The file is made from scikit-learn's copy by

    from sklearn.datasets import load_digits
    from hfvision.data.digits import PARQUET, write_parquet
    digits = load_digits()
    write_parquet(digits.images, digits.target, PARQUET)
"""

from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

PARQUET = Path(__file__).with_name("digits.parquet")
LICENSE = "cc-by-4.0"
CITATION = (
    "Alpaydin, E. and Kaynak, C. (1998). Optical Recognition of Handwritten Digits. UCI Machine Learning Repository. "
    "https://doi.org/10.24432/C50P49"
)
FEATURES = datasets.Features(
    {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(digit) for digit in range(10)])}
)
SPLIT_SEED = 0
TEST_EVERY = 5  # one image in five is held out


def load_digits() -> datasets.DatasetDict:
    """The digits as {"train": 1,437, "test": 360} with columns image (PIL, mode L, 8 x 8) and label (0..9).

    The splits are fixed, stored in the file, and hold every digit in equal proportion. Writers are not recorded, so
    both splits hold digits of the same people. Everything stays in memory: no network, no cache on disk.

    Example:
        >>> import hfvision
        >>> digits = hfvision.load_digits()
        >>> len(digits["train"]), digits["test"][0]["image"].size
        (1437, (8, 8))
    """
    table = pq.read_table(PARQUET)
    info: dict[str, Any] = {
        "features": FEATURES,
        "description": "Handwritten digits, 8 x 8 pixels, white ink on black.",
        "citation": CITATION,
        "homepage": "https://archive.ics.uci.edu/dataset/80",
        "license": LICENSE,
    }
    return datasets.DatasetDict(
        {
            split: datasets.Dataset(
                datasets.table.InMemoryTable(table.filter(pc.equal(table["split"], split)).drop(["split"])),
                info=datasets.DatasetInfo(**info),
                split=datasets.NamedSplit(split),
            )
            for split in ("train", "test")
        }
    )


def write_parquet(counts: np.ndarray, labels: np.ndarray, path: str | Path = PARQUET) -> None:
    """Write the package's file from the original's counts (N, 8, 8) in 0..16 and labels (N,) in 0..9."""
    images = [{"bytes": _png(image), "path": None} for image in counts_to_grey(counts)]
    held_out = held_out_rows(labels)
    splits = ["test" if row in held_out else "train" for row in range(len(images))]
    schema = FEATURES.arrow_schema.append(pa.field("split", pa.string())).remove_metadata()
    table = pa.table([pa.array(images, schema.field("image").type), labels, splits], schema=schema)
    pq.write_table(table, path, compression="zstd", compression_level=19)


def held_out_rows(labels: np.ndarray) -> set[int]:
    """The rows of the test split: shuffled with a fixed seed, sorted by label, every fifth one."""
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return set(by_label[::TEST_EVERY].tolist())


def counts_to_grey(counts: np.ndarray) -> np.ndarray:
    """Counts 0..16 to the nearest grey value of 0..255 (half goes up), uint8."""
    return ((counts.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)


def grey_to_counts(grey: np.ndarray) -> np.ndarray:
    """The inverse of `counts_to_grey`."""
    return (grey.astype(np.int64) * 16 + 127) // 255


def _png(image: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
