"""Links that begin in a roundabout way, or end without a word."""

import os
import threading

import pytest
from in_one_process import Nodes
from waiting import until

from farcall import ProcessExited
from farcall._node.relay import Relay
from farcall._transport.memory import memory_pair
from farcall._transport.sockets import SocketListener, dial


def wait_for_ever():
    while True:  # in steps between which it can be interrupted
        threading.Event().wait(0.01)


def be_apart(nodes, *pids):
    """Have some processes not reach anybody from now on; the master has links to all."""

    def dial_in_vain(address, timeout):
        raise OSError(f"no way leads to {address}")

    for pid in (2, 3):
        assert nodes.run(pid, abs, -pid) == pid
    for pid in pids:
        nodes[pid].connections.dial = dial_in_vain


def test_workers_that_do_not_reach_each_other_talk_through_the_master():
    """Either may begin, and what is large arrives whole both ways."""
    data = os.urandom(3_000_000)
    with Nodes(3) as nodes:
        be_apart(nodes, 2, 3)
        assert nodes.run(3, bytes.upper, b"from 2", by=2) == b"FROM 2"
        assert nodes.run(2, bytes, data, by=3) == data
        assert nodes[2].links[3].pid == 3
        assert nodes[1].connections._relay is not None


def test_many_at_once_ask_for_one_connection():
    """Threads that want to talk to the same worker share the link."""
    with Nodes(3) as nodes:
        be_apart(nodes, 2)
        answers = []
        calls = [threading.Thread(target=lambda: answers.append(nodes.run(3, abs, -3, by=2))) for _ in range(10)]
        for each in calls:
            each.start()
        for each in calls:
            each.join()
        assert answers == [3] * 10
        assert len([link for link in nodes[2].reader.links if link.pid == 3]) == 1


def test_the_end_of_a_worker_passes_through():
    """Calls to it fail with the reason, which the master knows."""
    with Nodes(3) as nodes:
        be_apart(nodes, 2, 3)
        assert nodes.run(3, abs, -3, by=2) == 3
        waiting = nodes.spawn(3, wait_for_ever, by=2)
        nodes.kill(3)
        with pytest.raises(ProcessExited, match="meteorite"):
            waiting.result(10)
        with pytest.raises(ProcessExited, match="meteorite"):
            nodes.run(3, abs, -3, by=2)


def test_who_cannot_be_reached_by_the_master_either_is_gone():
    """The error says so; the worker that asked goes on."""
    with Nodes(3) as nodes:
        be_apart(nodes, 1, 2)
        nodes[1].connections._routes[3] = "memory:nowhere"
        with pytest.raises(ProcessExited, match="worker 3 is gone: it cannot be reached"):
            nodes.run(3, abs, -3, by=2)
        assert nodes.run(2, abs, -3) == 3


@pytest.mark.parametrize("size", [1, 10_000_000])
def test_a_relay_passes_on_all_and_then_the_end(size):
    """Bytes go both ways; when one side ends the other reads what had come before, then the end."""
    listener = SocketListener()
    relay = Relay()
    ends = []
    try:
        for _ in range(2):
            mine = dial(listener.address)
            ends.append((mine, listener.accept()))
        (one, inner_one), (other, inner_other) = ends
        relay.join(inner_one, inner_other)
        data = os.urandom(size)
        sender = threading.Thread(target=send_and_close, args=(one, data))
        sender.start()
        assert receive_all(other) == data
        sender.join()
    finally:
        relay.close()
        listener.close()
        for pair in ends:
            for each in pair:
                each.close()


def test_both_sides_of_a_relay_end_with_it():
    """Closing the relay closes what it connects, also what it had not begun with."""
    (one, inner_one), (other, inner_other) = memory_pair(), memory_pair()
    relay = Relay()
    relay.join(inner_one, inner_other)
    relay.close()
    assert receive_all(one) == receive_all(other) == b""
    for each in (one, other):
        each.close()


def send_and_close(transport, data):
    left = memoryview(data)
    while left:
        sent = patiently(transport.send, [left])
        left = left[sent:]
    transport.close()


def receive_all(transport):
    data, buffer = bytearray(), memoryview(bytearray(1 << 20))
    while size := patiently(transport.receive_into, buffer):
        data += buffer[:size]
    return bytes(data)


def patiently(function, argument):
    """Return what a function of a transport returns when it can."""
    results = []

    def attempt():
        try:
            results.append(function(argument))
        except BlockingIOError:
            return False
        return True

    assert until(attempt)
    return results[0]
