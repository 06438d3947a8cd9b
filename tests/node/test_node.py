"""Nodes in one process, over the memory transport: what needs no real process, and faults at chosen moments."""

import threading
import time

import numpy as np
import pytest
from waiting import until

from farcall import ProcessExited, SerializationError
from farcall._config import Config
from farcall._node.current import current_call, current_node
from farcall._node.handlers import HANDLERS
from farcall._node.link import Habit
from farcall._node.node import Node
from farcall._node.peers import Peer
from farcall._node.reader import Reader
from farcall._node.slots import Slot
from farcall._remote.calls import _begin
from farcall._remote.future import Future
from farcall._transport.memory import MemoryListener
from farcall._wire import messages, pickles
from farcall._wire.frames import encode_small

TOKEN = b"t" * 32


class Cluster:
    """Nodes 1, 2, 3 … of one process; 1 is the master and dials the others."""

    def __init__(self, count=2, piece=1 << 20, **settings):
        self.listeners = {}
        self.nodes = {1: self._make(1, None, settings)}
        for pid in range(2, count + 1):
            listener = MemoryListener(piece=piece)
            self.listeners[listener.address] = listener
            self.nodes[pid] = self._make(pid, listener, settings)
        peers = [node.describe() for node in self.nodes.values()]
        for node in self.nodes.values():
            for peer in peers:
                node.peers.add(peer)

    def _make(self, pid, listener, settings):
        return Node(
            pid,
            TOKEN,
            Config(**settings),
            dial=lambda address, timeout: self.listeners[address].connect(),
            listeners=[listener] if listener else [],
        )

    def __getitem__(self, pid):
        return self.nodes[pid]

    def spawn(self, where, function, *args, by=1):
        future = Future(self[by], where)
        _begin(self[by], where, future, function, args, {})
        return future

    def close(self):
        for node in self.nodes.values():
            node.close()


@pytest.fixture(params=[1 << 20, 1, 7], ids=["whole", "bytewise", "in-sevens"])
def cluster(request):
    cluster = Cluster(3, piece=request.param)
    yield cluster
    cluster.close()


@pytest.fixture
def two():
    cluster = Cluster(2)
    yield cluster
    cluster.close()


def whereami():
    return current_node().pid


def relay(pids):
    node = current_node()
    return [node.pid, *(node.ask(pids[0], relay, pids[1:]) if pids else [])]


def test_calls_cross_in_pieces(cluster):
    """However the bytes are cut, every call gets its answer: nested, spawned, of any size."""
    assert cluster[1].ask(2, whereami) == 2
    assert cluster[1].ask(3, relay, [2, 3, 2]) == [3, 2, 3, 2]
    futures = [cluster.spawn(2 + i % 2, pow, i, 2) for i in range(50)]
    assert [future.result(20) for future in futures] == [i * i for i in range(50)]
    assert cluster[1].ask(2, np.arange, 5000).sum() == 5000 * 4999 // 2


def test_errors_cross_in_pieces(cluster):
    """So do errors, of the call and of the payload."""
    with pytest.raises(ZeroDivisionError):
        cluster[1].ask(2, divmod, 1, 0)
    with pytest.raises(SerializationError):
        cluster[1].ask(2, threading.Lock)
    assert cluster[1].ask(2, whereami) == 2


def test_several_nodes_live_in_one_process(cluster):
    """A call knows its own node, whatever other nodes its process has."""
    assert [cluster[1].ask(pid, whereami) for pid in (2, 3)] == [2, 3]
    assert [future.result(20) for future in [cluster.spawn(pid, whereami) for pid in (3, 2, 3)]] == [3, 2, 3]


def test_a_process_that_ends_fails_who_waits(two):
    """Whoever waits gets the reason as soon as both the end of the connection and the reason are known."""
    link = two[1].connections.link_to(2)
    future = two.spawn(2, time.sleep, 1.5)
    two[1].exited(2, "hit by a meteorite")
    assert not future.settled
    link.transport.close()
    link.kick()
    with pytest.raises(ProcessExited, match="meteorite"):
        future.result(5)
    with pytest.raises(ProcessExited, match="meteorite"):
        two[1].ask(2, whereami)


def test_answers_that_were_under_way_still_count(two):
    """What a process sent before it ended is delivered, although the news of its end was quicker."""
    futures = [two.spawn(2, whereami) for _ in range(20)]
    two[1].exited(2, "finished")
    assert [future.result(5) for future in futures] == [2] * 20


def test_a_connection_that_breaks_is_an_exit(two):
    """Without any other news a broken connection ends the waits within its grace."""
    two[1].ask(2, whereami)
    gate.clear()
    future = two.spawn(2, hold)
    for link in list(two[2].reader.links):
        link.transport.close()
    started = time.monotonic()
    with pytest.raises(ProcessExited, match="connection to it broke"):
        future.result(10)
    gate.set()
    assert time.monotonic() - started < 3


gate = threading.Event()


def hold():
    gate.wait(20)


@pytest.mark.parametrize("garbage", [b"no frame at all, but long enough for a header", encode_small(99, 0, 0, 0, b"")])
def test_nonsense_ends_the_connection_and_nothing_else(two, garbage):
    """Bytes that are no message close the link that carried them, and who waits is told."""
    two[1].ask(2, whereami)
    two[1].links[2].post(garbage)
    with pytest.raises(ProcessExited):
        two.spawn(2, time.sleep, 30).result(10)


def test_late_and_repeated_messages_change_nothing(two):
    """An answer to nobody, a cancel of nothing, a release and a hold of what never was are ignored."""
    two[1].ask(2, whereami)
    link = two[1].links[2]
    for frame in (
        encode_small(messages.RESULT, 0, messages.VALUE, 4711, b"junk"),
        messages.encode_cancel(4711),
        messages.encode_release([4711]),
        messages.encode_forget(4711),
        messages.encode_hold([(1, 4711, 1, -1)]),
    ):
        for _ in range(2):
            link.post(frame)
    assert two[1].ask(2, whereami) == 2


def test_a_function_that_was_never_defined_is_that_calls_error(two):
    """A call of an unknown number fails alone."""
    two[1].ask(2, whereami)
    future = Future(two[1], 2)
    two[1].links[2].pending[10_000] = future
    two[1].links[2].post(encode_small(messages.CALL, 0, 777, 10_000, b""))
    future._link, future._number = two[1].links[2], 10_000
    with pytest.raises(LookupError, match="777"):
        future.result(5)


def test_values_are_freed_with_their_last_holder(two):
    """A value that is too large to ride back lives on its owner until the Future goes."""
    future = two.spawn(2, bytes, 1_000_000)
    while not future.settled:
        two[1].reader.wait(future, future._link, time.monotonic() + 5)
    assert len(two[2].references.values) == 1
    del future
    deadline = time.monotonic() + 5
    while two[2].references.values and time.monotonic() < deadline:
        threading.Event().wait(0.005)
    assert not two[2].references.values


def test_a_claim_outlasts_its_announcement(two):
    """A Future that was pickled before it was settled keeps its value until it goes, however soon that is settled."""
    gate.clear()
    future = two.spawn(2, hold)
    payload = pickles.encode([future])
    gate.set()
    future.result(5)
    threading.Event().wait(0.05)  # many ticks, in which the news of a dropped claim would leave
    assert two[2].references.values
    two[1].references.announce(payload, 2)
    del future
    threading.Event().wait(0.05)
    assert two[2].references.values, "process 2 holds it now"


def test_the_limit_of_small_results_is_a_setting():
    """With small_result=0 even a number stays with its owner until it is fetched."""
    cluster = Cluster(2, small_result=0)
    try:
        future = cluster.spawn(2, whereami)
        while not future.settled:
            cluster[1].reader.wait(future, future._link, time.monotonic() + 5)
        assert cluster[2].references.values
        assert future.result(5) == 2
    finally:
        cluster.close()


def test_a_process_that_has_left_stays_out(two):
    """News of joining that comes after the news of leaving is ignored, and ids are not reused."""
    two[1].exited(3, "gone before it came")
    deadline = time.monotonic() + 5
    while two[1].peers.reason(3) is None and time.monotonic() < deadline:
        threading.Event().wait(0.005)
    two[1].peers.add(Peer(3, "memory:nowhere", "host", 1))
    assert two[1].peers.pids() == [1, 2]


def test_an_address_that_cannot_be_reached_is_an_exit():
    """A call to a process that cannot be dialled is ProcessExited with the reason."""
    cluster = Cluster(2)
    try:
        cluster.listeners[cluster[2].describe().address].close()
        with pytest.raises(ProcessExited, match="cannot be reached"):
            cluster[1].ask(2, whereami)
    finally:
        cluster.close()


def test_an_intruder_gets_nothing(two):
    """Who does not know the token is turned away, and members are served meanwhile and afterwards."""
    (listener,) = two.listeners.values()
    intruders = [listener.connect() for _ in range(5)]
    intruders[0].send([b"GET / HTTP/1.1\r\n\r\n" + b"x" * 100])
    assert two[1].ask(2, whereami) == 2
    for each in intruders:
        each.close()
    assert two[1].ask(2, whereami) == 2


def test_polling_can_be_switched_off():
    """spin=0 never polls, and everything works."""
    cluster = Cluster(2, spin=0.0)
    try:
        assert [cluster[1].ask(2, whereami) for _ in range(20)] == [2] * 20
    finally:
        cluster.close()


def test_many_threads_share_one_link(two):
    """Threads that wait on one link read for one another."""
    wrong = []

    def work(base):
        wrong.extend(i for i in range(100) if two[1].ask(2, pow, base + i, 2) != (base + i) ** 2)

    threads = [threading.Thread(target=work, args=(1000 * k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert current_call.get() is None


def test_a_link_whose_reader_was_busy_for_long_is_read_again(two, monkeypatch):
    """A thread that handles an answer for so long that it looks asleep leaves no connection that nobody reads."""
    reader, handle = two[1].reader, HANDLERS[messages.RESULT]
    slow = []

    def linger(node, link, frame, leading):
        if node is two[1] and not leading and not slow:
            slow.append(until(lambda: not reader.ticking))
        return handle(node, link, frame, leading)

    monkeypatch.setitem(HANDLERS, messages.RESULT, linger)
    while not slow:  # the leader may be quicker than this thread
        assert two[1].ask(2, abs, -1) == 1
    assert slow == [True]
    assert two.spawn(1, abs, -2, by=2).result(10) == 2


def without_ticker(monkeypatch):
    """Leave links that nobody reads as they are: a call that needs the ticker to arrive does not arrive at all."""
    monkeypatch.setattr(Reader, "_tick", lambda self: False)


def test_a_call_that_has_called_delays_no_other(monkeypatch):
    """Where it waited for answers itself, the next messages are read when it ends, and not some ticks later."""
    without_ticker(monkeypatch)
    cluster = Cluster(3)
    try:
        for _ in range(3):
            for route in ([1], [3], [1, 3]):
                assert cluster.spawn(2, relay, route).result(10) == [2, *route]
            assert cluster.spawn(3, relay, [2]).result(10) == [3, 2]
    finally:
        cluster.close()


def test_who_sleeps_leaves_no_connection_unread(two, monkeypatch):
    """A thread that has read a connection, and then waits for something else, gives it back before it sleeps."""
    without_ticker(monkeypatch)
    for _ in range(3):
        assert two[1].ask(2, abs, -1) == 1  # this thread reads the link
        slot = Slot()
        two.spawn(1, abs, -7, by=2).add_done_callback(lambda done, slot=slot: slot.finish(done.result(), None))
        two[1].reader.wait(slot, None, time.monotonic() + 10)
        assert slot.outcome() == 7


@pytest.mark.parametrize("useless", [4, 5])
def test_polling_that_was_given_up_is_tried_again(useless):
    """Who waits for an answer polls now and then, however many polls have been useless before."""

    class Watched(Habit):
        hits = 0

        def hit(self):
            super().hit()
            self.hits += 1

    cluster = Cluster(2, spin=1.0)
    assert cluster[1].ask(2, abs, -1) == 1
    watched = cluster[1].links[2].waiting = Watched()
    for _ in range(useless):
        watched.miss()
    answers = (cluster[1].ask(2, abs, -1) for _ in range(200))
    assert any(watched.hits for _ in answers)
    cluster.close()


def test_a_future_becomes_settled_in_one_step_for_the_standard_library(two):
    """``as_completed`` holds the condition while it looks and lines up: a Future must not end in between, or it is
    told of the end twice."""
    future = Future(two[1], 2)
    with future._condition:
        thread = threading.Thread(target=future.finish, args=("value", None))
        thread.start()
        thread.join(0.1)
        assert future._state == "PENDING"
    thread.join()
    assert future.result() == "value"
