"""SIGTERM, as schedulers and containers send it, ends work as Ctrl-C does: what was begun is cleaned up first.

Commands install `sigterm_exits` once. Functions that write things which must be whole do so, too, for programs that
call them; an outer one goes before those inside it, and a program's own handler before all.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

TERMINATED = 128 + signal.SIGTERM  # exit code, as shells report it
INTERRUPTED = 128 + signal.SIGINT


class Terminated(SystemExit):
    """Raised in the main thread where SIGTERM arrives; ends the program with exit code 143 unless it is caught."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """Raise Terminated on SIGTERM while the block runs, so that every `with` and `finally` in it cleans up.

    A second SIGTERM does not disturb that. Nothing changes outside the main thread, or where a program has a handler of
    its own.
    """
    if not _can_handle() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C wait for the end of the block: for the few moments in which several files take their
    names.
    """
    if not _can_handle():
        yield
        return
    arrived: list[int] = []

    def remember(number: int, frame: object) -> None:
        arrived.append(number)

    before: dict[int, Any] = {}
    for number in (int(signal.SIGTERM), int(signal.SIGINT)):
        if signal.getsignal(number) is not None:  # a handler of C code cannot be put back
            before[number] = signal.signal(number, remember)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in arrived[:1]:
            signal.raise_signal(number)


@contextmanager
def default_sigterm() -> Iterator[None]:
    """Take `sigterm_exits` back while the block runs: for servers, which shut down by signals themselves."""
    if not _can_handle() or signal.getsignal(signal.SIGTERM) is not _terminate:
        yield
        return
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, _terminate)


def _can_handle() -> bool:
    return threading.current_thread() is threading.main_thread()


def _terminate(number: int, frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated
