"""Preparing images while the model runs: what comes, in which order, how far ahead, and what is left behind."""

import gc
import threading
import time
from queue import SimpleQueue

import pytest

from hfvision.pipelines.ahead import Ahead, Batches

PATIENCE = 20.0  # seconds, for a busy machine


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "hfvision-ahead"]


def until(condition):
    """Waits for what other threads bring about."""
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def doubled(number):
    return {"number": 2 * number}


@pytest.mark.parametrize("items", [list(range(7)), iter(range(7)), range(7)], ids=["list", "iterator", "sequence"])
def test_batches_hold_all_items_in_order(items):
    assert list(Batches(items, doubled, 3)) == [{"number": [0, 2, 4]}, {"number": [6, 8, 10]}, {"number": [12]}]
    assert until(lambda: not threads())


def test_a_batch_of_one_is_its_item():
    batches = Batches([1, 2], doubled, 1)
    assert len(batches) == 2
    assert list(batches) == [{"number": 2}, {"number": 4}]
    assert list(batches) == [{"number": 2}, {"number": 4}]  # once more from the start


def test_items_are_read_two_batches_ahead_and_no_further():
    read = []
    batches = iter(Batches((read.append(i) or i for i in range(100)), doubled, 4))
    for taken in (1, 2, 3):
        next(batches)
        assert until(lambda taken=taken: len(read) == 4 * (taken + 2))
        time.sleep(0.05)
        assert len(read) == 4 * (taken + 2)


def test_an_item_may_depend_on_the_answer_before():
    answers: SimpleQueue[int] = SimpleQueue()

    def conversation():
        yield 1
        for _ in range(3):
            yield answers.get(timeout=PATIENCE) + 1

    for batch in Batches(conversation(), doubled, 1):
        answers.put(batch["number"])
    assert batch["number"] == 30


def test_an_error_comes_in_the_turn_of_its_item_and_the_next_item_follows():
    def reciprocal(number):
        return 1 / number

    ahead = Ahead(iter([2, 0, 4]), reciprocal, 8)
    assert next(ahead) == 0.5
    with pytest.raises(ZeroDivisionError):
        next(ahead)
    assert next(ahead) == 0.25
    assert next(ahead, None) is None
    assert next(ahead, None) is None


def test_an_error_of_the_items_themselves_comes_out():
    def broken():
        yield 1
        raise OSError("no more")

    ahead = Ahead(broken(), doubled, 8)
    assert next(ahead) == {"number": 2}
    with pytest.raises(OSError, match="no more"):
        next(ahead)
    assert next(ahead, None) is None


@pytest.mark.parametrize("how", ["close", "forget"])
def test_no_thread_is_left_behind(how):
    ahead = Ahead(iter(range(100)), doubled, 3)
    next(ahead)
    assert len(threads()) == 1
    if how == "close":
        ahead.close()
        assert not threads()
        assert next(ahead, None) is None
    else:
        del ahead
        gc.collect()
        assert until(lambda: not threads())


def test_closing_does_not_wait_for_items_that_do_not_come():
    never = threading.Event()

    def waiting():
        yield 1
        never.wait(PATIENCE)

    ahead = Ahead(waiting(), doubled, 3)
    next(ahead)
    assert until(lambda: ahead._state.reading)
    ahead.close()
    assert len(threads()) == 1
    never.set()
    assert until(lambda: not threads())
