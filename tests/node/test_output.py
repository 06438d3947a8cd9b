"""What workers print arrives: whole lines, each with its worker, in order."""

import contextlib
import fcntl
import io
import os
import sys
import threading
from collections import Counter

import pytest

from farcall._node.output import LineStream, Mirror

PATIENCE = 10.0  # seconds; a test that needs them has failed


@pytest.fixture
def pipe():
    """Return both ends of a pipe; what is still open at the end is closed."""
    ends = os.pipe()
    yield ends
    for each in ends:
        with contextlib.suppress(OSError):
            os.close(each)


@pytest.fixture
def stream(pipe):
    return LineStream(pipe[1], "<stdout>")


def read_all(pipe):
    """Return what has been written to a pipe so far, without waiting for more."""
    os.set_blocking(pipe[0], False)
    data = b""
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(pipe[0], 1 << 16):
            data += piece
    return data.decode()


def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()


# LineStream


def test_a_line_is_written_when_its_newline_comes(stream, pipe):
    """Nothing of a line is written before its end, and everything then."""
    print("one, ", end="", file=stream)
    print("two", end="", file=stream)
    assert read_all(pipe) == ""
    print(" three\nfour\nfive", end="", file=stream)
    assert read_all(pipe) == "one, two three\nfour\n"
    print(file=stream)
    assert read_all(pipe) == "five\n"


def test_flush_writes_what_there_is_of_a_line(stream, pipe):
    """A flushed part of a line appears at once, and the line goes on behind it."""
    print("loading", end="", flush=True, file=stream)
    assert read_all(pipe) == "loading"
    print("...", end="", flush=True, file=stream)
    print("done", file=stream)
    assert read_all(pipe) == "...done\n"
    stream.flush()
    assert read_all(pipe) == ""


def test_finish_ends_every_line(stream, pipe):
    """At exit what any thread has begun is written, as lines."""
    in_thread(stream.write, "theirs")
    stream.write("mine")
    stream.finish()
    assert sorted(read_all(pipe).splitlines()) == ["mine", "theirs"]
    stream.finish()
    assert read_all(pipe) == ""


def test_threads_never_share_a_line(stream, pipe):
    """However threads take turns, each line is one thread's, and each thread's lines are in order."""
    count, begin = 100, threading.Barrier(4)

    def talk(name):
        begin.wait(PATIENCE)
        for number in range(count):
            for part in (f"{name}", f" {number}", f" {name}"):
                stream.write(part)
            stream.write("\n")

    threads = [threading.Thread(target=talk, args=(name,)) for name in "abcd"]
    lines = read_until_written(pipe, threads)
    assert Counter(line[0] for line in lines) == dict.fromkeys("abcd", count)
    for name in "abcd":
        assert [line for line in lines if line[0] == name] == [f"{name} {number} {name}" for number in range(count)]


def read_until_written(pipe, threads):
    """Run threads that write to a pipe, and return the lines that came out of it."""
    lines = []

    def read():
        with open(pipe[0], closefd=False) as file:
            lines.extend(line.rstrip("\n") for line in file)

    reader = threading.Thread(target=read)
    for each in (reader, *threads):
        each.start()
    for each in threads:
        each.join(PATIENCE)
    os.close(pipe[1])
    reader.join(PATIENCE)
    assert not reader.is_alive()
    return lines


def test_a_thread_that_prints_breaks_the_flushed_line_of_another(stream, pipe):
    """A line that was flushed and has no end yet is ended for a line of another thread, and goes on below."""
    stream.write("part of mine")
    stream.flush()
    in_thread(stream.write, "theirs\n")
    stream.write(" rest of mine\n")
    assert read_all(pipe) == "part of mine\ntheirs\n rest of mine\n"


def test_a_broken_line_is_ended_once(stream, pipe):
    """The newline of a line that was ended for another thread leaves no empty line, and later ones do."""
    stream.write("mine")
    stream.flush()
    in_thread(stream.write, "theirs\n")
    stream.write("\n")
    stream.write("\n")
    assert read_all(pipe) == "mine\ntheirs\n\n"


def test_a_line_broken_by_a_line_without_end_is_ended_once(stream, pipe):
    """The same if the other thread's line has no end either."""
    stream.write("mine")
    stream.flush()
    in_thread(lambda: (stream.write("theirs"), stream.flush()))
    stream.write("\n")
    assert read_all(pipe) == "mine\ntheirs\n"


def test_what_cannot_be_encoded_is_shown_nevertheless(stream, pipe):
    """Text that is no UTF-8, such as a bad file name, is written with escapes, and never an error."""
    print("caf\N{LATIN SMALL LETTER E WITH ACUTE} \udcff", file=stream)
    assert read_all(pipe) == "caf\N{LATIN SMALL LETTER E WITH ACUTE} \\udcff\n"


def test_only_text_can_be_written(stream):
    """Bytes are a TypeError, as for any text stream."""
    with pytest.raises(TypeError, match="must be str, not bytes"):
        stream.write(b"bytes")


def test_it_is_a_text_stream(stream, pipe):
    """What libraries do with ``sys.stdout`` works: bytes to its buffer, its descriptor, reconfigure, isatty."""
    assert isinstance(stream, io.TextIOBase)
    assert stream.writable()
    assert not stream.readable()
    assert not stream.isatty()
    assert stream.fileno() == pipe[1]
    assert stream.encoding == "utf-8"
    assert stream.write("four\n") == 5
    stream.writelines(["a\n", "b\n"])
    stream.buffer.write(b"raw\n")
    stream.reconfigure(line_buffering=False)
    assert read_all(pipe) == "four\na\nb\nraw\n"


# Mirror


class Recorder(io.StringIO):
    """A ``sys.stdout`` that can be waited on, and that takes nothing while its gate is closed."""

    def __init__(self):
        super().__init__()
        self.news = threading.Condition()
        self.gate = threading.Event()
        self.gate.set()
        self.blocked = threading.Event()  # somebody is at the closed gate

    def write(self, text):
        if not self.gate.is_set():
            self.blocked.set()
            self.gate.wait(PATIENCE)
        with self.news:
            count = super().write(text)
            self.news.notify_all()
        return count

    def wait_for(self, text, patience=PATIENCE):
        with self.news:
            found = self.news.wait_for(lambda: text in self.getvalue(), patience)
            assert found, f"not there: {self.getvalue()[-300:]!r}"


@pytest.fixture
def show(monkeypatch):
    """Return a function that makes a Recorder the master's ``sys.stdout`` or ``sys.stderr``."""

    def replace(name="stdout"):
        monkeypatch.setattr(sys, name, Recorder())
        return getattr(sys, name)

    return replace


class Worker:
    """The writing ends of a worker's output."""

    def __init__(self, mirror, pid):
        (self.out_reader, self.out), (self.err_reader, self.err) = os.pipe(), os.pipe()
        mirror.add(pid, (self.out_reader, self.err_reader))

    def end(self):
        for descriptor in (self.out, self.err):
            with contextlib.suppress(OSError):
                os.close(descriptor)


@pytest.fixture
def mirror():
    each = Mirror()
    yield each
    if each._thread.is_alive():
        each.close(1.0)


def test_lines_are_labelled_with_their_worker(mirror, show):
    """Each line of a worker appears as ``From worker 2:`` and a tab, on the stream that it was meant for."""
    screen = show()
    errors = show("stderr")
    worker = Worker(mirror, 2)
    os.write(worker.out, b"one\ntwo\n")
    os.write(worker.err, b"trouble\n")
    screen.wait_for("two\n")
    errors.wait_for("trouble\n")
    worker.end()
    assert screen.getvalue() == "From worker 2:\tone\nFrom worker 2:\ttwo\n"
    assert errors.getvalue() == "From worker 2:\ttrouble\n"


def test_lines_of_workers_are_not_mixed(mirror, show):
    """A line of one worker that comes in parts is one line, whatever others print meanwhile."""
    screen = show()
    two, three = Worker(mirror, 2), Worker(mirror, 3)
    os.write(two.out, b"begin ")
    os.write(three.out, b"other\n")
    screen.wait_for("other\n")
    os.write(two.out, b"end\n")
    screen.wait_for("end\n")
    two.end()
    three.end()
    assert screen.getvalue() == "From worker 3:\tother\nFrom worker 2:\tbegin end\n"


def test_a_line_without_end_is_printed_at_the_end(mirror, show):
    """What a worker printed last appears when it has ended, also without a newline."""
    screen = show()
    worker = Worker(mirror, 2)
    os.write(worker.out, b"last words")
    worker.end()
    screen.wait_for("From worker 2:\tlast words\n")


def test_both_descriptors_are_closed_at_the_end(mirror, show):
    """When a worker's output has ended nothing of it stays open."""
    errors = show("stderr")
    worker = Worker(mirror, 2)
    os.write(worker.err, b"x")
    worker.end()
    errors.wait_for("x\n")
    mirror.close(PATIENCE)
    for descriptor in (worker.out_reader, worker.err_reader):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_empty_lines_and_broken_text_are_shown(mirror, show):
    """Empty lines are lines, and bytes that are no UTF-8 are escaped."""
    screen = show()
    worker = Worker(mirror, 2)
    os.write(worker.out, b"\n\nno text: \xff\n")
    screen.wait_for("\\xff\n")
    worker.end()
    assert screen.getvalue() == "From worker 2:\t\nFrom worker 2:\t\nFrom worker 2:\tno text: \\xff\n"


def test_much_output_arrives_whole_and_in_order(mirror, show):
    """Megabytes of lines, written as fast as the pipe takes them, arrive complete and in order."""
    screen = show()
    worker = Worker(mirror, 2)
    lines = [f"{number:07} {'x' * (number % 200)}" for number in range(10_000)]
    data = memoryview("".join(f"{line}\n" for line in lines).encode())
    while data:
        data = data[os.write(worker.out, data) :]
    worker.end()
    mirror.close(PATIENCE)
    assert screen.getvalue() == "".join(f"From worker 2:\t{line}\n" for line in lines)


def write_until_nobody_reads(descriptor):
    with contextlib.suppress(BrokenPipeError):
        while True:
            os.write(descriptor, b"nobody reads this")


def test_a_worker_that_has_ended_is_not_waited_for(mirror, show):
    """After ``drain`` what is in the pipe is all there is, though a child of the worker holds the other end."""
    screen = show()
    worker = Worker(mirror, 2)
    os.write(worker.out, b"x\nand then")
    screen.wait_for("x\n")
    mirror.drain(2)
    screen.wait_for("and then\n")
    write_until_nobody_reads(worker.out)
    worker.end()


def test_a_worker_that_left_much_is_not_waited_for(mirror, show):
    """The same if the worker left more than is read at once."""
    screen = show()
    worker, other = Worker(mirror, 2), Worker(mirror, 3)
    fcntl.fcntl(worker.out, fcntl.F_SETPIPE_SZ, 1 << 18)
    screen.gate.clear()
    os.write(other.out, b"marker\n")
    assert screen.blocked.wait(PATIENCE)
    os.write(worker.out, b"x\n" * 80_000 + b"and then")  # three reads
    mirror.drain(2)
    screen.gate.set()
    try:
        screen.wait_for("and then\n", patience=0.5)
    finally:
        worker.end()
        other.end()


def test_draining_one_worker_leaves_the_others(mirror, show):
    """``drain`` concerns one worker; others are read on."""
    screen = show()
    two, three = Worker(mirror, 2), Worker(mirror, 3)
    os.write(two.out, b"begin\nend")
    screen.wait_for("begin\n")
    mirror.drain(2)
    screen.wait_for("end\n")
    os.write(three.out, b"alive\n")
    screen.wait_for("From worker 3:\talive\n")
    two.end()
    three.end()


def test_closing_waits_for_what_is_under_way(mirror, show):
    """``close`` prints what workers that are about to end still have to say."""
    screen = show()
    worker = Worker(mirror, 2)
    closing = threading.Thread(target=mirror.close, args=(PATIENCE,))
    closing.start()
    os.write(worker.out, b"goodbye\n")
    worker.end()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert screen.getvalue() == "From worker 2:\tgoodbye\n"


def test_closing_does_not_wait_forever(show):
    """``close`` ends after its time although a worker does not, and closes what it had open."""
    screen = show()
    mirror = Mirror()
    worker = Worker(mirror, 2)
    os.write(worker.out, b"line\nhalf")
    screen.wait_for("line\n")
    mirror.close(0.0)
    assert not mirror._thread.is_alive()
    assert screen.getvalue() == "From worker 2:\tline\nFrom worker 2:\thalf\n"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(worker.out_reader)
    worker.end()


def test_the_current_stdout_is_used(mirror, show):
    """When ``sys.stdout`` is replaced, as notebooks do, later lines appear on the new one."""
    screen = show()
    worker = Worker(mirror, 2)
    os.write(worker.out, b"first\n")
    screen.wait_for("first\n")
    other = show()
    os.write(worker.out, b"second\n")
    other.wait_for("From worker 2:\tsecond\n")
    worker.end()
    assert "second" not in screen.getvalue()


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_broken_stdout_is_survived(mirror, monkeypatch, show, is_closed):
    """A closed or missing ``sys.stdout`` loses lines and nothing else."""
    broken = io.StringIO() if is_closed else None
    if broken is not None:
        broken.close()
    monkeypatch.setattr(sys, "stdout", broken)
    errors = show("stderr")
    worker = Worker(mirror, 2)
    os.write(worker.out, b"lost\n")
    os.write(worker.err, b"later\n")
    errors.wait_for("later\n")
    worker.end()
