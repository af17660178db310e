"""Batches that are made while the model is busy with those before them.

A thread reads the images and prepares them, as far as two batches ahead. Each item comes out in its turn, and so does
what went wrong with one. The thread ends with the items, when the iterator is closed, and when nobody holds it.
"""

import contextvars
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

BATCHES_AHEAD = 2
PATIENCE = 0.05  # seconds between looks at what a thread that is to end is doing


class Batches(Generic[Item, Made]):
    """Lists of `size` results of `make`, in the order of the items; the last may be shorter."""

    def __init__(self, items: Iterable[Item], make: Callable[[Item], Made], size: int) -> None:
        self.items, self.make, self.size = items, make, size
        self._running: Ahead[Made] | None = None

    def __len__(self) -> int:
        """Raises TypeError where it is not known how many items there are."""
        if not isinstance(self.items, Sized):
            raise TypeError(f"a {type(self.items).__name__} has no length")
        return -(-len(self.items) // self.size)

    def __iter__(self) -> Iterator[Any]:
        self._running = Ahead(each(self.items), self.make, BATCHES_AHEAD * self.size)
        return _Joined(self._running, self.size)

    def close(self) -> None:
        """Ends the thread."""
        if self._running is not None:
            self._running.close()


def each(items: Any) -> Iterator[Any]:
    """The items of an iterable, or of a data set that has a length and is read by index."""
    if not isinstance(items, Sized):
        return iter(items)
    indexed: Any = items
    return (indexed[index] for index in range(len(items)))


class _Joined(Iterator[Any]):
    """Like a generator, but one that can go on after an error."""

    def __init__(self, made: Iterator[Any], size: int) -> None:
        self.made, self.size = made, size

    def __next__(self) -> Any:
        if self.size == 1:
            return next(self.made)
        batch = [one for _, one in zip(range(self.size), self.made, strict=False)]
        if not batch:
            raise StopIteration
        return {key: [one[key] for one in batch] for key in batch[0]}


@dataclass
class _State:
    """What the thread shares with the iterator: not the iterator itself, which could not be forgotten then."""

    room: threading.Semaphore  # for items that are prepared and wait
    done: SimpleQueue[Any] = field(default_factory=SimpleQueue)  # of (result, error), or None at the end
    stop: bool = False
    reading: bool = False  # whether the thread waits for the owner of the items


class Ahead(Iterator[Made]):
    """`map(make, items)`, at most `most` items ahead. An error is raised in its item's turn, and the next may follow.

    `items` are read by the thread, so a generator runs there.
    """

    def __init__(self, items: Iterator[Item], make: Callable[[Item], Made], most: int) -> None:
        self._state = _State(threading.Semaphore(most))
        context = contextvars.copy_context()  # NumPy's error handling, for one, is the caller's
        self._thread = threading.Thread(
            target=context.run, args=(_work, items, make, self._state), name="hfvision-ahead", daemon=True
        )
        self._thread.start()
        weakref.finalize(self, _stop, self._state)

    def __next__(self) -> Made:
        if self._state.stop:
            raise StopIteration
        answer = self._state.done.get()
        if answer is None:
            self.close()
            raise StopIteration
        self._state.room.release()
        result, error = answer
        if error is not None:
            raise error
        made: Made = result
        return made

    def close(self) -> None:
        """Ends the thread. One that waits for the next of the items ends when they give it."""
        _stop(self._state)
        while self._thread.is_alive() and not self._state.reading:
            self._thread.join(PATIENCE)


def _work(items: Iterator[Item], make: Callable[[Item], Any], state: _State) -> None:
    while True:
        state.room.acquire()
        if state.stop:
            break
        try:
            state.reading = True
            item = next(items)
        except StopIteration:
            break
        except BaseException as error:  # whoever takes the item gets it
            state.done.put((None, error))
            continue
        finally:
            state.reading = False
        try:
            state.done.put((make(item), None))
        except BaseException as error:
            state.done.put((None, error))
        del item
    state.done.put(None)


def _stop(state: _State) -> None:
    state.stop = True
    state.room.release()  # the thread may wait for it
