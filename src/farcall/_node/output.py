"""What workers print, on the master: whole lines, each with its worker, in order.

A worker's standard output and error are pipes that the master reads, so what was printed arrives even if the
worker dies at the next instruction. ``LineStream`` keeps the lines of its threads apart; ``Mirror`` prints them.

If a cell of a notebook has caused a call (see ``cells``), a mark says so in the stream: what follows, from Python or
from C, belongs to that cell, until the next mark. It is an escape sequence that terminals ignore.
"""

import contextlib
import ctypes
import io
import os
import re
import selectors
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from .._types import ProcessId
from .cells import cell_of_call

_MOST_READS = 1024  # of what an ended worker has left
_LINE_BUFFERED = 1  # _IOLBF
_MARK = re.compile(r"\x1b_farcall (\d+)\x1b\\")


class LineStream(io.TextIOBase):
    """A ``sys.stdout`` that writes whole lines to a descriptor at once, one thread's never inside another's.

    A line is written when its newline comes. ``flush`` writes what this thread has of one; if another thread
    prints before the rest comes, the line is broken there.
    """

    encoding = "utf-8"
    errors = "backslashreplace"
    line_buffering = True

    def __init__(self, descriptor: int, name: str) -> None:
        self.name = name
        self.buffer = open(descriptor, "wb", buffering=0, closefd=False)  # noqa: SIM115  # as long as the process
        self._descriptor = descriptor
        self._lock = threading.RLock()  # reentrant: a signal handler may print
        self._begun: dict[int, str] = {}  # by thread: a line without its end
        self._open: int | None = None  # the thread whose flushed line has no end yet
        self._broken: set[int] = set()  # threads whose line was ended for them
        self._cell = 0  # to which what follows belongs, as the other end knows

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        me = threading.get_ident()
        lines, newline, rest = (self._begun.pop(me, "") + text).rpartition("\n")
        if rest:
            self._begun[me] = rest
        if newline:
            self._emit(lines + newline, me)
        return len(text)

    def flush(self) -> None:
        me = threading.get_ident()
        begun = self._begun.pop(me, "")
        if begun:
            self._emit(begun, me)

    def enter(self, cell: int) -> None:
        """Have what follows, also from C, belong to a cell of the notebook."""
        if cell != self._cell:
            with self._lock:
                self._put(self._mark(cell))

    def _mark(self, cell: int) -> str:
        if not cell or cell == self._cell:
            return ""
        self._cell = cell
        return f"\x1b_farcall {cell}\x1b\\"

    def finish(self) -> None:
        """Write what every thread has begun; at exit."""
        for thread, begun in list(self._begun.items()):
            self._emit(begun + "\n", thread)
        self._begun.clear()

    def _emit(self, text: str, thread: int) -> None:
        with self._lock:
            if thread in self._broken:
                self._broken.discard(thread)
                text = text.removeprefix("\n")
            end = ""
            if self._open not in (None, thread):
                self._broken.add(self._open)
                end = "\n"
            if not text and not end:
                return
            self._open = None if (text or end).endswith("\n") else thread
            self._put(end + self._mark(cell_of_call()) + text)

    def _put(self, text: str) -> None:
        data = memoryview(text.encode(self.encoding, self.errors))
        while len(data):
            data = data[os.write(self._descriptor, data) :]

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def reconfigure(self, **options: Any) -> None:
        """Accept what a TextIOWrapper accepts; lines stay lines."""


def stream_lines() -> None:
    """Have this process print line by line, from Python and from C."""
    with contextlib.suppress(OSError, AttributeError, ValueError):
        library = ctypes.CDLL(None)
        library.setvbuf(ctypes.c_void_p.in_dll(library, "stdout"), None, _LINE_BUFFERED, 0)
    sys.stdout = sys.__stdout__ = LineStream(1, "<stdout>")  # type: ignore[assignment, misc]
    sys.stderr = sys.__stderr__ = LineStream(2, "<stderr>")  # type: ignore[assignment, misc]


class Mirror:
    """Prints the lines of workers on the current ``sys.stdout`` and ``sys.stderr`` of this process.

    ``enter`` is called before the lines that belong to a cell of a notebook, or, with 0, to none.
    """

    def __init__(self, enter: Callable[[int], None] = lambda cell: None) -> None:
        self._enter = enter
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._woken, self._waker = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._sources: set[_Source] = set()
        self._lines: deque[tuple[ProcessId, str, str, int]] = deque()  # that came in messages
        self._awaited: deque[threading.Event] = deque()
        self._busy = False  # something has been read, or is about to be, that is not printed yet
        self._closing: float | None = None
        self._thread = threading.Thread(target=self._run, name="farcall-output", daemon=True)
        self._thread.start()

    def add(self, pid: ProcessId, output: tuple[int, int]) -> None:
        """Print what comes from a worker's two descriptors, and close each at its end."""
        with self._lock:
            for descriptor, name in zip(output, ("stdout", "stderr"), strict=True):
                os.set_blocking(descriptor, False)
                source = _Source(pid, descriptor, name, self._print)
                self._sources.add(source)
                self._selector.register(descriptor, selectors.EVENT_READ, source)
        self._waker.send(b"x")

    def put(self, pid: ProcessId, stream: str, text: str, cell: int) -> None:
        """Print whole lines that a worker has sent. Any thread; does not wait."""
        self._lines.append((pid, stream, text, cell))
        with contextlib.suppress(OSError):  # closed meanwhile, or it is awake anyway
            self._waker.send(b"x")

    def drain(self, pid: ProcessId) -> None:
        """Read no longer from a worker that has ended than it takes to read what it left."""
        with self._lock:
            for source in self._sources:
                if source.pid == pid:
                    source.ended = True
        with contextlib.suppress(OSError):  # closed meanwhile
            self._waker.send(b"x")

    def catch_up(self, timeout: float) -> None:
        """Wait, but not for long, until what has come is printed; if there is nothing, not at all."""
        with contextlib.suppress(OSError, ValueError):  # closed meanwhile
            if not (self._busy or self._lines or any(key.data for key, _ in self._selector.select(0.0))):
                return
        event = threading.Event()
        self._awaited.append(event)
        with contextlib.suppress(OSError):  # closed meanwhile
            self._waker.send(b"x")
        event.wait(timeout)

    def close(self, timeout: float) -> None:
        """Print what is left, waiting for workers that are about to end, and stop."""
        self._closing = time.monotonic() + timeout
        self._waker.send(b"x")
        self._thread.join(timeout + 1)
        self._waker.close()
        self._woken.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._is_done():
            awaited = [self._awaited.popleft() for _ in range(len(self._awaited))]
            left = None if self._closing is None else max(0.0, self._closing - time.monotonic())
            self._busy = False
            ready = self._selector.select(0.0 if awaited else left)
            self._busy = True
            for key, _ in ready:
                if key.data is None:
                    self._woken.recv(4096)
                elif not key.data.copy():  # which reads as much as a pipe holds
                    self._end(key.data)
            self._print_lines()
            for source in list(self._sources):
                if source.ended:
                    for _ in range(_MOST_READS):  # what it started may live on and print for ever
                        if not source.copy():
                            break
                    self._end(source)
            for event in awaited:
                event.set()
        for source in list(self._sources):
            self._end(source)
        self._print_lines()

    def _print_lines(self) -> None:
        while self._lines:
            self._print(*self._lines.popleft())

    def _print(self, pid: ProcessId, name: str, text: str, cell: int) -> None:
        self._enter(cell)
        print_lines(pid, name, text)

    def _is_done(self) -> bool:
        return self._closing is not None and (not self._sources or time.monotonic() >= self._closing)

    def _end(self, source: "_Source") -> None:
        with self._lock:
            if source not in self._sources:
                return
            self._sources.discard(source)
            self._selector.unregister(source.descriptor)
        source.finish()


class _Source:
    """One descriptor of one worker, and the line that has begun there."""

    def __init__(
        self, pid: ProcessId, descriptor: int, name: str, show: Callable[[ProcessId, str, str, int], None]
    ) -> None:
        self.pid = pid
        self.descriptor = descriptor
        self.ended = False  # its process has; what is in the pipe is all there is
        self._name = name
        self._show = show
        self._cell = 0  # to which what follows belongs
        self._begun = b""

    def copy(self) -> bool:
        """Print the whole lines that are there; false if there will be no more."""
        try:
            data = os.read(self.descriptor, 1 << 16)
        except BlockingIOError:
            return not self.ended
        lines, newline, rest = (self._begun + data).rpartition(b"\n")
        self._begun = rest
        if newline:
            self._print(lines)
        return bool(data)

    def finish(self) -> None:
        """Print what is left, and close the descriptor."""
        if _MARK.sub("", self._begun.decode("utf-8", "backslashreplace")):
            self._print(self._begun)
            self._begun = b""
        os.close(self.descriptor)

    def _print(self, lines: bytes) -> None:
        for cell, text in split_by_cell(lines.decode("utf-8", "backslashreplace"), self._cell):
            self._cell = cell
            self._show(self.pid, self._name, text, cell)


def split_by_cell(text: str, cell: int) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text without the marks in it: those that belong to one cell together, with that cell.

    ``cell`` is that of the lines before.
    """
    lines: list[str] = []
    for line in text.split("\n"):
        marks = _MARK.findall(line)
        if marks:
            if lines:
                yield cell, "\n".join(lines)
            cell, lines = int(marks[-1]), []
            line = _MARK.sub("", line)
        lines.append(line)
    yield cell, "\n".join(lines)


def print_lines(pid: ProcessId, name: str, text: str) -> None:
    """Print lines of a worker, each with its number, on the current stream of a name."""
    labelled = "".join(f"From worker {pid}:\t{line}\n" for line in text.split("\n"))
    with contextlib.suppress(Exception):  # a closed or broken sys.stdout is the user's to have
        stream = getattr(sys, name)
        stream.write(labelled)
        stream.flush()
