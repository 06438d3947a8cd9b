"""imap: results as they come, no faster than they are wanted."""

import itertools
import threading
import time

import pytest
from waiting import until

import farcall as fc

pytestmark = pytest.mark.on_every_engine


def double(x):
    return 2 * x


class Counted:
    """An endless input that knows how much was drawn of it."""

    def __init__(self):
        self.drawn = 0
        self.ended = False

    def __iter__(self):
        try:
            while True:
                self.drawn += 1
                yield self.drawn - 1
        finally:
            self.ended = True


def test_results_come_before_the_input_ends(cluster):
    """A stream over an endless input gives results, in the order of the items."""
    assert list(itertools.islice(fc.imap(double, itertools.count()), 30_000)) == list(range(0, 60_000, 2))


def test_nothing_is_drawn_before_it_is_wanted(cluster):
    """A stream begins with the first next; what is wrong is told before."""
    source = Counted()
    stream = fc.imap(double, source)
    assert source.drawn == 0
    assert next(stream) == 0
    stream.close()
    assert until(lambda: source.ended)
    with pytest.raises(TypeError, match="no option"):
        fc.imap(double, [1], wrong=1)
    with pytest.raises(TypeError, match="cannot be called"):
        fc.imap([1], double)


def test_a_slow_consumer_is_not_overrun(cluster):
    """However long an endless input is, and however quick the workers, what is ahead of the consumer is bounded."""
    source, ahead = Counted(), 0
    for index, value in enumerate(fc.imap(double, source)):
        assert value == 2 * index
        ahead = max(ahead, source.drawn - index)
        if index == 100_000:
            break
    assert ahead <= 8100  # four batches of a thousand items for each of two workers


def test_a_slow_item_holds_back_an_ordered_stream_and_not_memory(cluster, tmp_path):
    """While the first item runs the others are done up to a bound, and are there when it ends."""
    source = Counted()

    def work(n):
        while n == 0 and not (tmp_path / "go").exists():
            time.sleep(0.002)
        return n

    def let_go():
        before = -1
        while source.drawn != before:  # until nothing moves any more
            before = source.drawn
            threading.Event().wait(0.2)
        (tmp_path / "go").touch()

    thread = threading.Thread(target=let_go)
    thread.start()
    stream = fc.imap(work, source)
    assert list(itertools.islice(stream, 50)) == list(range(50))
    thread.join()
    assert source.drawn <= 8100
    stream.close()


def test_unordered_results_come_as_they_are_done(cluster, tmp_path):
    """With ordered=False a slow item holds nobody up, and every result comes once."""

    def work(n):
        while n == 0 and not (tmp_path / "go").exists():
            time.sleep(0.002)
        return n

    got = []
    for value in fc.imap(work, range(100), ordered=False, batch_size=1):
        got.append(value)
        if len(got) == 50:
            (tmp_path / "go").touch()
    assert 0 not in got[:50]
    assert sorted(got) == list(range(100))


def test_results_can_be_had_while_the_map_runs(cluster, tmp_path):
    """The first result comes while a later item still runs."""

    def work(n):
        while n == 1 and not (tmp_path / "go").exists():
            time.sleep(0.002)
        return n

    stream = fc.imap(work, range(3))
    assert next(stream) == 0
    (tmp_path / "go").touch()
    assert list(stream) == [1, 2]


@pytest.mark.parametrize("leave", ["close", "break", "raise"])
def test_leaving_the_loop_cancels_the_rest(cluster, tmp_path, leave):
    """Whoever leaves the loop early has what runs interrupted; the input's finally blocks run."""
    source = Counted()

    def work(n):
        if n == 0:
            while not any(tmp_path.iterdir()):
                time.sleep(0.002)
            return n
        try:
            (tmp_path / f"begun {n}").touch()
            while True:
                time.sleep(0.005)
        finally:
            (tmp_path / f"ended {n}").touch()

    def consume(stream):
        for _ in stream:
            if leave == "raise":
                raise LookupError
            break

    stream = fc.imap(work, source, batch_size=1)
    if leave == "raise":
        with pytest.raises(LookupError):
            consume(stream)
    else:
        consume(stream)
    if leave == "close":
        stream.close()
    del stream

    def all_ended():
        names = [each.name.split() for each in tmp_path.iterdir()]
        return {n for what, n in names if what == "begun"} == {n for what, n in names if what == "ended"}

    assert until(all_ended)
    assert until(lambda: source.ended)
    assert fc.pmap(abs, [-1]) == [1]


def test_an_error_of_the_input_is_raised_as_it_is(cluster):
    """What the iterable raises ends the map."""

    def broken():
        yield 1
        raise OSError("the input broke")

    with pytest.raises(OSError, match="the input broke"):
        fc.pmap(double, broken())
    with pytest.raises(OSError, match="the input broke"):
        list(fc.imap(double, broken()))


def test_an_error_in_a_stream(cluster):
    """The first error ends a stream, with the item named."""
    with pytest.raises(ZeroDivisionError) as caught:
        for _ in fc.imap(lambda x: 1 // x, [1, 2, 0, 3]):
            pass
    assert "item 2 of the map" in caught.value.__notes__
    assert list(fc.imap(lambda x: 1 // x, [1, 0, 3], on_error=lambda error: -1)) == [1, -1, 0]


def test_streams_nest_and_meet(cluster):
    """Two streams at once, one feeding the other, and one on a worker."""
    first = fc.imap(double, range(1000))
    assert list(fc.imap(double, first)) == list(range(0, 4000, 4))
    assert fc.remotecall_fetch(cluster[0], lambda: list(fc.imap(abs, range(-3, 0)))) == [3, 2, 1]
