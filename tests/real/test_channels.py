"""RemoteChannel on real processes: what each verb promises."""

import asyncio
import gc
import math
import operator
import pickle
import threading
from itertools import chain

import numpy as np
import pytest
from waiting import until

import farcall as fc
from farcall import ChannelClosed, RemoteChannel, SerializationError
from farcall._node.current import current_node

PLACES = pytest.mark.parametrize("place", [1, 2], ids=["on-the-master", "on-a-worker"])

pytestmark = pytest.mark.on_every_engine


def keepers():
    values = [each.value for each in current_node().references.values.values()]
    return [each for each in values if type(each).__name__ == "Keeper"]


def number_of_waiters():
    queues = [each.queue for each in keepers()]
    return sum(len(each._putters) + len(each._takers) + len(each._peekers) for each in queues)


def number_of_channels():
    for pid in fc.procs():
        fc.remotecall_fetch(pid, gc.collect)  # a cycle may hold one
    return len(keepers())


def put_all(channel, items):
    for item in items:
        channel.put(item)


class Point:
    def __init__(self, x):
        self.x = x


# Putting and taking


@PLACES
@pytest.mark.parametrize("producer", [1, 2, 3])
@pytest.mark.parametrize("consumer", [1, 2, 3])
def test_items_come_out_in_the_order_in_which_they_went_in(cluster, place, producer, consumer):
    """From any process to any process, wherever the channel lives, more items than it holds."""
    channel = RemoteChannel(3, pid=place)
    putting = fc.spawnat(producer, put_all, channel, range(500))
    taken = fc.remotecall_fetch(consumer, lambda: [channel.take() for _ in range(500)])
    assert taken == list(range(500))
    assert putting.result() is None


@PLACES
def test_anything_that_a_call_can_carry_goes_through(cluster, place):
    """Objects of classes of the program, functions, arrays, Futures and channels."""
    channel, inner = RemoteChannel(math.inf, pid=place), RemoteChannel(pid=place)
    fc.remotecall_fetch(3, put_all, channel, [Point(3), lambda x: x + 1, np.arange(100_000), inner, None])
    assert channel.take().x == 3
    assert channel.take()(4) == 5
    array = channel.take()
    assert array.flags.writeable
    assert array.sum() == np.arange(100_000).sum()
    channel.take().put("through")
    assert inner.take() == "through"
    assert channel.take() is None


def test_a_put_into_ones_own_channel_stores_the_object(cluster):
    """The owner puts and takes the very object; others get copies."""
    channel, item = RemoteChannel(2), Point(1)
    channel.put(item)
    channel.put(item)
    assert fc.remotecall_fetch(2, lambda: channel.take().x) == 1
    assert channel.take() is item


@PLACES
def test_an_array_that_was_taken_is_private(cluster, place):
    """Writing to an array that was taken or looked at changes no other copy of it."""
    channel, array = RemoteChannel(2, pid=place), np.zeros(100_000)
    fc.remotecall_fetch(2, channel.put, array)
    seen = channel.peek()
    seen[:] = 1
    again = fc.remotecall_fetch(3, lambda: channel.peek().sum())
    assert again == 0
    assert channel.take().sum() == 0
    assert array.sum() == 0


@PLACES
def test_a_full_channel_makes_put_wait(cluster, place):
    """Not more than ``capacity`` items are in, however quick the producer, and whoever waits goes on by itself."""
    channel = RemoteChannel(2, pid=place)
    count = RemoteChannel(math.inf)

    def produce():
        for number in range(100):
            channel.put(number)
            count.put(number)

    putting = fc.spawnat(3, produce)
    for taken in range(100):
        assert channel.take() == taken
        assert len(count) <= taken + 4  # two in the channel, one being put, one on its way
    putting.result()


@PLACES
def test_a_rendezvous_waits_for_its_consumer(cluster, place):
    """With capacity 0 ``put`` returns when somebody has taken the item, and the channel never holds any."""
    channel = RemoteChannel(0, pid=place)
    with pytest.raises(TimeoutError):
        channel.put("early", timeout=0.01)
    putting = fc.spawnat(3, channel.put, "item")
    assert until(channel.isready)
    assert len(channel) == 0
    assert not putting.done()
    assert channel.peek() == "item"
    assert channel.take() == "item"
    putting.result()
    assert not channel.isready()


@PLACES
def test_an_unbounded_channel_never_makes_put_wait(cluster, place):
    """``math.inf`` holds whatever is put."""
    channel = RemoteChannel(math.inf, pid=place)
    put_all(channel, range(5000))
    assert len(channel) == 5000
    assert [channel.take() for _ in range(5000)] == list(range(5000))


def test_two_producers_share_the_room(cluster):
    """A quick producer, for whom places are kept, gives them up when another one waits."""
    channel = RemoteChannel(8, pid=2)
    assert [channel.put(number) for number in range(4)] == [None] * 4  # quick enough to be given places
    fc.remotecall_fetch(3, put_all, channel, range(4))
    with pytest.raises(TimeoutError):
        channel.put("too many", timeout=0.05)
    assert len(channel) == 8


def test_a_consumer_keeps_nothing_that_another_waits_for(cluster):
    """What a quick consumer was sent ahead of its asking returns when others ask, and stays in order."""
    channel = RemoteChannel(1000, pid=2)
    put_all(channel, range(400))
    first = [channel.take() for _ in range(50)]
    rest = fc.remotecall_fetch(3, lambda: [channel.take() for _ in range(350)])
    assert first + rest == list(range(400))
    assert not channel.isready()


def test_threads_of_one_process_share_what_it_was_sent(cluster):
    """Items go to the threads of a process one at a time, each once."""
    channel = RemoteChannel(math.inf, pid=2)
    put_all(channel, range(2000))
    channel.close()
    taken = [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda mine=mine: mine.extend(channel)) for mine in taken]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(chain.from_iterable(taken)) == list(range(2000))
    assert all(mine == sorted(mine) for mine in taken)


def test_the_owner_hears_of_every_producer(cluster):
    """Whoever waits in the owner wakes up for an item of any process, not only of the one that put last."""
    channel = RemoteChannel(10)
    for _ in range(50):
        for pid in (2, 3):
            fc.remote_do(pid, channel.put, pid)
            assert channel.take(timeout=20) == pid


# Closing


@PLACES
def test_a_closed_channel_can_be_emptied(cluster, place):
    """After ``close`` nothing goes in, what is in comes out, then ChannelClosed; closing again is no error."""
    channel = RemoteChannel(5, pid=place)
    put_all(channel, "abc")
    assert channel.isopen()
    channel.close()
    channel.close()
    assert not channel.isopen()
    with pytest.raises(ChannelClosed):
        channel.put("d")
    assert [channel.take() for _ in range(3)] == list("abc")
    for verb in (channel.take, channel.peek, lambda: fc.fetch(channel)):
        with pytest.raises(ChannelClosed):
            verb()
    assert list(channel) == []


@PLACES
def test_closing_wakes_everybody_who_waits(cluster, place):
    """Blocked producers and consumers, in every process, get ChannelClosed."""
    full, empty = RemoteChannel(1, pid=place), RemoteChannel(1, pid=place)
    full.put("full")
    waiting = [fc.spawnat(pid, full.put, "more") for pid in (1, 2, 3)]
    waiting += [fc.spawnat(pid, getattr(empty, verb)) for pid in (1, 2, 3) for verb in ("take", "peek")]
    full.close()
    empty.close()
    for each in waiting:
        with pytest.raises(ChannelClosed):
            each.result()
    assert list(full) == ["full"]


@PLACES
def test_what_was_put_before_the_end_is_delivered(cluster, place):
    """A put that has returned is never lost to a ``close``, also of a producer that needs no answer for each."""
    channel = RemoteChannel(10_000, pid=place)

    def produce():
        count = 0
        while True:
            try:
                channel.put(count)
            except ChannelClosed:
                return count
            count += 1

    putting = fc.spawnat(3, produce)
    assert until(lambda: len(channel) > 500)
    channel.close()
    taken = list(channel)
    assert taken == list(range(putting.result()))


def test_iterating_in_a_coroutine(cluster):
    """``async for`` takes until the channel is closed and empty, and blocks no event loop."""

    async def consume(channel):
        return [item async for item in channel]

    for place in (1, 2):
        channel = RemoteChannel(2, pid=place)
        consuming = [fc.spawnat(pid, consume, channel) for pid in (1, 3)]
        put_all(channel, range(100))
        channel.close()
        assert sorted(chain.from_iterable(each.result() for each in consuming)) == list(range(100))


def test_a_coroutine_that_is_cancelled_swallows_nothing(cluster):
    """An ``async for`` that is cancelled while it waits leaves no waiter behind."""

    async def give_up(channel):
        waiting = asyncio.ensure_future(anext(aiter(channel)))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    for place in (1, 2):
        channel = RemoteChannel(2, pid=place)
        asyncio.run(give_up(channel))
        channel.put("kept")
        assert channel.take(timeout=10) == "kept"


# Looking


@PLACES
def test_state(cluster, place):
    """``len``, ``isready`` and ``repr`` tell the owner's state; an empty channel is true, like any object."""
    channel = RemoteChannel(3, type=str, pid=place)
    assert not channel.isready()
    assert not fc.isready(channel)
    assert bool(channel)
    assert repr(channel) == f"<RemoteChannel on {place}: 0/3 str, open>"
    channel.put("a")
    assert len(channel) == 1
    assert fc.isready(channel)
    assert fc.fetch(channel) == channel.peek() == "a"
    assert len(channel) == 1
    channel.close()
    assert repr(channel) == f"<RemoteChannel on {place}: 1/3 str, closed>"
    assert channel.where == place
    assert repr(RemoteChannel(math.inf)) == "<RemoteChannel on 1: 0/inf, open>"


@PLACES
def test_waiting_for_an_item_takes_none(cluster, place):
    """``wait`` returns the channel when it has an item, which stays there."""
    channel = RemoteChannel(1, pid=place)
    with pytest.raises(TimeoutError):
        fc.wait(channel, timeout=0.01)
    waiting = fc.spawnat(3, lambda: fc.wait(channel).where)
    channel.put(lambda: None)
    assert waiting.result() == place
    assert len(channel) == 1


def test_a_call_can_go_where_a_channel_lives(cluster):
    """A channel is a place: ``spawnat(channel, f)`` runs f in its process."""
    assert fc.fetch(fc.spawnat(RemoteChannel(pid=3), fc.myid)) == 3


# Time


@PLACES
def test_what_has_timed_out_has_not_happened(cluster, place):
    """Each verb raises TimeoutError, and leaves nothing that would take or be an item later."""
    channel = RemoteChannel(1, pid=place)
    for verb in (channel.take, channel.peek):
        with pytest.raises(TimeoutError):
            verb(timeout=0.01)
    with pytest.raises(TimeoutError):
        next(iter(channel.lease(timeout=0.01)))
    channel.put("first")
    with pytest.raises(TimeoutError):
        channel.put("never", timeout=0.01)
    assert channel.take() == "first"
    assert not channel.isready()


@PLACES
def test_what_was_cancelled_has_not_happened(cluster, place):
    """A take, a put and a lease whose calls are cancelled leave nothing behind."""
    channel = RemoteChannel(1, pid=place)
    for verb in (channel.take, channel.peek, lambda: next(iter(channel.lease()))):
        waiting = [fc.spawnat(pid, verb) for pid in (1, 2, 3)]
        assert until(lambda: fc.remotecall_fetch(place, number_of_waiters) == 3)
        assert {each.cancel() for each in waiting} == {True}
        assert until(lambda: fc.remotecall_fetch(place, number_of_waiters) == 0)
    channel.put("kept")
    waiting = [fc.spawnat(pid, channel.put, "never") for pid in (1, 2, 3)]
    assert until(lambda: fc.remotecall_fetch(place, number_of_waiters) == 3)
    assert {each.cancel() for each in waiting} == {True}
    assert until(lambda: fc.remotecall_fetch(place, number_of_waiters) == 0)
    assert channel.take() == "kept"
    with pytest.raises(TimeoutError):
        channel.take(timeout=0.02)


# Leases


@PLACES
def test_a_lease_hands_out_each_item_until_the_end(cluster, place):
    """A loop over leases gets every item once if nothing goes wrong, and ends with the channel."""
    channel = RemoteChannel(10, pid=place)
    consuming = [fc.spawnat(pid, lambda: list(channel.lease())) for pid in (1, 2, 3)]
    put_all(channel, range(100))
    channel.close()
    assert sorted(chain.from_iterable(each.result() for each in consuming)) == list(range(100))


@PLACES
def test_the_item_of_a_loop_that_raises_goes_to_another(cluster, place):
    """In its old place, with a delivery more; a loop that is left by ``break`` or ``return`` is through with it."""
    channel = RemoteChannel(5, pid=place)
    put_all(channel, "abcd")

    def fail():
        for _ in channel.lease():
            raise ValueError("no")

    def leave():
        for item in channel.lease():
            if item:
                break
        return item

    def hand_back():
        for item in channel.lease():
            return item

    for pid in (1, 2, 3):
        with pytest.raises(ValueError, match="no"):
            fc.fetch(fc.spawnat(pid, fail))
    leases = channel.lease()
    assert next(leases) == "a"
    assert leases.deliveries == 4
    assert next(leases) == "b"
    assert leases.deliveries == 1
    leases.__exit__(None, None, None)
    assert fc.fetch(fc.spawnat(2, leave)) == "c"
    assert fc.fetch(fc.spawnat(3, hand_back)) == "d"
    with pytest.raises(TimeoutError):
        channel.take(timeout=0.02)


def test_a_lease_as_a_context(cluster):
    """``with channel.lease() as items``: the current item is done at the end of the block, unless that raises."""
    channel = RemoteChannel(5)
    put_all(channel, "ab")

    def fail():
        with channel.lease() as items:
            assert next(items) == "a"
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    with channel.lease() as items:
        assert next(items) == "a"
        assert items.deliveries == 2
    assert channel.take() == "b"


def test_the_last_lease_keeps_others_waiting(cluster):
    """A closed channel has not ended as long as an item is leased, because it may come back."""
    channel = RemoteChannel(5)
    channel.put("a")
    holder = channel.lease()
    assert next(holder) == "a"
    channel.close()
    other = fc.spawnat(2, lambda: list(channel.lease()))
    with pytest.raises(ChannelClosed):
        channel.take()
    assert not other.done()
    del holder
    assert other.result() == ["a"]


def test_a_leased_item_cannot_be_spoilt(cluster):
    """A consumer that changes the array that it leased and fails hands on the array as it was put."""
    channel = RemoteChannel(5)
    fc.remotecall_fetch(2, channel.put, np.zeros(100_000))

    def spoil():
        for array in channel.lease():
            array[:] = 1
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        spoil()
    assert channel.take().sum() == 0


# Errors


def test_the_wrong_type_is_an_error_at_the_producer(cluster):
    """Also in another process; the item is named, and nothing is put."""
    channel = RemoteChannel(5, type=str)
    with pytest.raises(TypeError, match="RemoteChannel of str takes no int: 7"):
        channel.put(7)
    with pytest.raises(TypeError, match="takes no int"):
        fc.remotecall_fetch(2, channel.put, 7)
    assert not channel.isready()
    with pytest.raises(TypeError):
        RemoteChannel(type="str")


@pytest.mark.parametrize(
    ("capacity", "error"),
    [(-1, ValueError), (1.5, ValueError), (math.nan, ValueError), ("3", TypeError), (True, TypeError)],
)
def test_a_capacity_is_a_whole_number(capacity, error):
    """Anything else is named in the error."""
    with pytest.raises(error, match="capacity="):
        RemoteChannel(capacity)


def test_an_unknown_process_keeps_no_channel(cluster):
    """A pid that never was is a ValueError, for the place of a channel and for ``bind``."""
    with pytest.raises(ValueError, match="no process 77"):
        RemoteChannel(pid=77)
    with pytest.raises(ValueError, match="no process 77"):
        RemoteChannel().bind(77)
    with pytest.raises(ValueError, match="no process 77"):
        RemoteChannel(pid=2).bind(77)


def refuse():
    raise RuntimeError("not here")


class OnlyThere:
    """Can be pickled, and unpickled only in worker 3."""

    def __reduce__(self):
        return (operator.methodcaller("__call__"), (_only_on_three,))


def _only_on_three():
    if fc.myid() != 3:
        refuse()
    return "opened"


@PLACES
def test_an_item_that_cannot_be_opened_stays(cluster, place):
    """Unpickling fails where it is taken, not where it lies, and others can still have the item."""
    channel = RemoteChannel(5, pid=place)
    fc.remotecall_fetch(3, lambda: channel.put(OnlyThere()))
    for verb in (channel.take, channel.peek, lambda: next(channel.lease())):
        with pytest.raises(SerializationError, match="not here"):
            verb()
    assert fc.remotecall_fetch(3, channel.take) == "opened"


@PLACES
def test_an_item_that_cannot_travel_is_named(cluster, place):
    """A lock cannot be pickled: SerializationError at the producer, or at the consumer of the owner's own object."""
    channel = RemoteChannel(5, pid=place)
    with pytest.raises(SerializationError, match="lock"):
        fc.remotecall_fetch(3, lambda: channel.put(threading.Lock()))
    fc.remotecall_fetch(place, lambda: channel.put(threading.Lock()))
    with pytest.raises(SerializationError, match="lock"):
        fc.remotecall_fetch(3, channel.take)
    assert len(channel) == 1


def test_a_channel_travels_in_calls_only(cluster):
    """``pickle`` alone would lose the reference, and says so."""
    with pytest.raises(SerializationError, match="reference"):
        pickle.dumps(RemoteChannel())


# The end


def test_a_channel_is_freed_with_its_last_holder(cluster):
    """Holders are counted over all processes; operations and items that hold a channel count too."""
    assert until(lambda: number_of_channels() == 0)
    channel = RemoteChannel(5)
    channel.put([1, 2, 3])
    fc.remotecall_fetch(2, keep, channel)
    assert number_of_channels() == 1
    del channel
    gc.collect()
    assert fc.remotecall_fetch(2, use) == [1, 2, 3]
    fc.remotecall_fetch(2, keep, None)
    assert until(lambda: number_of_channels() == 0)


def keep(channel):
    import __main__

    __main__.kept_channel = channel


def use():
    import __main__

    return __main__.kept_channel.take()


def test_what_a_process_was_sent_returns_when_it_lets_go(cluster):
    """A consumer that was sent items ahead and drops the channel gives them back, and a producer its places."""
    channel = RemoteChannel(300, pid=2)
    put_all(channel, range(250))

    def take_some(channel):
        return [channel.take() for _ in range(20)]

    taken = fc.remotecall_fetch(3, take_some, channel)
    rest = [channel.take(timeout=20) for _ in range(230)]
    assert taken + rest == list(range(250))
