"""What a notebook shows of processes, Futures and channels."""

import os
import re
import signal
import time

import numpy as np
import pytest
from waiting import until

import farcall as fc
from farcall._cluster import master
from farcall._remote.census import take_census


def census():
    return {each.pid: each for each in take_census(master().node, fc.procs())}


def text_of(html):
    """Return the cells of each row of a table."""
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [[re.sub(r"<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)] for row in rows]


def burn(seconds):
    """Use a processor for so long."""
    until_then = time.process_time() + seconds
    while time.process_time() < until_then:
        pass


def test_alone_there_is_no_table():
    """Without a cluster nothing is begun in order to show it."""
    assert fc.procs()._repr_html_() is None
    assert fc.nprocs() == 1


def test_a_census_says_who_is_busy(cluster):
    """Calls in flight are counted where they run, with who runs them; this process says that it asks."""
    gate = fc.RemoteChannel(1)
    calls = [fc.spawnat(2, gate.take) for _ in range(3)]
    assert until(lambda: census()[2].calls == 3)
    found = census()
    assert [(each.pid, each.state, each.calls) for each in found.values()] == [
        (1, "this process", 0),
        (2, "busy", 3),
        (3, "idle", 0),
    ]
    assert {each.host for each in found.values()} == {os.uname().nodename}
    for number in range(3):
        gate.put(number)
    assert sorted(map(fc.fetch, calls)) == [0, 1, 2]


def test_a_census_measures(cluster):
    """Processors since the last one, and memory now."""
    before, began = census()[3], time.monotonic()
    fc.everywhere("kept = bytes(50_000_000); kept = kept + b'x'", pids=3)
    fc.remotecall_fetch(3, burn, 0.1)
    after = census()[3]
    assert 0.1 / (time.monotonic() - began) <= after.processors <= os.cpu_count() + 1
    assert after.memory - before.memory > 40_000_000
    fc.everywhere("del kept", pids=3)


def test_who_does_not_answer_is_not_waited_for(cluster):
    """A process that is stopped holds nobody up for long, and the others are shown."""
    stopped = fc.remotecall_fetch(2, os.getpid)
    os.kill(stopped, signal.SIGSTOP)
    try:
        began = time.monotonic()
        found = census()
        assert time.monotonic() - began < 3
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert (found[2].state, found[2].calls, found[3].state) == ("no answer", None, "idle")
    assert until(lambda: census()[2].state == "idle")


def test_processes_are_shown_as_a_table(cluster):
    """One row each, also of those that are gone, with the reason; as text it is the list."""
    pids = fc.addprocs(1)
    fc.rmprocs(pids)
    names, gone = text_of(pids._repr_html_())
    assert names == ["process", "host", "state", "calls", "CPU", "memory"]
    assert gone == [str(pids[0]), "", "● gone: it was removed", "", "", ""]
    _, first, second, third = text_of(fc.procs()._repr_html_())
    assert [first[0], first[2], second[0], second[2], third[0]] == ["1 (master)", "● this process", "2", "● idle", "3"]
    assert re.fullmatch(r"\d+ %", second[4])
    assert re.fullmatch(r"\d+ MB", second[5])
    assert repr(fc.workers()) == "[2, 3]"


def test_a_future_is_shown_as_far_as_it_is_known(cluster):
    """Pending, ready, failed, cancelled; and the value, if it has been fetched. It is not fetched to be shown."""
    gate, host = fc.RemoteChannel(1), os.uname().nodename
    future = fc.spawnat(2, gate.take)
    assert text_of(future._repr_html_()) == [["process", "host", "Future", "value"], ["2", host, "● pending", ""]]
    gate.put("<b>")
    assert until(future.done)
    assert text_of(future._repr_html_())[1] == ["2", host, "● ready", "is here, to be fetched"]
    fc.fetch(future)
    assert "&#x27;&lt;b&gt;&#x27;" in future._repr_html_()
    large = fc.wait(fc.spawnat(3, np.ones, 1_000_000))
    assert text_of(large._repr_html_())[1] == ["3", host, "● ready", "stays there until it is fetched"]
    assert text_of(fc.wait(fc.spawnat(2, str, "x" * 500))._repr_html_())[1][3] == "is here, to be fetched"
    failed = fc.spawnat(2, int, "x")
    with pytest.raises(ValueError):
        fc.fetch(failed)
    assert text_of(failed._repr_html_())[1][2:] == [
        "● failed",
        "ValueError: invalid literal for int() with base 10: &#x27;x&#x27;",
    ]
    cancelled = fc.spawnat(2, gate.take)
    cancelled.cancel()
    assert text_of(cancelled._repr_html_())[1][2] == "● cancelled"


def test_a_channel_is_shown(cluster):
    """Where it lives, how full it is, what it takes; if its owner is gone a notebook shows the line."""
    channel = fc.RemoteChannel(10, type=str, pid=3)
    channel.put("x")
    host = os.uname().nodename
    assert text_of(channel._repr_html_()) == [
        ["process", "host", "RemoteChannel", "items", "of type"],
        ["3", host, "● open", "1/10 ", "str"],
    ]
    channel.close()
    assert text_of(channel._repr_html_())[1][2] == "● closed"
    assert text_of(fc.RemoteChannel(float("inf"))._repr_html_())[1][3:] == ["0", "object"]
    with fc.addprocs(1) as (owner,):
        lost = fc.RemoteChannel(pid=owner)
    assert lost._repr_html_() is None
