"""One place for what hfvision did on the user's behalf: padded, resized, inflated, re-initialised, dropped.

Reports go to the logger "hfvision" at level WARNING, so they are seen by default and silenced in the usual way:
`logging.getLogger("hfvision").setLevel("ERROR")`.
"""

import logging
from functools import lru_cache

logger = logging.getLogger("hfvision")


def report(message: str) -> None:
    """Say what was done, with the counts and sizes concerned."""
    logger.warning(message)


@lru_cache(maxsize=1024)
def report_once(message: str) -> None:
    """The same, once per process for each message: for what may recur with every batch."""
    logger.warning(message)


_said: set[str] = set()


def report_kind(kind: str, message: str) -> None:
    """Report `message`, unless one of its kind was reported before in this process."""
    if kind not in _said:
        _said.add(kind)
        report(message)


def forget() -> None:
    """Report every kind once more."""
    _said.clear()
