"""One place for what hfvision did on the user's behalf: padded, resized, inflated, re-initialised, dropped.

Reports go to the logger "hfvision" at level WARNING, so they are seen by default and silenced in the usual way:
`logging.getLogger("hfvision").setLevel("ERROR")`. Of several processes that a launcher started, the first one reports.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from hfvision.processes import is_main_process

logger = logging.getLogger("hfvision")


def report(message: str) -> None:
    """Say what was done, with the counts and sizes concerned."""
    if is_main_process():
        logger.warning(message)


@lru_cache(maxsize=1024)
def report_once(message: str) -> None:
    """The same, once per process for each message: for what may recur with every batch."""
    report(message)


@contextmanager
def kept_back() -> Iterator[list[str]]:
    """The messages reported while the block runs, in a list instead of the log."""
    messages: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        messages.append(record.getMessage())
        return False

    logger.addFilter(keep)
    try:
        yield messages
    finally:
        logger.removeFilter(keep)


_said: set[str] = set()


def report_kind(kind: str, message: str) -> None:
    """Report `message`, unless one of its kind was reported before in this process."""
    if kind not in _said:
        _said.add(kind)
        report(message)


def forget() -> None:
    """Report every kind once more."""
    _said.clear()
