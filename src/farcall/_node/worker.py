"""A worker process, from its start to its end.

It is told a JSON object on its standard input (nothing secret is on its command line), listens, writes its address
to a descriptor, and serves until its master says goodbye or is gone.
"""

import atexit
import contextlib
import ctypes
import faulthandler
import json
import os
import signal
import sys
import threading
from types import FrameType, ModuleType
from typing import Any

from .._config import read_config
from .._transport.addresses import Dialler, listen
from .._types import ProcessId
from .current import current_call, current_node, set_process_node
from .executor import on_interrupt_signal
from .node import Node
from .output import LineStream, stream_lines

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run a worker; ``sys.argv`` ends with the descriptor for the address and the process id of the master."""
    ready, parent = int(sys.argv[-2]), int(sys.argv[-1])
    told = json.loads(sys.stdin.buffer.readline())
    _die_with(parent)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    node = make_node(told)
    node.on_exit = _leave_with_master
    node.cells.enter = _enter_cell
    os.write(ready, f"{node.connections.address}\n".encode())
    os.close(ready)
    status = serve(node, told["timeout"])
    say_last_words()
    sys.exit(status)


def make_node(told: dict[str, Any]) -> Node:
    """Make this process a worker, which prints line by line and has a ``__main__`` of its own, and have it listen."""
    stream_lines()
    faulthandler.enable(sys.__stderr__.fileno())  # type: ignore[union-attr]
    sys.path[:] = told["path"]
    sys.argv[:] = [""]
    _be_main(told["main"])
    certificate = tuple(told["certificate"]) if told.get("certificate") else None
    listeners = [listen(address, certificate) for address in (None, *told.get("listen", ()))]
    dial = Dialler(certificate)
    node = Node(0, bytes.fromhex(told["token"]), read_config(), dial=dial, listeners=listeners, leads_on_main=True)
    node.leave = node.reader.stop_main
    set_process_node(node)
    node.modules.begin()
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _terminate)
    return node


def serve(node: Node, timeout: float) -> int:
    """Serve the master, if it connects in time, until it says goodbye; return with what status the process ends."""
    abandoned = threading.Timer(timeout, _give_up, [node, timeout])
    abandoned.daemon = True
    abandoned.start()
    with contextlib.suppress(SystemExit):  # of ``_terminate``, or it struck in a call, which took it for its own
        node.reader.lead_on_main()
    status = 128 + signal.SIGTERM if node.leaving else 0
    node.leaving = True
    abandoned.cancel()
    return status


def leave() -> None:
    """Leave the cluster; called by the master. A process that is a worker only ends when its main thread is free."""
    current_node().leave()


def withdraw(pid: ProcessId, seconds: float) -> None:
    """Give a worker nothing more, because it is about to end; called by it on the master, which tells the others."""
    node = current_node()
    node.withdraw(pid, seconds)
    if node.pid == 1:
        for other in node.peers.pids():
            if other not in (1, pid):
                with contextlib.suppress(Exception):  # it is gone, or about to be
                    node.tell(other, withdraw, pid, seconds)


def _enter_cell(cell: int) -> None:
    for stream in (sys.__stdout__, sys.__stderr__):
        if isinstance(stream, LineStream):
            stream.enter(cell)


def say_last_words() -> None:
    """Have what was begun of a line printed at the end of the process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, LineStream):
            atexit.register(stream.finish)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends, or at once if it has."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _be_main(path: str | None) -> None:
    """Give this process a clean ``__main__``: the home of what ``everywhere`` defines."""
    module = ModuleType("__main__")
    if path:
        module.__file__ = path
    sys.modules["__main__"] = module


def _leave_with_master(pid: ProcessId, reason: str) -> None:
    if pid == 1:
        os._exit(1)  # user code may run on any thread; nobody is left to want its result


def _give_up(node: Node, timeout: float) -> None:
    if node.pid == 0:
        print(f"no master connected within {timeout:g} seconds", file=sys.stderr)
        os._exit(1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    on_interrupt_signal(current_call.get())


def _terminate(number: int, frame: FrameType | None) -> None:
    node = current_node()
    node.leaving = True
    node.reader.stop_main()  # a call that runs on this thread ends, and this process with it
    raise SystemExit(128 + number)


def describe_process() -> dict[str, Any]:
    """Return what ``farcall doctor`` wants to know of a worker."""
    return {"pid": current_node().pid, "process": os.getpid(), "python": sys.version.split()[0], "cwd": os.getcwd()}
