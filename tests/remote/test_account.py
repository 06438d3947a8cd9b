"""What a process has of a channel, item by item, over the memory transport: what is promised is accounted for."""

import asyncio
import math
import threading

import numpy as np
import pytest
from in_one_process import Nodes
from waiting import until

from farcall import ProcessExited, RemoteChannel, SerializationError
from farcall._node.current import running_call
from farcall._node.prompt import notify
from farcall._remote import keeper
from farcall._remote import queue as queue_module
from farcall._remote.account import Account

HELD: list[RemoteChannel] = []


def hold(channel):
    HELD.append(channel)


@pytest.fixture
def nodes():
    with Nodes(3) as nodes:
        yield nodes
        HELD.clear()


def open_channel(nodes, capacity=math.inf):
    """Return a channel that lives on node 1 and that all nodes hold."""
    with nodes.being(1):
        channel = RemoteChannel(capacity)
    for pid in (2, 3):
        nodes.run(pid, hold, channel)
    return channel


@pytest.fixture
def channel(nodes):
    """An unbounded channel that lives on node 1 and that all nodes hold."""
    return open_channel(nodes)


@pytest.fixture
def quick(monkeypatch):
    """Whoever takes twice in a row may get several items at once, and whoever puts twice several credits."""
    monkeypatch.setattr(queue_module, "_ALONE", 0)
    monkeypatch.setattr("farcall._remote.account._QUICK", 60.0)


def queue_of(channel):
    return channel._account.keeper.queue


def take(channel, count):
    return [channel.take() for _ in range(count)]


def put(channel, *items):
    for item in items:
        channel.put(item)


def put_on_account(nodes, channel, pid, count):
    """Have a node take items until it has been lent more than it has handed out; return those it took."""
    put(channel, *range(count))
    taken = []
    while not queue_of(channel).several:
        taken += nodes.run(pid, take, channel, 1)
    return taken


class Opened:
    """An item that runs a function of this process where it is unpickled."""

    doors: dict = {}  # noqa: RUF012

    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        return self.open, (self.number,)

    @classmethod
    def open(cls, number):
        cls.doors.get(number, int)()
        return number


@pytest.fixture
def doors():
    """Return a table of functions by item: what happens when that is unpickled."""
    yield Opened.doors
    Opened.doors.clear()


# Items


def crosses(channel, item):
    return np.array_equal(channel.peek(10), item) and np.array_equal(channel.take(10), item)


@pytest.mark.parametrize("item", [7, "text", None, (1, 2), [], {"a": [1]}, np.arange(3), np.arange(100_000), abs])
@pytest.mark.parametrize("where", [1, 2])
def test_every_kind_of_item_crosses(nodes, where, item):
    """Plain values, small and large objects: put here or there, taken or seen by who owns the channel or not."""
    with nodes.being(1):
        channel = RemoteChannel(10, pid=where)
    for producer in (1, 2):
        for consumer in (1, 2):
            nodes.run(producer, channel.put, item)
            assert nodes.run(consumer, crosses, channel, item)


def test_a_channel_travels_through_a_channel(nodes, channel):
    """An item may be, or hold, a channel: who takes it can use it."""
    with nodes.being(1):
        inner = RemoteChannel(10, pid=3)
    nodes.run(2, lambda: channel.put({"answer here": inner}))
    nodes.run(3, lambda: channel.take()["answer here"].put("here it is"))
    assert inner.take(10) == "here it is"


def fail():
    raise ValueError("cannot be opened")


def test_an_item_that_cannot_be_opened_returns_with_those_behind_it(nodes, channel, doors, quick):
    """The first or a later one of several: it is an error each time, and all keep their places."""
    for bad in range(5):
        doors[bad] = fail
        nodes.run(1, put, channel, *[Opened(i) for i in range(6)])
        assert nodes.run(2, take, channel, bad) == list(range(bad))
        for _ in range(3):
            with pytest.raises(SerializationError, match="cannot be opened"):
                nodes.run(2, take, channel, 1)
        del doors[bad]
        assert nodes.run(3, take, channel, 6 - bad) == list(range(bad, 6))
        assert not channel.isready()


def test_an_item_that_cannot_travel_holds_up_nobody_before_it(nodes, channel, quick):
    """Of several items that are to go together those before the bad one arrive."""
    nodes.run(1, put, channel, 0, [1], [2], threading.Lock(), 4)
    nodes.run(2, channel.put, 5)
    assert nodes.run(2, take, channel, 3) == [0, [1], [2]]
    for pid in (2, 3):
        with pytest.raises(SerializationError, match="lock"):
            nodes.run(pid, take, channel, 1)
    assert type(channel.take()) is type(threading.Lock())
    assert nodes.run(3, take, channel, 2) == [4, 5]


# Items that are lent and not handed out


def test_what_is_not_handed_out_can_be_seen_and_taken_by_all(nodes, channel, quick):
    """Items that another process was lent count, are ready, and are there for who peeks, takes or leases."""
    count = 40
    first = len(put_on_account(nodes, channel, 2, count))
    assert len(channel) == count - first
    assert nodes.run(3, channel.isready)
    assert nodes.run(3, channel.peek, 10) == first
    assert nodes.run(3, channel.take, 10) == first
    leases = iter(channel.lease(10))
    assert next(leases) == first + 1
    assert nodes.run(2, take, channel, 2) == [first + 2, first + 3]
    leases.__exit__(None, None, None)


def test_the_owner_itself_takes_in_the_order_of_all(nodes, channel, quick):
    """Its quick way is closed while another process has items that come before."""
    first = len(put_on_account(nodes, channel, 2, 5))
    put(channel, "behind them")
    assert take(channel, 6 - first) == [*range(first, 5), "behind them"]


def test_one_recall_is_enough(nodes, channel, doors, quick, monkeypatch):
    """While a process opens an item, and however long that takes, it is asked once for those behind it."""
    recalls = []
    monkeypatch.setattr(keeper, "notify_promptly", _counting(keeper.notify_promptly, recalls))
    gate, opening = threading.Event(), threading.Event()
    doors[5] = lambda: (opening.set(), gate.wait(10))
    nodes.run(1, put, channel, *[Opened(i) for i in range(10)])
    slow = nodes.spawn(2, take, channel, 6)
    assert opening.wait(5)
    other = nodes.spawn(3, take, channel, 4)
    assert until(lambda: recalls)
    for _ in range(20):
        channel.isready()
    assert until(lambda: len(queue_of(channel)) == 5), "one in hand, and four that are back"
    assert not other.done()
    gate.set()
    assert slow.result(10) == [0, 1, 2, 3, 4, 5]
    assert other.result(10) == [6, 7, 8, 9]
    assert len(recalls) == 1


def _counting(function, calls):
    def counting(*args):
        calls.append(args)
        function(*args)

    return counting


def test_threads_of_one_process_confirm_what_each_has(nodes, channel, doors, quick):
    """A thread that is slow to open its item and another that has the next: each item counts for itself."""
    gate, opening = threading.Event(), threading.Event()
    doors[3] = lambda: (opening.set(), gate.wait(10))
    nodes.run(1, put, channel, *[Opened(i) for i in range(8)])
    assert nodes.run(2, take, channel, 3) == [0, 1, 2]
    slow = nodes.spawn(2, take, channel, 1)
    assert opening.wait(5)
    assert nodes.run(2, take, channel, 2) == [4, 5]
    nodes.kill(2)
    gate.set()
    with pytest.raises(ProcessExited):
        slow.result(10)
    assert nodes.run(3, take, channel, 3) == [3, 6, 7]


def test_what_a_process_was_lent_returns_when_it_lets_go(nodes, channel, quick, capfd):
    """With the last RemoteChannel of a process its items and its credits return."""
    bounded = open_channel(nodes, 100)
    nodes.run(2, put, bounded, *range(10))
    assert queue_of(bounded)._reserved
    first = len(put_on_account(nodes, channel, 2, 20))
    HELD.clear()
    assert until(lambda: not (queue_of(channel).several or queue_of(bounded)._reserved))
    assert take(channel, 20 - first) == list(range(first, 20))
    nodes[1].pool.join(0.1)
    assert capfd.readouterr().err == ""


# Places


def test_credits_return_to_who_waits(nodes, quick):
    """Places that are kept for one producer are given to another that waits for room, and the order is kept."""
    channel = open_channel(nodes, 20)
    nodes.run(2, put, channel, *range(5))
    queue = queue_of(channel)
    assert queue._reserved
    other = nodes.spawn(3, put, channel, *range(100, 115))
    assert other.result(10) is None
    assert not queue._reserved
    assert sorted(take(channel, 20)) == [*range(5), *range(100, 115)]


def test_close_waits_for_credits_and_ends_them(nodes, quick):
    """close returns when nothing more can come in, although a producer had places kept for it."""
    channel = open_channel(nodes, 20)
    nodes.run(2, put, channel, *range(5))
    assert queue_of(channel)._reserved
    nodes.run(3, channel.close)
    assert not queue_of(channel)._reserved
    with pytest.raises(Exception, match="closed"):
        nodes.run(2, put, channel, 5)
    assert nodes.run(2, list, channel) == list(range(5))


# What is on its way


class Held:
    """A gate in a method of the account of node 2: it waits there once, when it is closed."""

    def __init__(self, monkeypatch, name, before):
        self.arrived, self.gate, self.recalled = threading.Event(), threading.Event(), threading.Event()
        self.closed = False
        method, on_recall = getattr(Account, name), Account.on_recall

        def held(account, *args, **kwargs):
            if before:
                self.wait(account)
            outcome = method(account, *args, **kwargs)
            if not before:
                self.wait(account)
            return outcome

        def recalled(account):
            on_recall(account)
            self.recalled.set()

        monkeypatch.setattr(Account, name, held)
        monkeypatch.setattr(Account, "on_recall", recalled)

    def wait(self, account):
        if self.closed and account._node.pid == 2:
            self.closed = False
            self.arrived.set()
            assert self.gate.wait(10)


def test_items_that_arrive_before_a_recall_and_are_opened_after_it_return(nodes, channel, quick, monkeypatch):
    """A recall that overtakes the opening of an answer is obeyed when that is opened, without being repeated."""
    held = Held(monkeypatch, "exchange", before=False)
    put(channel, *range(10))
    assert nodes.run(2, take, channel, 1) == [0]
    held.closed = True
    slow = nodes.spawn(2, take, channel, 1)
    assert held.arrived.wait(5)
    assert queue_of(channel).several
    other = nodes.spawn(3, take, channel, 1)
    assert held.recalled.wait(5)
    held.gate.set()
    assert (slow.result(5), other.result(5)) == ([1], [2])


def test_credits_that_arrive_before_a_recall_and_are_opened_after_it_return(nodes, quick, monkeypatch):
    """So are credits."""
    channel, held = open_channel(nodes, 8), Held(monkeypatch, "_open_put", before=True)
    nodes.run(2, put, channel, 0)
    held.closed = True
    slow = nodes.spawn(2, put, channel, 1)
    assert held.arrived.wait(5)
    assert queue_of(channel)._reserved == 1
    other = nodes.spawn(3, put, channel, *range(2, 8))
    assert held.recalled.wait(5)
    held.gate.set()
    assert slow.result(5) is other.result(5) is None
    assert sorted(take(channel, 8)) == list(range(8))


# Who gives up


@pytest.mark.parametrize("pid", [1, 2])
def test_a_put_that_has_timed_out_is_not_in_the_channel(nodes, pid):
    """When there is room again, nothing comes."""
    channel = open_channel(nodes, 1)
    channel.put("full")
    with pytest.raises(TimeoutError):
        nodes.run(pid, channel.put, "never", 0.01)
    assert queue_of(channel).involved() == set()
    assert channel.take() == "full"
    assert not channel.isready()


@pytest.mark.parametrize("error", [TimeoutError, KeyboardInterrupt])
def test_a_put_that_happens_while_it_is_given_up(nodes, quick, monkeypatch, error):
    """A timeout is no error then; an interrupt is raised all the same. Its credits are not lost."""
    channel, wait = open_channel(nodes, 20), Account._wait
    nodes.run(2, put, channel, 0)

    def wait_too_long(account, *args):
        wait(account, *args)
        monkeypatch.setattr(Account, "_wait", wait)
        raise error

    monkeypatch.setattr(Account, "_wait", wait_too_long)
    future = nodes.spawn(2, put, channel, 1)
    assert type(future.exception(5)) is (type(None) if error is TimeoutError else error)
    assert queue_of(channel)._reserved == 1
    HELD.clear()
    assert until(lambda: not queue_of(channel)._reserved)
    assert take(channel, 2) == [0, 1]


def test_credits_of_a_put_that_was_given_up_unheard_return(nodes, quick, monkeypatch):
    """An owner that answers nothing for long, and grants credits when it goes on, gets them back."""
    channel, frozen, handle = open_channel(nodes, 20), [], keeper.Keeper.handle
    nodes.run(2, put, channel, 0)
    with monkeypatch.context() as patch:
        patch.setattr("farcall._remote.account._CERTAINTY", 0.01)
        patch.setattr(keeper.Keeper, "handle", lambda self, *event: frozen.append((self, *event)))
        with pytest.raises(TimeoutError):
            nodes.run(2, channel.put, 1, 0.01)
        assert until(lambda: len(frozen) == 3)
    for event in frozen:
        handle(*event)
    assert not queue_of(channel)._reserved


def test_giving_up_is_shielded(nodes, channel, monkeypatch):
    """While a wait that has timed out is undone no interrupt can strike, which might leave it half undone."""
    shields = []
    tell = Account.tell

    def telling(self, *args):
        shields.append(running_call().shielded)
        tell(self, *args)

    monkeypatch.setattr(Account, "tell", telling)
    for operation in (channel.take, channel.peek, lambda timeout: next(channel.lease(timeout))):
        with pytest.raises(TimeoutError):
            nodes.run(2, operation, 0.01)
    with nodes.being(1):
        full = RemoteChannel(1)
    full.put(0)
    with pytest.raises(TimeoutError):
        nodes.run(2, full.put, 1, 0.01)
    assert len(shields) >= 4
    assert all(shields)


@pytest.mark.parametrize("number", [0, 3])
def test_an_interrupt_while_an_item_is_opened_returns_it(nodes, channel, doors, quick, number):
    """A take that ends by an interrupt has not happened, the first or a later one of several."""
    begun, gate = threading.Event(), threading.Event()
    doors[number] = lambda: (begun.set(), gate.wait(10))
    nodes.run(1, put, channel, *[Opened(i) for i in range(6)])
    assert nodes.run(2, take, channel, number) == list(range(number))
    interrupt(nodes.spawn(2, channel.take), nodes[2], begun)
    gate.set()
    doors.clear()
    assert until(lambda: len(queue_of(channel).entries) == 6 - number)
    assert nodes.run(3, take, channel, 6 - number) == list(range(number, 6))


def interrupt(future, node, begun):
    """Cancel a call as soon as it has come to a certain point, and return when the news has reached it."""
    assert begun.wait(5)
    (call,) = [call for link in node.reader.links for call in link.running.values()]
    future.cancel()
    assert until(lambda: call.cancelled)


KEPT: list = []
between, going_on = threading.Event(), threading.Event()


@pytest.fixture(autouse=True)
def nothing_kept():
    yield
    KEPT.clear()


def lease_and_keep(channel):
    KEPT.append(channel.lease())
    return next(KEPT[0])


def lease_twice(channel):
    lease_and_keep(channel)
    call = running_call()
    call.shield()  # the interrupt waits for the next operation
    between.set()
    going_on.wait(10)
    call.shielded = False
    next(KEPT[0])


def test_an_interrupt_at_the_end_of_a_lease_leaves_nothing_lent(nodes, channel, doors):
    """An iterator that is kept after an interrupt struck in it has no item: that goes to another, unseen."""
    begun, gate = threading.Event(), threading.Event()
    doors[0] = lambda: (begun.set(), gate.wait(10))
    nodes.run(1, put, channel, Opened(0), Opened(1))
    interrupt(nodes.spawn(3, lease_and_keep, channel), nodes[3], begun)
    gate.set()
    doors.clear()
    assert until(lambda: not queue_of(channel)._leased)
    assert nodes.run(2, take, channel, 2) == [0, 1]


def lease_and_leave(channel):
    call = running_call()
    for _ in channel.lease():
        call.shield()  # the interrupt comes, and waits for the end of the lease
        between.set()
        going_on.wait(10)
        call.shielded = False
        break
    try:
        between.clear()
        while True:
            abs(0)
    except KeyboardInterrupt:
        between.set()
        raise


def test_an_interrupt_as_a_lease_ends_is_not_lost(nodes, channel):
    """An iterator that the loop drops has ended its lease, and the interrupt strikes behind it."""
    put(channel, "item")
    between.clear()
    going_on.clear()
    interrupt(nodes.spawn(3, lease_and_leave, channel), nodes[3], between)
    going_on.set()
    assert until(lambda: not queue_of(channel)._leased)
    assert until(lambda: not any(link.running for link in nodes[3].reader.links))
    assert between.is_set()


def test_an_interrupt_before_the_next_lease_ends_the_last(nodes, channel):
    """An iterator that is interrupted as it asks for the next item does not keep the one before."""
    put(channel, "a", "b")
    between.clear()
    going_on.clear()
    interrupt(nodes.spawn(3, lease_twice, channel), nodes[3], between)
    going_on.set()
    assert until(lambda: not queue_of(channel)._leased)
    assert "b" in take(channel, len(channel))


def test_a_coroutine_that_is_dropped_swallows_nothing(nodes, channel):
    """A coroutine that waits for an item and is closed, not cancelled, leaves nothing behind."""

    def drop():
        async def begin():
            waiting = channel.__aiter__().__anext__()
            waiting.send(None)
            waiting.close()

        asyncio.run(begin())

    nodes.run(2, drop)
    nodes.run(1, drop)
    channel.put("kept")
    assert until(lambda: queue_of(channel).is_idle())
    assert nodes.run(3, channel.take) == "kept"


# Who is gone


@pytest.mark.parametrize("operation", ["take", "lease", "peek", "put", "close"])
def test_a_late_message_of_a_dead_process_waits_for_nothing(nodes, operation):
    """An operation that is read after the death of its process was known leaves nothing behind."""
    with nodes.being(1):
        channel = RemoteChannel(1)
    queue = queue_of(channel)
    if operation == "put":
        channel.put("full")
    nodes.run(2, channel.isready)
    nodes[1].peers.remove(2, "hit by a meteorite")
    arguments = {"take": (1,), "lease": (0,), "peek": (False,), "put": ("item", 0), "close": ()}[operation]
    ref = channel._hold.creator, channel._hold.number
    notify(nodes[2], 1, getattr(keeper, operation), *ref, *arguments)
    done = threading.Event()
    notify(nodes[2], 1, keeper.deposit, *ref, "behind it")
    assert until(lambda: len(queue) == (2 if operation == "put" else 1))
    assert not queue.involved()
    assert not done.is_set()


def test_news_for_a_channel_that_is_gone_is_no_failure(nodes, capfd):
    """What a process returns to a channel that was freed meanwhile is not reported as an error."""
    assert nodes.run(2, abs, -3) == 3
    for operation, arguments in ((keeper.confirm, (7, 0)), (keeper.withdraw, (7,)), (keeper.give_back, ((), 3))):
        notify(nodes[2], 1, operation, 1, 10**9, *arguments)
    assert nodes.run(1, abs, -3, by=2) == 3
    nodes[1].pool.join(0.1)
    assert capfd.readouterr().err == ""
