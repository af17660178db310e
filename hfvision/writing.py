"""Files that appear whole or not at all."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hfvision.errors import HfvisionError
from hfvision.termination import sigterm_exits


@contextmanager
def new_file(out: Path, kind: type[HfvisionError]) -> Iterator[Path]:
    """A file of the same name to write to, in a hidden folder beside `out`, as large things may lie on other disks.

    When the block ends well it becomes `out`; else, after SIGTERM too, nothing is left. Raises `kind` if the disk does
    not let it.
    """
    out = out.resolve()
    with sigterm_exits(), write_errors(out, kind):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.stem}-", dir=out.parent) as folder:
            work = Path(folder, out.name)
            yield work
            work.chmod(0o666 & ~umask())
            work.replace(out)


@contextmanager
def write_errors(out: Path, kind: type[HfvisionError]) -> Iterator[None]:
    """A full disk, a missing permission or a file in the place of a folder becomes one error of that kind."""
    try:
        yield
    except HfvisionError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and not is_write_failure(error):
            raise
        raise kind(f"{out} cannot be written: {error}. Nothing was kept.") from error


def is_write_failure(error: BaseException) -> bool:
    """Whether it says that a disk is full or refuses to be written; libraries of weights say so in their own ways."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
    kind, text = type(error).__name__, str(error)
    if kind == "SafetensorError":
        return "IoError" in text or "I/O error" in text
    return isinstance(error, RuntimeError) and ("PytorchStreamWriter" in text or "file write failed" in text)


def umask() -> int:
    """The bits that new files of this process lack."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
