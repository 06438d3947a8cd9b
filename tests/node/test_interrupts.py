"""Interrupts of calls, and what they leave behind in the interpreter."""

import signal
import sys
import threading
from types import SimpleNamespace

import pytest
from in_one_process import Nodes

from farcall._node.current import running_call
from farcall._node.interrupts import InterruptGuard

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


OURS = "farcall._wire.frames"


@pytest.mark.parametrize(
    ("modules", "strikes"),
    [
        ([OURS], False),
        ([OURS, "namedtuple_Frame"], False),
        ([OURS, "contextlib"], False),
        ([OURS, "concurrent.futures._base", "threading"], False),
        ([OURS, "weakref", "collections.abc"], False),
        ([OURS, "socket"], True),
        ([OURS, "a_class_of_the_program"], True),
        (["__main__", "threading"], True),
        (["__main__", OURS, "enum", "enum"], False),
        (["threading"], True),
    ],
)
def test_ctrl_c_never_strikes_inside_of_farcall(modules, strikes):
    """Nor in what it calls for a moment, where a message that has come would be lost; then it is repeated."""
    heard, woken = [], []
    guard = InterruptGuard(lambda: woken.append(True))
    guard._previous = lambda number, frame: heard.append(frame)
    inner = None
    for module in modules:
        inner = SimpleNamespace(f_globals={"__name__": module}, f_back=inner, f_code=None)
    guard._handle(signal.SIGINT, inner)
    assert (heard, woken) == (([inner], []) if strikes else ([], [True]))


def _traced():
    """A function that is called while tracing is on: before 3.13 it never begins if the interpreter is not at rest."""
