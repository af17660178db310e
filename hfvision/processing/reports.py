"""What was assumed, dropped or changed on the user's behalf: said once for each kind, on the log, with counts."""

import logging

logger = logging.getLogger("hfvision.processing")
_said: set[str] = set()


def report(kind: str, message: str) -> None:
    """Log `message` as a warning, unless one of this kind was logged before in this process."""
    if kind not in _said:
        _said.add(kind)
        logger.warning(message)


def forget_reports() -> None:
    """Say everything once more from here on."""
    _said.clear()
