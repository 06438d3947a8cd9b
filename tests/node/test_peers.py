"""Who is in the cluster, and why others are not."""

import concurrent.futures

import pytest

from farcall._errors import ProcessExited
from farcall._node.peers import Peer, Peers


def make_peer(pid, host="here"):
    return Peer(pid, f"memory:{pid}", host, 1000 + pid)


@pytest.fixture
def peers():
    """Return the members 1 and 3, here, and 2, there."""
    members = Peers()
    for pid, host in [(1, "here"), (3, "here"), (2, "there")]:
        members.add(make_peer(pid, host))
    return members


def test_members_are_listed_in_order(peers):
    """``pids`` is sorted, whatever the order of joining."""
    assert peers.pids() == [1, 2, 3]
    assert peers.get(2) == make_peer(2, "there")


def test_a_member_that_left_says_why(peers):
    """Asking for a process that has left is a ProcessExited with the reason."""
    assert peers.remove(2, "exit status 3")
    assert peers.pids() == [1, 3]
    assert peers.reason(2) == "exit status 3"
    with pytest.raises(ProcessExited, match="worker 2 is gone: exit status 3") as caught:
        peers.get(2)
    assert caught.value.pid == 2
    assert isinstance(caught.value, concurrent.futures.BrokenExecutor)


def test_the_first_reason_stands(peers):
    """A process leaves once; what is reported later changes nothing."""
    assert peers.remove(2, "first")
    assert not peers.remove(2, "second")
    assert peers.reason(2) == "first"


def test_ids_are_never_reused(peers):
    """A process that has left stays out, however late the news of its joining."""
    peers.remove(4, "it died early")
    peers.add(make_peer(4))
    assert 4 not in peers.pids()
    with pytest.raises(ProcessExited, match="it died early"):
        peers.get(4)


def test_a_process_that_never_was_is_a_value_error(peers):
    """Asking for a process that never was is a ValueError that lists those that are."""
    with pytest.raises(ValueError, match=r"no process 9 in this cluster.*\[1, 2, 3\]"):
        peers.get(9)


def test_members_have_no_reason(peers):
    """A process that has not left has no reason to have left."""
    assert peers.reason(2) is None
    assert peers.reason(9) is None


def test_joining_again_replaces_what_is_known(peers):
    """The latest news about a member counts."""
    peers.add(make_peer(2, "elsewhere"))
    assert peers.get(2).host == "elsewhere"
    assert peers.pids() == [1, 2, 3]


def test_hosts_are_shared(peers):
    """``on_host_of`` lists the members of one host, the one that was asked for included."""
    assert peers.on_host_of(1) == [1, 3]
    assert peers.on_host_of(2) == [2]
    peers.remove(3, "gone")
    assert peers.on_host_of(1) == [1]
    with pytest.raises(ProcessExited):
        peers.on_host_of(3)


def test_status_lines(peers):
    """``repr`` lists the members, and a peer is shown as errors name it."""
    assert repr(peers) == "<Peers [1, 2, 3]>"
    assert str(make_peer(2)) == "worker 2 (here), pid 1002"
