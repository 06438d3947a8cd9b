"""Connections that end at the worst moment, over the memory transport."""

import pytest
from in_one_process import Nodes

from farcall import ProcessExited
from farcall._transport.memory import memory_pair


def test_a_process_that_ends_in_the_handshake_is_gone():
    """A call to it raises ProcessExited, as if it could not be reached; it has not failed to prove who it is."""

    def dial(address, timeout):
        mine, theirs = memory_pair()
        theirs.close()
        return mine

    with Nodes(2) as nodes:
        nodes[1].connections.dial = dial
        with pytest.raises(ProcessExited, match="cannot be reached"):
            nodes[1].ask(2, abs, -3)


@pytest.mark.parametrize("descriptor", [-1, 1 << 20])
def test_a_link_that_is_closed_while_it_is_given_back_harms_nobody(monkeypatch, descriptor):
    """The leader cannot watch it any more; the thread that gives it back goes on."""
    with Nodes(2) as nodes:
        assert nodes.run(2, abs, -3) == 3
        link, reader = nodes[1].links[2], nodes[1].reader
        reader._heat(link)
        with monkeypatch.context() as patch:
            patch.setattr(link.transport, "fileno", lambda: descriptor)
            reader._cool(link)
        assert link.registered is None
        reader._cool(link, force=True)
        assert nodes.run(2, abs, -3) == 3
