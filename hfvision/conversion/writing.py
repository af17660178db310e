"""Folders that appear whole or not at all, and the checks before anything is written."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from hfvision.cards import write_folder_card
from hfvision.cards.records import weights_digest
from hfvision.conversion.report import RECORD_FILE, ConversionReport
from hfvision.errors import ConfigError, ConversionError
from hfvision.termination import sigterm_exits, uninterrupted
from hfvision.writing import umask, write_errors

WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model.bin.index.json")


def check_folder(out: Path, overwrite: bool, described_by: str = "config.json") -> None:
    """Raises ConfigError if `out` is a file, or a folder with something in it that may not be overwritten; what may be
    has the file `described_by`."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; the converted model is a folder. Name another one.")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise ConfigError(f"{out} is not empty. Name another folder, or overwrite the model there (--overwrite).")
        if not (out / described_by).is_file():
            raise ConfigError(f"{out} holds other things than a model (it has no {described_by}). Name another folder.")


def check_file(out: Path, suffixes: Sequence[str], overwrite: bool) -> None:
    """Raises ConfigError if `out` is a folder, has none of the suffixes, or exists and may not be overwritten."""
    if out.is_dir():
        raise ConfigError(
            f"{out} is a folder; the original format is one file. Name it, for example {out / 'model'}{suffixes[0]}."
        )
    if out.suffix not in suffixes:
        raise ConfigError(f"{out} should end in {' or '.join(suffixes)}, the original format's container.")
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists. Name another file, or overwrite it (--overwrite).")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out` to write to; when the block ends well its files move to `out`, else it goes.

    In an existing `out` the files replace those of the same name, and weights that the new ones do not replace are
    removed, since a loader could take them for the model's. Raises ConversionError if the disk does not let it.
    """
    out = out.resolve()
    with sigterm_exits(), write_errors(out, ConversionError):
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        try:
            yield work
            work.chmod(0o777 & ~umask())  # mkdtemp's folders are private, and so are the files of some writers
            files = list(work.iterdir())
            for path in files:
                path.chmod(0o666 & ~umask())
            if not out.exists():
                work.rename(out)
                return
            written = {path.name for path in files}
            with uninterrupted():
                for path in files:
                    path.replace(out / path.name)
                for old in {old for pattern in WEIGHT_FILES for old in out.glob(pattern)}:
                    if old.name not in written:
                        old.unlink()
        finally:
            shutil.rmtree(work, ignore_errors=True)


def write_record(folder: Path, report: ConversionReport, name: str, license: str | None = None) -> ConversionReport:
    """Write the report beside the model, and let the card say what the record adds to it."""
    if report.catalog_row:
        report = replace(report, weights=weights_digest(folder))
    (folder / RECORD_FILE).write_text(report.record(), encoding="utf-8")
    write_folder_card(folder, name=name, license=license)
    report = replace(report, files=tuple(sorted(path.name for path in folder.iterdir())))
    (folder / RECORD_FILE).write_text(report.record(), encoding="utf-8")
    return report
