"""progress=: who sees how far a map is."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

import farcall as fc


class Bar:
    """Anything like a tqdm."""

    def __init__(self, total=None):
        self.total = total
        self.done = 0
        self.failures = 0
        self.closed = False

    def update(self, count):
        self.done += count

    def set_postfix(self, failures, refresh):
        self.failures = failures

    def close(self):
        self.closed = True


PROGRAM = """
import sys, time
import farcall as fc
def work(n):
    time.sleep(0.01)
    if n == 7:
        raise ValueError
    return n
if __name__ == "__main__":
    fc.addprocs(2)
    fc.pmap(work, range({count}), on_error=str, progress={progress}, batch_size=1)
"""


def errors_of(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True)
    return done.stderr


def seen_in_terminal(program):
    """Return what a program writes to a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    with subprocess.Popen([sys.executable, "-c", program], stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # the terminal's other side is closed
                break
            seen += data
            if not data:
                break
        os.close(ours)
    assert process.returncode == 0, seen.decode()
    return seen.decode()


@pytest.mark.parametrize("progress", ["None", "True"])
def test_a_terminal_shows_a_bar(progress):
    """Count, rate, remaining time and failures, in a terminal without being asked when a map takes a while."""
    seen = seen_in_terminal(PROGRAM.format(count=300, progress=progress))
    assert "work: " in seen
    assert "300/300" in seen
    assert re.search(r"item/s", seen)
    assert re.search(r"\d\d:\d\d<\d\d:\d\d", seen)
    assert "failures=1" in seen


def test_a_short_map_shows_nothing_unless_it_is_asked_to():
    """Nobody wants a bar for the blink of an eye."""
    assert "|" not in seen_in_terminal(PROGRAM.format(count=10, progress="None"))
    assert "10/10" in seen_in_terminal(PROGRAM.format(count=10, progress="True"))
    assert "|" not in seen_in_terminal(PROGRAM.format(count=300, progress="False"))


def test_where_nobody_looks_there_is_silence():
    """Without a terminal a bar is shown only if it is asked for."""
    assert errors_of(PROGRAM.format(count=300, progress="None")) == ""
    assert "300/300" in errors_of(PROGRAM.format(count=300, progress="True"))


def test_any_bar_will_do(cluster):
    """A bar of one's own is updated and left open; a class is called with the total, and closed at the end."""
    bar = Bar()
    fc.pmap(lambda x: 1 // x, [1, 0, 1, 0], on_error=str, progress=bar)
    assert (bar.done, bar.failures, bar.closed) == (4, 2, False)
    bars = []

    def make(total):
        bars.append(Bar(total))
        return bars[-1]

    fc.pmap(abs, range(100), progress=make)
    list(fc.imap(abs, iter(range(50)), progress=make))
    assert [(each.total, each.done, each.closed) for each in bars] == [(100, 100, True), (None, 50, True)]
    with pytest.raises(ZeroDivisionError):
        fc.pmap(lambda x: 1 // x, [0], progress=make)
    assert bars[-1].closed


def test_what_a_checkpoint_has_counts(cluster, tmp_path):
    """A bar begins with what was done before."""
    bar = Bar()
    fc.pmap(abs, range(20), checkpoint=tmp_path / "run.fcp")
    fc.pmap(abs, range(20), checkpoint=tmp_path / "run.fcp", progress=bar)
    assert bar.done == 20
    bars = []
    with pytest.raises(ValueError, match="another map"):
        fc.pmap(abs, range(21), checkpoint=tmp_path / "run.fcp", progress=lambda total: bars.append(Bar()) or bars[0])
    assert bars[0].closed


def test_without_tqdm_one_is_told_what_to_install(cluster, monkeypatch):
    """progress=True without tqdm is an ImportError that names the extra; by default nothing is shown."""
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"farcall\[progress\]"):
        fc.pmap(abs, [1], progress=True)
    monkeypatch.setattr("farcall._pmap.progress.is_somebody_looking", lambda: True)
    assert fc.pmap(abs, [-1]) == [1]
