"""Interrupts of calls, and what they leave behind in the interpreter."""

import sys
import threading

import pytest
from in_one_process import Nodes

from farcall._node.current import running_call

begun, going_on = threading.Event(), threading.Event()


def wait_in_python():
    begun.set()
    while True:
        pass  # nothing that an interrupt could leave locked


def wait_shielded():
    call = running_call()
    call.shield()
    begun.set()
    going_on.wait(10)


@pytest.mark.parametrize("function", [wait_in_python, wait_shielded])
def test_a_cancelled_call_leaves_the_interpreter_at_rest(function):
    """After an interrupt, raised or taken back, functions can be traced: no thread looks for an exception for ever."""
    with Nodes(2) as nodes:
        begun.clear()
        going_on.clear()
        future = nodes.spawn(2, function)
        assert begun.wait(5)
        (call,) = [call for link in nodes[2].reader.links for call in link.running.values()]
        assert future.cancel()
        going_on.set()
        assert nodes.run(2, abs, -3) == 3
    assert not call.running
    before = sys.gettrace()
    sys.settrace(lambda *event: None)
    try:
        assert len("done") == 4
        _traced()
    finally:
        sys.settrace(before)


def _traced():
    """A function that is called while tracing is on: before 3.13 it never begins if the interpreter is not at rest."""
