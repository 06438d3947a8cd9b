"""Channels whose users and owners are killed: nothing acknowledged is lost, nothing comes twice that must not."""

import contextlib
import os
import random
import signal
import threading
from collections import Counter

import psutil
import pytest
from waiting import until

import farcall as fc
from farcall import ChannelClosed, ProcessExited, RemoteChannel
from farcall._node.current import current_node, shielded

PLACES = pytest.mark.parametrize("place", [1, 2], ids=["on-the-master", "on-a-worker"])


AT_REST = 0, 0, 0, 0


def kill(pid, number=signal.SIGKILL):
    os.kill(fc.remotecall_fetch(pid, os.getpid), number)


class Record:
    """A file to which processes append lines that outlive them."""

    def __init__(self, folder, name):
        self.path = str(folder / name)

    def append(self, *words):
        with shielded():  # an interrupt must not leave the file open
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
            os.close(descriptor)

    def lines(self):
        with contextlib.suppress(FileNotFoundError), open(self.path) as file:
            return [tuple(map(int, line.split())) for line in file]
        return []


def produce(channel, record, producer, count):
    for i in range(count):
        channel.put((producer, i))
        record.append(producer, i)


def consume(channel, record, name):
    """Take items until the end and record them, each once it is in hand."""
    for producer, i in channel:
        record.append(name, producer, i, 1)


def lease(channel, record, name):
    leases = channel.lease()
    for producer, i in leases:
        record.append(name, producer, i, leases.deliveries)


def state_of(ref):
    """Return how many wait to take, put and peek and how many loans are out, of a channel that lives here."""
    queue = current_node().references.values[ref].value.queue
    return len(queue._takers), len(queue._putters), len(queue._peekers), len(queue._loans)


def state(channel):
    return fc.remotecall_fetch(channel, state_of, (channel._hold.creator, channel._hold.number))


def number_of_calls():
    return sum(len(link.running) for link in current_node().reader.links)


def waiters(channel):
    return sum(state(channel)[:3])


def ended(futures):
    for future in futures:
        with contextlib.suppress(ProcessExited):
            future.result(30)


@pytest.mark.parametrize("how", [consume, lease])
@pytest.mark.parametrize("capacity", [1, 100])
@PLACES
def test_kills_lose_and_double_nothing(tmp_path, place, capacity, how):
    """The total queue: everything acknowledged is delivered, but for one item in the hands of each killed taker.

    Nothing is delivered twice, unless a lease says so.
    """
    sent, got = Record(tmp_path, "sent"), Record(tmp_path, "got")
    fc.addprocs(6)
    channel = RemoteChannel(capacity, pid=place)
    consumers = [3, 4, 1]
    taking = [fc.spawnat(pid, how, channel, got, pid) for pid in consumers]
    putting = [fc.spawnat(pid, produce, channel, sent, pid, 400) for pid in (5, 6, 7)]
    chance = random.Random(capacity)
    for victim in (3, 5):
        least = len(got.lines()) + chance.randrange(10, 100)
        assert until(lambda least=least: len(got.lines()) >= min(least, 1200))
        kill(victim)
    ended(putting)
    channel.close()
    ended(taking)
    check_total(sent.lines(), got.lines(), lost=int(how is consume))


def check_total(sent, got, lost):
    delivered = Counter((producer, i) for _, producer, i, _ in got)
    assert len(set(sent) - set(delivered)) <= lost, "a killed consumer had one item in its hands"
    assert len(set(delivered) - set(sent)) <= 1, "a killed producer was about to record its last item"
    again = {(producer, i) for _, producer, i, deliveries in got if deliveries > 1}
    assert {item for item, times in delivered.items() if times > 1} <= again


@PLACES
def test_a_consumer_gets_what_each_producer_has_put_in_its_order(tmp_path, place):
    """Everything that was acknowledged, also from producers that were killed."""
    sent, got = Record(tmp_path, "sent"), Record(tmp_path, "got")
    fc.addprocs(4)
    channel = RemoteChannel(50, pid=place)
    putting = [fc.spawnat(pid, produce, channel, sent, pid, 10_000 if pid == 4 else 300) for pid in (3, 4, 5)]
    taking = fc.spawnat(2, consume, channel, got, 2)
    assert until(lambda: len(got.lines()) > 100)
    kill(4)
    ended(putting)
    channel.close()
    taking.result(20)
    check_total(sent.lines(), got.lines(), lost=0)
    for producer in (3, 4, 5):
        order = [i for _, by, i, _ in got.lines() if by == producer]
        assert order == list(range(len(order)))


@PLACES
def test_a_consumer_that_is_killed_while_it_waits_swallows_nothing(place):
    """What is put later goes to others: the bug that Julia's Distributed had (issue 28)."""
    fc.addprocs(3)
    channel = RemoteChannel(10, pid=place)
    doomed = [fc.spawnat(3, operation) for operation in (channel.take, channel.peek, lambda: next(channel.lease()))]
    assert until(lambda: waiters(channel) == 3)
    kill(3)
    ended(doomed)
    assert until(lambda: waiters(channel) == 0)
    for i in range(5):
        channel.put(i)
    assert [fc.remotecall_fetch(4, channel.take) for _ in range(5)] == list(range(5))
    assert state(channel) == AT_REST


@PLACES
def test_the_items_of_a_killed_consumer_go_to_others_in_order(place):
    """Items that it had been sent and had not handed out, and those that it leased, return to their places."""
    fc.addprocs(3)
    channel = RemoteChannel(1000, pid=place)
    for i in range(300):
        channel.put(i)

    def take_some(channel):
        import __main__

        taken = [channel.take() for _ in range(100)]
        __main__.kept = channel.lease()
        return taken, next(__main__.kept), channel  # the channel stays here with the lease

    taken, leased, _ = fc.remotecall_fetch(3, take_some, channel)
    assert (taken, leased) == (list(range(100)), 100)
    kill(3)
    assert until(lambda: 3 not in fc.procs())
    assert until(lambda: len(channel) == 200)
    leases = channel.lease()
    assert (next(leases), leases.deliveries) == (100, 2)
    assert (next(leases), leases.deliveries) == (101, 1)
    leases.__exit__(None, None, None)
    assert [fc.remotecall_fetch(4, channel.take) for _ in range(198)] == list(range(102, 300))


def test_the_death_of_the_owner_ends_every_wait():
    """Whoever waits to take, put, peek or lease, or wants to later, gets ProcessExited with the reason."""
    two, three, four = fc.addprocs(3)
    empty, full = RemoteChannel(1, pid=two), RemoteChannel(1, pid=two)
    full.put("full")
    operations = [empty.take, empty.peek, lambda: next(empty.lease()), lambda: full.put("more"), lambda: list(empty)]
    waiting = [fc.spawnat(pid, operation) for pid in (1, three, four) for operation in operations]
    assert until(lambda: waiters(empty) == 12)
    assert until(lambda: waiters(full) == 3)
    kill(two)
    for future in waiting:
        with pytest.raises(ProcessExited, match="signal 9") as caught:
            future.result(10)
        assert caught.value.pid == two
    for pid in (1, three):
        for operation in (*operations, empty.isopen, empty.close):
            with pytest.raises(ProcessExited, match="signal 9"):
                fc.remotecall_fetch(pid, operation)
    assert "signal 9" in repr(empty)


@PLACES
def test_a_bound_process_that_dies_closes_the_channel(place):
    """What is there can be taken; then consumers get ProcessExited, and producers at once."""
    fc.addprocs(3)
    full, empty = RemoteChannel(2, pid=place), RemoteChannel(2, pid=place)
    for channel in (full, empty):
        channel.bind(3)
    for i in range(2):
        fc.remotecall_fetch(3, full.put, i)
    putting = [fc.spawnat(pid, full.put, "never") for pid in (1, 4)]
    taking = [fc.spawnat(pid, empty.take) for pid in (1, 4)]
    leasing = fc.spawnat(4, lambda: list(empty.lease()))
    assert until(lambda: waiters(full) == 2)
    assert until(lambda: waiters(empty) == 3)
    kill(3)
    for future in (*putting, *taking, leasing):
        with pytest.raises(ProcessExited, match=r"worker 3 .*signal 9"):
            future.result(10)
    assert not full.isopen()
    assert [full.take(), fc.remotecall_fetch(4, full.take)] == [0, 1]
    for pid in (1, 4):
        with pytest.raises(ProcessExited, match="worker 3"):
            fc.remotecall_fetch(pid, full.take)
    late = RemoteChannel(1, pid=place)
    late.bind(3)
    with pytest.raises(ProcessExited, match="worker 3"):
        late.put("too late")
    closed = RemoteChannel(1, pid=place)
    closed.close()
    closed.bind(3)
    with pytest.raises(ChannelClosed):
        closed.take()


@PLACES
def test_who_gives_up_while_items_arrive_swallows_nothing(place):
    """Takes that time out, many at once and over and over, while items come: each item is had by somebody, once."""
    fc.addprocs(3)
    channel = RemoteChannel(5, pid=place)

    def take_impatiently(channel, seed):
        chance, got = random.Random(seed), []
        while True:
            try:
                got.append(channel.take(timeout=chance.choice([0.0, 1e-3, 3e-3])))
            except TimeoutError:
                continue
            except ChannelClosed:
                return got

    def put_impatiently(channel, base):
        chance = random.Random(base)
        for i in range(base, base + 100):
            while True:
                try:
                    channel.put(i, timeout=chance.choice([1e-3, 3e-3]))
                    break
                except TimeoutError:
                    continue

    taking = [fc.spawnat(1 + i % 4, take_impatiently, channel, i) for i in range(4)]
    putting = [fc.spawnat(2 + i, put_impatiently, channel, 1000 * i) for i in range(3)]
    for future in putting:
        future.result(40)
    channel.close()
    got = [item for future in taking for item in future.result(40)]
    assert sorted(got) == [1000 * i + k for i in range(3) for k in range(100)]
    assert state(channel) == AT_REST


@PLACES
def test_who_is_cancelled_while_items_arrive_swallows_nothing(tmp_path, place):
    """Waiters that are cancelled all at once, again and again: items go to those who go on, and every lease ends.

    A take that is interrupted when it has its item may lose that one with the call that it is for; a lease may not.
    """
    fc.addprocs(3)
    channel, got, count, rounds = RemoteChannel(20, pid=place), Record(tmp_path, "got"), 300, 12
    putting = fc.spawnat(4, lambda: [channel.put((4, i)) for i in range(count)])
    cancelled = 0
    for _ in range(rounds):
        waiting = [fc.spawnat(pid, lease, channel, got, pid) for pid in (1, 2, 3) for _ in range(3)]
        least = len(got.lines()) + 5
        assert until(lambda least=least: len(got.lines()) >= min(least, count))
        cancelled += sum(future.cancel() for future in waiting)
    patient = fc.spawnat(2, lease, channel, got, 2)
    putting.result(20)
    channel.close()
    patient.result(20)
    assert until(lambda: state(channel) == AT_REST)
    assert {each[2] for each in got.lines()} == set(range(count))
    once = Counter(each[2] for each in got.lines())
    assert sum(once.values()) - count <= cancelled
    assert all(any(each[2] == i and each[3] > 1 for each in got.lines()) for i, times in once.items() if times > 1)


@PLACES
def test_takes_that_are_cancelled_as_they_wait_have_not_happened(place):
    """A hundred at once, of several processes; what comes next goes to those who still wait, in their order."""
    fc.addprocs(2)
    channel = RemoteChannel(100, pid=place)
    for _ in range(5):
        doomed = [fc.spawnat(1 + i % 3, channel.take) for i in range(100)]
        assert until(lambda: waiters(channel) == 100)
        patient = fc.spawnat(3, lambda: [channel.take() for _ in range(50)])
        assert until(lambda: waiters(channel) == 101)
        assert all(future.cancel() for future in doomed)
        assert until(lambda: waiters(channel) == 1)
        for i in range(50):
            channel.put(i)
        assert patient.result(20) == list(range(50))
    assert state(channel) == AT_REST


def test_a_frozen_owner_stops_no_timeout():
    """A take from an owner that does not answer times out all the same; when that one goes on nothing is lost."""
    two, three = fc.addprocs(2)
    channel = RemoteChannel(10, pid=two)
    for i in range(5):
        channel.put(i)
    assert fc.remotecall_fetch(three, channel.take) == 0
    process = fc.remotecall_fetch(two, os.getpid)
    os.kill(process, signal.SIGSTOP)
    assert until(lambda: psutil.Process(process).status() == psutil.STATUS_STOPPED)  # a signal takes its time
    try:
        for pid in (1, three):
            for operation in (channel.take, channel.peek, lambda timeout: next(channel.lease(timeout))):
                with pytest.raises(TimeoutError):
                    fc.remotecall_fetch(pid, operation, 0.05)
        doomed = [fc.spawnat(three, channel.take) for _ in range(10)]
        assert all(future.cancel() for future in doomed)
        assert until(lambda: fc.remotecall_fetch(three, number_of_calls) == 1)
    finally:
        os.kill(process, signal.SIGCONT)
    assert [channel.take(), *fc.remotecall_fetch(three, lambda: [channel.take() for _ in range(3)])] == [1, 2, 3, 4]
    assert until(lambda: state(channel) == AT_REST)


def test_a_consumer_that_is_removed_returns_its_lease():
    """rmprocs is a death like any other for the item in hand."""
    two, three = fc.addprocs(2)
    channel, begun = RemoteChannel(10), RemoteChannel(1)
    channel.put("item")

    def hold(channel, begun):
        for item in channel.lease():
            begun.put(item)
            threading.Event().wait(60)

    holding = fc.spawnat(two, hold, channel, begun)
    assert begun.take(10) == "item"
    fc.rmprocs(two)
    with pytest.raises((ProcessExited, KeyboardInterrupt)):
        holding.result(10)
    assert fc.remotecall_fetch(three, lambda: next(channel.lease(5))) == "item"
