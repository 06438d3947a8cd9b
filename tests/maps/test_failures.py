"""Items that fail, take too long, or cannot travel."""

import itertools
import os
import threading
import time

import numpy as np
import pytest
from waiting import until

import farcall as fc

pytestmark = pytest.mark.on_every_engine


def fail_at_zero(x):
    return 10 // x


class Odd(Exception):
    """An error of the test's own, which holds an array that would leave a pickle."""

    def __init__(self, text, array):
        super().__init__(text, array)
        self.array = array


class Stubborn(Exception):
    """An error that cannot be rebuilt."""

    def __init__(self, first, second):
        super().__init__("stubborn")


def test_the_first_error_is_raised_as_it_is(cluster):
    """Its type stays, a note names the item, another the worker, and its cause is the remote traceback."""
    with pytest.raises(ZeroDivisionError) as caught:
        fc.pmap(fail_at_zero, [5, 2, 0, 1])
    first, second = caught.value.__notes__
    assert (first.startswith("on worker"), second) == (True, "item 2 of the map")
    text = str(caught.value.__cause__)
    assert "in fail_at_zero" in text
    assert "farcall/_pmap" not in text


@pytest.mark.needs_main_thread
def test_an_error_cancels_the_others(cluster, tmp_path):
    """What runs is interrupted, asleep or not, and what has not begun never does."""

    def work(n):
        if n == 0:
            while not (tmp_path / "1").exists():
                time.sleep(0.001)
            raise KeyError("first")
        try:
            (tmp_path / str(n)).touch()
            time.sleep(30)
        finally:
            (tmp_path / "ended").touch()

    with pytest.raises(KeyError, match="first"):
        fc.pmap(work, range(100))
    assert until((tmp_path / "ended").exists)
    assert not (tmp_path / "50").exists()
    assert fc.pmap(abs, [-1]) == [1]


def test_the_rest_of_a_batch_is_not_done_after_an_error(cluster, tmp_path):
    """Where an error ends the map, the items behind it in its batch are left alone."""

    def work(n):
        (tmp_path / str(n)).touch()
        return 1 // (3 - n)

    with pytest.raises(ZeroDivisionError):
        fc.pmap(work, range(10), batch_size=10, pool=fc.WorkerPool(cluster[:1]))
    assert {each.name for each in tmp_path.iterdir()} == {"0", "1", "2", "3"}


def test_any_kind_of_error_comes_back(cluster):
    """Errors that hold arrays keep their type, those that cannot be rebuilt keep name and text."""

    def fail(kind):
        if kind == "odd":
            raise Odd("with an array", np.arange(100_000))
        if kind == "stop":
            raise StopIteration("enough")
        if kind == "exit":
            raise SystemExit(3)
        if kind == "interrupt":
            raise KeyboardInterrupt
        raise Stubborn(1, 2)

    with pytest.raises(Odd) as caught:
        fc.pmap(fail, ["odd"])
    assert caught.value.array.sum() == sum(range(100_000))
    with pytest.raises(fc.RemoteError, match="stubborn"):
        fc.pmap(fail, ["stubborn"])
    with pytest.raises(SystemExit, match="3"):
        fc.pmap(fail, ["exit"])
    with pytest.raises(KeyboardInterrupt):
        fc.pmap(fail, ["interrupt"])
    kinds = fc.pmap(fail, ["odd", "stubborn"] * 5, on_error=lambda error: type(error).__name__)
    assert kinds == ["Odd", "RemoteError"] * 5


def test_stop_iteration_is_an_error_and_not_an_end(cluster):
    """A function that raises StopIteration does not cut the results short."""

    def stop_at_three(x):
        if x == 3:
            raise StopIteration
        return x

    assert fc.pmap(stop_at_three, range(6), on_error=repr, batch_size=6) == [0, 1, 2, "StopIteration()", 4, 5]
    assert fc.pmap(stop_at_three, range(4), on_error=repr, batch_size=4) == [0, 1, 2, "StopIteration()"]


# on_error, retries


def test_on_error_replaces_what_failed(cluster):
    """The value of on_error takes the item's place; it runs here, and what it raises ends the map."""
    seen = []

    def note(error):
        seen.append((type(error), threading.current_thread()))
        return "failed"

    assert fc.pmap(fail_at_zero, [1, 0, 2, 0, 0], on_error=note) == [10, "failed", 5, "failed", "failed"]
    assert seen == [(ZeroDivisionError, threading.current_thread())] * 3

    def refuse(error):
        raise LookupError("no") from error

    with pytest.raises(LookupError, match="no"):
        fc.pmap(fail_at_zero, [1, 0], on_error=refuse)


def count_tries(directory, name):
    """Return which try of an item this is, counting from 1."""
    for number in itertools.count(1):
        try:
            (directory / f"{name}.{number}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return number


def test_an_item_is_tried_again_as_often_as_there_are_delays(cluster, tmp_path):
    """retry_delays gives the number of new tries; the last error counts, and others are not done twice."""

    def work(n):
        number = count_tries(tmp_path, n)
        if n % 10 == 3 and number <= 2:
            raise OSError(f"try {number}")
        return n, number

    assert fc.pmap(work, range(50), retry_delays=[0.01, 0.01]) == [(n, 3 if n % 10 == 3 else 1) for n in range(50)]


def test_tries_end(cluster, tmp_path):
    """After the last delay the error is raised, or goes to on_error, with the item named."""

    def work(n):
        raise OSError(f"try {count_tries(tmp_path, n)}")

    with pytest.raises(OSError, match="try 3") as caught:
        fc.pmap(work, [7], retry_delays=iter([0, 0.001]))
    assert "item 0 of the map" in caught.value.__notes__
    assert fc.pmap(work, [8], retry_delays=[0], on_error=str) == ["try 2"]


def test_retry_check_says_what_is_worth_another_try(cluster, tmp_path):
    """An error that retry_check refuses is final; it sees the error itself."""

    def work(n):
        number = count_tries(tmp_path, n)
        raise (OSError if n else ValueError)(f"try {number}")

    def check(error):
        return isinstance(error, OSError)

    assert fc.pmap(work, [0, 1], retry_delays=[0, 0], retry_check=check, on_error=str) == ["try 1", "try 3"]


# Timeouts


@pytest.mark.needs_main_thread
def test_an_item_that_takes_too_long_is_interrupted(cluster, tmp_path):
    """timeout= is for each item, ends also what sleeps in C, and is a TimeoutError; others of its batch go on."""

    def nap(seconds):
        try:
            time.sleep(seconds)
        finally:
            (tmp_path / f"{seconds}").touch()
        return seconds

    results = fc.pmap(nap, [0.001, 30, 0.002, 31], timeout=0.2, on_error=repr, batch_size=4)
    late = "TimeoutError('the item took longer than 0.2 s, and was interrupted')"
    assert results == [0.001, late, 0.002, late]
    assert {each.name for each in tmp_path.iterdir()} == {"0.001", "30", "0.002", "31"}
    with pytest.raises(TimeoutError, match=r"longer than 0\.05 s"):
        fc.pmap(nap, [30], timeout=0.05)


def test_many_items_that_are_in_time(cluster):
    """A timeout does not strike who comes after a quick item."""
    assert fc.pmap(abs, range(-3000, 0), timeout=0.5) == list(range(3000, 0, -1))


def test_a_late_item_is_tried_again(cluster, tmp_path):
    """A TimeoutError is an error like another: retries count."""

    def slow_once(n):
        first = count_tries(tmp_path, n) == 1
        while first:
            time.sleep(0.005)
        return n

    assert fc.pmap(slow_once, range(3), timeout=0.1, retry_delays=[0]) == [0, 1, 2]


# What cannot travel


def test_an_item_that_cannot_be_pickled_is_named(cluster):
    """It fails alone, whether or not the others of its batch can."""
    items = [1, threading.Lock(), 3]
    with pytest.raises(fc.SerializationError) as caught:
        fc.pmap(type, items, batch_size=3)
    assert "item 1 of the map" in caught.value.__notes__
    kinds = fc.pmap(repr, items, batch_size=3, on_error=lambda error: type(error).__name__)
    assert kinds == ["1", "SerializationError", "3"]


def test_a_result_that_cannot_be_pickled_is_named(cluster, tmp_path):
    """It fails alone, and no item is done twice for it."""

    def work(n):
        assert count_tries(tmp_path, n) == 1
        return threading.Lock() if n == 2 else n

    with pytest.raises(fc.SerializationError, match="lock") as caught:
        fc.pmap(lambda n: threading.Lock() if n == 2 else n, range(4), batch_size=4)
    assert "item 2 of the map" in caught.value.__notes__
    kinds = fc.pmap(work, range(4), batch_size=4, on_error=lambda error: type(error).__name__)
    assert kinds == [0, 1, "SerializationError", 3]


def test_a_function_that_cannot_travel_fails_at_once(cluster):
    """What f captures must be picklable, and unpicklable on the worker."""
    lock = threading.Lock()
    with pytest.raises(fc.SerializationError, match="lock"):
        fc.pmap(lambda x: lock, [1, 2, 3])

    class Fragile:
        def __reduce__(self):
            return os.listdir, ("/there/is/no/such/place",)

    fragile = Fragile()
    with pytest.raises(fc.SerializationError, match="No such file"):
        fc.pmap(lambda x: fragile, [1, 2, 3], on_error=str)


def test_interrupting_a_worker_ends_the_map(cluster, tmp_path):
    """fc.interrupt raises KeyboardInterrupt in the items that run, and in whoever waits for the map."""

    def nap(n):
        (tmp_path / str(n)).touch()
        while True:
            time.sleep(0.005)

    def interrupt_when_busy():
        assert until(lambda: len(list(tmp_path.iterdir())) == 2)
        fc.interrupt()

    thread = threading.Thread(target=interrupt_when_busy)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        fc.pmap(nap, range(10))
    thread.join()
    assert fc.pmap(abs, range(-5, 0)) == [5, 4, 3, 2, 1]
