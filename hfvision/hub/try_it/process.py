"""A child process that is spoken to in lines of JSON, with a deadline for each answer."""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hfvision.confinement import clean_environment
from hfvision.hub.errors import HubError

LONGEST_ANSWER = 32 << 20  # bytes of one line
PACKAGE_PARENT = Path(__file__).resolve().parents[3]
TAIL = 2000  # characters of its standard error that are kept for the log


class TrialFailed(HubError):
    """The model or table cannot be shown: the process ran into one of its limits, or into the file's faults."""

    status = 422


class TrialBusy(HubError):
    """Too many readers are waiting for an answer already."""

    status = 429

    def __init__(self) -> None:
        super().__init__("Others are trying models right now; try again in a moment.", headers={"Retry-After": "10"})


class Turns:
    """Readers who wait for an answer: so many are answered at once, and a few more may wait."""

    def __init__(self, at_once: int, most: int) -> None:
        self.free = threading.BoundedSemaphore(at_once)
        self.taken = 0  # by readers, those who wait included
        self._most = most
        self._lock = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn and hold it. Raises TrialBusy where too many wait already."""
        with self._lock:
            if self.taken >= self._most:
                raise TrialBusy
            self.taken += 1
        try:
            with self.free:
                yield
        finally:
            with self._lock:
                self.taken -= 1


class Child:
    """`python -m module options` in an empty folder of its own; `close` ends it and removes the folder."""

    def __init__(self, module: str, options: dict[str, Any]) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="hfvision-child-")
        self._log = (self.home / "log").open("w+b", buffering=0)
        self._late = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=self._home.name,
            env=clean_environment(str(PACKAGE_PARENT), self._home.name),
        )

    @property
    def home(self) -> Path:
        return Path(self._home.name)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @contextmanager
    def deadline(self, seconds: float) -> Iterator[None]:
        """The block's answers come within so many seconds, or the process is killed. Raises TrialFailed."""

        def too_late() -> None:
            self._late = True
            self._process.kill()

        timer = threading.Timer(seconds, too_late)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (BrokenPipeError, EOFError):
            raise TrialFailed(self._why(seconds)) from None
        finally:
            timer.cancel()

    def say(self, request: dict[str, Any]) -> None:
        self.send(json.dumps(request).encode() + b"\n")

    def send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """The next line. Raises EOFError where the process has ended or says something that is no JSON object."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline(LONGEST_ANSWER)
        try:
            answer = json.loads(line)
        except ValueError:
            raise EOFError from None
        if not isinstance(answer, dict):
            raise EOFError
        return answer

    def log(self) -> str:
        """The end of what it printed to standard error."""
        size = self._log.seek(0, 2)
        self._log.seek(max(0, size - TAIL))
        return self._log.read().decode("utf-8", "replace")

    def _why(self, seconds: float) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        if self._late:
            return f"No answer came within {seconds:.0f} seconds."
        if "MemoryError" in self.log() or "std::bad_alloc" in self.log():
            return "This needs more memory than it may take here."
        return "The process that was to answer ended early: it ran into a limit, or the files are damaged."

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self._log.close()
        self._home.cleanup()
