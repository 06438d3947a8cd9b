"""What is printed for a cell of a notebook carries a mark to the master, and belongs to that cell there."""

import contextlib
import os
import threading

import pytest

from farcall._node.cells import Cells
from farcall._node.current import current_call
from farcall._node.executor import Call
from farcall._node.output import LineStream, Mirror
from farcall._wire import messages, pickles

PATIENCE = 10.0  # seconds; a test that needs them has failed


class Master:
    """A mirror, and the lines that it has printed with the cell of each."""

    def __init__(self):
        self._cell = 0
        self.lines = []
        self.mirror = Mirror(self._enter)
        (read, self.pipe), (read_errors, self._errors) = os.pipe(), os.pipe()
        self.mirror.add(2, (read, read_errors))

    def _enter(self, cell):
        self._cell = cell

    def write(self, text):
        self.lines += [(self._cell, line.removeprefix("From worker 2:\t")) for line in text.splitlines()]

    def flush(self):
        pass

    def printed(self):
        """Return what has been printed until now, and begin anew."""
        self.mirror.catch_up(PATIENCE)
        lines, self.lines = self.lines, []
        return lines

    def close(self):
        os.close(self._errors)
        with contextlib.suppress(OSError):
            os.close(self.pipe)
        self.mirror.close(PATIENCE)


@pytest.fixture
def master():
    made = Master()
    yield made
    made.close()


@pytest.fixture
def worker(master, monkeypatch):
    """Return what gives the standard output of a worker, whose other end the master reads and prints."""

    def begin():
        monkeypatch.setattr("sys.stdout", master)
        return LineStream(master.pipe, "<stdout>")

    return begin


def in_cell(cell, function, *args):
    """Run a function in a thread, as a call that a cell has caused does."""

    def run():
        call = Call(None, None, 0, 0)
        call.cell = cell
        current_call.set(call)
        function(*args)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE)


def test_lines_belong_to_the_cell_of_the_call_that_printed_them(worker, master):
    """Calls of several cells may print in turns, and what no call prints belongs to the cell before."""
    stream = worker()
    stream.write("nobody's\n")
    in_cell(5, stream.write, "a\nb\n")
    in_cell(6, stream.write, "c\n")
    stream.write("of a thread\n")
    in_cell(5, stream.write, "d\n")
    assert master.printed() == [(0, "nobody's"), (5, "a"), (5, "b"), (6, "c"), (6, "of a thread"), (5, "d")]


def test_what_c_prints_belongs_to_the_cell_of_the_call_that_began_last(worker, master):
    """A cell can be entered without a word; then what comes past the stream belongs to it."""
    stream = worker()
    stream.enter(7)
    os.write(master.pipe, b"from C\n")
    stream.enter(8)
    os.write(master.pipe, b"from C, too\n")
    assert master.printed() == [(7, "from C"), (8, "from C, too")]


def test_a_line_that_another_cell_breaks_belongs_to_its_own(worker, master):
    """A flushed part of a line is of its cell, the line between is of the other, and so is the rest of the first."""
    stream = worker()
    in_cell(
        1, lambda: (stream.write("part"), stream.flush(), in_cell(2, stream.write, "other\n"), stream.write("rest\n"))
    )
    assert master.printed() == [(1, "part"), (2, "other"), (1, "rest")]


def test_a_mark_is_no_line(worker, master):
    """A cell in which nothing is printed leaves no empty line, also at the end; an empty line stays one."""
    stream = worker()
    in_cell(3, stream.write, "\n")
    stream.enter(4)
    stream.enter(5)
    assert master.printed() == [(3, "")]
    os.close(master.pipe)
    assert master.printed() == []


def test_without_a_notebook_there_are_no_marks():
    """Who has no cells writes what is printed, and nothing else; a call does not grow."""
    read, write = os.pipe()
    plain = LineStream(write, "<stdout>")
    in_cell(0, plain.write, "text\n")
    plain.enter(0)
    assert os.read(read, 100) == b"text\n"
    os.close(read)
    os.close(write)
    payload = pickles.encode_arguments((1, 2))
    assert Cells().mark(messages.KEYWORDS, payload) == (messages.KEYWORDS, payload)


def test_a_call_carries_its_cell_on():
    """The end of a message has the cell, which the calls that it makes have, too; also those that wait for a worker."""
    here, there = Cells(), Cells()
    here.find, here.are_used = lambda: 9, True
    flags, payload = here.mark(messages.KEYWORDS, pickles.encode_arguments((1, 2)))
    assert flags == messages.KEYWORDS | messages.CELL
    assert pickles.decode_plain(payload.body) == (1, 2)
    call = Call(None, None, 0, 0)
    there.take(call, payload.body)
    assert (call.cell, there.are_used) == (9, True)
    found = []
    in_cell(call.cell, lambda: found.append(there.kept(lambda pid: found.append(there.current()))))
    in_cell(10, found[0], 2)
    assert found[1] == 9


def test_to_catch_up_is_to_have_printed_what_has_come(worker, master):
    """When it returns everything is printed that was written before, however much a pipe holds."""
    stream = worker()
    for count in (1, 100, 5000):
        stream.write("".join(f"{i}\n" for i in range(count)))
        assert master.printed() == [(0, str(i)) for i in range(count)]


def test_output_that_nobody_reads_ends_no_call():
    """A worker that cannot say which cell it works for works nevertheless."""
    read, write = os.pipe()
    cells, stream = Cells(), LineStream(write, "<stdout>")
    cells.enter = stream.enter
    os.close(read)
    with pytest.raises(BrokenPipeError):
        stream.enter(1)
    cells.begin(2)
    os.close(write)
