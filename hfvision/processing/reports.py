"""What was assumed, dropped or changed in images on the user's behalf: said once for each kind, not for each image."""

from hfvision.reporting import report

_said: set[str] = set()


def report_kind(kind: str, message: str) -> None:
    """Report `message`, unless one of its kind was reported before in this process."""
    if kind not in _said:
        _said.add(kind)
        report(message)


def forget() -> None:
    """Report every kind once more."""
    _said.clear()
